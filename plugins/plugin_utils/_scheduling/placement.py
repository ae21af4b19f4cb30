# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which instance goes to which node: a pure function, so that a cleverer scheduler can take the place of
:func:`fewest`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .._declaration.model import Cloud, Instance, Node, Placement, Snapshot


@dataclass
class Load:
    """What a node carries while instances are placed.

    :ivar memory: MiB in all, None when unknown.
    :ivar limit: MiB that a QEMU can be started with at most, None when unknown or without a limit.
    :ivar used: MiB of the running instances on it.
    """

    node: str
    memory: int | None
    limit: int | None = None
    used: int = 0
    instances: int = 0

    def has_room(self, instance: Instance) -> bool:
        """Tell whether the instance's memory fits in."""
        return (self.memory is None or self.used + instance.memory <= self.memory) and (
            self.limit is None or ceiling(instance) <= self.limit
        )

    def add(self, memory: int) -> None:
        """Count an instance."""
        self.used += memory
        self.instances += 1


# Chooses among the nodes that have room, given in the inventory's order.
Scheduler = Callable[[Instance, Sequence[Load]], str]


def ceiling(instance: Instance) -> int:
    """Give the MiB that its QEMU is started with, whatever the guest is to do with."""
    return max(instance.memory, int(instance.options.get("memory_max") or 0))


def fewest(instance: Instance, loads: Sequence[Load]) -> str:
    """Choose the node with the fewest instances, the first in the inventory among equals."""
    return min(loads, key=lambda load: load.instances).node


def place(
    cloud: Cloud, nodes: Sequence[Node], snapshot: Snapshot, scheduler: Scheduler = fewest
) -> tuple[Placement, list[str]]:
    """Give every instance its node: where it is pinned to, else where it lives, else where the scheduler says.

    :returns: The placement, and every problem. With nodes missing, what may live there is left out rather than made
        twice.
    """
    problems: list[str] = []
    placement = Placement()
    loads = {
        node.name: Load(
            node.name, node.facts.memory if node.facts else None, node.facts.memory_limit if node.facts else None
        )
        for node in nodes
    }
    missing = [node.name for node in nodes if node.missing]
    if not cloud.purge:
        for name, allocation in snapshot.allocations.items():
            if name not in cloud.instances and allocation.node in loads:
                loads[allocation.node].add(allocation.memory if allocation.running else 0)
    waiting: list[Instance] = []
    for instance in cloud.instances.values():
        lives = snapshot.allocations.get(instance.name)
        if lives and instance.node not in (None, lives.node):
            problems.append(
                f"cloud_instances.{instance.name}.node: it lives on {lives.node}, and moving to {instance.node} is not"
                f" supported yet. Remove it there first (its disk goes with it), or write node: {lives.node}."
            )
        elif lives and lives.node in loads:
            _settle(instance, lives.node, placement, loads)
        elif instance.node is not None:
            _settle(instance, instance.node, placement, loads)
        elif missing:
            placement.unknown.add(instance.name)
            placement.left_out[instance.name] = f"it may live on {' or '.join(missing)}"
        else:
            waiting.append(instance)
    _overfull(cloud, placement, loads, problems)
    emulating = {node.name for node in nodes if node.facts and node.facts.kvm is False}
    for name, node in placement.nodes.items():
        instance = cloud.instances[name]
        # Of what lives there the node itself says so once it is to be started.
        if name not in snapshot.allocations and instance.power == "running":
            problems += _unable(instance, loads[node], node in emulating)
    for instance in waiting:
        able = [load for load in loads.values() if load.node not in emulating or instance.options.get("accel") != "kvm"]
        roomy = [load for load in able if load.has_room(instance)]
        if roomy:
            _settle(instance, scheduler(instance, roomy), placement, loads)
        elif loads and not able:
            problems.append(
                f"cloud_instances.{instance.name}.accel: kvm is declared, and no node has /dev/kvm; write accel: auto"
                " or tcg."
            )
        elif loads:
            if any(load.memory is not None and load.used + instance.memory <= load.memory for load in able):
                problems.append(
                    f"cloud_instances.{instance.name}.memory_max: {ceiling(instance)} MiB is more than any node with"
                    " room for it has, and QEMU is started with all of it; declare less."
                )
                continue
            free = ", ".join(f"{load.node} {max(0, (load.memory or 0) - load.used)}" for load in able)
            problems.append(
                f"cloud_instances.{instance.name}.memory: no node has {instance.memory} MiB left (left: {free});"
                " declare less, or add a node."
            )
    return placement, problems


def _settle(instance: Instance, node: str, placement: Placement, loads: dict[str, Load]) -> None:
    placement.nodes[instance.name] = node
    loads[node].add(instance.memory if instance.power == "running" else 0)


def _unable(instance: Instance, load: Load, emulating: bool) -> list[str]:
    """Say why a new instance can't be started on the node that it is pinned to."""
    found = []
    if emulating and instance.options.get("accel") == "kvm":
        found.append(
            f"cloud_instances.{instance.name}.accel: kvm is declared, and {load.node} has no /dev/kvm; write accel:"
            " auto or tcg, or another node."
        )
    if load.limit is not None and instance.memory <= load.limit < ceiling(instance):
        found.append(
            f"cloud_instances.{instance.name}.memory_max: {ceiling(instance)} MiB is more than {load.node} has with its"
            f" swap ({load.limit} MiB), and QEMU is started with all of it; declare less, or another node."
        )
    return found


def _overfull(cloud: Cloud, placement: Placement, loads: dict[str, Load], problems: list[str]) -> None:
    """Note nodes whose pinned and living instances want more memory than there is."""
    for load in loads.values():
        if load.memory is None:
            continue
        here = [cloud.instances[name] for name, node in placement.nodes.items() if node == load.node]
        alone = [instance for instance in here if instance.memory > load.memory]
        problems += [
            f"cloud_instances.{instance.name}.memory: {instance.memory} MiB is more than {load.node} has ({load.memory}"
            " MiB); declare less, or another node."
            for instance in alone
        ]
        if load.used > load.memory and not alone:
            named = ", ".join(
                f"{instance.name} {instance.memory}"
                for instance in sorted(here, key=lambda instance: -instance.memory)[:10]
            )
            problems.append(
                f"The instances on {load.node} want {load.used} MiB of memory together, it has {load.memory} (most:"
                f" {named}); declare less, or power: stopped for some."
            )
