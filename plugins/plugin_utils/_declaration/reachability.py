# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a network would take from the node that has its gateway: the way to the controller, its routes, its name
servers. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import ip
from .model import Cloud, Facts, Network, Node, Route

WAY_OUT = "Take another cidr, or a gateway_node where that is not so."
# What VPNs set beside the default route to take its place (0.0.0.0/1 and 128.0.0.0/1) is a default route too.
_DEFAULT = 1


def lost_by(network: Network, nodes: Sequence[Node]) -> list[str]:
    """Say what the node with the gateway could not reach any more, or could not be reached from: its bridge would take
    these addresses.
    """
    problems = []
    for name, facts in _newcomers(network, nodes):
        place = f"cloud_networks.{network.name}.cidr: {network.cidr} holds"
        if facts.client is not None and facts.client in network.cidr:
            problems.append(
                f"{place} {facts.client}, the address from which this run reaches {name}: the node would answer into"
                f" the network and be lost. {WAY_OUT}"
            )
        problems += [
            f"{place} {server}, a name server of {name}, which could not ask it any more. {WAY_OUT}"
            for server in facts.name_servers
            if server in network.cidr
        ]
        for route in facts.routes:
            if _within(route, network):
                problems.append(
                    f"{place} {_text(route)}, a route of {name}, which would lead into the network or past it."
                    f" {WAY_OUT}"
                )
            elif route.via is not None and route.via in network.cidr:
                problems.append(
                    f"{place} {route.via}, the next hop of a route of {name} ({_text(route)}), which would be lost."
                    f" {WAY_OUT}"
                )
    return list(dict.fromkeys(problems))


def narrowed(cloud: Cloud, nodes: Sequence[Node]) -> list[str]:
    """Say which wider routes would lose a part to a network that is new there: it may be meant for that."""
    return [
        f"cloud_networks.{network.name}.cidr: {network.cidr} lies within {_text(route)}, a route of {name}: what {name}"
        " reaches there by it is cut off."
        for network in cloud.networks.values()
        for name, facts in _newcomers(network, nodes)
        for route in facts.routes
        if route.to.prefixlen > _DEFAULT and ip.overlap(route.to, network.cidr) and not _within(route, network)
    ]


def machine_problems(nodes: Sequence[Node]) -> list[str]:
    """Say which nodes are one machine: each of its instances would count twice."""
    return same_machines({node.name: node.facts.machine for node in nodes if node.facts})


def same_machines(machines: Mapping[str, object]) -> list[str]:
    """Say which names are of one machine.

    :param machines: What node_info and instance_info tell them by; nothing where it is not known.
    """
    names: dict[str, list[str]] = {}
    for name, machine in machines.items():
        if isinstance(machine, str) and machine:
            names.setdefault(machine, []).append(name)
    return [
        f"{', '.join(same[:-1])} and {same[-1]} are one machine (the same machine id and boot id): list it once in the"
        " inventory, under one name."
        for same in names.values()
        if len(same) > 1
    ]


def _newcomers(network: Network, nodes: Sequence[Node]) -> list[tuple[str, Facts]]:
    """Give the node that is to get the gateway's address; none where it has it: what is reached there is reached
    through the network already.
    """
    return [
        (node.name, node.facts)
        for node in nodes
        if node.facts
        and node.name == network.gateway_node
        and all(own.cidr != network.cidr for own in node.facts.networks.get(network.name, ()))
    ]


def _within(route: Route, network: Network) -> bool:
    return ip.overlap(route.to, network.cidr) and bool(route.to.prefixlen >= network.cidr.prefixlen)


def _text(route: Route) -> str:
    if route.link == "*":  # proc(5) has that where there is none
        return f"{route.to} (blackhole)"
    return f"{route.to}{'' if route.via is None else f' via {route.via}'} dev {route.link}"
