# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From nothing to A, from A to B with everything changed, from B to nothing; and how two pictures are compared."""

from __future__ import annotations

from typing import Any

from nodes import IMAGE, ROOT
from site_run import Site

A: dict[str, Any] = {
    "cloud_encapsulation": "vxlan",
    "cloud_purge": True,
    "cloud_restart": "when_required",
    "cloud_images": {"one": {"path": IMAGE}},
    "cloud_networks": {
        "blue": {"vni": 88, "cidr": "192.168.88.0/24", "nat": True, "gateway_node": "ik-node-01"},
        "green": {"vni": 99, "cidr": "192.168.99.0/24", "gateway_node": "ik-node-02"},
    },
    "cloud_instances": {
        "web-1": {
            "image": "one",
            "network": "blue",
            "address": "192.168.88.11",
            "node": "ik-node-01",
            "memory": 64,
            "grace": 0,
            "accel": "tcg",
        },
        "web-2": {
            "image": "one",
            "nics": [{"network": "blue", "address": "192.168.88.12"}, {"network": "green", "address": "192.168.99.12"}],
            "node": "ik-node-02",
            "memory": 64,
            "grace": 0,
            "accel": "tcg",
        },
        "db": {
            "image": "one",
            "network": "blue",
            "address": "192.168.88.13",
            "node": "ik-node-01",
            "memory": 64,
            "memory_max": 128,
            "accel": "tcg",
        },
    },
    "cloud_volumes": {"data-1": {"size": "1M", "instance": "web-2"}},
}
# The gateways change places, green becomes red with the same VNI and addresses, web-1 changes as much as it can, web-3
# takes web-2's place and its volume; db goes on as it runs, with more memory, another processor and a volume; and its
# unit gets a drop-in, which it had none of.
B: dict[str, Any] = {
    **A,
    "cloud_user": "other",
    "cloud_images": {"one": {"path": IMAGE}, "two": {"path": IMAGE}},
    "cloud_networks": {
        "blue": {"vni": 88, "cidr": "192.168.88.0/24", "mtu": 1400, "gateway_node": "ik-node-02"},
        "red": {"vni": 99, "cidr": "192.168.99.0/24", "nat": True, "gateway_node": "ik-node-01"},
    },
    "cloud_instances": {
        "web-1": {
            "image": "one",
            "nics": [{"network": "red", "address": "192.168.99.11"}, {"network": "blue", "address": "192.168.88.11"}],
            "node": "ik-node-01",
            "cpu": 2,
            "memory": 96,
            "disk": "2M",
            "grace": 0,
            "vnc": "none",
            "accel": "tcg",
        },
        "web-3": {
            "image": "two",
            "network": "red",
            "address": "192.168.99.12",
            "node": "ik-node-02",
            "memory": 64,
            "grace": 0,
            "accel": "tcg",
        },
        "db": {
            "image": "one",
            "network": "blue",
            "address": "192.168.88.13",
            "node": "ik-node-01",
            "cpu": 2,
            "memory": 96,
            "memory_max": 128,
            "grace": 0,
            "accel": "tcg",
        },
    },
    "cloud_volumes": {"data-1": {"size": "2M", "instance": "web-3"}, "data-2": {"size": "1M", "instance": "db"}},
}
NOTHING: dict[str, Any] = {
    "cloud_instances": {},
    "cloud_purge": True,
    "cloud_purge_limit": 10,
    "cloud_purge_volumes": True,
}
SCENARIOS = {"nothing to A": A, "A to B": B, "B to nothing": NOTHING}


def prepare(site: Site, scenario: str) -> None:
    """Do by hand what is no run's affair before a scenario."""
    if scenario == "nothing to A":
        script = f"rm -rf {ROOT}; userdel compute-service 2>/dev/null; true"
    elif scenario == "B to nothing":
        script = f"rm -rf {ROOT}/lib/volumes/kept"  # the disk of web-2, which image one would have to stay for
    else:
        return
    site.on_all(lambda node: node.run("sh", "-c", script))


def differences(wanted: dict[str, Any], have: dict[str, Any], place: str = "") -> list[str]:
    """Say where two pictures differ."""
    found: list[str] = []
    for key in sorted({*wanted, *have}):
        one, other = wanted.get(key), have.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += differences(one, other, f"{place}/{key}" if not key.startswith("/") else key)
        elif one != other:
            found.append(f"{place}: {key}: {other}, undisturbed {one}")
    return found
