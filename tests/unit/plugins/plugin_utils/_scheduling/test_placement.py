# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where instances go and which addresses they get."""

from __future__ import annotations

from typing import Any

from ansible_collections.ikcloud.compute.plugins.plugin_utils._planning.planner import make_plan
from ansible_collections.ikcloud.compute.tests.unit.plugins.plugin_utils.samples import (
    carried_out,
    refusal,
    talk,
    two_nodes,
)

SPEC = {"image": "bionic", "network": "blue"}


def lives(networks: list[str], addresses: list[str], memory: int = 1024, running: bool = True) -> dict[str, Any]:
    return {"labels": {"networks": networks, "addresses": addresses}, "memory": memory, "running": running}


def address(plan: dict[str, Any], name: str) -> str:
    return str(plan["instances"][name]["addresses"][0])


def test_new_instances_are_spread_evenly_in_the_order_of_their_names() -> None:
    plan = make_plan(talk(instances={f"web-{number}": SPEC for number in range(5)}), two_nodes())
    assert [plan["instances"][f"web-{number}"]["node"][-1] for number in range(5)] == ["1", "2", "1", "2", "1"]
    assert [address(plan, f"web-{number}") for number in range(5)] == [f"192.168.88.{number}" for number in range(2, 7)]


def test_memory_decides_where_there_is_room() -> None:
    declaration = talk(instances={f"web-{number}": {**SPEC, "memory": 3000} for number in range(4)})
    plan = make_plan(declaration, two_nodes(n1={"memory_mb": 4000}, n2={"memory_mb": 16000}))
    assert [plan["instances"][f"web-{number}"]["node"][-1] for number in range(4)] == ["1", "2", "2", "2"]
    message = refusal(declaration, two_nodes(n1={"memory_mb": 4000}, n2={"memory_mb": 4000}))
    assert "cloud_instances.web-2.memory: no node has 3000 MiB left (left: ik-node-01 1000, ik-node-02 1000)" in message


def test_memory_of_a_node_is_never_exceeded_by_what_is_pinned() -> None:
    nodes = two_nodes(n2={"memory_mb": 2000})
    assert "web-1.memory: 4096 MiB is more than ik-node-02 has (2000 MiB)" in refusal(
        talk(**{"instances.web-1.node": "ik-node-02"}), nodes
    )
    assert "want 2248 MiB of memory together, it has 2000" in refusal(
        talk(**{"instances.web-1.node": "ik-node-02", "instances.web-1.memory": 1224}), nodes
    )
    assert not refusal(
        talk(
            **{"instances.web-1.node": "ik-node-02", "instances.web-1.memory": 1224, "instances.web-1.power": "stopped"}
        ),
        nodes,
    )


def test_what_qemu_is_started_with_fits_in() -> None:
    declaration = talk(**{"instances.web-1.memory": 1024, "instances.web-1.memory_max": "5000"})
    small, swapping = {"memory_mb": 2048, "memory_limit_mb": 4999}, {"memory_mb": 2048, "memory_limit_mb": 5000}
    assert make_plan(declaration, two_nodes(n1=small, n2=swapping))["instances"]["web-1"]["node"] == "ik-node-02"
    assert (
        make_plan(declaration, two_nodes(n1={"memory_mb": 2048, "memory_limit_mb": None}))["instances"]["web-1"]["node"]
        == "ik-node-01"
    )
    words = "cloud_instances.web-1.memory_max: 5000 MiB is more than"
    assert f"{words} any node with room for it has" in refusal(declaration, two_nodes(n1=small, n2={"memory_mb": 512}))
    pinned = talk(
        **{"instances.web-1.memory": 1024, "instances.web-1.memory_max": 5000, "instances.web-1.node": "ik-node-02"}
    )
    assert f"{words} ik-node-02 has with its swap (4999 MiB)" in refusal(pinned, two_nodes(n2=small))
    # What lives there may run on, and what is off is not started.
    assert not refusal(pinned, two_nodes(n2={**small, "instances": {"web-1": lives(["blue"], ["192.168.88.77"])}}))
    assert not refusal(
        {**pinned, "instances": {"web-1": {**pinned["instances"]["web-1"], "power": "stopped"}}}, two_nodes(n2=small)
    )


def test_kvm_only_where_there_is_some() -> None:
    declaration = talk(**{"instances.web-1.accel": "kvm"})
    assert (
        make_plan(declaration, two_nodes(n1={"kvm": False}, n2={"kvm": True}))["instances"]["web-1"]["node"]
        == "ik-node-02"
    )
    assert make_plan(declaration, two_nodes())["instances"]["web-1"]["node"] == "ik-node-01"  # nobody has said
    assert "cloud_instances.web-1.accel: kvm is declared, and no node has /dev/kvm" in refusal(
        declaration, two_nodes(n1={"kvm": False}, n2={"kvm": False})
    )
    pinned = talk(**{"instances.web-1.accel": "kvm", "instances.web-1.node": "ik-node-01"})
    assert "web-1.accel: kvm is declared, and ik-node-01 has no /dev/kvm" in refusal(
        pinned, two_nodes(n1={"kvm": False}, n2={"kvm": True})
    )


def test_an_instance_stays_where_it_lives_and_keeps_its_address() -> None:
    plan = make_plan(talk(), two_nodes(n2={"instances": {"web-1": lives(["blue"], ["192.168.88.77"])}}))
    assert plan["instances"]["web-1"]["node"] == "ik-node-02"
    assert address(plan, "web-1") == "192.168.88.77"


def test_moving_is_refused_with_the_way_out() -> None:
    message = refusal(talk(), two_nodes(n1={"instances": {"web-2": lives(["blue"], ["192.168.88.102"])}}))
    assert message.startswith("cloud_instances.web-2.node: it lives on ik-node-01") and "node: ik-node-01" in message


