# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody changes by hand on the nodes is found by `plan`, which says what differs, and mended by `site`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.ikcloud.compute.plugins.module_utils._core.names import short_id
from ansible_runs import Playbooks
from conftest import Lab
from nodes import ROOT, Node
from scenarios import A, differences

WEB_3 = {
    "image": "one",
    "network": "green",
    "address": "192.168.99.13",
    "node": "ik-node-02",
    "memory": 64,
    "grace": 0,
    "accel": "tcg",
}
DECLARED = {**A, "cloud_instances": {**A["cloud_instances"], "web-3": WEB_3}}


def link(node: Node, mark: str) -> str:
    """Give the name of the link of ours that bears a mark, such as ``tunnel/blue``; of several the first."""
    links = json.loads(node.run("ip", "-j", "link", "show"))
    return next(str(found["ifname"]) for found in links if found.get("ifalias") == f"ikcloud.compute/{mark}")


def folder(name: str) -> str:
    """Give an instance's folder."""
    return f"{ROOT}/run/instances/compute-{short_id('instance', name)}"


def said(result: dict[str, Any]) -> Iterator[str]:
    """Give what a run of the module node says of each thing that differed."""
    for kind in result.get("kinds", {}).values():
        yield from ("; ".join(entry["reasons"]) for entry in kind["results"] if entry["reasons"])


def test_edits_by_hand(lab: Lab, tmp_path: Path) -> None:
    site, playbooks = lab.bring_up(watch=False), Playbooks(lab.settings, tmp_path)
    playbooks.run("site", DECLARED)
    undisturbed = site.pictures()
    assert not playbooks.plan(DECLARED)["entries"]
    one, two = site.nodes
    tunnel, bridge, tap = link(one, "tunnel/blue"), link(two, "network/blue"), link(two, "instance/web-3")
    table = f"ikcloud_{short_id('network', 'blue')}"
    one.run("ip", "link", "del", "dev", tunnel)
    one.run("nft", "flush", "table", "inet", table)
    one.run(f"{folder('web-1')}/qmp", "balloon", '{"value": 50331648}')
    two.run("ip", "link", "set", "dev", bridge, "mtu", "1300")
    two.run("ip", "link", "set", "dev", tap, "master", bridge)
    two.run("systemctl", "stop", f"compute-instance@{short_id('instance', 'web-2')}.service")
    two.run("sed", "-i", "s/^  -m 64 /  -m 96 /", f"{folder('web-3')}/start")
    two.run("chmod", "777", f"{ROOT}/run/instances")
    wanted = {
        ("ik-node-01", "tunnel", tunnel): "the link is missing",
        ("ik-node-01", "nat", "blue"): f"the table {table} was emptied",
        ("ik-node-01", "instance", "web-1"): "memory is 48, declared 64",
        ("ik-node-02", "bridge", bridge): "mtu is 1300, declared 1450",
        ("ik-node-02", "tap", tap): f"bridge is {bridge}, declared {link(two, 'network/green')}",
        ("ik-node-02", "instance", "web-2"): "is stopped, declared running",
        (
            "ik-node-02",
            "instance",
            "web-3",
        ): "start says: memory is 96, declared 64; start says: memory_max is 96, declared 64",
    }
    by_prepare = {("ik-node-02", "folder", "run/instances"): f"mode of {ROOT}/run/instances is 0777, not 0755"}
    planned = playbooks.plan(DECLARED)
    assert {(entry["node"], entry["kind"], entry["name"]): entry["reason"] for entry in planned["entries"]} == {
        **wanted,
        **by_prepare,
    }
    assert planned["totals"] == {"create": 1, "live": 7, "restart": 0, "rebuild": 0, "destroy": 0, "pending": 0}
    record = playbooks.site(DECLARED)
    assert {line for task in record["tasks"] if task["node"] for line in said(task["result"])} == set(wanted.values())
    assert not playbooks.plan(DECLARED)["entries"]
    left = {name: differences(undisturbed[name], picture) for name, picture in site.pictures().items()}
    assert not any(left.values()), left
