# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole way from a declaration to a plan."""

from __future__ import annotations

from typing import Any

from ...module_utils._cloudinit import documents
from ...module_utils._core.errors import raise_all
from ...module_utils._node.registry import RESOURCES
from .._addressing.addresses import allocate
from .._declaration import ip
from .._declaration.cross_checks import node_problems
from .._declaration.declaration import parse
from .._declaration.model import Cloud, Snapshot
from .._declaration.reachability import machine_problems, narrowed
from .._scheduling.overcommit import disk_warnings, memory_warnings
from .._scheduling.placement import Scheduler, fewest, place
from .collisions import disk_collisions, present_collisions
from .data_volumes import attachment_problems, locate, pin, settle, undeclared
from .guards import network_problems, shrink_problems
from .node_lists import Compiler
from .nodes import read_nodes, read_snapshot, with_declared_names
from .purge import Purge, read_infos
from .rebuild import select


def make_plan(
    declaration: dict[str, Any],
    nodes: object,
    snapshot: Snapshot | None = None,
    scheduler: Scheduler = fewest,
    rebuild: object = None,
) -> dict[str, Any]:
    """Compile a declaration.

    :param declaration: Values of any type, see :data:`declaration.DECLARATION`.
    :param nodes: See :func:`nodes.read_nodes`; of any type too.
    :param snapshot: What is allocated so far; by default what the nodes' infos say.
    :param scheduler: Chooses the node of an instance that is new and not pinned.
    :param rebuild: The instances that are to be rebuilt, see :func:`rebuild.read_names`; None for none.
    :returns: The result of the module cloud_plan, without ``changed``.
    :raises ComputeError: With every problem of the declaration, in one message.
    """
    ip.require_netaddr()
    problems: list[str] = []
    known = read_nodes(nodes, problems)
    # First and alone: what a machine has would count twice below, with advice to remove the one that there is.
    raise_all(machine_problems(list(known.values())))
    cloud, found = parse(declaration, list(known))
    named = with_declared_names(nodes, cloud.instances)
    if named is not nodes:
        nodes, known = named, read_nodes(named, [])
    if snapshot is None:
        snapshot = read_snapshot(nodes, problems)
    problems += found
    problems += node_problems(cloud, list(known.values())) + network_problems(cloud, list(known.values()))
    raise_all(problems)
    missing = [name for name, node in known.items() if node.missing]
    where = locate(cloud, list(known.values()), problems)
    problems += attachment_problems(cloud, list(known.values()))
    cloud = pin(cloud, where, snapshot, problems)
    placement, found = place(cloud, list(known.values()), snapshot, scheduler)
    problems += found
    addresses, found = allocate(cloud, snapshot, not missing)
    problems += found
    for name, why in addresses.left_out.items():
        # An instance that is there must not drop out of the lists: a purge would take it for undeclared.
        if name in snapshot.allocations:
            problems.append(
                f"cloud_instances.{name}: {', '.join(missing)} missing in this run, {why}; declare the address, or run"
                " with all nodes."
            )
    homes, volumes_left_out = settle(cloud, list(known.values()), where, placement, problems)
    compiler = Compiler(cloud, known, placement, addresses, homes)
    problems += compiler.problems() + compiler.collisions() + compiler.overlaps() + compiler.display_problems()
    problems += present_collisions(cloud, list(known.values()), snapshot) + disk_collisions(compiler)
    raise_all(problems)
    lists = compiler.lists()
    purge = Purge(cloud, read_infos(nodes), lists, compiler, {**placement.left_out, **addresses.left_out})
    raise_all(purge.problems())
    left_out = dict(sorted({**addresses.left_out, **placement.left_out}.items()))
    all_left_out = {**left_out, **{f"volume {name}": why for name, why in volumes_left_out.items()}}
    rebuilt, found = select(rebuild, cloud, lists, placement, left_out)
    raise_all(found + shrink_problems(known, lists, rebuilt))
    notes = (
        narrowed(cloud, list(known.values()))
        + memory_warnings(cloud, known, placement, snapshot)
        + disk_warnings(known, lists, purge.by_node())
    )
    return {
        "nodes": lists,
        "instances": compiler.instances(),
        "networks": compiler.networks(),
        "volumes": compiler.volumes(),
        "missing_nodes": missing,
        "left_out": all_left_out,
        "undeclared": {
            name: allocation.node
            for name, allocation in sorted(snapshot.allocations.items())
            if name not in cloud.instances
        },
        "undeclared_volumes": undeclared(cloud, list(known.values())),
        "purge": purge.by_node(),
        "rebuild": rebuilt,
        "counts": _counts(cloud, lists, len(missing), len(left_out)),
        "notes": notes,
        "warnings": addresses.warnings + purge.warnings() + notes + _warnings(cloud, missing, all_left_out),
    }


def _counts(cloud: Cloud, lists: dict[str, dict[str, list[Any]]], missing: int, left_out: int) -> dict[str, int]:
    return {
        "nodes": len(lists),
        "missing_nodes": missing,
        "networks": len(cloud.networks),
        "left_out": left_out,
        **{kind: sum(len(node[kind]) for node in lists.values()) for kind in RESOURCES},
    }


def _warnings(cloud: Cloud, missing: list[str], left_out: dict[str, str]) -> list[str]:
    warnings = []
    if left_out:
        named = "; ".join(f"{name} ({why})" for name, why in left_out.items())
        warnings.append(
            f"Left out of this run because {', '.join(missing)} was not reached or is not in it: {named}. Run again"
            " with all nodes."
        )
    locked = [
        instance
        for instance in cloud.instances.values()
        if not documents.can_log_in({**vars(instance), "hostname": instance.name})
    ]
    replaced = [instance.name for instance in locked if isinstance(instance.user_data, str)]
    keyless = [instance.name for instance in locked if instance.name not in replaced]
    if keyless:
        warnings.append(
            f"Nobody will be able to log in to {', '.join(keyless)}: there is no SSH key; set cloud_ssh_keys."
        )
    if replaced:
        warnings.append(
            f"Nobody will be able to log in to {', '.join(replaced)}: text as user_data replaces what the collection"
            " writes, the SSH keys too, and has none of its own. Put them into it, or write user_data as a dictionary,"
            " which is merged over ours."
        )
    return warnings
