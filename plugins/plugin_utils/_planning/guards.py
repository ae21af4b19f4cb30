# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What does not change under those who use it: a network's VNI and addresses, and a disk does not shrink. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...module_utils._storage.sizes import format_size, read_disk_size
from .._declaration.model import Cloud, Facts, Network, Node

Lists = Mapping[str, Mapping[str, Any]]

# How many instances an error names.
_NAMED = 3
REBUILD = "Or make the disk anew, without its data: ansible-playbook ikcloud.compute.rebuild -e instances={}."
COPY = "Or declare another, smaller volume, copy in the guest what is to be kept, and then remove this one."


def network_problems(cloud: Cloud, nodes: Sequence[Node]) -> list[str]:
    """Say which networks would get another VNI or other addresses under instances that stay in them."""
    problems = []
    for network in cloud.networks.values():
        for key, wanted, of in (("vni", network.vni, _vnis), ("cidr", network.cidr, _cidrs)):
            had: set[Any] = set()
            within: list[str] = []
            for node in nodes:
                have = of(node.facts, network.name) if node.facts else set()
                # One place on a node that has what is declared is enough: the rest was changed by hand, or is left from
                # a change that was interrupted, and is mended.
                if have and wanted not in have:
                    had |= have
                    within += _staying(cloud, network, node)
            within += _unseen(cloud, network, nodes) if had else []
            if within:
                problems.append(_problem(network.name, key, " or ".join(map(str, sorted(had))), wanted, within))
    return problems


def _vnis(facts: Facts, network: str) -> set[Any]:
    return set(facts.vnis.get(network, ()))


def _cidrs(facts: Facts, network: str) -> set[Any]:
    # Where the gateway is the bridge tells them too.
    return {*facts.cidrs.get(network, ()), *(address.cidr for address in facts.networks.get(network, ()))}


def _staying(cloud: Cloud, network: Network, node: Node) -> list[str]:
    """Give the instances on a node that are in the network and stay in it, running or not."""
    found = []
    for name in sorted(node.facts.members.get(network.name, ())) if node.facts else ():
        instance = cloud.instances.get(name)
        # What is not declared any more goes in this run with a purge, and else goes on as it is.
        if instance.uses(network.name) if instance else not cloud.purge:
            found.append(f"{name} on {node.name}")
    return found


def _unseen(cloud: Cloud, network: Network, nodes: Sequence[Node]) -> list[str]:
    """Give the instances that may be in the network on a node that is missing."""
    missing = [node.name for node in nodes if node.missing]
    seen = {name for node in nodes if node.facts for names in node.facts.members.values() for name in names}
    found = []
    for instance in cloud.instances.values():
        maybe = [name for name in missing if instance.node in (None, name)]
        if maybe and instance.name not in seen and instance.uses(network.name):
            found.append(f"{instance.name}, which may live on {' or '.join(maybe)} (not reached, or not in this run)")
    return found


def _problem(name: str, key: str, have: str, wanted: object, within: list[str]) -> str:
    more = len(within) - _NAMED
    named = "; ".join(within[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
    other = "cidr" if key == "vni" else "vni"
    return (
        f"cloud_networks.{name}.{key}: {wanted} is declared and {have} is there, with instances in it, under which it"
        f" does not change: {named}. Write {key}: {have}, or declare another network with {key}: {wanted} and a {other}"
        f" of its own, move the instances to it (their nics), and then remove {name}; or remove its instances first"
        " (cloud_purge: true removes those that are not declared)."
    )


def shrink_problems(nodes: Mapping[str, Node], lists: Lists, rebuilt: Lists) -> list[str]:
    """Say which disks are larger than declared: the module volume would refuse it, but on the node, when other things
    have changed.

    :param lists: The whole plan's, by node and kind.
    :param rebuilt: What a rebuild takes, by node; then it alone is looked at, without the disks that are made anew.
    """
    problems = []
    for name, node in nodes.items():
        have = node.facts.volume_sizes if node.facts else {}
        kinds = lists.get(name, {})
        owners = {f"compute-{item['id']}": item["name"] for item in kinds.get("instances", [])}
        for item in (rebuilt.get(name, {}) if rebuilt else kinds).get("volumes", []):
            volume, size = item["name"], item.get("size")
            if (
                size is None
                or volume in rebuilt.get(name, {}).get("names", [])
                or read_disk_size(size) >= have.get(volume, 0)
            ):
                continue
            there, owner = format_size(have[volume]), owners.get(volume)
            place = f"cloud_instances.{owner}.disk" if owner else f"cloud_volumes.{volume}.size"
            problems.append(
                f"{place}: {size} is declared, and the volume {volume} on {name} has {there}: a volume never shrinks,"
                f" its guest would lose data. Declare {there} or more. " + (REBUILD.format(owner) if owner else COPY)
            )
    return problems