def test_an_instance_on_two_nodes_is_refused() -> None:
    there = {"instances": {"web-1": lives(["blue"], ["192.168.88.2"])}}
    assert "The instance web-1 is on ik-node-01 and on ik-node-02" in refusal(talk(), two_nodes(n1=there, n2=there))


def test_an_address_that_another_declares_is_given_up_with_a_warning() -> None:
    plan = make_plan(talk(), two_nodes(n1={"instances": {"web-1": lives(["blue"], ["192.168.88.102"])}}))
    assert address(plan, "web-1") == "192.168.88.2"
    assert plan["warnings"] == [
        "The address of web-1 in blue changes to 192.168.88.2: 192.168.88.102 is now that of web-2."
    ]


def test_an_address_outside_of_a_changed_network_is_replaced() -> None:
    plan = make_plan(talk(), two_nodes(n1={"instances": {"web-1": lives(["blue"], ["192.168.99.5"])}}))
    assert address(plan, "web-1") == "192.168.88.2" and "outside" in plan["warnings"][0]


def test_undeclared_instances_keep_memory_and_address_unless_they_are_purged() -> None:
    nodes = two_nodes(
        n1={"memory_mb": 5000, "instances": {"old": lives(["blue"], ["192.168.88.2"], memory=3000)}},
        n2={"memory_mb": 100},
    )
    assert "no node has 4096 MiB left" in refusal(talk(**{"instances.web-2": None}), nodes)
    plan = make_plan(talk(**{"instances.web-2": None, "purge": True}), nodes)
    assert plan["undeclared"] == {"old": "ik-node-01"}
    assert address(plan, "web-1") == "192.168.88.3"
    claims = talk(**{"instances.web-2.address": "192.168.88.2", "instances.web-1": None})
    nodes["ik-node-02"]["info"] = {}
    assert "192.168.88.2 belongs to the instance old on ik-node-01" in refusal(claims, nodes)
    assert not refusal({**claims, "purge": True}, nodes)


def test_purged_addresses_are_taken_when_no_other_is_left() -> None:
    small = talk(
        **{"networks.blue.cidr": "192.168.88.0/29", "instances": {f"web-{number}": SPEC for number in range(5)}}
    )
    nodes = two_nodes(n1={"instances": {"old": lives(["blue"], ["192.168.88.3"])}})
    assert "no address of blue (192.168.88.0/29) is free" in refusal(small, nodes)
    plan = make_plan({**small, "purge": True}, nodes)
    assert address(plan, "web-4") == "192.168.88.3"


def test_with_a_missing_node_only_what_is_certain_goes_on() -> None:
    plan = make_plan(
        talk(**{"instances.web-3": SPEC, "instances.web-4": {**SPEC, "node": "ik-node-01"}}),
        two_nodes(n1={"instances": {"web-1": lives(["blue"], ["192.168.88.5"])}}, n2=None),
    )
    assert plan["missing_nodes"] == ["ik-node-02"] and set(plan["nodes"]) == {"ik-node-01"}
    assert set(plan["instances"]) == {"web-1", "web-2"}
    assert set(plan["left_out"]) == {"web-3", "web-4"} and "ik-node-02" in plan["left_out"]["web-3"]
    assert len(plan["warnings"]) == 1 and "web-3" in plan["warnings"][0] and "web-4" in plan["warnings"][0]
    # web-2 is pinned to the missing node: the tunnel to it stays.
    assert [item["remote"] for item in plan["nodes"]["ik-node-01"]["tunnels"]] == [["10.10.20.102"]]


def test_a_living_instance_is_never_dropped_from_the_lists() -> None:
    declaration = talk(
        **{
            "networks.green": {"vni": 89, "cidr": "192.168.89.0/24"},
            "instances.web-1": {"image": "bionic", "nics": [{"network": "blue"}, {"network": "green"}]},
        }
    )
    nodes = two_nodes(n1={"instances": {"web-1": lives(["blue"], ["192.168.88.5"])}}, n2=None)
    assert "cloud_instances.web-1: ik-node-02 missing in this run" in refusal(declaration, nodes)


def test_a_tunnel_to_a_missing_node_is_neither_cut_nor_made_while_its_instances_are_unknown() -> None:
    declaration = talk(**{"instances.web-2.node": None})
    nodes = two_nodes()
    whole = make_plan(declaration, nodes)
    after = carried_out(nodes, whole)
    after["ik-node-02"]["info"] = None
    assert make_plan(declaration, after)["nodes"]["ik-node-01"]["tunnels"] == whole["nodes"]["ik-node-01"]["tunnels"]
    after["ik-node-01"]["info"]["tunnels"] = []
    assert make_plan(declaration, after)["nodes"]["ik-node-01"]["tunnels"] == []


def test_two_instances_that_keep_one_address_are_parted() -> None:
    plan = make_plan(
        talk(instances={"a": SPEC, "b": SPEC}),
        two_nodes(
            n1={"instances": {"a": lives(["blue"], ["192.168.88.9"])}},
            n2={"instances": {"b": lives(["blue"], ["192.168.88.9"])}},
        ),
    )
    assert (address(plan, "a"), address(plan, "b")) == ("192.168.88.9", "192.168.88.2")


def test_one_display_on_one_node() -> None:
    loop = {**SPEC, "vnc": "loopback", "vnc_display": 1}
    pinned = {"a": {**loop, "node": "ik-node-01"}, "b": {**loop, "node": "ik-node-01"}}
    assert "cloud_instances.b.vnc_display: 1 is that of cloud_instances.a on ik-node-01" in refusal(
        talk(instances=pinned)
    )
    pinned["b"]["node"] = "ik-node-02"
    assert not refusal(talk(instances=pinned))
