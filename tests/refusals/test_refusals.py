# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input gives one clear error before anything changes: `site` is run as users run it, on two nodes that are this
machine.

The nodes are played by this machine in a network namespace of its own, with a root folder of its own. Whatever the plan
refuses must not have reached them.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from machine_id import interpreter

PROJECT = Path(__file__).resolve().parents[2]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7u5ZQzQxGJ1lF2R1nWmXk0iW0bqkPjv0o8kqB3xY6e me@here"
GOOD: dict[str, Any] = {
    "cloud_ssh_keys": [KEY],
    "cloud_images": {"debian": {"path": "/srv/debian.qcow2"}},
    "cloud_networks": {
        "blue": {"vni": 88, "cidr": "192.168.88.0/24", "nat": True},
        "green": {"vni": 99, "cidr": "192.168.99.0/24"},
    },
    "cloud_instances": {
        "web-1": {"image": "debian", "network": "blue", "memory": 64},
        "web-2": {"image": "debian", "network": "blue", "memory": 64, "address": "192.168.88.102"},
    },
}
# What is changed in the good declaration: a path of keys, the value put there, and what the error must name.
CASES: dict[str, tuple[list[str], Any, list[str]]] = {
    "overlapping CIDRs": (
        ["cloud_networks", "green", "cidr"],
        "192.168.88.128/25",
        ["blue", "green", "192.168.88.128/25"],
    ),
    "address outside its CIDR": (
        ["cloud_instances", "web-2", "address"],
        "192.168.89.1",
        ["web-2", "192.168.89.1", "192.168.88.0/24"],
    ),
    "address used twice": (
        ["cloud_instances", "web-1", "address"],
        "192.168.88.102",
        ["web-1", "web-2", "192.168.88.102"],
    ),
    "VNI out of range": (["cloud_networks", "green", "vni"], 16777216, ["green", "16777216", "16777215"]),
    "VNI used twice": (["cloud_networks", "green", "vni"], 88, ["blue", "green", "88"]),
    "unknown image": (["cloud_instances", "web-1", "image"], "debain", ["web-1", "debain", "debian"]),
    "unknown network": (["cloud_instances", "web-1", "network"], "bleu", ["web-1", "bleu", "blue"]),
    "unknown node": (["cloud_instances", "web-1", "node"], "ik-node-09", ["web-1", "ik-node-09"]),
    "name too long": (["cloud_instances", "a" * 64], {"image": "debian", "network": "blue"}, ["a" * 64, "63"]),
    "name with a comma": (["cloud_instances", "web,1"], {"image": "debian", "network": "blue"}, ["web,1", "a-z"]),
    "name that leads upwards": (["cloud_networks", "../../etc"], {"vni": 5, "cidr": "10.9.0.0/24"}, ["../../etc"]),
    "memory beyond the nodes'": (["cloud_instances", "web-1", "memory"], 16000000, ["web-1", "memory"]),
    "image from the network without checksum": (
        ["cloud_images", "debian"],
        {"url": "https://images.example/debian.qcow2"},
        ["debian", "checksum"],
    ),
}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of an inventory with two nodes."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs root, to make a network namespace")
    folder = tmp_path_factory.mktemp("refusals")
    hosts = {}
    for index in (1, 2):
        own = {
            "compute_underlay_address": f"10.10.20.10{index}",
            "ansible_python_interpreter": interpreter(folder, index),
        }
        hosts[f"ik-node-0{index}"] = own
    variables = {"ansible_connection": "local", "compute_service_root": str(folder / "root")}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"compute_nodes": {"vars": variables, "hosts": hosts}}))
    return folder


