# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that really collide, found by trying: refused by name, before a node says it in words of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.checks import item_problems
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import DEFAULT_ROOT, Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._core.names import short_id
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.declared import serial
from ansible_collections.ikcloud.compute.plugins.plugin_utils._planning.planner import make_plan
from ansible_collections.ikcloud.compute.tests.unit.plugins.modules.instance_samples import item
from ansible_collections.ikcloud.compute.tests.unit.plugins.plugin_utils.samples import refusal, talk, two_nodes

ROOT = "/srv/compute"


@cache
def pair(kind: str) -> tuple[str, str]:
    """Find two names that come out the same; among some 80,000 of them there is one such pair as a rule (the birthday
    problem).
    """
    of: dict[str, Callable[[str], str]] = {
        "disk": lambda name: short_id("disk", Layout(ROOT).volume(name)),
        "default": lambda name: short_id("disk", Layout(DEFAULT_ROOT).volume(name)),
        "serial": serial,
    }
    prefix = "the-data-of-shop-no-" if kind == "serial" else "n"
    found: dict[str, str] = {}
    for number in range(1 << 20):
        name = f"{prefix}{number}"
        other = found.setdefault(of[kind](name) if kind in of else short_id(kind, name), name)
        if other != name:
            return other, name
    raise AssertionError("2**20 names without a pair of 32 bits")


@pytest.mark.parametrize("info", ["bridge", "recorded"])
def test_a_network_with_the_id_of_one_that_is_there(info: str) -> None:
    old, new = pair("network")
    there = {
        "bridge": {"networks": {old: {"bridge": "b", "addresses": [], "tunnels": {}}}},
        "recorded": {"recorded": {old: {"vni": 5}}},
    }[info]
    declaration = talk(**{f"networks.{new}": {"vni": 7, "cidr": "192.168.7.0/24"}})
    said = refusal(declaration, two_nodes(n2=there))
    for word in (f"cloud_networks.{new}", f"the network {old} too", "ik-node-02", short_id("network", new)):
        assert word in said
    assert not refusal(declaration)
    assert f"cloud_networks.{old}" in refusal(
        talk(
            **{
                f"networks.{name}": {"vni": vni, "cidr": f"192.168.{vni}.0/24"}
                for vni, name in enumerate(pair("network"), 1)
            }
        )
    )


def test_an_instance_with_the_id_of_one_that_is_there() -> None:
    old, new = pair("instance")
    there = {"instances": {old: {"id": short_id("instance", old), "labels": {}, "memory": 64, "running": True}}}
    declaration = talk(**{f"instances.{new}": {"image": "bionic", "network": "blue"}})
    said = refusal(declaration, two_nodes(n1=there))
    assert f"cloud_instances.{new}" in said and f"the instance {old} too, which is on ik-node-01" in said
    assert not refusal(declaration)


@pytest.mark.parametrize(
    ("kind", "root", "what"),
    [
        ("disk", ROOT, "QEMU id disk-"),
        ("default", None, "QEMU id disk-"),
        ("serial", ROOT, "serial number the-data-of"),
    ],
)
def test_volumes_that_one_qemu_could_not_tell_apart(kind: str, root: Any, what: str) -> None:
    names = pair(kind)
    declaration = talk(volumes={name: {"size": "1G", "instance": "web-1"} for name in names})
    nodes = two_nodes(n1={"root": root})
    said = refusal(declaration, nodes)
    for word in (f"cloud_volumes.{names[0]}", f"cloud_volumes.{names[1]}", what, "web-1", "rename one"):
        assert word in said
    # Each in a QEMU of its own they are two.
    assert make_plan(
        talk(volumes={name: {"size": "1G", "instance": f"web-{number}"} for number, name in enumerate(names, 1)}), nodes
    )


@pytest.mark.parametrize("kind", ["disk", "serial"])
def test_the_module_refuses_them_by_itself(kind: str) -> None:
    names = pair(kind)
    disks = [{"name": name, "path": None, "format": "qcow2"} for name in ("other", *names)]
    (said,) = item_problems("instances[0]", {**item(name="web-1"), "volumes": disks}, Layout(ROOT), True)
    assert "instances[0].volumes[2]" in said and "instances[0].volumes[1]" in said
    assert not item_problems("instances[0]", {**item(name="web-1"), "volumes": disks[:2]}, Layout(ROOT), True)
