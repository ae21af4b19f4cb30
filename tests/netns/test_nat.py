# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NAT and isolation with real packets: two guests' networks on a node, and a world behind its uplink."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._core.commands import find_tool

from .conftest import Node, World

BLUE, RED = "br-gnv-0000b1e0", "br-gnv-000004ed"
BRIDGES = [
    {"name": BLUE, "network": "blue", "addresses": ["10.88.0.1/24"]},
    {"name": RED, "network": "red", "addresses": ["10.89.0.1/24"]},
]
NETWORKS: list[dict[str, Any]] = [
    {"name": "blue", "id": "0000b1e0", "bridge": BLUE, "cidr": "10.88.0.0/24"},
    {"name": "red", "id": "000004ed", "bridge": RED, "cidr": "10.89.0.0/24", "masquerade": False},
]
OPEN = [NETWORKS[0], {**NETWORKS[1], "masquerade": True}]
BRIDGED = "net.bridge.bridge-nf-call-iptables"
OUTSIDE, UPLINK = "203.0.113.1", "203.0.113.2"


class Lab:
    """A node with an uplink, the world there, and a guest in each network."""

    def __init__(self, world: World) -> None:
        self.all, self.node, self.world = world, world.node("n"), world.node("w")
        self.blue, self.red = world.node("gb"), world.node("gr")
        # Where the kernel has br_netfilter this is on in a new namespace.
        self.node.run("sysctl", "-w", f"{BRIDGED}=0", check=False)
        world.join(self.node, "eth0", self.world, "eth0")
        self.node.ip(f"address add {UPLINK}/24 dev eth0")
        self.node.ip(f"route add default via {OUTSIDE}")
        self.world.ip(f"address add {OUTSIDE}/24 dev eth0")
        self.node.good("bridge", bridges=BRIDGES)
        for guest, bridge, number in ((self.blue, BLUE, 88), (self.red, RED, 89)):
            self.plug(guest, bridge, f"port{number}", f"10.{number}.0.9/24")
            guest.ip(f"route add default via 10.{number}.0.1")

    def plug(self, guest: Node, bridge: str, port: str, address: str) -> None:
        self.all.join(self.node, port, guest, "ens3")
        self.node.ip(f"link set dev {port} mtu 1450 master {bridge}")
        guest.ip("link set dev ens3 mtu 1450")
        guest.ip(f"address add {address} dev ens3")

    def forward(self) -> str:
        return self.node.run("cat", "/proc/sys/net/ipv4/ip_forward").strip()

    def sysctl_file(self) -> Path:
        return self.node.folder / "sysctl.d/60-ikcloud-compute.conf"


@pytest.fixture
def lab(world: World) -> Lab:
    return Lab(world)


def test_ways_out(lab: Lab) -> None:
    assert lab.forward() == "0"
    done = lab.node.converge("nat", networks=NETWORKS)
    assert done["after"]["blue"] == {
        "id": "0000b1e0",
        "bridge": BLUE,
        "cidr": "10.88.0.0/24",
        "uplink": "eth0",
        "masquerade": True,
    }
    assert lab.forward() == "1"
    for server, port in ((lab.world, 80), (lab.node, 80), (lab.red, 80), (lab.blue, 80)):
        server.serve("listen", str(port))
    # Out, with the node's address.
    assert lab.blue.probe("connect", OUTSIDE, 80) == UPLINK
    assert lab.blue.pings(OUTSIDE)
    # The closed network: nowhere.
    assert lab.red.probe("connect", OUTSIDE, 80) == ""
    # The gateway answers a ping, and nothing else of the node does, under any of its addresses.
    assert lab.blue.pings("10.88.0.1")
    assert lab.red.pings("10.89.0.1")
    for address in ("10.88.0.1", "10.89.0.1", UPLINK):
        assert lab.blue.probe("connect", address, 80) == ""
    assert not lab.blue.pings("10.89.0.1", timeout=1)
    assert not lab.blue.pings(UPLINK, timeout=1)
    # The node reaches its guests.
    assert lab.node.probe("connect", "10.88.0.9", 80) == "10.88.0.1"
    # Nobody comes in from outside, although the node would route it.
    lab.world.ip(f"route add 10.88.0.0/23 via {UPLINK}")
    assert lab.world.probe("connect", "10.88.0.9", 80) == ""


