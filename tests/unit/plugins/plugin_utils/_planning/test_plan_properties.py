# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every declaration, valid or not."""

from __future__ import annotations

import copy
import ipaddress
import json
from typing import Any

from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.names import MAX_LINK_NAME
from ansible_collections.ikcloud.compute.plugins.plugin_utils._declaration.declaration import DECLARATION
from ansible_collections.ikcloud.compute.plugins.plugin_utils._planning.planner import make_plan
from ansible_collections.ikcloud.compute.tests.unit.plugins.plugin_utils import samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FUZZ = settings(max_examples=60)
QUICK = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@FUZZ
@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(DECLARATION, samples.JSON)),
    st.one_of(st.just(samples.NODES), samples.JSON),
)
def test_any_input_gives_a_plan_or_one_error(declaration: Any, nodes: Any) -> None:
    try:
        json.dumps(make_plan(declaration, nodes))
    except ComputeError as error:
        assert str(error)


@FUZZ
@given(
    st.sampled_from(["images.bionic", "networks.blue", "instances.web-1", "instances.web-1.nics"]),
    samples.WORDS,
    samples.JSON,
)
def test_any_value_at_any_place_gives_a_plan_or_an_error_that_names_the_place(place: str, key: str, value: Any) -> None:
    declaration = samples.talk(**{place if place.endswith("nics") else f"{place}.{key}": value})
    message = samples.refusal(declaration)
    assert not message or f"cloud_{place.removesuffix('.nics')}" in message or "cloud_instances.web-" in message


@FUZZ
@given(samples.JSON)
def test_any_node_info_gives_a_plan_or_an_error(info: Any) -> None:
    samples.refusal(
        samples.talk(),
        {
            "ik-node-01": {"underlay_address": "10.0.0.1", "info": info},
            "ik-node-02": {"underlay_address": "10.0.0.2", "info": {"instances": info}},
        },
    )


@QUICK
@given(samples.clouds())
def test_a_valid_declaration_compiles_to_sound_lists(cloud: tuple[dict[str, Any], dict[str, Any]]) -> None:
    declaration, nodes = cloud
    plan = make_plan(declaration, nodes)
    assert set(plan["nodes"]) == set(nodes)
    assert set(plan["instances"]) == set(declaration["instances"])
    assert not plan["left_out"] and not plan["missing_nodes"] and not plan["undeclared"]
    taken: set[tuple[str, str]] = set()
    for name, instance in plan["instances"].items():
        assert instance["node"] == declaration["instances"][name].get("node", instance["node"])
        for network, address in zip(instance["networks"], instance["addresses"]):
            spec = plan["networks"][network]
            assert (network, address) not in taken
            taken.add((network, address))
            cidr = ipaddress.ip_network(spec["cidr"])
            assert ipaddress.ip_address(address) in cidr
            assert address not in (spec["gateway"], str(cidr.network_address), str(cidr.broadcast_address))
            assert instance["node"] in spec["nodes"]
    macs = [mac for instance in plan["instances"].values() for mac in instance["macs"]]
    assert len(macs) == len(set(macs))
    for node, lists in plan["nodes"].items():
        bridges = {item["name"]: item for item in lists["bridges"]}
        links = [item["name"] for kind in ("bridges", "tunnels", "taps") for item in lists[kind]]
        assert len(links) == len(set(links)) and all(len(link) <= MAX_LINK_NAME for link in links)
        assert all(
            item["bridge"] in bridges and item["mtu"] == bridges[item["bridge"]]["mtu"]
            for kind in ("tunnels", "taps")
            for item in lists[kind]
        )
        assert {item["name"] for item in lists["taps"]} == {
            nic["tap"] for item in lists["instances"] for nic in item["nics"]
        }
        assert (
            {item["name"] for item in lists["volumes"]}
            == {item["name"] for item in lists["seeds"]}
            == {f"compute-{item['id']}" for item in lists["instances"]}
        )
        for item in lists["bridges"]:
            assert bool(item["addresses"]) == (plan["networks"][item["network"]]["gateway_node"] == node)
        for seed in lists["seeds"]:
            assert sum("gateway" in nic for nic in seed["nics"]) <= 1


