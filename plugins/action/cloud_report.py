# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin of cloud_report: gathers the results and writes the files, the rest is in
plugin_utils/_reporting.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError, raise_all
from ansible_collections.ikcloud.compute.plugins.plugin_utils._controller.task_vars import (
    check_arguments,
    group_hosts,
    host_vars,
    plain,
    read_run,
    result_of,
)
from ansible_collections.ikcloud.compute.plugins.plugin_utils._declaration.reachability import same_machines
from ansible_collections.ikcloud.compute.plugins.plugin_utils._declaration.reader import shown
from ansible_collections.ikcloud.compute.plugins.plugin_utils._reporting.changes import (
    REGISTERED,
    Changes,
    NodeResults,
    gather,
    mapping,
)
from ansible_collections.ikcloud.compute.plugins.plugin_utils._reporting.render import (
    markdown,
    plan_lines,
    summary_line,
    totals_line,
    warnings,
)
from ansible_collections.ikcloud.compute.plugins.plugin_utils._reporting.tables import message, screen

ARGUMENTS = ("group", "planned", "json", "markdown", "commands", "fail_on_changes", "display", "only_validate")


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core has no types
    """Show what a run changed or would change.

    It runs on the controller; the files that it writes are no part of the cloud, so check mode is no different.
    """

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Give the changes; ``failed`` when there are any and ``fail_on_changes`` is set."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        try:
            arguments = plain(self._task.args)
            check_arguments(arguments, ARGUMENTS)
            planned, commands, fail, display, only = (
                _flag(arguments, key, key == "display")
                for key in ("planned", "commands", "fail_on_changes", "display", "only_validate")
            )
            paths = _paths(arguments)
            if only:
                read_run(self, arguments, task_vars)
                raise_all(same_machines(_machines(arguments, task_vars)))
                return {**result, "changed": False}
            changes = _gather(arguments, task_vars)
            for key, render in (("json", _json), ("markdown", markdown)):
                if paths[key]:
                    _write(key, paths[key], render(changes))
        except ComputeError as error:
            result.update(failed=True, msg=message(error))
            return result
        lines = (
            plan_lines(changes, commands)
            if planned
            else [*warnings(changes)[len(changes.missing) :], summary_line(changes, bool(self._task.check_mode))]
        )
        if display:
            self._display.display(screen(lines))
        if fail and changes.changes:
            # All of it stands above already, and in the files: only the sentence here.
            result.update(
                failed=True,
                msg=(
                    f"The cloud is not as it is declared. {totals_line(changes, True)} Run ikcloud.compute.site to make"
                    " it so."
                ),
            )
            return result
        # Whether the cloud differs is in `differs`; the task itself changes nothing.
        result.update({**changes.as_data(), "changed": False}, text="\n".join(lines), differs=bool(changes.changes))
        return result


def _flag(arguments: Mapping[str, Any], key: str, default: bool) -> bool:
    value = arguments.get(key)
    if value is None or value == "":
        return default
    try:
        return bool(boolean(value))
    except TypeError:
        raise ComputeError(f"{key}: {shown(value)} is neither true nor false.") from None


def _paths(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Check the paths before anything else, so that nobody waits for a plan that can't be written.

    :raises ComputeError: When one can't be a file's.
    """
    paths: dict[str, str] = {}
    for key in ("json", "markdown"):
        value = arguments.get(key)
        if value is None or value == "":
            paths[key] = ""
            continue
        if not isinstance(value, str) or not value.isprintable():
            raise ComputeError(f"{key}: {shown(value)} is not the path of a file on the controller.")
        path = os.path.abspath(os.path.expanduser(value))
        if os.path.isdir(path) or value.endswith("/"):
            raise ComputeError(f"{key}: {value} is a folder; give the path of a file in it.")
        if not os.path.isdir(os.path.dirname(path)):
            raise ComputeError(f"{key}: there is no folder {os.path.dirname(path)} on the controller; make it first.")
        if not os.access(os.path.dirname(path), os.W_OK):
            raise ComputeError(f"{key}: nothing can be written into {os.path.dirname(path)}.", "Give another path.")
        paths[key] = path
    if paths["json"] and paths["json"] == paths["markdown"]:
        raise ComputeError(f"json and markdown are one path, {paths['json']}; give two.")
    return paths


def _gather(arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> Changes:
    in_play = task_vars.get("ansible_play_hosts_all")
    alive = task_vars.get("ansible_play_hosts")
    nodes = []
    for name in group_hosts(arguments, task_vars):
        host = host_vars(name, task_vars)
        info = result_of(host, "compute_node_info", "node")
        nodes.append(
            NodeResults(
                name,
                {variable: plain(host[variable]) for variable in REGISTERED if isinstance(host.get(variable), Mapping)},
                info if isinstance(info, Mapping) else None,
                lost=alive is not None and name not in alive,
                absent=in_play is not None and name not in in_play,
            )
        )
    return gather(nodes, mapping(plain(task_vars.get("cloud_plan"))))


def _machines(arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, object]:
    """Give what tells machines apart, of the nodes that were read in this run."""
    infos = {
        name: result_of(host_vars(name, task_vars), "compute_node_info", "node")
        for name in group_hosts(arguments, task_vars)
    }
    return {name: mapping(info).get("machine") for name, info in infos.items()}


def _json(changes: Changes) -> str:
    return json.dumps(changes.as_data(), indent=1, ensure_ascii=False) + "\n"


def _write(key: str, path: str, text: str) -> None:
    """Write a file whole or not at all; who may read it is for the umask to say."""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path))
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise ComputeError(f"{key}: {path} can't be written: {error.strerror}.") from None