@pytest.mark.parametrize("networks", [NETWORKS, OPEN])
def test_networks_do_not_reach_each_other(lab: Lab, networks: list[dict[str, Any]]) -> None:
    lab.node.good("nat", networks=networks)
    lab.red.serve("listen", "80")
    lab.blue.serve("listen", "80")
    assert lab.blue.pings(OUTSIDE)
    for guest, other in ((lab.blue, "10.89.0.9"), (lab.red, "10.88.0.9")):
        assert guest.probe("connect", other, 80) == ""
        assert not guest.pings(other, timeout=1)


def test_only_its_own_addresses_go_out(lab: Lab) -> None:
    lab.node.good("nat", networks=NETWORKS)
    lab.blue.ip("address add 198.51.100.7/32 dev lo")
    lab.blue.ip("route replace default via 10.88.0.1 src 198.51.100.7")
    lab.world.ip(f"route add 198.51.100.7/32 via {UPLINK}")
    lab.node.ip(f"route add 198.51.100.7/32 dev {BLUE}")
    receiver = lab.world.serve("receive", "5000", "1.5")
    lab.blue.probe("send", OUTSIDE, 5000)
    assert receiver.communicate(timeout=5)[0].strip() == ""


@pytest.mark.parametrize(("port", "seen"), [(6081, ""), (4789, ""), (5000, UPLINK)])
def test_no_forged_tunnel_packets(lab: Lab, port: int, seen: str) -> None:
    """Behind the node's address a guest's own GENEVE packet would be taken for the node's."""
    lab.node.good("nat", networks=NETWORKS)
    receiver = lab.world.serve("receive", str(port), "1.5")
    lab.blue.probe("send", OUTSIDE, port)
    assert receiver.communicate(timeout=5)[0].strip() == seen


def test_segments_fit_the_path(lab: Lab) -> None:
    """The guest's card says 1500, the uplink takes 1400: the handshake says what fits, 40 bytes of headers less."""
    lab.node.good("nat", networks=NETWORKS)
    lab.node.ip("link set dev eth0 mtu 1400")
    server = lab.world.serve("segment", "80")
    lab.blue.ip("link set dev ens3 mtu 1500")
    lab.blue.probe("connect", OUTSIDE, 80)
    assert int(server.communicate(timeout=5)[0]) <= 1360


@pytest.mark.parametrize(
    "drift",
    [
        ["flush", "table", "inet", "ikcloud_0000b1e0"],
        ["delete", "table", "inet", "ikcloud_0000b1e0"],
        ["insert", "rule", "inet", "ikcloud_0000b1e0", "forward", "accept"],
        ["flush", "chain", "inet", "ikcloud_0000b1e0", "input"],
        ["add", "chain", "inet", "ikcloud_0000b1e0", "extra"],
        ["chain inet ikcloud_0000b1e0 forward { policy drop; }"],
        ["flush", "ruleset"],
    ],
)
def test_drift(lab: Lab, drift: list[str]) -> None:
    lab.node.good("nat", networks=NETWORKS)
    lab.node.run("nft", *drift)
    done = lab.node.converge("nat", networks=NETWORKS)
    assert done["changed"] and done["results"][0]["action"] in ("update", "create")
    assert lab.blue.pings(OUTSIDE)


def test_traffic_is_no_drift(lab: Lab) -> None:
    lab.node.good("nat", networks=NETWORKS)
    assert lab.blue.pings(OUTSIDE)
    assert not lab.node.good("nat", networks=NETWORKS)["changed"]


