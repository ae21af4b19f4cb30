# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole plans against golden files, and every list against the modules that take it.

To accept a change of a golden file: UPDATE_GOLDEN=1 pytest
tests/unit/plugins/plugin_utils/_planning/test_node_lists.py, then read the diff.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.ikcloud.compute.plugins.module_utils._core.reconcile import Resource, argument_spec
from ansible_collections.ikcloud.compute.plugins.plugin_utils._planning.planner import make_plan
from ansible_collections.ikcloud.compute.tests.unit.plugins.plugin_utils import samples
from hypothesis import HealthCheck, given, settings

GOLDEN = Path(__file__).parents[3] / "golden"
MODULES = {
    "images": "image",
    "bridges": "bridge",
    "tunnels": "geneve_tunnel",
    "nats": "nat",
    "volumes": "volume",
    "seeds": "seed",
    "taps": "tap",
    "instances": "instance",
}

RICH: dict[str, Any] = {
    "images": {
        "debian": {"path": "/srv/debian.raw", "format": "raw", "checksum": "sha256:" + "0" * 64},
        "bionic": samples.TALK["images"]["bionic"],
    },
    "networks": [
        {"name": "blue", "vni": 88, "cidr": "192.168.88.0/24", "nat": True, "gateway_node": "ik-node-02"},
        {
            "name": "green",
            "vni": 89,
            "cidr": "192.168.89.0/24",
            "encapsulation": "vxlan",
            "dns": "192.168.89.53",
            "gateway": "192.168.89.254",
            "nodes": ["ik-node-03"],
        },
        {"name": "red", "vni": 90, "cidr": "192.168.90.0/28", "gateway": False, "mtu": 1400},
    ],
    "volumes": {
        "data-2": {"size": "512M", "instance": "db-1"},
        "data-1": {"size": "20G", "instance": "db-1"},
        "spare": {"size": "1G", "node": "ik-node-01"},
    },
    "instances": [
        {
            "name": "db-1",
            "image": "debian",
            "network": "red",
            "node": "ik-node-03",
            "password_hash": "$6$salt$abcdefghij",
            "copy": True,
            "restart": "when_required",
        },
        {
            "name": "gw-1",
            "image": "bionic",
            "nics": [{"network": "red"}, {"network": "blue", "mac": "02:00:5e:10:00:01"}, {"network": "green"}],
            "power": "stopped",
        },
        {
            "name": "web-1",
            "image": "bionic",
            "network": "green",
            "cpu": 2,
            "memory": "4G",
            "disk": "10G",
            "user": "me",
            "user_data": {"packages": ["nginx"]},
        },
        {
            "name": "web-2",
            "image": "bionic",
            "network": "blue",
            "address": "192.168.88.102",
            "vnc": "none",
            "accel": "tcg",
            "grace": 5,
            "ssh_keys": [],
        },
    ],
    "ssh_keys": [samples.KEY],
    "underlay_mtu": 9000,
}


@pytest.mark.parametrize(
    ("name", "declaration", "nodes"), [("talk", samples.TALK, samples.two_nodes()), ("rich", RICH, samples.NODES)]
)
def test_plan_is_golden(name: str, declaration: Any, nodes: Any) -> None:
    path = GOLDEN / f"plan_{name}.json"
    text = json.dumps(make_plan(declaration, nodes), indent=1) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def kind_of(module: str) -> type[Resource]:
    loaded = importlib.import_module(f"ansible_collections.ikcloud.compute.plugins.modules.{module}")
    return next(
        value
        for value in vars(loaded).values()
        if isinstance(value, type) and issubclass(value, Resource) and value.option
    )


def check_lists(kind: type[Resource], lists: list[list[dict[str, Any]]]) -> None:
    for items in lists:
        validated = ArgumentSpecValidator(argument_spec(kind)).validate(
            {kind.option: items, "state": "present", "purge": True}
        )
        assert not validated.error_messages
        params = {**dict.fromkeys(kind.options), **validated.validated_parameters}
        made = kind(params)
        assert not [
            problem for index, item in enumerate(params[kind.option]) for problem in made.validate_item(index, item)
        ]


