# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin of cloud_status: gathers the arguments, the rest is in plugin_utils/status.py."""

from __future__ import annotations

import shutil
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.plugin_utils._controller.task_vars import (
    check_arguments,
    group_hosts,
    host_vars,
    plain,
    read_declaration,
    result_of,
    underlay_address,
    written_vars,
)
from ansible_collections.ikcloud.compute.plugins.plugin_utils._declaration import ip
from ansible_collections.ikcloud.compute.plugins.plugin_utils._declaration.declaration import parse
from ansible_collections.ikcloud.compute.plugins.plugin_utils._declaration.reader import shown
from ansible_collections.ikcloud.compute.plugins.plugin_utils._reporting.ssh import target
from ansible_collections.ikcloud.compute.plugins.plugin_utils._reporting.status import NodeState, make_status
from ansible_collections.ikcloud.compute.plugins.plugin_utils._reporting.tables import message, screen

VARIABLES = (
    "ansible_host",
    "ansible_ssh_host",
    "ansible_port",
    "ansible_ssh_port",
    "ansible_user",
    "ansible_ssh_user",
    "ansible_connection",
    "ansible_ssh_private_key_file",
    "ansible_private_key_file",
    "ansible_ssh_common_args",
    "ansible_ssh_extra_args",
)
ARGUMENTS = ("group", "node_info", "instance_info", "width", "display")


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core has no types
    """Show what there is. It runs on the controller and changes nothing."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Give the tables and the data in them; show the tables unless ``display`` is false."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        try:
            arguments = plain(self._task.args)
            check_arguments(arguments, ARGUMENTS)
            ip.require_netaddr()
            width = _width(arguments.get("width"))
            names = [_name(arguments, key) for key in ("node_info", "instance_info")]
            nodes = [_node(name, task_vars, *names) for name in group_hosts(arguments, task_vars)]
            declaration = read_declaration(self, {}, task_vars, written_vars(arguments, task_vars))
        except ComputeError as error:
            result.update(failed=True, msg=message(error))
            return result
        cloud, _problems = parse(
            declaration, [node.name for node in nodes]
        )  # what is wrong there is for cloud_plan to say
        planned = result_of(task_vars, "cloud_plan", "instances")
        status = make_status(cloud, nodes, planned if isinstance(planned, dict) else None)
        lines = status.text(width)
        if boolean(arguments.get("display", True), strict=False):
            self._display.display(screen(lines))
        result.update(
            changed=False,
            table="\n".join(lines),
            nodes=status.nodes,
            networks=status.networks,
            instances=status.instances,
            missing_nodes=[node.name for node in nodes if node.missing],
        )
        return result


def _width(value: Any) -> int:
    if value is None:
        return max(40, shutil.get_terminal_size((120, 24)).columns)
    if not str(value).isdecimal() or not 40 <= int(str(value)[:9]) <= 10000:
        raise ComputeError(f"width: {shown(value)} is not a number of columns from 40 to 10000.")
    return int(value)


def _name(arguments: dict[str, Any], key: str) -> str:
    value = arguments.get(key) or f"compute_{key}"
    if not isinstance(value, str):
        raise ComputeError(f"{key}: {shown(value)} is not the name of a registered variable.")
    return value


def _node(name: str, task_vars: dict[str, Any], node_info: str, instance_info: str) -> NodeState:
    host = host_vars(name, task_vars)
    ways = {key: plain(host[key]) for key in VARIABLES if key in host}
    info, instances = result_of(host, node_info, "node"), result_of(host, instance_info, "instances")
    return NodeState(
        name,
        underlay_address(name, host),
        target(name, ways),
        info if isinstance(info, dict) else None,
        instances if isinstance(instances, list) else None,
    )
