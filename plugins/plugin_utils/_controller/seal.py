# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the action plugins of the modules that take seeds do: the seeds' secrets go to the node apart from them, in the
one option with ``no_log``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase

from ...module_utils._cloudinit.seed.resource import SeedResource
from ...module_utils._cloudinit.seed.secrets import SECRETS, pack, split, unpack
from ...module_utils._core.errors import ComputeError, raise_all
from .._declaration.reader import nearest, shown
from .._declaration.user_data import cloud_config_problems
from .run_secret import hide, reveal
from .task_vars import plain

SEALED = "secrets"  # of a seed in the plan: its secrets, for this run alone


def sealed(seed: Mapping[str, Any]) -> dict[str, Any]:
    """Return a seed with its secrets as one text that only this run can read, if it has any."""
    secrets, rest = split(seed)
    return {**rest, SEALED: hide(pack(secrets))} if secrets else rest


def _unsealed(seed: Mapping[str, Any]) -> dict[str, Any]:
    """Return a seed as it was declared. What is given openly goes before what is sealed."""
    others = {key: value for key, value in seed.items() if key != SEALED}
    return {**unpack(reveal(str(seed[SEALED]))), **others} if seed.get(SEALED) else others


def seal(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's arguments with the secrets of ``seeds`` in ``seed_secrets``.

    What would be refused by the module is refused here where secrets might be in it: the module's refusal would show
    it.

    :raises ComputeError: When the seeds are no list of mappings with the keys that they have.
    """
    if "seed_secrets" in arguments:
        raise ComputeError("seed_secrets: the collection fills it.", "Write user_data and password_hash into seeds.")
    for key in SECRETS:
        if key in arguments:  # the module's refusal would show its value
            raise ComputeError(
                f"{key}: it is a key of an entry of seeds.", f"Write seeds: [{{name: compute-af95e879, {key}: ...}}]."
            )
    seeds = plain(arguments.get("seeds"))
    if seeds is None:
        return dict(arguments)
    if not isinstance(seeds, list):
        raise ComputeError(
            "seeds: the value is not a list of mappings.", "Write a list of entries such as {name: compute-af95e879}."
        )
    secrets, rest = [], []
    for index, seed in enumerate(seeds):
        if not isinstance(seed, Mapping):
            raise ComputeError(f"seeds[{index}]: the value is not a mapping.", "Write it as {name: compute-af95e879}.")
        for key in seed:
            if key not in SeedResource.suboptions and key != SEALED:
                raise ComputeError(f"seeds[{index}]: unknown key {shown(key)}.", nearest(key, SeedResource.suboptions))
        try:
            mine, others = split(_unsealed(seed))
        except ComputeError as error:
            raise ComputeError(f"seeds[{index}].{error}") from None
        raise_all(cloud_config_problems(f"seeds[{index}].user_data", mine.get("user_data")))
        secrets.append(mine)
        rest.append(others)
    return {**arguments, "seeds": rest, **({"seed_secrets": pack(secrets)} if any(secrets) else {})}


class SealingAction(ActionBase):  # type: ignore[misc]  # ansible-core has no types
    """Run a module with the secrets of its seeds apart.

    :cvar module: The module's whole name.
    """

    module = ""
    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Give the module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            arguments = seal(self._task.args)
        except ComputeError as error:
            result.update(failed=True, msg=str(error))
            return result
        in_background = bool(self._task.async_val) and not self._connection.has_native_async
        result.update(
            self._execute_module(
                module_name=self.module, module_args=arguments, task_vars=task_vars, wrap_async=in_background
            )
        )
        if not in_background:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result
