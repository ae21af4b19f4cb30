# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables, the commands to log in, and what is put together from declaration and nodes."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.plugin_utils._declaration.declaration import parse
from ansible_collections.ikcloud.compute.plugins.plugin_utils._planning.planner import make_plan
from ansible_collections.ikcloud.compute.plugins.plugin_utils._reporting import ssh
from ansible_collections.ikcloud.compute.plugins.plugin_utils._reporting.status import NodeState, Status, make_status
from ansible_collections.ikcloud.compute.plugins.plugin_utils._reporting.tables import table, width_of
from ansible_collections.ikcloud.compute.tests.unit.plugins.plugin_utils import samples
from hypothesis import given
from hypothesis import strategies as st

INSTANCES = "/var/lib/compute-service/run/instances"
GOLDEN = Path(__file__).parents[3] / "golden" / "plan_status.txt"


def reached(name: str, number: int, **variables: Any) -> NodeState:
    """A node that has carried out the talk's plan, as node_info and instance_info tell it."""
    plan = make_plan(samples.talk(), samples.two_nodes())
    lists = plan["nodes"][name]
    bridges = {item["network"]: item for item in lists["bridges"]}
    info = {
        "memory_mb": 16000,
        "disk_free_mb": 40960,
        "networks": {
            network: {"bridge": item["name"], "addresses": item["addresses"], "tunnels": {}}
            for network, item in bridges.items()
        },
    }
    instances = [
        {
            "name": item["name"],
            "id": item["id"],
            "labels": item["labels"],
            "addresses": item["labels"]["addresses"],
            "power": "running",
            "cpu": item["cpu"],
            "memory": item["memory"],
            "supervisor": "systemd",
            "folder": f"{INSTANCES}/compute-{item['id']}",
            "console_log": f"{INSTANCES}/compute-{item['id']}/console.log",
            "vnc": f"unix:{INSTANCES}/compute-{item['id']}/vnc.sock",
        }
        for item in lists["instances"]
    ]
    address = f"10.10.20.10{number}"
    return NodeState(
        name, address, ssh.target(name, {"ansible_host": address, "ansible_user": "root", **variables}), info, instances
    )


def status(*nodes: NodeState, **changes: Any) -> Status:
    cloud, problems = parse(samples.talk(**changes), [node.name for node in nodes])
    assert not problems
    return make_status(cloud, list(nodes))


def test_text_is_golden() -> None:
    second = reached("ik-node-02", 2)
    assert second.instances
    second.instances[0].update(restart_required=True, restart_reason="memory is 1024, declared 2048", power="running")
    second.instances.append({"name": "old", "power": "stopped", "unit": "failed", "cpu": 1, "memory": 512})
    whole = status(
        reached("ik-node-01", 1),
        second,
        NodeState("ik-node-03"),
        **{"instances.web-3": {"image": "bionic", "network": "blue"}},
    )
    text = "\n".join([*whole.text(120), "", *status(reached("ik-node-01", 1), reached("ik-node-02", 2)).text(50), ""])
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_what_cant_be_believed_is_the_first_note() -> None:
    node = reached("ik-node-01", 1)
    (node.instances or [])[0].update(
        error="start is not ours.",
        restart_required=True,
        restart_reason="its disk was made anew",
        unit="failed",
        name="old",
    )
    note = next(entry["note"] for entry in status(node, reached("ik-node-02", 2)).instances if entry["name"] == "old")
    assert (
        note
        == "can't be believed: start is not ours; not declared; restart pending: its disk was made anew; its unit has"
        " failed"
    )


def test_one_that_is_known_by_its_id_alone_is_the_declared_one() -> None:
    node = reached("ik-node-01", 1)
    entry = (node.instances or [])[0]
    entry.update(name=f"compute-{entry['id']}", power="stopped", error="start is not there.")
    found = status(node, reached("ik-node-02", 2)).instances
    assert [entry["name"] for entry in found] == ["web-1", "web-2"]
    assert (found[0]["note"], found[0]["declared"]) == ("can't be believed: start is not there", True)
    assert found[0]["log"].endswith(f"/console --log compute-{entry['id']}'")


def test_one_that_can_t_be_logged_in_to_is_named_with_the_reason() -> None:
    first, second = reached("ik-node-01", 1), reached("ik-node-02", 2)
    assert first.instances and second.instances
    first.instances[0].update(name="old", labels={"user": "-oProxyCommand=x"})
    second.instances[0].update(name="older", labels={}, addresses=[])
    lines = status(first, second).text(120)
    assert (
        "old    no way: the user that its files name can be none" in lines
        and "older  no way: its files name no address" in lines
    )
    first = reached("ik-node-01", 1, ansible_connection="community.docker.docker")
    assert [entry["no_login"] for entry in status(first, reached("ik-node-02", 2)).instances] == [
        "ik-node-01 is not reached by SSH"
    ] * 2
    first = reached("ik-node-01", 1)
    for facts in (first.info or {})["networks"].values():
        facts["addresses"] = []
    found = status(
        first, NodeState("ik-node-02"), **{"networks.blue.gateway": False, "networks.blue.nat": False}
    ).instances[0]
    assert (found["login"], found["no_login"]) == ("", "no node has an address in blue")


