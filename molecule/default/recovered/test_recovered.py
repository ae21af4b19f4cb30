# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""After a node was off, a killed QEMU and an instance that powered itself off: what came back by itself, and what the
next run does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cloud
import pytest

Hosts = Callable[[str], Any]


def unit(plan: dict[str, Any], name: str) -> str:
    return f"compute-instance@{plan['instances'][name]['id']}.service"


def state(host: Hosts, plan: dict[str, Any], name: str) -> str:
    found: str = host(plan["instances"][name]["node"]).run("systemctl is-active %s", unit(plan, name)).stdout.strip()
    return found


@pytest.mark.parametrize("name", cloud.NODES)
def test_links_and_rules_are_there(host: Hosts, plan: dict[str, Any], name: str) -> None:
    cloud.wait_until(
        "compute-networks", lambda: host(name).run("systemctl is-active compute-networks.service").rc == 0, 120
    )
    for network in plan["networks"].values():
        found = host(name).check_output("ip -d link show master %s", network["bridge"])
        assert f"geneve id {network['vni']} remote" in found
        assert "isolated on" in found
        if network["gateway_node"] == name:
            assert network["gateway"] in host(name).check_output("ip -4 addr show dev %s", network["bridge"])
            assert f"table inet ikcloud_{network['id']}" in host(name).check_output("nft list tables")
    assert host("ik-node-01").check_output("cat /proc/sys/net/ipv4/ip_forward") == "1"


@pytest.mark.parametrize("name", ["web-1", "box-1", "web-2"])
def test_instance_came_back(host: Hosts, plan: dict[str, Any], name: str) -> None:
    cloud.wait_until(name, lambda: state(host, plan, name) == "active", 120)
    # web-2's QEMU was killed; that systemd started it again is the count.
    if name == "web-2":
        assert int(host("ik-node-02").check_output("systemctl show -P NRestarts %s", unit(plan, name))) >= 1


def test_ping_works_again(host: Hosts, plan: dict[str, Any]) -> None:
    host("web-1").check_output(
        "/usr/bin/ping -n -c 3 -W 10 -M do -s 1422 %s", plan["instances"]["web-2"]["addresses"][0]
    )
    assert "small.qcow2" in host("web-1").check_output(cloud.fetch_outside())


def test_powered_off_from_inside_stays_off(host: Hosts, plan: dict[str, Any]) -> None:
    assert state(host, plan, "box-2") == "inactive"


def test_next_run_starts_that_one_and_nothing_else(host: Hosts, plan: dict[str, Any]) -> None:
    record = cloud.last("ikcloud.compute.site")
    changed = {(task["host"], task["task"]) for task in record["tasks"] if task["changed"]}
    assert len(changed) == 1
    assert {node for node, _task in changed} == {"ik-node-02"}
    kinds = [kind for task in record["tasks"] if task["changed"] for kind in task["result"]["kinds"].values()]
    results = [entry for kind in kinds for entry in kind["results"] if entry["changed"]]
    assert [entry["name"] for entry in results] == ["box-2"]
    assert host("box-2").check_output("hostname") == "box-2"


def test_run_after_it_changes_nothing_and_is_not_stopped_by_a_node_out_of_reach() -> None:
    done = cloud.playbook(
        "ikcloud.compute.site",
        "-i",
        str(cloud.PROJECT / "tests" / "tools" / "third-node.yml"),
        "-e",
        '{"ansible_ssh_retries": 0}',
    )
    # ansible-playbook(1): 4 when hosts were unreachable.
    assert done.returncode == 4, done.stdout + done.stderr
    assert "NOT DONE on ik-node-03" in done.stdout
    record = cloud.records("site")[-1]
    assert record["hosts"]["ik-node-03"]["unreachable"] == 1
    for node in cloud.NODES:
        assert {record["hosts"][node][key] for key in ("changed", "failures", "unreachable")} == {0}
        assert [task["task"] for task in record["tasks"] if task["host"] == node and task["action"] == "node"]
