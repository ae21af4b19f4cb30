# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What action plugins that run on the controller read: the task's arguments, the inventory's variables and groups."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible import context
from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.parsing.splitter import parse_kv
from ansible.template import Templar
from ansible.utils.vars import load_extra_vars

from ...module_utils._core.errors import ComputeError, raise_all
from .._declaration import ip
from .._declaration.declaration import DECLARATION
from .._declaration.reader import nearest, shown
from .given import CLOUD, FLAGS, Run, differing

GROUP = "compute_nodes"
Vars = Mapping[str, Any]


def plain(value: Any) -> Any:
    """Copy a value into Python's own types: Ansible's carry tags and templates that are nothing to us."""
    if isinstance(value, Mapping):
        return {plain(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if getattr(
        value, "__ENCRYPTED__", False
    ):  # a text from a vault, which before ansible-core 2.19 is of a type of its own; decrypted as it is read
        return str(value)
    for kind in (str, int, float):
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind(value)
    return value


def check_arguments(arguments: Vars, known: Sequence[str]) -> None:
    """Refuse arguments that the plugin does not have.

    :raises ComputeError: With the nearest one that it has.
    """
    for key in arguments:
        if key not in known:
            raise ComputeError(f"Unknown argument {shown(key)}.", nearest(key, known))


def variable(name: str, task_vars: Vars, template: Callable[[Any], Any]) -> Any:
    """Give a variable of the inventory, templated, or None."""
    return plain(template(task_vars[name])) if name in task_vars else None


def group_hosts(arguments: Vars, task_vars: Vars) -> list[str]:
    """Give the hosts of the group of compute nodes, in the inventory's order, whether they are in this run or not.

    :raises ComputeError: When the argument ``group`` is not a name.
    """
    group = arguments.get("group") or GROUP
    if not isinstance(group, str):
        raise ComputeError(f"group: {shown(group)} is not the name of a group.")
    return [str(host) for host in (task_vars.get("groups") or {}).get(group, [])]


def host_vars(host: str, task_vars: Vars) -> Vars:
    """Give a host's variables; each is templated when it is read."""
    found = (task_vars.get("hostvars") or {}).get(host)
    return found if isinstance(found, Mapping) else {}


def read_run(action: Any, arguments: Vars, task_vars: Vars) -> Run:
    """Read what the run is given beside the declaration, and refuse what no task would heed.

    :param action: The action plugin that asks.
    :raises ComputeError: With every problem.
    """
    alone = _alone()
    run = Run(
        str(task_vars.get("cloud_playbook") or ""),
        load_extra_vars(action._loader),
        _typed() if alone else frozenset(),
        written_vars(arguments, task_vars),
        task_vars.get("ansible_run_tags") or ("all",),
        task_vars.get("ansible_skip_tags") or (),
        [tag for tag in getattr(action._task, "tags", ()) if tag != "always"],
        alone,
        task_vars.keys(),
    )
    raise_all([*run.problems(), *_flags(run.playbook, task_vars, action._templar.template)])
    return run


def _flags(playbook: str, task_vars: Vars, template: Callable[[Any], Any]) -> list[str]:
    """Check the playbook's own variables that are true or false: what is neither would count as false."""
    values = {name: variable(name, task_vars, template) for name in FLAGS.get(playbook, ()) if name in task_vars}
    return [
        f"{name}: {shown(value)} is neither true nor false." for name, value in values.items() if not _is_flag(value)
    ]


def _is_flag(value: Any) -> bool:
    try:
        boolean(value)
    except TypeError:
        return False
    return True


def read_declaration(action: Any, arguments: Vars, task_vars: Vars, hosts: Mapping[str, Vars]) -> dict[str, Any]:
    """Read the declaration: arguments of the task, else the inventory's variables, one value for all hosts of the
    group.

    :param action: The action plugin that asks.
    :param hosts: See :func:`written_vars`.
    :raises ComputeError: When a variable differs between hosts: it is read once, and what another host has would count
        as removed.
    """
    given = {name for key, name in DECLARATION.items() if key in arguments}
    # Variables of the play, which hostvars lack: the import of a playbook may give some.
    here = _written(task_vars)(str(task_vars.get("inventory_hostname")))
    of_play = {name: value for name, value in task_vars.items() if name not in here and name != "vars"}
    everything = {host: {**of_play, **variables} for host, variables in hosts.items()}

    def templated(host: str, name: str) -> Any:
        try:
            variables = {**everything[host], "vars": everything[host]}
            return plain(Templar(loader=action._loader, variables=variables).template(variables[name]))
        except AnsibleError:
            return AnsibleError  # for all hosts, or it differs

    raise_all(differing([name for name in CLOUD if name not in given], everything, templated))
    template = action._templar.template
    return {
        key: plain(arguments[key]) if key in arguments else variable(name, task_vars, template)
        for key, name in DECLARATION.items()
    }


def written_vars(arguments: Vars, task_vars: Vars) -> dict[str, Vars]:
    """Give the variables of each host of the group as they are written; ``hostvars[host]`` templates each that is
    read.
    """
    return {host: _written(task_vars)(host) for host in group_hosts(arguments, task_vars)}


def _written(task_vars: Vars) -> Callable[[str], Vars]:
    raw_get = getattr(task_vars.get("hostvars"), "raw_get", None)

    def read(host: str) -> Vars:
        found = raw_get(host) if raw_get else host_vars(host, task_vars)
        return found if isinstance(found, Mapping) else {}

    return read


def _alone() -> bool:
    """Tell whether the command runs nothing but our playbooks: in one of the user's own, variables and tags may be that
    playbook's.
    """
    ours = str(Path(__file__).resolve().parents[3] / "playbooks")
    playbooks = [str(playbook) for playbook in context.CLIARGS.get("args") or ()]
    return all(
        playbook.startswith("ikcloud.compute.") or os.path.dirname(os.path.realpath(playbook)) == ours
        for playbook in playbooks
    )


def _typed() -> frozenset[str]:
    """Give the variables of ``-e name=value``."""
    words = [str(given) for given in context.CLIARGS.get("extra_vars") or () if given and str(given)[0] not in "@{["]
    return frozenset(str(name) for given in words for name in parse_kv(given))


def result_of(host: Vars, name: str, key: str) -> Any:
    """Give a key of the result that a task registered for the host in this run, or None: not reached, left out, or
    failed.
    """
    result = host.get(name)
    if not isinstance(result, Mapping) or result.get("unreachable") or result.get("failed"):
        return None
    return plain(result.get(key))


def underlay_address(name: str, host: Vars) -> Any:
    """Give the address at which other nodes reach the host: ``compute_underlay_address``, else ``ansible_host`` or the
    name if that is an address.
    """
    declared = host.get("compute_underlay_address")
    if declared is not None:
        return plain(declared)
    address = ip.parse_address(plain(host.get("ansible_host") or name))
    return None if address is None or address.is_loopback() else str(address)
