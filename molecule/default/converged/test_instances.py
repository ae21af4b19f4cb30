# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The instances: who can log in, what they have, what QEMU runs as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cloud
import pytest

Hosts = Callable[[str], Any]
DISKS = {"web-1": 1 << 30, "web-2": 1 << 30, "box-1": 256 << 20, "box-2": 256 << 20}


def test_two_instances_per_network_one_on_each_node(plan: dict[str, Any]) -> None:
    assert {name: len(network["instances"]) for name, network in plan["networks"].items()} == {"blue": 2, "green": 2}
    assert {(entry["networks"][0], entry["node"]) for entry in plan["instances"].values()} == {
        (net, node) for net in ("blue", "green") for node in cloud.NODES
    }


@pytest.mark.parametrize("name", DISKS)
def test_login_and_name(host: Hosts, name: str) -> None:
    assert host(name).check_output("hostname") == name


@pytest.mark.parametrize("name", DISKS)
def test_disk_has_the_declared_size(host: Hosts, name: str) -> None:
    assert int(host(name).check_output("cat /sys/block/vda/size")) * 512 == DISKS[name]


@pytest.mark.parametrize("name", cloud.NODES)
def test_qemu_runs_unprivileged_and_confined(host: Hosts, plan: dict[str, Any], name: str) -> None:
    processes = [
        line.split(None, 2)
        for line in host(name).check_output("ps -C qemu-system-x86_64 -o user:32=,pid=,args=").splitlines()
    ]
    ours = {pid: args for user, pid, args in processes if user == "compute-service"}
    assert len(ours) == len([entry for entry in plan["instances"].values() if entry["node"] == name])
    for pid, args in ours.items():
        assert "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny" in args
        assert "0.0.0.0" not in args
        mounts = {
            fields[4]: fields
            for line in host(name).check_output(f"cat /proc/{pid}/mountinfo").splitlines()
            for fields in [line.split()]
        }
        status = dict(
            line.split(":\t", 1)
            for line in host(name).check_output(f"cat /proc/{pid}/status").splitlines()
            if ":\t" in line
        )
        assert {status[key] for key in ("CapBnd", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"
        assert "hidepid=invisible" in mounts["/proc"][-1].split(",")
        assert [
            mounts[path][5].split(",")[0] for path in ("/", "/proc", "/proc/kallsyms", "/sys", "/sys/fs/cgroup")
        ] == ["ro"] * 5
    listening = host(name).check_output("ss -Hltn")
    assert ":59" not in listening