def test_the_example_is_one_that_can_be_believed() -> None:
    first = reached("ik-node-01", 1)
    (first.instances or [])[0].update(error="start is not ours.")
    assert "LOG of web-2, as an example" in status(first, reached("ik-node-02", 2)).text(120)
    assert "LOG of web-1, as an example" in status(first, NodeState("ik-node-02")).text(120)


def test_what_is_declared_and_not_there_is_shown() -> None:
    absent = status(
        reached("ik-node-01", 1),
        reached("ik-node-02", 2),
        **{"instances.web-3": {"image": "bionic", "network": "blue"}},
    ).instances[2]
    assert (absent["name"], absent["power"], absent["note"], absent["login"]) == (
        "web-3",
        "absent",
        "declared, not made yet",
        "",
    )


def test_the_node_that_has_the_gateways_address_is_the_way_in() -> None:
    found = status(reached("ik-node-01", 1), reached("ik-node-02", 2), **{"networks.blue.gateway_node": "ik-node-02"})
    assert found.networks[0]["gateway_node"] == "ik-node-01"
    assert [entry["login"] for entry in found.instances] == [
        "ssh -J root@10.10.20.101 ubuntu@192.168.88.2",
        "ssh -J root@10.10.20.101 ubuntu@192.168.88.102",
    ]


def test_node_info_alone_is_enough_for_a_table() -> None:
    info = {
        "instances": {
            "web-1": {"labels": {"networks": ["blue"], "addresses": ["192.168.88.2"]}, "running": True, "memory": 4096}
        }
    }
    node = NodeState("ik-node-02", "10.10.20.102", ssh.target("ik-node-02", {}), info)
    entry = next(entry for entry in status(reached("ik-node-01", 1), node).instances if entry["node"] == "ik-node-02")
    assert entry["power"] == "running" and entry["login"].endswith("ubuntu@192.168.88.2")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, ["ssh", "-J", "node", "ubuntu@192.0.2.9"]),
        (
            {"ansible_user": "root", "ansible_port": 22101, "ansible_host": "127.0.0.1"},
            ["ssh", "-J", "root@127.0.0.1:22101", "ubuntu@192.0.2.9"],
        ),
        ({"ansible_host": "fd00::1", "ansible_port": "2222"}, ["ssh", "-J", "[fd00::1]:2222", "ubuntu@192.0.2.9"]),
        ({"ansible_connection": "local"}, ["ssh", "ubuntu@192.0.2.9"]),
        (
            {
                "ansible_user": "root",
                "ansible_port": 22101,
                "ansible_ssh_private_key_file": "/a b/50%",
                "ansible_ssh_common_args": "-o StrictHostKeyChecking=no",
            },
            [
                "ssh",
                "-o",
                "ProxyCommand=ssh -i '/a b/50%%' -o StrictHostKeyChecking=no -p 22101 -W %h:%p root@node",
                "ubuntu@192.0.2.9",
            ],
        ),
        (
            {
                "ansible_host": "127.0.0.1",
                "ansible_port": 2222,
                "ansible_user": "root",
                "ansible_ssh_common_args": "-F '/a b'",
            },
            ["ssh", "-F", "/a b", "-J", "root@127.0.0.1:2222", "ubuntu@192.0.2.9"],
        ),
    ],
)
def test_login(variables: dict[str, Any], words: list[str]) -> None:
    target = ssh.target("node", variables)
    assert target is not None
    assert shlex.split(ssh.login(target, "ubuntu", "192.0.2.9")) == words


def test_console_goes_through_the_node() -> None:
    target = ssh.target("node", {"ansible_port": 2222, "ansible_user": "root"})
    assert target and ssh.on_node(target, ["tail", "a b"]) == "ssh -t -p 2222 root@node 'tail '\"'\"'a b'\"'\"''"
    assert ssh.on_node(ssh.Target("x", local=True), ["tail", "-F", "x"]) == "tail -F x"


def test_no_way_leads_to_one_that_is_off_or_without_a_screen() -> None:
    node = reached("ik-node-01", 1)
    assert node.instances
    node.instances[0].update(vnc="none")
    entry = status(node, reached("ik-node-02", 2)).instances[0]
    assert entry["console"].endswith("run/console web-1'") and entry["screen"] == ""
    node.instances[0].update(power="stopped")
    assert status(node, reached("ik-node-02", 2)).instances[0]["console"] == ""


