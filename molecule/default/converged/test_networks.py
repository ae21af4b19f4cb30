# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The networks, from the nodes' side and from the instances'."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import cloud
import pytest
from cloud import NODES

MTU = 1450
UNDERLAY = {"ik-node-01": "10.10.20.101", "ik-node-02": "10.10.20.102"}
# The lab serves its guest images here; for an instance it is an address of the world outside.
OUTSIDE = cloud.fetch_outside()
# The name alone is busybox's own, which can't be told not to fragment.
PING = "/usr/bin/ping"
GREETING = "sleep 3 | timeout 10 nc -w 3 %s 22 | head -c 4"
Hosts = Callable[[str], Any]


def links(node: Any) -> dict[str, dict[str, Any]]:
    return {link["ifname"]: link for link in json.loads(node.check_output("ip -j -d link show"))}


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("network", ["blue", "green"])
def test_tunnel(host: Hosts, plan: dict[str, Any], name: str, network: str) -> None:
    wanted = plan["networks"][network]
    other = next(address for node, address in UNDERLAY.items() if node != name)
    tunnels = [
        link
        for link in links(host(name)).values()
        if link.get("master") == wanted["bridge"] and link.get("linkinfo", {}).get("info_kind") == "geneve"
    ]
    assert len(tunnels) == 1
    tunnel = tunnels[0]
    assert tunnel["linkinfo"]["info_data"]["id"] == wanted["vni"] == {"blue": 88, "green": 99}[network]
    assert tunnel["linkinfo"]["info_data"]["remote"] == other
    assert tunnel["linkinfo"]["info_slave_data"]["isolated"] is True
    assert tunnel["ifalias"] == f"ikcloud.compute/tunnel/{network}"
    assert tunnel["ifname"].startswith("gnv-")
    assert tunnel["mtu"] == MTU
    assert f"geneve id {wanted['vni']} remote {other}" in host(name).check_output(
        "ip -d link show dev %s", tunnel["ifname"]
    )


@pytest.mark.parametrize("name", NODES)
def test_bridges_and_ports(host: Hosts, plan: dict[str, Any], name: str) -> None:
    found = links(host(name))
    for network, wanted in plan["networks"].items():
        bridge = found[wanted["bridge"]]
        assert (bridge["ifalias"], bridge["mtu"]) == (f"ikcloud.compute/network/{network}", MTU)
        ports = [
            link
            for link in found.values()
            if link.get("master") == wanted["bridge"] and link["ifname"].startswith("vnet-")
        ]
        on_node = [
            instance
            for instance, entry in plan["instances"].items()
            if entry["node"] == name and network in entry["networks"]
        ]
        assert sorted(port["ifalias"] for port in ports) == sorted(
            f"ikcloud.compute/instance/{instance}" for instance in on_node
        )
        assert all(port["mtu"] == MTU and not port["linkinfo"]["info_slave_data"]["isolated"] for port in ports)


@pytest.mark.parametrize("name", ["web-1", "web-2", "box-1", "box-2"])
def test_guest_mtu_fits_the_tunnel(host: Hosts, name: str) -> None:
    mtus = host(name).check_output("cat /sys/class/net/e*/mtu").split()
    assert mtus == [str(MTU)]


@pytest.mark.parametrize(("name", "other"), [("web-1", "web-2"), ("web-2", "web-1")])
def test_full_size_packet_crosses_the_tunnel(host: Hosts, plan: dict[str, Any], name: str, other: str) -> None:
    address = plan["instances"][other]["addresses"][0]
    size = MTU - 20 - 8  # RFC 791 and RFC 792: the IP and the ICMP header
    host(name).check_output(f"{PING} -n -c 3 -W 10 -M do -s %s %s", str(size), address)
    assert host(name).run(f"{PING} -n -c 1 -W 5 -M do -s %s %s", str(size + 1), address).rc != 0


def test_small_guests_reach_each_other(host: Hosts, plan: dict[str, Any]) -> None:
    host("box-1").check_output("ping -c 3 -W 10 %s", plan["instances"]["box-2"]["addresses"][0])


@pytest.mark.parametrize("name", ["web-1", "web-2"])
def test_nat_leads_outside(host: Hosts, name: str) -> None:
    assert "small.qcow2" in host(name).check_output(OUTSIDE)


def test_no_way_out_without_nat(host: Hosts, plan: dict[str, Any]) -> None:
    # Not even for a guest that gives itself the route there.
    box = host("box-1")
    box.check_output("ip route replace default via %s", plan["networks"]["green"]["gateway"])
    assert "small.qcow2" not in box.run(OUTSIDE).stdout
    box.check_output("ip route del default")


@pytest.mark.parametrize(
    ("name", "other"), [("web-1", "box-1"), ("web-1", "box-2"), ("box-1", "web-1"), ("box-2", "web-2")]
)
def test_networks_do_not_reach_each_other(host: Hosts, plan: dict[str, Any], name: str, other: str) -> None:
    address = plan["instances"][other]["addresses"][0]
    target = host(name)
    friend = {"web-1": "web-2", "box-1": "box-2", "box-2": "box-1"}[name]
    assert target.check_output(GREETING, plan["instances"][friend]["addresses"][0]) == "SSH-"
    # Even a guest that gives itself a route there does not arrive.
    gateway = plan["networks"][plan["instances"][name]["networks"][0]]["gateway"]
    target.check_output(
        "sudo ip route replace %s via %s 2>/dev/null || ip route replace %s via %s", address, gateway, address, gateway
    )
    # SSH servers greet, which nothing on the way does: the world outside may answer a ping for somebody else.
    assert target.run(GREETING, address).stdout == ""
    target.check_output("sudo ip route del %s 2>/dev/null || ip route del %s", address, address)