@pytest.mark.parametrize(("key", "module"), MODULES.items())
def test_lists_are_what_the_modules_take(key: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    kind = kind_of(module)
    known = set(kind.suboptions)
    plan = make_plan(RICH, samples.NODES)
    assert all(set(item) <= known for lists in plan["nodes"].values() for item in lists[key])
    check_lists(kind, [lists[key] for lists in plan["nodes"].values()])


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(samples.clouds())
def test_lists_of_any_declaration_are_what_the_modules_take(cloud: tuple[dict[str, Any], dict[str, Any]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 0)
        plan = make_plan(*cloud)
        for key, module in MODULES.items():
            check_lists(kind_of(module), [lists[key] for lists in plan["nodes"].values()])


def seed_nics(plan: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return next(seed["nics"] for lists in plan["nodes"].values() for seed in lists["seeds"] if seed["hostname"] == name)


def test_one_default_route_and_no_name_server_that_answers_nothing() -> None:
    red, blue, green = seed_nics(make_plan(RICH, samples.NODES), "gw-1")
    assert "gateway" not in red and red["nameservers"] == []
    assert blue["gateway"] == "192.168.88.1" and blue["nameservers"] == ["8.8.8.8", "1.1.1.1"]
    assert "gateway" not in green and green["nameservers"] == ["192.168.89.53"]


def test_a_network_without_instances_is_on_its_gateway_node_and_where_it_is_asked_for() -> None:
    networks = {
        "idle": {"vni": 1, "cidr": "10.1.0.0/24", "nodes": ["ik-node-03"]},
        "none": {"vni": 2, "cidr": "10.2.0.0/24", "gateway": False},
    }
    plan = make_plan({"networks": networks}, samples.NODES)
    assert plan["networks"]["idle"]["nodes"] == ["ik-node-01", "ik-node-03"]
    assert plan["networks"]["none"]["nodes"] == []


def test_networks_of_one_cidr_may_not_meet_on_a_node() -> None:
    """The node would refuse the second one, after other changes."""
    other = {"vni": 99, "cidr": "192.168.88.0/25", "gateway": False, "nodes": ["ik-node-01"]}
    said = samples.refusal(samples.talk(**{"networks.green": other}))
    for word in ("cloud_networks.green.cidr", "192.168.88.0/24 of cloud_networks.blue", "both are on ik-node-01"):
        assert word in said
    assert not samples.refusal(samples.talk(**{"networks.green": {**other, "nodes": ["ik-node-03"]}}), samples.NODES)


def test_mtu_follows_the_underlay() -> None:
    over_six = {
        name: {"underlay_address": f"fd00::{number}", "info": {}} for number, name in enumerate(samples.two_nodes(), 1)
    }
    assert make_plan(samples.TALK, samples.two_nodes())["networks"]["blue"]["mtu"] == 1450
    assert make_plan(samples.TALK, over_six)["networks"]["blue"]["mtu"] == 1430


def test_who_can_log_in_nowhere_is_warned_of() -> None:
    plan = make_plan(samples.talk(ssh_keys=None), samples.two_nodes())
    assert plan["warnings"] == [
        "Nobody will be able to log in to web-1, web-2: there is no SSH key; set cloud_ssh_keys."
    ]


def test_a_thousand_instances_are_quick() -> None:
    instances = {f"web-{number}": {"image": "bionic", "network": "blue"} for number in range(1000)}
    plan = make_plan(samples.talk(**{"networks.blue.cidr": "10.0.0.0/16", "instances": instances}), samples.NODES)
    assert plan["counts"]["instances"] == 1000


def test_a_gateway_that_moves_leaves_no_second_one_behind() -> None:
    """The former gateway node hosts nothing any more: until a purge its bridge stays, without the address."""
    nodes = copy.deepcopy(samples.two_nodes())
    nodes["ik-node-01"]["info"]["networks"] = {
        "blue": {"bridge": "br-gnv-x", "addresses": ["192.168.88.1/24"], "tunnels": {}}
    }
    declared = {
        **samples.TALK,
        "networks": {"blue": {**samples.TALK["networks"]["blue"], "gateway_node": "ik-node-02"}},
        "instances": {},
    }
    plan = make_plan(declared, nodes)
    assert [(node, [bridge["addresses"] for bridge in lists["bridges"]]) for node, lists in plan["nodes"].items()] == [
        ("ik-node-01", [[]]),
        ("ik-node-02", [["192.168.88.1/24"]]),
    ]
    assert make_plan({**declared, "purge": True}, nodes)["nodes"]["ik-node-01"]["bridges"] == []