def test_declared_changes(lab: Lab) -> None:
    lab.node.good("nat", networks=NETWORKS)
    assert lab.node.converge("nat", networks=OPEN)["results"][1]["reasons"] == [
        "uplink is None, declared eth0",
        "masquerade is False, declared True",
    ]
    lab.node.ip("link add dev eth1 type veth peer name eth2")
    moved = [{**NETWORKS[0], "uplink": "eth1"}, OPEN[1]]
    assert lab.node.converge("nat", networks=moved)["results"][0]["reasons"] == ["uplink is eth0, declared eth1"]
    lab.node.file("50-nat-blue.nft").unlink()
    assert lab.node.converge("nat", networks=moved)["commands"] == [
        f"install -D -m 0644 /dev/stdin {lab.node.file('50-nat-blue.nft')}"
    ]
    assert "eth7 is not there" in lab.node.module("nat", networks=[{**NETWORKS[0], "uplink": "eth7"}])["msg"]


def test_forwarding_is_restored(lab: Lab) -> None:
    lab.node.good("nat", networks=NETWORKS)
    assert "before: 0" in lab.sysctl_file().read_text()
    lab.node.run("sysctl", "-w", "net.ipv4.ip_forward=0")
    assert lab.node.converge("nat", networks=NETWORKS)["commands"] == ["sysctl -w net.ipv4.ip_forward=1"]
    done = lab.node.converge("nat", networks=[], purge=True)
    assert done["commands"][0:3:2] == ["nft delete table inet ikcloud_0000b1e0", "sysctl -w net.ipv4.ip_forward=0"]
    assert lab.forward() == "0" and not lab.sysctl_file().exists()


def test_forwarding_of_others_stays(lab: Lab) -> None:
    lab.node.run("sysctl", "-w", "net.ipv4.ip_forward=1")
    lab.node.good("nat", networks=NETWORKS)
    assert "before: 1" in lab.sysctl_file().read_text()
    lab.node.converge("nat", networks=[{"name": "blue"}, {"name": "red"}], state="absent")
    assert lab.forward() == "1" and not lab.sysctl_file().exists()
    lab.node.run("sysctl", "-w", "net.ipv4.ip_forward=0")
    lab.node.good("nat", networks=NETWORKS)
    (lab.node.folder / "sysctl.d/99-router.conf").write_text("net.ipv4.ip_forward=1\n")
    lab.node.converge("nat", networks=[], purge=True)
    assert lab.forward() == "1"


def test_foreign_tables_stay(lab: Lab) -> None:
    lab.node.run(
        "nft",
        "add table inet ikcloud_12345678; add table ip nat; add chain ip nat out { type nat hook postrouting priority"
        " 100; }",
    )
    lab.node.good("nat", networks=NETWORKS)
    refused = lab.node.module("nat", networks=[{**NETWORKS[0], "name": "green", "id": "12345678"}])
    assert refused["failed"] and "green" in refused["msg"]
    lab.node.converge("nat", networks=[], purge=True)
    tables = {
        (table["family"], table["name"])
        for table in (entry.get("table") for entry in lab.node.json("nft", "-j", "list", "tables")["nftables"])
        if table
    }
    assert tables == {("inet", "ikcloud_12345678"), ("ip", "nat")}


def test_a_foreign_drop_is_named(lab: Lab) -> None:
    lab.node.run(
        "nft",
        "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; add"
        " chain ip filter DOCKER-USER",
    )
    warned = lab.node.good("nat", networks=NETWORKS)
    assert len(warned["warnings"]) == 1
    warning = json.dumps(warned["warnings"])  # its form depends on ansible-core's version
    assert "FORWARD of the table ip filter" in warning and "DOCKER-USER" in warning
    assert not lab.blue.pings(OUTSIDE, timeout=1)
    # What it advises helps, and the warning is gone.
    lab.node.run(
        "nft", f"add rule ip filter FORWARD jump DOCKER-USER; add rule ip filter DOCKER-USER iifname {BLUE} accept"
    )
    lab.node.run("nft", f"add rule ip filter DOCKER-USER oifname {BLUE} accept")
    assert not lab.node.good("nat", networks=NETWORKS).get("warnings")
    assert lab.blue.pings(OUTSIDE)


