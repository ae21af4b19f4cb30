# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of which 8 hex digits are made, and that come out the same: with what is on a node undeclared, and within one
QEMU. Pure.

Rarer than any other mishap, and no less confusing where a node says it in its own words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...module_utils._core.layout import DEFAULT_ROOT, Layout
from ...module_utils._core.names import short_id
from ...module_utils._qemu.declared import disk_clash, new_disk, serial
from .._declaration.model import Cloud, Node, Snapshot
from .node_lists import Compiler


def present_collisions(cloud: Cloud, nodes: Sequence[Node], snapshot: Snapshot) -> list[str]:
    """Say which declared networks and instances have the id of one that is there and not declared."""
    networks = {name: node.name for node in nodes if node.facts for name in (*node.facts.networks, *node.facts.vnis)}
    instances = {name: allocation.node for name, allocation in snapshot.allocations.items()}
    declared_networks = {network.id: name for name, network in cloud.networks.items()}
    declared_instances = {instance.id: name for name, instance in cloud.instances.items()}
    return _present("network", declared_networks, networks) + _present("instance", declared_instances, instances)


def _present(kind: str, declared: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """Say which of a kind collide.

    :param declared: Name by id.
    :param there: Node by name.
    """
    return [
        f"cloud_{kind}s.{declared[identifier]}: its id {identifier} (made from the name) is that of the {kind} {name}"
        f" too, which is on {node} and not declared any more. Give it another name, or remove {name} first: run site"
        f" with cloud_purge: true and without {declared[identifier]}."
        for name, node in sorted(there.items())
        for identifier in [short_id(kind, name)]
        if name not in declared.values() and identifier in declared
    ]


def disk_collisions(compiler: Compiler) -> list[str]:
    """Say which volumes of one instance its QEMU, or its guest, could not tell apart."""
    problems = []
    for name, instance in compiler.cloud.instances.items():
        volumes = compiler.disks_of(instance)
        home = compiler.nodes.get(compiler.placement.nodes.get(name, ""))
        layout = Layout((home.facts.root if home and home.facts else "") or DEFAULT_ROOT)
        clash = disk_clash([new_disk(layout.volume(volume), "qcow2", serial(volume)) for volume in volumes])
        if clash:
            one, other = volumes[clash[0]], volumes[clash[1]]
            problems.append(
                f"cloud_volumes.{other}: its {clash[2]} in {name} (made from the name) is that of cloud_volumes.{one}"
                " too; rename one of the two."
            )
    return problems
