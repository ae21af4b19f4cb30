# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bridges, tunnels and taps on a real kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import Node, World

BLUE, RED = "br-gnv-0000b1e0", "br-gnv-000004ed"
BRIDGES = [
    {"name": BLUE, "network": "blue", "addresses": ["10.88.0.1/24"]},
    {"name": RED, "network": "red", "mtu": 1430},
]
VXLAN = {
    "name": "gnv-00000001",
    "network": "blue",
    "vni": 88,
    "remote": ["10.10.20.102"],
    "bridge": BLUE,
    "encapsulation": "vxlan",
}
TAPS = [
    {"name": f"vnet-0000000{number}", "bridge": BLUE, "owner": "nobody", "instance": f"web-{number}"}
    for number in (1, 2)
]


def test_bridges(node: Node) -> None:
    done = node.converge("bridge", bridges=BRIDGES)
    assert [entry["action"] for entry in done["results"][:2]] == ["create", "create"]
    link = node.link(BLUE)
    assert link and link["mtu"] == 1450 and link["ifalias"] == "ikcloud.compute/network/blue" and "UP" in link["flags"]
    assert [(address["local"], address["prefixlen"]) for address in link["addr_info"]] == [("10.88.0.1", 24)]


@pytest.mark.parametrize(
    ("drift", "reason", "lines"),
    [
        (f"link set dev {BLUE} mtu 1500", "mtu is 1500, declared 1450", 1),
        (f"link set dev {BLUE} down", "it is down", 1),
        (f"link set dev {BLUE} address 02:00:00:00:00:07", "MAC address is 02:00:00:00:00:07", 1),
        (f"link set dev {BLUE} type bridge stp_state 1", "STP is on", 1),
        (f"address add 10.88.0.9/24 dev {BLUE}", "10.88.0.9/24, which is not declared", 2),
        (f"address delete 10.88.0.1/24 dev {BLUE}", "it lacks 10.88.0.1/24", 1),
        (f"link set dev {BLUE} addrgenmode eui64", "IPv6 link-local", 1),
        (f"link set dev {BLUE} alias ikcloud.compute/network/green", "alias is ikcloud.compute/network/green", 1),
        (f"link delete dev {BLUE}", "the link is missing", 7),
    ],
)
def test_bridge_drift(node: Node, drift: str, reason: str, lines: int) -> None:
    node.good("bridge", bridges=BRIDGES)
    node.ip(drift)
    done = node.converge("bridge", bridges=BRIDGES)
    assert reason in "; ".join(done["results"][0]["reasons"])
    assert len(done["commands"]) == lines, done["commands"]


@pytest.mark.parametrize(("verbosity", "told"), [(0, []), (2, []), (3, BRIDGES)])
def test_node_sends_its_lists_back_to_those_who_want_to_know(node: Node, verbosity: int, told: list[Any]) -> None:
    done = node.good("node", bridges=BRIDGES, _ansible_verbosity=verbosity)
    assert [
        {key: one[key] for key in want}
        for one, want in zip(done["invocation"].get("module_args", {}).get("bridges", []), BRIDGES)
    ] == told


def test_diff_comes_in_diff_mode(node: Node) -> None:
    assert "diff" not in node.good("bridge", check=True, bridges=BRIDGES, _ansible_diff=False)
    assert node.good("bridge", check=True, bridges=BRIDGES)["diff"]


def test_refused_lists_come_back_from_node(node: Node) -> None:
    refused = node.module("node", bridges=[{**BRIDGES[0], "mtu": 1}])
    assert refused["failed"] and refused["invocation"]["module_args"]["bridges"][0]["mtu"] == 1


def test_addresses_of_one_subnet(node: Node) -> None:
    """The kernel deletes an IPv4 subnet's further addresses with its first one."""
    for addresses in (
        ["10.88.0.1/24", "10.88.0.2/24", "10.88.0.3/24"],
        ["10.88.0.3/24"],
        ["10.88.0.2/24", "10.88.0.3/24"],
        [],
    ):
        node.converge("bridge", bridges=[{"name": BLUE, "network": "blue", "addresses": addresses}])


