# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold between the parts of a declaration, and between a declaration and the nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from ...module_utils._storage.sizes import format_size
from . import ip
from .model import Cloud, Instance, Network, Node
from .reachability import lost_by


def place_of(instance: Instance, index: int, key: str) -> str:
    """Say where a card's key stands; a single card's keys stand at the instance itself as a rule."""
    return (
        f"cloud_instances.{instance.name}.{key}"
        if len(instance.nics) == 1
        else f"cloud_instances.{instance.name}.nics[{index}].{key}"
    )


def cloud_problems(cloud: Cloud) -> list[str]:
    """Say what is wrong between the parts of a declaration."""
    problems: list[str] = []
    _twice(
        ((network.vni, f"cloud_networks.{network.name}.vni") for network in cloud.networks.values()),
        "the VNI {}",
        "take another one",
        problems,
    )
    for kind, things in (("network", cloud.networks.values()), ("instance", cloud.instances.values())):
        _twice(
            ((thing.id, f"cloud_{kind}s.{thing.name}") for thing in things),
            f"the {kind} id {{}} (made from the name)", "rename one of them", problems,
        )  # fmt: skip
    cards = [(instance, index, nic) for instance in cloud.instances.values() for index, nic in enumerate(instance.nics)]
    _twice(
        ((nic.mac, place_of(instance, index, "mac")) for instance, index, nic in cards),
        "the MAC address {}",
        "take another one",
        problems,
    )
    _twice(
        (
            (f"{nic.address} in {nic.network}", place_of(instance, index, "address"))
            for instance, index, nic in cards
            if nic.address
        ),
        "the address {}",
        "take another one, or leave it out to have one allocated",
        problems,
    )
    problems += _overlaps(cloud)
    for instance, index, nic in cards:
        network = cloud.networks.get(nic.network)
        if network and nic.address:
            problems += _address_problems(place_of(instance, index, "address"), nic.address, network)
    for network in cloud.networks.values():
        wanted = sum(1 for _instance, _index, nic in cards if nic.network == network.name)
        room = ip.host_count(network.cidr) - (1 if network.gateway is not None else 0)
        if wanted > room:
            problems.append(
                f"cloud_networks.{network.name}.cidr: {network.cidr} has room for {room} instances, {wanted} are"
                " declared; take a wider network."
            )
    return problems


def _twice(values: Iterable[tuple[Any, str]], what: str, way_out: str, problems: list[str]) -> None:
    first: dict[Any, str] = {}
    for value, place in values:
        if value in first:
            problems.append(f"{place}: {what.format(value)} is used already at {first[value]}; {way_out}.")
        first.setdefault(value, place)


def _address_problems(place: str, address: str, network: Network) -> list[str]:
    parsed = ip.parse_address(address)
    if not ip.is_host(network.cidr, parsed):
        if parsed in network.cidr:
            which = "network's own" if int(parsed) == network.cidr.first else "broadcast"
            return [
                f"{place}: {address} is the {which} address of {network.name}; hosts have"
                f" {ip.host_range(network.cidr)}."
            ]
        return [
            f"{place}: {address} is outside of {network.name}, {network.cidr}; take one of"
            f" {ip.host_range(network.cidr)}."
        ]
    if parsed == network.gateway:
        return [
            f"{place}: {address} is the gateway of {network.name}; take another one, or set"
            f" cloud_networks.{network.name}.gateway."
        ]
    return []


def _overlaps(cloud: Cloud) -> list[str]:
    """Networks may only overlap where no node and no instance has addresses in both."""
    problems: list[str] = []
    for one, other in combinations(cloud.networks.values(), 2):
        if not ip.overlap(one.cidr, other.cidr):
            continue
        if one.gateway_node is not None and one.gateway_node == other.gateway_node:
            problems.append(
                f"cloud_networks.{other.name}.cidr: {other.cidr} overlaps with {one.cidr} of cloud_networks.{one.name},"
                f" and both have their gateway on {one.gateway_node}; take another cidr, another gateway_node, or"
                " gateway: false."
            )
        for instance in cloud.instances.values():
            if {one.name, other.name} <= {nic.network for nic in instance.nics}:
                problems.append(
                    f"cloud_instances.{instance.name}.nics: the networks {one.name} ({one.cidr}) and {other.name}"
                    f" ({other.cidr}) overlap; it can't be in both."
                )
    return problems


