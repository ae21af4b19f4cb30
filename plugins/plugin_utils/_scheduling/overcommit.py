# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is promised on a node beyond what it has: memory that guests may grow to, and disks that are not yet filled.

Pure.

Both are allowed, for guests seldom take all of it at once; but nobody promises it without being told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...module_utils._storage.sizes import format_size, read_disk_size
from .._declaration.model import Cloud, Facts, Node, Placement, Snapshot
from .placement import ceiling

_MIB = 1 << 20
_NAMED = 10


def memory_warnings(cloud: Cloud, nodes: Mapping[str, Node], placement: Placement, snapshot: Snapshot) -> list[str]:
    """Say which nodes have less memory than their running instances may grow to."""
    most: dict[str, dict[str, int]] = {name: {} for name in nodes}
    for name, allocation in snapshot.allocations.items() if not cloud.purge else ():
        if name not in cloud.instances and allocation.node in most and allocation.running:
            most[allocation.node][name] = max(allocation.memory, allocation.memory_max)
    for name, node in placement.nodes.items():
        if cloud.instances[name].power == "running":
            most[node][name] = ceiling(cloud.instances[name])
    return [
        f"The instances on {name} may grow to {sum(sizes.values())} MiB of memory together (memory_max), it has"
        f" {node.facts.memory} (most: {_largest(sizes, str)}): if they all do, it has too little. Declare a lower"
        " memory_max, or another node for some."
        for name, node in nodes.items()
        for sizes in [most[name]]
        if node.facts and node.facts.memory is not None and sum(sizes.values()) > node.facts.memory
    ]


def disk_warnings(
    nodes: Mapping[str, Node], lists: Mapping[str, Mapping[str, Any]], purged: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Say which nodes have less free disk than their volumes may still take.

    :param lists: The whole plan's, by node and kind.
    :param purged: What is removed, by node.
    """
    found = []
    for name, kinds in lists.items():
        facts = nodes[name].facts
        if facts is None or facts.disk_free is None:
            continue
        growth = _growth(facts, kinds.get("volumes", []), set(purged.get(name, {}).get("volumes", [])))
        if sum(growth.values()) > facts.disk_free:
            found.append(
                f"The volumes on {name} may still grow by {_round(sum(growth.values()))} together,"
                f" {_round(facts.disk_free)} is free there (most: {_largest(growth, _round)}): if they all fill up,"
                " their guests meet write errors. Declare smaller disks, or another node for some."
            )
    return found


def _growth(facts: Facts, volumes: list[dict[str, Any]], purged: set[str]) -> dict[str, int]:
    """Give the bytes that each volume may still take; nothing for one whose size nobody knows before its image is
    there.
    """
    sizes = {name: size for name, size in facts.volume_sizes.items() if name not in purged}
    for item in volumes:
        declared = (
            read_disk_size(item["size"]) if item.get("size") else facts.image_sizes.get(str(item.get("image")), 0)
        )
        sizes[item["name"]] = max(declared, sizes.get(item["name"], 0))
    return {name: max(0, size - facts.volume_bytes.get(name, 0)) for name, size in sizes.items()}


def _largest(sizes: Mapping[str, int], text: Any) -> str:
    named = sorted(sizes, key=lambda name: (-sizes[name], name))
    return ", ".join(f"{name} {text(sizes[name])}" for name in named[:_NAMED]) + (
        ", ..." if len(named) > _NAMED else ""
    )


def _round(size: int) -> str:
    return format_size(size - size % _MIB) if size >= _MIB else f"{size} bytes"
