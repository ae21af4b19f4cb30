# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A network that would take from its gateway's node what it reaches, or is reached from, is refused; so is one machine
under two names.
"""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.plugin_utils._planning.planner import make_plan
from ansible_collections.ikcloud.compute.tests.unit.plugins.plugin_utils import samples
from hypothesis import given
from hypothesis import strategies as st

DEFAULT = {"to": "0.0.0.0/0", "via": "10.10.20.1", "link": "eth0"}
THERE = {"networks": {"blue": {"bridge": "br-gnv-fc814e42", "addresses": ["192.168.88.1/24"], "tunnels": {}}}}
TAKEN: dict[str, tuple[dict[str, Any], list[str]]] = {
    "controller": ({"client": "192.168.88.7"}, ["192.168.88.7", "the address from which this run reaches"]),
    "name server": ({"name_servers": ["9.9.9.9", "192.168.88.53"]}, ["192.168.88.53", "name server"]),
    "the same route": (
        {"routes": [DEFAULT, {"to": "192.168.88.0/24", "via": "10.10.20.9", "link": "eth0"}]},
        ["192.168.88.0/24 via 10.10.20.9 dev eth0"],
    ),
    "a narrower route": (
        {"routes": [{"to": "192.168.88.64/26", "via": None, "link": "wg0"}]},
        ["192.168.88.64/26 dev wg0"],
    ),
    "a blackhole": (
        {"routes": [{"to": "192.168.88.0/24", "via": None, "link": "*"}]},
        ["192.168.88.0/24 (blackhole), a route"],
    ),
    "next hop": (
        {"routes": [{"to": "0.0.0.0/0", "via": "192.168.88.254", "link": "eth0"}]},
        ["192.168.88.254", "next hop"],
    ),
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_a_node_would_lose_is_refused(case: str) -> None:
    info, words = TAKEN[case]
    said = samples.refusal(samples.TALK, samples.two_nodes(n1=info))
    for word in ["cloud_networks.blue.cidr", "192.168.88.0/24", "ik-node-01", "Take another cidr", *words]:
        assert word in said
    assert "problems:" not in said


@pytest.mark.parametrize("case", TAKEN)
def test_where_no_address_of_the_network_is_nothing_is_lost(case: str) -> None:
    """Only the node with the gateway has one; and what a node has through the network already, it does not lose."""
    info = TAKEN[case][0]
    assert not samples.refusal(samples.TALK, samples.two_nodes(n2=info))
    assert not samples.refusal(
        samples.talk(**{"networks.blue.gateway": False, "networks.blue.nat": False}), samples.two_nodes(n1=info)
    )
    assert not samples.refusal(samples.TALK, samples.two_nodes(n1={**THERE, **info}))
    # Another cidr is as new as a new network.
    assert samples.refusal(
        samples.TALK,
        samples.two_nodes(n1={"networks": {"blue": {"bridge": "b", "addresses": ["192.168.88.1/25"]}}, **info}),
    )


def test_a_default_route_is_nobody_s_and_a_wider_one_is_warned_of_once() -> None:
    halves = [{**DEFAULT, "to": to} for to in ("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1")]
    assert make_plan(samples.TALK, samples.two_nodes(n1={"routes": halves}))["warnings"] == []
    wider = {"routes": [{"to": "192.168.0.0/16", "via": "10.10.20.9", "link": "eth0"}]}
    (warning,) = make_plan(samples.TALK, samples.two_nodes(n1=wider))["warnings"]
    assert (
        "192.168.0.0/16 via 10.10.20.9 dev eth0" in warning
        and "cloud_networks.blue.cidr" in warning
        and "ik-node-01" in warning
    )
    assert make_plan(samples.TALK, samples.two_nodes(n1={**wider, **THERE}))["warnings"] == []


NETWORKS = st.builds(
    lambda number, length: IPv4Network((number, length), strict=False),
    st.integers(0x0A000000, 0x0A00FFFF),
    st.integers(8, 30),
)


@given(NETWORKS, NETWORKS, st.integers(0x0A000000, 0x0A00FFFF))
def test_refused_is_just_what_the_network_holds(cidr: IPv4Network, to: IPv4Network, client: int) -> None:
    address = str(IPv4Network(client).network_address)
    info = {"routes": [{"to": str(to), "via": None, "link": "wg0"}], "client": address}
    declaration = {"networks": {"blue": {"vni": 88, "cidr": str(cidr)}}}
    nodes = {"ik-node-01": {"underlay_address": "172.31.0.1", "info": info}}
    holds = to.subnet_of(cidr) or IPv4Network(client).subnet_of(cidr)
    assert bool(samples.refusal(declaration, nodes)) == holds
    if not holds:
        assert bool(make_plan(declaration, nodes)["warnings"]) == cidr.subnet_of(to)


def test_one_machine_under_two_names() -> None:
    """Said before what follows from it, with advice that would remove the only instance."""
    instance = {"instances": {"web-1": {"id": "af95e879", "labels": {}, "memory": 1024, "running": True}}}
    one = {**instance, "machine": "m1"}
    assert samples.refusal(samples.TALK, samples.two_nodes(n1=one, n2=one)).startswith(
        "ik-node-01 and ik-node-02 are one machine"
    )
    assert "remove" not in samples.refusal(samples.TALK, samples.two_nodes(n1=one, n2=one))
    for other in ("m2", None):
        assert not samples.refusal(samples.TALK, samples.two_nodes(n1={"machine": "m1"}, n2={"machine": other}))
    assert not samples.refusal(samples.TALK, samples.two_nodes(n1={"machine": None}, n2={"machine": None}))


def test_an_account_of_somebody_else_s_refuses_for_all_nodes() -> None:
    assert (
        samples.refusal(samples.TALK, samples.two_nodes(n2={"user_error": "There is a user."}))
        == "ik-node-02: There is a user."
    )
    assert not samples.refusal(samples.TALK, samples.two_nodes(n2={"user_error": None}))
