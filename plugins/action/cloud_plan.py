# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin of cloud_plan: gathers the arguments, the rest is in plugin_utils/planner.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.plugin_utils._controller.seal import SEALED, sealed
from ansible_collections.ikcloud.compute.plugins.plugin_utils._controller.task_vars import (
    check_arguments,
    group_hosts,
    host_vars,
    plain,
    read_declaration,
    read_run,
    result_of,
    underlay_address,
)
from ansible_collections.ikcloud.compute.plugins.plugin_utils._declaration.declaration import DECLARATION
from ansible_collections.ikcloud.compute.plugins.plugin_utils._declaration.reader import nearest, shown
from ansible_collections.ikcloud.compute.plugins.plugin_utils._planning.nodes import NODE_KEYS
from ansible_collections.ikcloud.compute.plugins.plugin_utils._planning.planner import make_plan
from ansible_collections.ikcloud.compute.plugins.plugin_utils._reporting.tables import message, one_line

ARGUMENTS = (*DECLARATION, "group", "node_info", "nodes", "rebuild")


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core has no types
    """Compile the declaration. It runs on the controller and changes nothing, so check mode is no different."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Give the plan, or ``failed`` with every problem in ``msg``."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments: dict[str, Any] = self._task.args
        try:
            check_arguments(arguments, ARGUMENTS)
            run = read_run(self, arguments, task_vars)
            declaration = read_declaration(self, arguments, task_vars, run.hosts)
            warnings = run.warnings()
            if run.in_parts and boolean(declaration["purge"], strict=False):
                # As in the playbooks of one part: it would be taken away from under what another part has not removed.
                declaration["purge"] = False
                warnings.append(
                    "cloud_purge: nothing is removed in this run, for it leaves parts of site out (--tags,"
                    " --skip-tags)."
                )
            plan = make_plan(declaration, self._nodes(arguments, task_vars), rebuild=plain(arguments.get("rebuild")))
        except ComputeError as error:
            result.update(failed=True, msg=message(error))
            return result
        secret = False
        for lists in (*plan["nodes"].values(), *plan["rebuild"].values()):
            lists["seeds"] = [sealed(seed) for seed in lists["seeds"]]
            secret = secret or any(SEALED in seed for seed in lists["seeds"])
        result.update(plan, changed=False, warnings=[*warnings, *(one_line(warning) for warning in plan["warnings"])])
        result["_ansible_no_log"] = secret
        return result

    def _nodes(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Gather the nodes from the inventory and from what node_info registered; the argument ``nodes`` goes before
        both.
        """
        info = arguments.get("node_info") or "compute_node_info"
        if not isinstance(info, str):
            raise ComputeError(f"node_info: {shown(info)} is not the name of a registered variable.")
        nodes: dict[str, dict[str, Any]] = {}
        for name in group_hosts(arguments, task_vars):
            host = host_vars(name, task_vars)
            nodes[name] = {
                "underlay_address": underlay_address(name, host),
                "uplink": plain(host.get("compute_uplink")),
                "info": result_of(host, str(info), "node"),
            }
        given = plain(arguments.get("nodes")) or {}
        if not isinstance(given, Mapping):
            raise ComputeError(f"nodes: {shown(given)} is not a mapping of node names.")
        for name, spec in given.items():
            if spec is not None and not isinstance(spec, Mapping):
                raise ComputeError(f"nodes.{name}: {shown(spec)} is not a mapping.", nearest(None, NODE_KEYS))
            nodes[name] = {**nodes.get(name, {}), **(spec or {})}
        return nodes
