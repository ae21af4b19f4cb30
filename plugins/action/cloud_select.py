# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin of cloud_select: gathers the arguments, the rest is in plugin_utils/select.py."""

from __future__ import annotations

import shutil
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError, raise_all
from ansible_collections.ikcloud.compute.plugins.plugin_utils._controller.selection import (
    select,
    snapshots_table,
    words_of,
)
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
from ansible_collections.ikcloud.compute.plugins.plugin_utils._reporting.tables import message, screen

ARGUMENTS = ("instances", "group", "instance_info", "snapshots")


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core has no types
    """Find the nodes of instances. It runs on the controller and changes nothing."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Give the instances for each node; show their snapshots if asked to."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        try:
            arguments = plain(self._task.args)
            check_arguments(arguments, ARGUMENTS)
            read_run(self, arguments, task_vars)
            registered = arguments.get("instance_info") or "compute_instance_info"
            if not isinstance(registered, str):
                raise ComputeError(f"instance_info: {shown(registered)} is not the name of a registered variable.")
            nodes = {
                name: result_of(host_vars(name, task_vars), registered, "instances")
                for name in group_hosts(arguments, task_vars)
            }
            raise_all(
                same_machines({name: result_of(host_vars(name, task_vars), registered, "machine") for name in nodes})
            )
            show = boolean(arguments.get("snapshots", False), strict=False)
            given = arguments.get("instances")
            every = show and not words_of(given or "")
            selected = (
                {node: [entry["name"] for entry in found or []] for node, found in nodes.items()}
                if every
                else select(given or "", nodes)
            )
        except ComputeError as error:
            result.update(failed=True, msg=message(error))
            return result
        if show:
            lines = snapshots_table(nodes, selected, max(40, shutil.get_terminal_size((120, 24)).columns))
            self._display.display(screen(lines))
        result.update(changed=False, nodes=selected)
        return result