def node_problems(cloud: Cloud, nodes: Sequence[Node]) -> list[str]:
    """Say what is wrong between a valid declaration and the nodes."""
    problems: list[str] = []
    _twice(
        ((node.underlay_address, node.name) for node in nodes if node.underlay_address),
        "the underlay address {}",
        "set compute_underlay_address",
        problems,
    )
    if not nodes and (cloud.instances or cloud.networks):
        problems.append("There is no compute node; put hosts into the inventory's group compute_nodes.")
    used = ip.families(node.underlay_address for node in nodes if node.underlay_address)
    if len(used) > 1:
        listed = ", ".join(f"{node.name} {node.underlay_address}" for node in nodes if node.underlay_address)
        problems.append(
            f"The underlay addresses are of both IP versions ({listed}); tunnels need one: set"
            " compute_underlay_address."
        )
    problems += [f"{node.name}: {node.facts.user_error}" for node in nodes if node.facts and node.facts.user_error]
    for node in nodes:
        own = {str(network.ip) for network in node.facts.underlay} if node.facts else set()
        if own and node.underlay_address and node.underlay_address not in own:
            problems.append(
                f"compute_underlay_address of {node.name}: the node does not have {node.underlay_address}; set it to"
                f" one that it has: {', '.join(sorted(own))}."
            )
    most = cloud.underlay_mtu - overhead(nodes)
    for network in cloud.networks.values():
        if network.mtu is not None and network.mtu > most:
            problems.append(
                f"cloud_networks.{network.name}.mtu: {network.mtu} does not fit into the underlay's"
                f" {cloud.underlay_mtu} bytes, of which {most} are left; take less, or raise cloud_underlay_mtu if the"
                " links carry more."
            )
        problems += _underlay_overlaps(network, nodes) or lost_by(network, nodes)
        problems += [] if cloud.purge else _former_overlaps(cloud, network, nodes)
    for instance in cloud.instances.values():
        sizes = [
            node.facts.image_sizes[instance.image]
            for node in nodes
            if node.facts and instance.image in node.facts.image_sizes
        ]
        if instance.disk is not None and sizes and instance.disk < max(sizes):
            problems.append(
                f"cloud_instances.{instance.name}.disk: {format_size(instance.disk)} is less than the"
                f" {format_size(max(sizes))} of the image {instance.image}; take that or more, or leave disk out."
            )
    return problems


def _underlay_overlaps(network: Network, nodes: Sequence[Node]) -> list[str]:
    """The gateway node would route what is for the underlay into the overlay."""
    if network.gateway_node is None:
        return []
    for node in nodes:
        address = ip.parse_address(node.underlay_address)
        if address is not None and address in network.cidr:
            return [
                f"cloud_networks.{network.name}.cidr: {network.cidr} holds {address}, the underlay address of"
                f" {node.name}; take another cidr."
            ]
    for node in nodes:
        for own in node.facts.underlay if node.facts and node.name == network.gateway_node else ():
            if ip.overlap(own, network.cidr):
                return [
                    f"cloud_networks.{network.name}.cidr: {network.cidr} overlaps with {own.cidr}, a network of"
                    f" {node.name} itself; take another cidr."
                ]
    return []


def _former_overlaps(cloud: Cloud, network: Network, nodes: Sequence[Node]) -> list[str]:
    """A bridge of a network that was renamed keeps its addresses until a purge: the gateway node would route to that
    one, or to both.
    """
    return [
        f"cloud_networks.{network.name}.cidr: {network.cidr} overlaps with {own} of the network {former}, which is not"
        f" declared any more and still there on {node.name}; run site with cloud_purge: true to have that one removed"
        " in the same run, or take another cidr."
        for node in nodes
        for former, addresses in (
            node.facts.networks.items() if node.facts and node.name == network.gateway_node else ()
        )
        for own in addresses
        if former not in cloud.networks and ip.overlap(own, network.cidr)
    ]


def overhead(nodes: Sequence[Node]) -> int:
    """Give the bytes that encapsulation takes: 50 over an IPv4 underlay, 70 over IPv6 (outer Ethernet 14, IP 20 or 40,
    UDP 8, GENEVE or VXLAN 8).
    """
    return 70 if 6 in ip.families(node.underlay_address for node in nodes if node.underlay_address) else 50