def test_bridge_lost_its_mark(node: Node) -> None:
    """A run that is killed between `link add` and `link set alias` leaves this."""
    node.good("bridge", bridges=BRIDGES)
    node.run("ip", "link", "set", "dev", BLUE, "alias", "")
    assert node.converge("bridge", bridges=BRIDGES)["results"][0]["reasons"] == ["alias is missing"]


def test_files_are_mended(node: Node) -> None:
    node.good("bridge", bridges=BRIDGES)
    node.file(f"10-{BLUE}.ip").write_text("link set dev lo down\n")
    node.file(f"10-{RED}.ip").unlink()
    node.file("up").write_text("#!/bin/sh\n")
    done = node.converge("bridge", bridges=BRIDGES)
    assert [entry["reasons"] for entry in done["results"]] == [
        [f"10-{BLUE}.ip differs"],
        [f"10-{RED}.ip is missing"],
        ["it differs"],
    ]
    assert all(command.startswith("install ") for command in done["commands"])


def test_foreign_link_is_refused(node: Node) -> None:
    node.ip(f"link add dev {BLUE} type bridge")
    refused = node.module("bridge", bridges=BRIDGES)
    assert refused["failed"] and BLUE in refused["msg"] and "did not make" in refused["msg"]
    assert node.link(RED) is None
    assert not node.good("bridge", bridges=[{"name": BLUE}], state="absent")["changed"]
    assert node.link(BLUE)


def test_purge_leaves_foreign_links(node: Node) -> None:
    node.good("bridge", bridges=BRIDGES)
    node.ip("link add dev docker0 type bridge")
    node.ip("link add dev br-gnv-99999999 type bridge")
    done = node.converge("bridge", bridges=BRIDGES[:1], purge=True)
    assert f"ip link delete dev {RED}" in done["commands"]
    assert [node.link(name) is not None for name in (BLUE, RED, "docker0", "br-gnv-99999999")] == [
        True,
        False,
        True,
        True,
    ]
    node.converge("bridge", bridges=[], purge=True)
    assert node.link("docker0") and not node.link(BLUE)
    assert not list(Path(node.root, "run/networks").iterdir())


def test_vxlan_tunnel(node: Node) -> None:
    node.good("bridge", bridges=BRIDGES)
    done = node.converge("geneve_tunnel", tunnels=[VXLAN])
    assert "ip link add dev gnv-00000001 type vxlan id 88 remote 10.10.20.102 dstport 4789" in done["commands"]
    isolated, up = (
        done["commands"].index(f"ip link set dev gnv-00000001 {words}")
        for words in ("type bridge_slave isolated on", "up")
    )
    assert isolated < up
    link = node.link("gnv-00000001")
    assert link and link["master"] == BLUE and link["linkinfo"]["info_slave_data"]["isolated"] is True


@pytest.mark.parametrize(
    ("change", "reason", "remade"),
    [
        ({"vni": 89}, "VNI is 88, declared 89, so it is deleted and made anew", True),
        ({"port": 4790}, "port is 4789, declared 4790", True),
        ({"remote": ["fd00::2"]}, "remote is 10.10.20.102, declared fd00::2", True),
        ({"remote": ["10.10.20.103"]}, "it lacks the remote 10.10.20.103", False),
        ({"remote": ["10.10.20.103", "10.10.20.102", "10.10.20.104"]}, "it lacks the remote 10.10.20.104", False),
        ({"mtu": 1400}, "mtu is 1450, declared 1400", False),
        ({"bridge": RED}, f"bridge is {BLUE}, declared {RED}", False),
    ],
)
def test_vxlan_changes(node: Node, change: dict[str, Any], reason: str, remade: bool) -> None:
    node.good("bridge", bridges=BRIDGES)
    node.good("geneve_tunnel", tunnels=[VXLAN])
    before = node.link("gnv-00000001")
    done = node.converge("geneve_tunnel", tunnels=[{**VXLAN, **change}])
    assert reason in "; ".join(done["results"][0]["reasons"])
    after = node.link("gnv-00000001")
    assert before and after and (before["ifindex"] != after["ifindex"]) == remade
    assert after["linkinfo"]["info_slave_data"]["isolated"] is True
    node.converge("geneve_tunnel", tunnels=[VXLAN])