@QUICK
@given(samples.clouds())
def test_every_tunnel_has_its_mirror(cloud: tuple[dict[str, Any], dict[str, Any]]) -> None:
    declaration, nodes = cloud
    plan = make_plan(declaration, nodes)
    by_address = {spec["underlay_address"]: name for name, spec in nodes.items()}
    reached: dict[tuple[str, str], set[str]] = {}
    for node, lists in plan["nodes"].items():
        for tunnel in lists["tunnels"]:
            assert len(tunnel["remote"]) == 1 or tunnel["encapsulation"] == "vxlan"
            for remote in tunnel["remote"]:
                mirror = next(
                    item for item in plan["nodes"][by_address[remote]]["tunnels"] if item["name"] == tunnel["name"]
                )
                assert nodes[node]["underlay_address"] in mirror["remote"]
                assert {**mirror, "remote": 0} == {**tunnel, "remote": 0}
                reached.setdefault((tunnel["network"], node), set()).add(by_address[remote])
    for name, network in plan["networks"].items():
        for node in network["nodes"]:
            assert reached.get((name, node), set()) == set(network["nodes"]) - {node}


@QUICK
@given(samples.clouds(), st.randoms(use_true_random=False))
def test_the_order_of_a_mapping_does_not_matter(cloud: tuple[dict[str, Any], dict[str, Any]], random: Any) -> None:
    declaration, nodes = cloud
    shuffled = dict(declaration)
    for kind in ("networks", "instances"):
        entries = list(declaration[kind].items())
        random.shuffle(entries)
        shuffled[kind] = dict(entries)
    assert json.dumps(make_plan(declaration, nodes)) == json.dumps(make_plan(shuffled, nodes))


@QUICK
@given(samples.clouds())
def test_mappings_and_lists_are_the_same(cloud: tuple[dict[str, Any], dict[str, Any]]) -> None:
    declaration, nodes = cloud
    listed = {
        key: [{"name": name, **spec} for name, spec in value.items()] if isinstance(value, dict) else value
        for key, value in declaration.items()
    }
    assert make_plan(listed, nodes) == make_plan(declaration, nodes)


@QUICK
@given(samples.clouds())
def test_what_is_carried_out_is_kept(cloud: tuple[dict[str, Any], dict[str, Any]]) -> None:
    declaration, nodes = cloud
    plan = make_plan(declaration, nodes)
    assert make_plan(declaration, samples.carried_out(nodes, plan)) == plan


@QUICK
@given(samples.clouds(), st.data())
def test_instances_that_come_and_go_leave_the_others_alone(
    cloud: tuple[dict[str, Any], dict[str, Any]], data: st.DataObject
) -> None:
    declaration, nodes = cloud
    names = sorted(declaration["instances"])
    first = set(data.draw(st.lists(st.sampled_from(names)))) if names else set()
    before = {
        **declaration,
        "instances": {name: spec for name, spec in declaration["instances"].items() if name in first},
    }
    was = make_plan(before, nodes)
    now = make_plan(allocated_only(declaration, first), samples.carried_out(nodes, was))
    for name, instance in was["instances"].items():
        assert now["instances"][name] == instance
    less = make_plan(
        {**before, "instances": {}, "purge": data.draw(st.booleans()), "purge_limit": len(first)},
        samples.carried_out(nodes, was),
    )
    assert set(less["undeclared"]) == first


def allocated_only(declaration: dict[str, Any], but: set[str]) -> dict[str, Any]:
    """Take the addresses out of new instances: one that claims another's address moves it, rightly."""
    result = copy.deepcopy(declaration)
    for name, spec in result["instances"].items():
        for card in [spec, *spec.get("nics", [])] if name not in but else ():
            card.pop("address", None)
    return result


@QUICK
@given(samples.clouds(), st.data())
def test_a_limited_run_does_what_a_whole_one_does_on_its_nodes(
    cloud: tuple[dict[str, Any], dict[str, Any]], data: st.DataObject
) -> None:
    declaration, nodes = cloud
    plan = make_plan(declaration, nodes)
    seen = samples.carried_out(nodes, plan)
    missing = data.draw(st.lists(st.sampled_from(sorted(nodes)), unique=True))
    limited = make_plan(
        declaration, {name: {**spec, "info": None if name in missing else spec["info"]} for name, spec in seen.items()}
    )
    assert limited["missing_nodes"] == [name for name in nodes if name in missing]
    assert set(limited["nodes"]) == set(nodes) - set(missing)
    for name, lists in limited["nodes"].items():
        for kind, items in lists.items():
            whole = plan["nodes"][name][kind]
            assert (
                items == whole
                if kind != "tunnels"
                else [item["name"] for item in items] == [item["name"] for item in whole]
            )