@pytest.mark.parametrize("variables", [{"ansible_connection": "docker"}, {"ansible_ssh_common_args": "-o 'x"}])
def test_no_ssh_no_command(variables: dict[str, Any]) -> None:
    assert ssh.target("node", variables) is None


@given(
    st.lists(
        st.lists(st.one_of(st.text(), st.none(), st.booleans(), st.lists(st.text(max_size=3))), min_size=3, max_size=3)
    ),
    st.integers(40, 120),
)
def test_a_table_fits_and_has_one_line_for_each_row(rows: list[list[Any]], width: int) -> None:
    lines = table("THINGS", ("a", "b", "c"), rows, width)
    assert len(lines) == (2 + len(rows) if rows else 2)
    assert all(width_of(line) <= width and "\n" not in line for line in lines)


@pytest.mark.parametrize(
    "labels",
    [
        {"networks": 5},
        {"networks": ["blue"], "addresses": {}},
        {"user": "-oProxyCommand=id"},
        {"user": "a b"},
        {"user": ["x"]},
    ],
)
def test_labels_that_somebody_hostile_wrote(labels: dict[str, Any]) -> None:
    """They are QEMU's user's to write: a command that is to be copied has no words of theirs that ssh takes for its
    own.
    """
    nodes = reached("ik-node-01", 1), reached("ik-node-02", 2)
    entry = (nodes[0].instances or [])[0]
    cloud, _problems = parse(samples.talk(), ["ik-node-01", "ik-node-02"])
    planned = make_plan(samples.talk(), samples.two_nodes())["instances"]
    before = make_status(cloud, list(nodes), planned).instances[0]["login"]
    entry["labels"] = {**entry["labels"], **labels}
    if "user" not in labels:
        entry["addresses"] = labels.get("addresses")
    assert make_status(cloud, list(nodes), planned).instances[0]["login"] == before != ""
    entry["name"] = "not-declared"
    logins = {found["name"]: bool(found["login"]) for found in make_status(cloud, list(nodes), planned).instances}
    assert logins == {"not-declared": False, "web-1": False, "web-2": True}


def test_addresses_that_are_none_are_not_shown() -> None:
    """A declared instance's are the plan's; of another one whose files claim such nothing is believed."""
    nodes = reached("ik-node-01", 1), reached("ik-node-02", 2)
    entry = (nodes[0].instances or [])[0]
    lies = ["$(touch /tmp/pwn)", "-oProxyCommand=id"]
    entry.update(labels={"networks": ["blue"], "addresses": lies, "user": "x; touch /tmp/pwn #"}, addresses=lies)
    cloud, _problems = parse(samples.talk(), ["ik-node-01", "ik-node-02"])
    planned = {"web-1": {"networks": ["blue"], "addresses": ["192.168.88.7"]}}
    found = make_status(cloud, list(nodes), planned).instances[0]
    assert (found["addresses"], found["login"]) == (["192.168.88.7"], "ssh -J root@10.10.20.101 ubuntu@192.168.88.7")
    assert found["note"] == "can't be believed: start names an address that is none: '$(touch /tmp/pwn)'"
    assert make_status(cloud, list(nodes)).instances[0]["addresses"] == []
    entry["name"] = "old"
    found = make_status(cloud, list(nodes), planned).instances[0]
    assert (found["name"], found["addresses"], found["login"]) == ("old", [], "")
    assert found["error"] == "start names an address that is none: '$(touch /tmp/pwn)'." and found["note"].startswith(
        "can't be believed: start names"
    )


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["\x1b[2J", "a\nb", "\x9b31m", "\u202eb", "\r", "\u2028", "\x07"]
)


@given(TEXTS, TEXTS, TEXTS, TEXTS, TEXTS)
def test_nothing_that_a_node_says_steers_the_terminal(
    name: str, user: str, folder: str, reason: str, network: str
) -> None:
    entry = {
        "name": name,
        "id": name,
        "power": "running",
        "cpu": 1,
        "memory": reason,
        "supervisor": "systemd",
        "folder": f"/{folder}/instances/{name}",
        "labels": {"user": user, "networks": ["blue", network], "addresses": ["192.168.88.9", reason]},
        "console_log": folder,
        "vnc": f"unix:{folder}",
        "restart_required": True,
        "restart_reason": reason,
    }
    first = reached("ik-node-01", 1)
    info = {**(first.info or {}), "missing_packages": [reason]}
    info["networks"] = {
        **info["networks"],
        network: {"bridge": name, "addresses": [folder], "tunnels": {"t": {"vni": user}}},
    }
    whole = status(NodeState(first.name, first.address, first.target, info, [entry]), NodeState("ik-node-02"))
    for width in (40, 200):
        lines = whole.text(width)
        assert all(line.isprintable() for line in lines)
        assert lines[0] == "NODES" and "INSTANCES" in lines