def test_vxlan_drift(node: Node) -> None:
    tunnel = {**VXLAN, "remote": ["10.10.20.102", "10.10.20.103"]}
    node.good("bridge", bridges=BRIDGES)
    node.converge("geneve_tunnel", tunnels=[tunnel])
    node.run("bridge", "fdb", "del", "00:00:00:00:00:00", "dev", VXLAN["name"], "dst", "10.10.20.102")
    node.run("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", VXLAN["name"], "dst", "10.10.20.66")
    node.ip(f"link set dev {VXLAN['name']} type bridge_slave isolated off")
    done = node.converge("geneve_tunnel", tunnels=[tunnel])
    assert len(done["commands"]) == 3
    node.ip(f"link set dev {VXLAN['name']} nomaster")
    assert f"ip link set dev {VXLAN['name']} down" == node.converge("geneve_tunnel", tunnels=[tunnel])["commands"][0]


def test_two_tunnels_trade_their_vni(node: Node) -> None:
    """Deletions come before creations: each one's VNI is free when the other takes it."""
    one, other = {**VXLAN}, {**VXLAN, "name": "gnv-00000002", "vni": 89, "bridge": RED}
    node.good("bridge", bridges=BRIDGES)
    node.good("geneve_tunnel", tunnels=[one, other])
    node.converge("geneve_tunnel", tunnels=[{**one, "vni": 89}, {**other, "vni": 88}])


def test_a_tunnel_of_a_renamed_network(node: Node) -> None:
    """The kernel has one tunnel for the key: the old name makes room without purge, too."""
    node.good("bridge", bridges=BRIDGES)
    node.good("geneve_tunnel", tunnels=[VXLAN])
    for purge, name in ((False, "gnv-00000002"), (True, "gnv-00000003")):
        node.converge("geneve_tunnel", tunnels=[{**VXLAN, "name": name}], purge=purge)
        assert [path.name for path in node.file("").glob("20-*")] == [f"20-{name}.ip"]


def test_foreign_tunnel_of_our_name_is_refused(node: Node) -> None:
    node.good("bridge", bridges=BRIDGES)
    node.ip("link add dev gnv-00000001 type vxlan id 7 remote 10.10.20.109 dstport 4789")
    before = node.link("gnv-00000001")
    refused = node.module("geneve_tunnel", tunnels=[VXLAN, {**VXLAN, "name": "gnv-00000002", "vni": 99}])
    assert refused["failed"] and "tunnel gnv-00000001: " in refused["msg"] and "did not make" in refused["msg"]
    assert (node.link("gnv-00000001"), node.link("gnv-00000002")) == (before, None)


def test_vni_of_a_foreign_tunnel(node: Node) -> None:
    node.good("bridge", bridges=BRIDGES)
    node.ip("link add dev vx9 type vxlan id 88 remote 10.10.20.102 dstport 4789")
    refused = node.module("geneve_tunnel", tunnels=[VXLAN])
    assert "belongs to the link vx9" in refused["msg"]


def test_kernel_without_geneve(node: Node) -> None:
    node.good("bridge", bridges=BRIDGES)
    try:
        node.ip("link add dev probe0 type geneve id 1 remote 192.0.2.1")
    except AssertionError:
        refused = node.module("geneve_tunnel", tunnels=[{**VXLAN, "encapsulation": "geneve"}])
        assert "has no geneve" in refused["msg"] and "vxlan" in refused["msg"]
        assert not node.file("20-gnv-00000001.ip").exists()
        assert node.good("geneve_tunnel", check=True, tunnels=[{**VXLAN, "encapsulation": "geneve"}])["changed"]
    else:
        node.converge("geneve_tunnel", tunnels=[{**VXLAN, "encapsulation": "geneve"}])


