# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the volumes are that outlive instances, and what that means for the instances that have them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...module_utils._core.layout import instance_id
from ...module_utils._qemu.machine import MAX_DISKS
from .._declaration.model import Cloud, Node, Placement, Snapshot


def locate(cloud: Cloud, nodes: Sequence[Node], problems: list[str]) -> dict[str, str]:
    """Give the node where each declared volume is, of those that are there; one that is there twice is a problem."""
    found: dict[str, str] = {}
    for node in nodes:
        for name in cloud.volumes if node.facts else ():
            if node.facts and name in node.facts.volumes and found.setdefault(name, node.name) != node.name:
                problems.append(
                    f"The volume {name} is on {found[name]} and on {node.name}; remove one of the two"
                    " (ikcloud.compute.volume, state: absent)."
                )
    return found


def attachment_problems(cloud: Cloud, nodes: Sequence[Node]) -> list[str]:
    """Say which volumes an instance has that it must not lose, or share, without a word."""
    problems = []
    for node in nodes:
        for name, instance in sorted(node.facts.attached.items()) if node.facts else ():
            volume = cloud.volumes.get(name)
            if volume is None and instance in cloud.instances:
                problems.append(
                    f"The volume {name} on {node.name} is attached to {instance}, and not declared any more. Take it"
                    " back into cloud_volumes. To remove it: unmount it in the guest, leave out `instance` of"
                    f" cloud_volumes.{name}, run site, and then remove it from the declaration."
                )
            elif volume and volume.instance and instance not in cloud.instances and not cloud.purge:
                problems.append(
                    f"cloud_volumes.{name}.instance: {instance} on {node.name}, which is not declared any more, has the"
                    " volume still; remove that instance first (cloud_purge), or declare it again without the volume."
                )
    for name in cloud.instances:
        count = sum(1 for volume in cloud.volumes.values() if volume.instance == name)
        if count > MAX_DISKS:
            problems.append(
                f"cloud_volumes: {count} are too many for {name}; {MAX_DISKS} fit beside an instance's own disk."
            )
    return problems


def undeclared(cloud: Cloud, nodes: Sequence[Node]) -> dict[str, str]:
    """Give the data volumes that are there and not declared, with their nodes."""
    found = {
        name: node.name
        for node in nodes
        if node.facts
        for name in node.facts.volumes
        if name not in cloud.volumes and not instance_id(name)
    }
    return dict(sorted(found.items()))


def pin(cloud: Cloud, where: Mapping[str, str], snapshot: Snapshot, problems: list[str]) -> Cloud:
    """Give the cloud with each new instance pinned to where its volumes are; what can't be together is a problem."""
    pins: dict[str, tuple[str, str]] = {}
    for name, volume in cloud.volumes.items():
        home = where.get(name, volume.node)
        if home and volume.node not in (None, home):
            problems.append(
                f"cloud_volumes.{name}.node: it is on {home}, and a volume does not move; write node: {home}, or leave"
                " it out."
            )
        elif home and volume.instance:
            instance = cloud.instances.get(volume.instance)
            allocation = snapshot.allocations.get(volume.instance)
            lives = allocation.node if allocation else instance.node if instance else None
            other, theirs = pins.setdefault(volume.instance, (name, home))
            if lives not in (None, home):
                problems.append(
                    f"cloud_volumes.{name}.instance: the volume is on {home}, {volume.instance} on {lives}, and a disk"
                    f" can't be attached across nodes; take an instance on {home}, or a volume with another name."
                )
            elif theirs != home:
                problems.append(
                    f"cloud_volumes.{name}.instance: it is on {home}, and {other} on {theirs}; {volume.instance} can't"
                    " have both."
                )
    pinned = {
        name: (
            replace(instance, node=pins[name][1])
            if name in pins and instance.node is None and name not in snapshot.allocations
            else instance
        )
        for name, instance in cloud.instances.items()
    }
    return replace(cloud, instances=pinned)


def settle(
    cloud: Cloud, nodes: Sequence[Node], where: Mapping[str, str], placement: Placement, problems: list[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Give each volume its node: where it is, else where it is declared to be, else where its instance is.

    :returns: The nodes, and why volumes are left out of this run.
    """
    missing = [node.name for node in nodes if node.missing]
    homes: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name, volume in cloud.volumes.items():
        home = where.get(name) or volume.node
        if home is None and missing:
            left_out[name] = f"it may be on {' or '.join(missing)}"
            continue
        home = home or placement.nodes.get(volume.instance or "")
        if home is not None:
            homes[name] = home
        elif volume.instance is None:
            problems.append(
                f"cloud_volumes.{name}: it is not there yet, and nothing says where to make it; give it an instance or"
                " a node."
            )
    return homes, left_out