def test_a_foreign_drop_of_what_passes_a_bridge_is_named(lab: Lab) -> None:
    """As br_netfilter has it where Docker runs: of a closed network, too."""
    if lab.node.run("sysctl", "-w", f"{BRIDGED}=1", check=False) == "":
        pytest.skip("this kernel has no br_netfilter")
    twin = lab.all.node("gt")
    lab.plug(twin, RED, "port90", "10.89.0.8/24")
    lab.node.run(
        "nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"
    )
    warned = json.dumps(lab.node.good("nat", networks=NETWORKS[1:])["warnings"])
    assert (
        "FORWARD of the table ip filter" in warned and "guests of red send each other" in warned and BRIDGED in warned
    )
    assert not lab.red.pings("10.89.0.8", timeout=1)
    lab.node.run(
        "nft", f"add rule ip filter FORWARD iifname {RED} accept; add rule ip filter FORWARD oifname {RED} accept"
    )
    assert not lab.node.good("nat", networks=NETWORKS[1:]).get("warnings")
    assert lab.red.pings("10.89.0.8") and twin.pings("10.89.0.9")
    lab.node.run("nft", "flush chain ip filter FORWARD")
    lab.node.run("sysctl", "-w", f"{BRIDGED}=0")
    assert not lab.node.good("nat", networks=NETWORKS[1:]).get("warnings")
    assert lab.red.pings("10.89.0.8")


def test_a_drop_of_iptables_legacy_is_named(lab: Lab) -> None:
    if not find_tool("iptables-legacy"):
        pytest.skip("iptables-legacy is not installed")
    lab.node.run("iptables-legacy", "-P", "FORWARD", "DROP")
    warned = json.dumps(lab.node.good("nat", networks=NETWORKS)["warnings"])
    assert "FORWARD of the table ip filter (iptables-legacy)" in warned
    assert not lab.blue.pings(OUTSIDE, timeout=1)
    for option in ("-i", "-o"):
        lab.node.run("iptables-legacy", "-I", "FORWARD", option, BLUE, "-j", "ACCEPT")
    assert not lab.node.good("nat", networks=NETWORKS).get("warnings")
    assert lab.blue.pings(OUTSIDE)


def test_without_a_default_route(lab: Lab) -> None:
    lab.node.ip("route delete default")
    refused = lab.node.module("nat", networks=NETWORKS)
    assert "no IPv4 default route" in refused["msg"]
    lab.node.converge("nat", networks=NETWORKS[1:])
    assert lab.forward() == "0"


def test_boot(lab: Lab) -> None:
    lab.node.good("nat", networks=NETWORKS)
    lab.node.run("nft", "flush", "ruleset")
    lab.node.run("sysctl", "-w", "net.ipv4.ip_forward=0")
    for _time in range(2):
        lab.node.run(str(lab.node.file("up")))
        assert not lab.node.good("nat", networks=NETWORKS)["changed"]
    assert lab.blue.pings(OUTSIDE)


def test_a_network_that_was_renamed(lab: Lab) -> None:
    """The table keeps its id: the old name goes before the new one comes."""
    lab.node.good("nat", networks=NETWORKS[:1])
    done = lab.node.converge("nat", networks=[{**NETWORKS[0], "name": "azure"}], purge=True)
    assert {entry["name"]: entry["action"] for entry in done["results"]} == {"azure": "update", "blue": "delete"}
    assert [path.name for path in lab.node.file("").glob("50-*")] == ["50-nat-azure.nft"]
    assert lab.blue.pings(OUTSIDE)


def test_a_wrong_file_changes_nothing(node: Node) -> None:
    refused = node.module(
        "nat", networks=[{**NETWORKS[0], "cidr": "10.88.0.1/24", "uplink": 'e"; drop'}, {**NETWORKS[1], "id": "xyz"}]
    )
    assert all(where in refused["msg"] for where in ("networks[0].cidr", "networks[0].uplink", "networks[1].id"))