def test_taps(node: Node) -> None:
    predicted = node.good("tap", check=True, taps=TAPS)
    refused = node.module("tap", taps=TAPS)
    assert refused["failed"] and "ikcloud.compute.bridge" in refused["msg"] and BLUE in refused["msg"]
    assert not node.file("30-vnet-00000001.ip").exists()
    node.good("bridge", bridges=BRIDGES)
    assert node.converge("tap", taps=TAPS)["commands"] == predicted["commands"]
    link = node.link("vnet-00000001")
    assert link and link["linkinfo"]["info_data"]["user"] == "nobody"
    assert link["linkinfo"]["info_slave_data"]["isolated"] is False
    for drift in ("nomaster", "mtu 1500", "down", "type bridge_slave isolated on"):
        node.ip(f"link set dev vnet-00000001 {drift}")
        assert len(node.converge("tap", taps=TAPS)["commands"]) == 1
    done = node.converge("tap", taps=[{**tap, "owner": "daemon"} for tap in TAPS])
    assert done["results"][0]["reasons"] == ["owner is nobody, declared daemon, so it is deleted and made anew"]
    node.converge("tap", taps=[], purge=True)
    assert node.link("vnet-00000001") is None and node.link(BLUE)


def test_owner_that_is_not_there(node: Node) -> None:
    taps = [{**TAPS[0], "owner": "not-there"}]
    node.good("bridge", bridges=BRIDGES)
    assert node.good("tap", check=True, taps=taps)["changed"]
    assert "ikcloud.compute.prepare" in node.module("tap", taps=taps)["msg"]
    assert node.link(TAPS[0]["name"]) is None


def test_boot_replays_all(node: Node) -> None:
    """After a reboot the namespace is empty; the files alone bring everything back, and running them again changes
    nothing.
    """
    tunnel = {**VXLAN, "remote": ["10.10.20.102", "10.10.20.103"]}
    all_of_it: list[tuple[str, dict[str, Any]]] = [
        ("bridge", {"bridges": BRIDGES}),
        ("geneve_tunnel", {"tunnels": [tunnel]}),
        ("tap", {"taps": TAPS}),
    ]
    for module, options in all_of_it:
        node.good(module, **options)
    for name in (BLUE, RED, VXLAN["name"], TAPS[0]["name"], TAPS[1]["name"]):
        node.ip(f"link delete dev {name}")
    for _time in range(2):
        node.run(str(node.file("up")))
        for module, options in all_of_it:
            assert not node.good(module, **options)["changed"]


def test_up_mends_a_bridge_that_is_there(node: Node) -> None:
    node.good("bridge", bridges=BRIDGES)
    node.ip(f"link set dev {BLUE} address 02:00:00:00:00:09")
    node.ip(f"address delete 10.88.0.1/24 dev {BLUE}")
    node.run(str(node.file("up")))
    assert not node.good("bridge", bridges=BRIDGES)["changed"]


def test_full_size_packets_across_nodes(world: World) -> None:
    """Two nodes, an underlay of 1500 bytes, VXLAN between them: packets of the network's whole MTU get across."""
    nodes, guests = [world.node("a"), world.node("b")], [world.node("ga"), world.node("gb")]
    world.join(nodes[0], "eth0", nodes[1], "eth0")
    for number, (node, guest) in enumerate(zip(nodes, guests), 101):
        node.ip(f"address add 10.10.20.{number}/24 dev eth0")
        node.good("bridge", bridges=[{"name": BLUE, "network": "blue"}])
        node.good("geneve_tunnel", tunnels=[{**VXLAN, "remote": [f"10.10.20.{203 - number}"]}])
        world.join(node, "port", guest, "ens3")
        node.ip(f"link set dev port mtu 1450 master {BLUE}")
        guest.ip("link set dev ens3 mtu 1450")
        guest.ip(f"address add 10.88.0.{number}/24 dev ens3")
    assert guests[0].pings("10.88.0.102", 1450, timeout=8)
    assert not guests[0].pings("10.88.0.102", 1452, timeout=1)
