# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Teardown: nothing of ours is left, everything foreign is as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import cloud
import pytest

Hosts = Callable[[str], Any]
ROOT = "/var/lib/compute-service"


def foreign(node: Any) -> dict[str, str]:
    """Read what others have on a node."""
    bridge = json.loads(node.check_output("ip -j addr show dev br-foreign"))[0]
    return {
        "bridge": json.dumps(
            [bridge["ifindex"], bridge["flags"], bridge["mtu"], [entry["local"] for entry in bridge["addr_info"]]]
        ),
        "table": node.check_output("nft list table inet foreign"),
        "process": node.check_output('read -r pid </run/foreign.pid; cut -d " " -f 1,22 "/proc/$pid/stat"'),
        "file": node.check_output("cat /var/lib/foreign/file"),
    }


@pytest.fixture(scope="module")
def before(host: Hosts) -> dict[str, dict[str, str]]:
    """Make the foreign things again, where a reboot took them, and read them."""
    done = cloud.playbook(str(cloud.PROJECT / "molecule" / "default" / "foreign.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: foreign(host(name)) for name in cloud.NODES}


def test_teardown_in_check_mode_removes_nothing(host: Hosts, before: dict[str, Any]) -> None:
    predicted = cloud.commands(cloud.last("ikcloud.compute.teardown", "--check"))
    assert all(sum(map(len, tasks.values())) > 10 for tasks in predicted.values())
    assert "br-gnv-" in host("ik-node-01").check_output("ip link show")


def test_teardown_removes_all(host: Hosts, before: dict[str, Any]) -> None:
    predicted = cloud.commands(cloud.records("teardown", check=True)[-1])
    assert predicted == cloud.commands(cloud.last("ikcloud.compute.teardown"))


@pytest.mark.parametrize("name", cloud.NODES)
def test_nothing_of_ours_is_left(host: Hosts, before: dict[str, Any], name: str) -> None:
    node = host(name)
    links = json.loads(node.check_output("ip -j link show"))
    assert [link["ifname"] for link in links if link.get("ifalias", "").startswith("ikcloud.compute")] == []
    assert [link["ifname"] for link in links if link["ifname"].startswith(("gnv-", "br-gnv-", "vnet-"))] == []
    assert "ikcloud" not in node.check_output("nft list ruleset")
    assert node.run("pgrep -u compute-service").rc != 0
    assert not node.user("compute-service").exists
    assert not node.group("compute-service").exists
    assert not node.file(ROOT).exists
    # But for what userdel(8) keeps of the files as they were before, passwd- and the like.
    assert node.run("grep -rl --exclude='*-' -e ikcloud -e compute-service /etc /run/systemd").stdout == ""
    assert node.check_output("systemctl list-units --all --plain --no-legend 'compute-*'") == ""
    # Its exit status is 1 where there is none.
    assert node.run("systemctl list-unit-files --no-legend 'compute-*'").stdout == ""


@pytest.mark.parametrize("name", cloud.NODES)
def test_foreign_is_as_it_was(host: Hosts, before: dict[str, Any], name: str) -> None:
    assert foreign(host(name)) == before[name]
