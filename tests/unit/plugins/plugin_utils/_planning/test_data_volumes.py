# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Data volumes: where they are, who has them, and that none is lost or made twice."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.plugin_utils._planning.planner import make_plan
from ansible_collections.ikcloud.compute.plugins.plugin_utils._reporting.changes import gather
from ansible_collections.ikcloud.compute.tests.unit.plugins.plugin_utils import samples
from hypothesis import given, settings
from hypothesis import strategies as st

ONE, TWO = "ik-node-01", "ik-node-02"


def declared(changes: dict[str, Any] | None = None, **volumes: Any) -> dict[str, Any]:
    """Give the talk's cloud with volumes: ``declared(data={"instance": "web-1"})``."""
    return {
        **samples.talk(**(changes or {})),
        "volumes": {name: {"size": "1G", **spec} for name, spec in volumes.items()},
    }


def there(plan: dict[str, Any], nodes: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Give the nodes as they are once a plan is carried out: what was there and is not listed stays."""
    found = {}
    for name, spec in (nodes or samples.two_nodes()).items():
        lists, before = plan["nodes"].get(name), spec.get("info")
        if lists is None or before is None:
            found[name] = spec
            continue
        instances = {
            item["name"]: {
                "id": item["id"],
                "labels": item["labels"],
                "memory": item["memory"],
                "volumes": [disk["name"] for disk in item.get("volumes", [])],
            }
            for item in lists["instances"]
        }
        volumes = {**before.get("volumes", {}), **{item["name"]: {"base": None} for item in lists["volumes"]}}
        found[name] = {
            **spec,
            "info": {**before, "instances": {**before.get("instances", {}), **instances}, "volumes": volumes, **more},
        }
    return found


def on(plan: dict[str, Any], node: str) -> tuple[list[str], dict[str, list[str]]]:
    """Give the data volumes of a node, and those of its instances."""
    lists = plan["nodes"][node]
    have = {item["name"]: [disk["name"] for disk in item.get("volumes", [])] for item in lists["instances"]}
    return [item["name"] for item in lists["volumes"] if not item["name"].startswith("compute-")], have


def refusal(declaration: dict[str, Any], nodes: dict[str, Any] | None = None) -> str:
    return samples.refusal(declaration, nodes)


def test_made_where_its_instance_is() -> None:
    plan = make_plan(declared(b={"instance": "web-2"}, a={"instance": "web-2"}, c={"node": ONE}), samples.two_nodes())
    assert on(plan, TWO) == (["a", "b"], {"web-2": ["a", "b"]})
    assert on(plan, ONE) == (["c"], {"web-1": []})
    assert {"name": "a", "size": "1G"} in plan["nodes"][TWO]["volumes"]
    assert plan["volumes"]["a"] == {"node": TWO, "instance": "web-2", "size": 1 << 30}
    assert plan["counts"]["volumes"] == 5
    assert "volumes" not in plan["nodes"][ONE]["instances"][0]  # as it was before there were any


def test_it_outlives_its_instance_and_is_there_for_the_next() -> None:
    nodes = there(make_plan(declared(a={"instance": "web-2"}), samples.two_nodes()))
    gone = {**declared({"instances.web-2": None}, a={}), "purge": True}
    nodes[TWO]["info"]["protected"] = {}
    plan = make_plan(gone, nodes)
    assert on(plan, TWO)[0] == ["a"] and "a" not in plan["purge"][TWO]["volumes"]
    # Without a node of its own an instance goes to its volume, not to where the fewest are.
    two_more = {f"instances.web-{number}": {"image": "bionic", "network": "blue", "node": TWO} for number in (4, 5)}
    plan = make_plan(
        declared({**two_more, "instances.web-3": {"image": "bionic", "network": "blue"}}, a={"instance": "web-3"}),
        nodes,
    )
    assert on(plan, TWO)[0] == ["a"] and on(plan, TWO)[1]["web-3"] == ["a"]


def test_attached_and_detached() -> None:
    nodes = there(make_plan(declared(a={"instance": "web-2"}), samples.two_nodes()))
    assert on(make_plan(declared(a={}), nodes), TWO) == (["a"], {"web-2": []})
    more = declared({"instances.web-3": {"image": "bionic", "network": "blue", "node": TWO}}, a={"instance": "web-3"})
    assert on(make_plan(more, nodes), TWO) == (["a"], {"web-2": [], "web-3": ["a"]})


def test_a_volume_in_use_is_not_removed() -> None:
    nodes = there(make_plan(declared(a={"instance": "web-2"}), samples.two_nodes()))
    for options in ({}, {"purge": True}):
        message = refusal({**declared(), **options}, nodes)
        assert (
            message.startswith(f"The volume a on {TWO} is attached to web-2, and not declared any more. Take it back")
            and "leave out `instance`" in message
        )
    # With its instance it goes, and without either it is kept aside.
    gone = make_plan({**declared({"instances.web-2": None}), "purge": True}, nodes)["purge"][TWO]
    assert "a" in gone["volumes"] and gone["aside"] is True
    message = refusal(
        declared(
            {"instances.web-2": None, "instances.web-3": {"image": "bionic", "network": "blue"}},
            a={"instance": "web-3"},
        ),
        nodes,
    )
    assert "web-2 on ik-node-02, which is not declared any more, has the volume still" in message


@pytest.mark.parametrize(
    ("declaration", "words"),
    [
        (
            declared(a={"instance": "web-9"}),
            (
                "cloud_volumes.a.instance: there is no instance 'web-9'. Did you mean web-2? Known: web-1, web-2. To"
                " keep the volume"
            ),
        ),
        (declared(a={"size": None}), "cloud_volumes.a: size is missing"),
        (declared(a={"size": "many"}), "cloud_volumes.a.size: 'many' is not a size"),
        (declared(a={"size": 7}), "cloud_volumes.a.size: 7 is 7 bytes"),
        (declared(a={"node": "no"}), "cloud_volumes.a.node: there is no node in the group 'no'"),
        (declared(a={"disk": "1G"}), "cloud_volumes.a"),
        (declared(a={}), "cloud_volumes.a: it is not there yet, and nothing says where to make it"),
        (
            declared(**{"compute-0a1b2c3d": {"node": ONE}}),
            "cloud_volumes.compute-0a1b2c3d: an instance's own disk or seed has such a name",
        ),
        (
            declared(a={"instance": "web-2", "node": ONE}),
            f"the volume is on {ONE}, web-2 on {TWO}, and a disk can't be attached across nodes",
        ),
        (declared(a={"instance": "web-1", "node": ONE}, b={"instance": "web-1", "node": TWO}), "web-1 can't have both"),
        (
            declared(**{f"a{number}": {"instance": "web-1"} for number in range(17)}),
            "cloud_volumes: 17 are too many for web-1; 16 fit",
        ),
        ({**samples.talk(), "volumes": 7}, "cloud_volumes: 7 is neither"),
    ],
)
def test_what_is_refused(declaration: dict[str, Any], words: str) -> None:
    assert words in refusal(declaration)


def test_what_is_not_declared_is_named() -> None:
    nodes = there(make_plan(declared(a={"node": TWO}), samples.two_nodes()))
    plan = make_plan(declared(), nodes)
    assert plan["undeclared_volumes"] == {"a": TWO}
    assert gather([], plan).notes == [f"Not declared any more, and left alone without cloud_purge: volume a on {TWO}."]
    assert gather([], make_plan({**declared(), "purge": True}, nodes)).notes == []
    assert make_plan(declared(a={}), nodes)["undeclared_volumes"] == {}


def test_a_volume_does_not_move() -> None:
    nodes = there(make_plan(declared(a={"instance": "web-2"}), samples.two_nodes()))
    assert f"cloud_volumes.a.node: it is on {TWO}, and a volume does not move" in refusal(
        declared(a={"instance": "web-2", "node": ONE}), nodes
    )
    assert f"the volume is on {TWO}, web-1 on {ONE}" in refusal(declared(a={"instance": "web-1"}), nodes)
    nodes[ONE]["info"]["volumes"]["a"] = {"base": None}
    assert f"The volume a is on {ONE} and on {TWO}" in refusal(declared(a={}), nodes)


def test_with_a_missing_node_none_is_made_twice() -> None:
    nodes = samples.two_nodes(n2=None)
    pinned = {"instances.web-1.node": ONE, "instances.web-1.address": "192.168.88.7"}
    plan = make_plan(declared(pinned, a={"instance": "web-1"}, b={"node": ONE}), nodes)
    assert on(plan, ONE) == (["b"], {"web-1": []})
    assert plan["left_out"]["volume a"] == f"it may be on {TWO}"
    purged = make_plan({**declared(pinned, a={"instance": "web-1"}), "purge": True}, there(plan, nodes))
    assert purged["purge"][ONE].get("volumes") == ["b"] and "a" in purged["purge"][ONE]["spare"]["volumes"]


@settings(max_examples=40)
@given(samples.clouds(), st.data())
def test_from_any_attachment_to_any_other(cloud: tuple[dict[str, Any], dict[str, Any]], data: st.DataObject) -> None:
    """Every volume stays on its node, is there once, and is had by the instance that is declared, or the whole is
    refused.
    """
    declaration, nodes = cloud
    owners = st.sampled_from([None, *declaration["instances"]])
    names = [f"data-{number}" for number in range(4)]
    homes: dict[str, str] = {}
    for _turn in range(3):
        volumes = {}
        for name in names:
            owner = data.draw(owners)
            volumes[name] = {
                "size": "1G",
                **({"instance": owner} if owner else {}),
                **({} if owner or name in homes else {"node": sorted(nodes)[0]}),
            }
        try:
            plan = make_plan({**declaration, "volumes": volumes}, nodes)
        except ComputeError as error:
            assert "can't" in str(error)
            continue
        for name in names:
            places = [node for node in plan["nodes"] if name in on(plan, node)[0]]
            assert places == [homes.setdefault(name, plan["volumes"][name]["node"])]
            having = [
                (node, instance)
                for node in plan["nodes"]
                for instance, disks in on(plan, node)[1].items()
                if name in disks
            ]
            assert having == ([(homes[name], volumes[name]["instance"])] if "instance" in volumes[name] else [])
        nodes = there(plan, nodes)