def site(
    nodes: Path,
    declaration: dict[str, Any],
    *options: str,
    before: str = "true",
    playbook: str = "site",
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run site with a declaration, where the only network is a loopback with the nodes' addresses.

    :param playbook: Another one than site.
    :param before: What a shell does first, in the namespaces of the run.
    :param variables: Further ones of the environment.
    """
    (nodes / "declaration.json").write_text(json.dumps(declaration))
    command = [
        "ansible-playbook",
        "-i",
        str(nodes / "hosts.yml"),
        "-e",
        f"@{nodes / 'declaration.json'}",
        f"ikcloud.compute.{playbook}",
        *options,
    ]
    setup = (
        f"ip link set lo up && ip addr add 10.10.20.101/24 dev lo && ip addr add 10.10.20.102/24 dev lo && {before} &&"
        ' exec "$@"'
    )
    environment = dict(
        os.environ, ANSIBLE_COLLECTIONS_PATH=str(PROJECT / ".venv" / "collections"), ANSIBLE_NOCOLOR="1", **variables
    )
    return subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", setup, "sh", *command],
        capture_output=True,
        text=True,
        env=environment,
        cwd=nodes,
        check=False,
        timeout=120,
    )


def changed(declaration: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """Give the declaration with a value put somewhere."""
    result = copy.deepcopy(declaration)
    place = result
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return result


def test_the_good_one_is_planned(nodes: Path) -> None:
    # A plan that goes through is followed by what it hands to the first role.
    done = site(nodes, GOOD, "--check")
    assert "TASK [ikcloud.compute.images" in done.stdout, done.stdout + done.stderr


def test_more_memory_than_there_is_may_be_promised_and_is_told(nodes: Path) -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    instances = {
        name: {**spec, "node": "ik-node-01", "memory_max": total * 2 // 3}
        for name, spec in GOOD["cloud_instances"].items()
    }
    done = site(nodes, {**GOOD, "cloud_instances": instances}, "--check")
    said = " ".join((done.stdout + done.stderr).split())  # Ansible breaks the lines of a warning
    assert f"The instances on ik-node-01 may grow to {total * 2 // 3 * 2} MiB of memory together" in said
    assert "TASK [ikcloud.compute.images" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES)
def test_refused(nodes: Path, case: str) -> None:
    path, value, words = CASES[case]
    assert_refused(nodes, site(nodes, changed(GOOD, path, value)), words)


def assert_refused(nodes: Path, done: subprocess.CompletedProcess[str], words: list[str]) -> None:
    """Check that a run ended with one message that has all the words, before anything changed."""
    assert done.returncode == 2, done.stdout + done.stderr
    messages = [line for line in done.stdout.splitlines() if line.startswith("fatal:")]
    assert len(messages) == 1, done.stdout
    for word in words:
        assert word in messages[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert "changed=0" in done.stdout
    assert "TASK [ikcloud.compute.prepare" not in done.stdout
    assert not (nodes / "root").exists()


# What a node has that the network blue would take from it: how it comes there, the run's environment, and what the
# error must name.
TAKEN: dict[str, tuple[str, dict[str, str], list[str]]] = {
    "controller": (
        "true",
        {"SSH_CONNECTION": "192.168.88.7 50000 10.10.20.101 22"},
        ["192.168.88.7", "reaches ik-node-01"],
    ),
    "route": ("ip route add 192.168.88.0/25 dev lo", {}, ["192.168.88.0/25 dev lo", "a route of ik-node-01"]),
    "name server": (
        "echo nameserver 192.168.88.53 > resolv && mount --bind resolv /etc/resolv.conf",
        {},
        ["192.168.88.53", "a name server of ik-node-01"],
    ),
}


@pytest.mark.parametrize("case", TAKEN)
def test_a_network_that_takes_from_its_gateway_s_node_is_refused(nodes: Path, case: str) -> None:
    before, variables, words = TAKEN[case]
    assert_refused(
        nodes,
        site(nodes, GOOD, before=before, **variables),
        ["cloud_networks.blue.cidr", "192.168.88.0/24", "Take another cidr", *words],
    )


def test_one_machine_under_two_names_is_refused(nodes: Path) -> None:
    done = site(nodes, GOOD, "-e", "ansible_python_interpreter=/usr/bin/python3")
    assert_refused(nodes, done, ["ik-node-01 and ik-node-02 are one machine", "list it once"])


@pytest.mark.parametrize(("playbook", "options"), [("stop", ("-e", "instances=web-1")), ("teardown", ())])
def test_one_machine_under_two_names_is_refused_by_what_stops_or_removes(
    nodes: Path, playbook: str, options: tuple[str, ...]
) -> None:
    done = site(
        nodes, GOOD, "--check", "-e", "ansible_python_interpreter=/usr/bin/python3", *options, playbook=playbook
    )
    assert_refused(nodes, done, ["ik-node-01 and ik-node-02 are one machine", "list it once"])


def test_duplicate_list_items_are_named_with_both_places(nodes: Path) -> None:
    listed = [{"name": name, **spec} for name, spec in GOOD["cloud_instances"].items()]
    done = site(nodes, {**GOOD, "cloud_instances": [*listed, {**listed[0]}]})
    assert done.returncode == 2
    assert "cloud_instances[2]" in done.stdout
    assert "cloud_instances[0]" in done.stdout
    assert not (nodes / "root").exists()


def test_teardown_does_not_begin_while_somebody_runs_as_the_user(nodes: Path) -> None:
    """The user could not be removed in the end: said before the first change, with the processes' names."""
    user = "compute-service:x:60991:60991:ikcloud.compute:/:/usr/sbin/nologin"
    before = (
        f"grep -v ^compute-service: /etc/passwd >{nodes}/passwd; echo {user} >>{nodes}/passwd && mount --bind"
        f" {nodes}/passwd /etc/passwd && "
        # until the run has ended
        "{ setpriv --reuid=60991 --clear-groups tail --pid=$$ -f /dev/null >/dev/null 2>&1 & }"
    )
    done = site(nodes, {}, "--check", playbook="teardown", before=before)
    said = " ".join(done.stdout.split())
    assert done.returncode == 2 and "Nothing is removed, on no node" in said, done.stdout + done.stderr
    assert re.search(r"run outside of the instances: [0-9]+ tail\.", said), said
    assert "TASK [Remove the instances" not in said and "userdel" not in said
