# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What action plugins that run on the controller read: the task's arguments, the inventory's variables and groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.ikcloud.compute.plugins.module_utils.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.plugin_utils import ip
from ansible_collections.ikcloud.compute.plugins.plugin_utils.reader import nearest, shown

GROUP = "compute_nodes"
Vars = Mapping[str, Any]


def plain(value: Any) -> Any:
    """Copy a value into Python's own types: Ansible's carry tags and templates that are nothing to us."""
    if isinstance(value, Mapping):
        return {plain(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if getattr(value, "__ENCRYPTED__", False):  # a text from a vault, which before ansible-core 2.19 is of a type of its own; decrypted as it is read
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


def result_of(host: Vars, name: str, key: str) -> Any:
    """Give a key of the result that a task registered for the host in this run, or None: not reached, left out, or failed."""
    result = host.get(name)
    if not isinstance(result, Mapping) or result.get("unreachable") or result.get("failed"):
        return None
    return plain(result.get(key))


def underlay_address(name: str, host: Vars) -> Any:
    """Give the address at which other nodes reach the host: ``compute_underlay_address``, else ``ansible_host`` or the name if that is an address."""
    declared = host.get("compute_underlay_address")
    if declared is not None:
        return plain(declared)
    address = ip.parse_address(plain(host.get("ansible_host") or name))
    return None if address is None or address.is_loopback() else str(address)
