# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes with cloud_purge, what stays, and what refuses it."""

from __future__ import annotations

from typing import Any

from ansible_collections.ikcloud.compute.plugins.plugin_utils._planning.planner import make_plan
from ansible_collections.ikcloud.compute.tests.unit.plugins.plugin_utils import samples
from hypothesis import given, settings
from hypothesis import strategies as st

ALONE = {"instances": {}, "networks": {}, "images": {}}


def info(plan: dict[str, Any], node: str, **more: Any) -> dict[str, Any]:
    """What node_info says of a node once a plan is carried out."""
    lists = plan["nodes"][node]
    return {
        "instances": {
            item["name"]: {"id": item["id"], "labels": item["labels"], "memory": item["memory"]}
            for item in lists["instances"]
        },
        "networks": {item["network"]: {"bridge": item["name"]} for item in lists["bridges"]},
        "tunnels": [item["name"] for item in lists["tunnels"]],
        "taps": {item["name"]: {} for item in lists["taps"]},
        "seeds": [item["name"] for item in lists["seeds"]],
        "volumes": {item["name"]: {"base": item["image"]} for item in lists["volumes"]},
        "images": {item["name"]: {"virtual_size": 1 << 20, "ours": True} for item in lists["images"]},
        "boot_files": (
            [f"10-{item['name']}.ip" for item in lists["bridges"]]
            + [f"50-nat-{item['name']}.nft" for item in lists["nats"]]
        ),
        "kept_bases": [],
        "protected": {
            "instances": [item["name"] for item in lists["instances"] if item["labels"].get("protect")],
            "networks": [item["network"] for item in lists["bridges"] if item.get("labels", {}).get("protect")],
        },
        **more,
    }


def there(declaration: dict[str, Any], missing: str = "", **more: Any) -> dict[str, Any]:
    """The talk's nodes with a declaration carried out, one of them missing."""
    nodes = samples.two_nodes()
    plan = make_plan(declaration, nodes)
    return {
        name: {**spec, "info": None if name == missing else info(plan, name, **more)} for name, spec in nodes.items()
    }


def purge(declaration: dict[str, Any], nodes: dict[str, Any], **options: Any) -> dict[str, Any]:
    plan = make_plan({**declaration, "purge": True, **options}, nodes)
    found = plan["purge"]
    assert isinstance(found, dict)
    return found


def test_without_purge_nothing_goes() -> None:
    assert make_plan({**samples.talk(), **ALONE}, there(samples.talk()))["purge"] == {
        "ik-node-01": {},
        "ik-node-02": {},
    }


def test_what_is_declared_stays() -> None:
    assert purge(samples.talk(), there(samples.talk())) == {"ik-node-01": {}, "ik-node-02": {}}
    assert purge(samples.talk(), samples.two_nodes()) == {"ik-node-01": {}, "ik-node-02": {}}


def test_an_instance_goes_with_what_is_its_own() -> None:
    nodes = there(samples.talk())
    gone = purge(samples.talk(**{"instances.web-1": None}), nodes)
    web = make_plan(samples.talk(), samples.two_nodes())["instances"]["web-1"]["id"]
    assert gone["ik-node-02"] == {}
    assert gone["ik-node-01"] == {
        "instances": [{"name": "web-1", "id": web}],
        "taps": [f"vnet-{web}"],
        "seeds": [f"compute-{web}"],
        "volumes": [f"compute-{web}"],
        "spare": {},
        "aside": True,
        "aside_names": {f"compute-{web}": "web-1"},
    }


def test_a_disk_is_called_after_its_instance_also_when_a_killed_run_has_removed_that() -> None:
    nodes = there(samples.talk())
    web = make_plan(samples.talk(), samples.two_nodes())["instances"]["web-1"]["id"]
    found = nodes["ik-node-01"]["info"]
    found["taps"] = {f"vnet-{web}": {"instance": "web-1"}}
    # Its folder is gone, or half of it is: then nothing there says its name.
    for left in ({}, {f"compute-{web}": {"id": web, "labels": {}, "memory": 1}}):
        found["instances"] = {
            name: spec for name, spec in found["instances"].items() if name not in ("web-1", f"compute-{web}")
        } | left
        gone = purge(samples.talk(**{"instances.web-1": None}), nodes)
        assert gone["ik-node-01"]["aside_names"] == {f"compute-{web}": "web-1"}


def test_all_goes_but_images_of_disks_that_are_kept() -> None:
    nodes = there(samples.talk())
    plan = make_plan({**samples.talk(), **ALONE, "purge": True}, nodes)
    for node in ("ik-node-01", "ik-node-02"):
        assert {"instances", "taps", "seeds", "volumes", "nats", "tunnels", "bridges"} <= set(plan["purge"][node])
        assert "images" not in plan["purge"][node]
        assert any(f"left on {node}" in warning and "bionic" in warning for warning in plan["warnings"])
    gone = purge({**samples.talk(), **ALONE}, nodes, purge_volumes=True)
    assert gone["ik-node-01"]["images"] == [{"name": "bionic"}] and gone["ik-node-01"]["aside"] is False
    kept = purge({**samples.talk(), **ALONE}, there(samples.talk(), kept_bases=["bionic"]), purge_volumes=True)
    assert "images" not in kept["ik-node-01"]


def test_an_image_without_our_mark_stays() -> None:
    assert (
        purge(samples.talk(), there(samples.talk(), images={"theirs": {"virtual_size": 1 << 20, "ours": False}}))[
            "ik-node-01"
        ]
        == {}
    )


def test_links_that_only_a_file_remembers_go() -> None:
    files = [
        "10-br-gnv-0a1b2c3d.ip",
        "20-gnv-0a1b2c3d.ip",
        "20-gnv-0a1b2c3e.fdb",
        "30-vnet-0a1b2c3d.ip",
        "50-nat-old.nft",
        "up",
        "60-notes",
    ]
    gone = purge(samples.talk(), there(samples.talk(), boot_files=files))["ik-node-02"]
    assert gone["bridges"] == ["br-gnv-0a1b2c3d"] and gone["taps"] == ["vnet-0a1b2c3d"] and gone["nats"] == ["old"]
    assert gone["tunnels"] == ["gnv-0a1b2c3d", "gnv-0a1b2c3e"]


def test_a_protected_instance_refuses_the_whole() -> None:
    nodes = there(samples.talk(**{"instances.web-1.protect": True}))
    message = samples.refusal(
        {**samples.talk(**{"instances.web-1": None, "instances.web-2": None}), "purge": True}, nodes
    )
    assert "instance web-1 on ik-node-01 is protected" in message and "protect: false" in message
    assert not samples.refusal(samples.talk(**{"instances.web-1": None}), nodes)
    assert not samples.refusal({**samples.talk(**{"instances.web-1.protect": False}), "purge": True}, nodes)


def test_a_protected_network_refuses_the_whole() -> None:
    nodes = there(samples.talk(**{"networks.blue.protect": True}))
    message = samples.refusal({**samples.talk(), **ALONE, "purge": True}, nodes)
    assert message.startswith("The network blue on ik-node-02 is protected")
    # One that merely leaves a node is not removed.
    assert (
        "bridges"
        in purge(samples.talk(**{"networks.blue.protect": True, "instances.web-2": None}), nodes)["ik-node-02"]
    )


def test_a_network_that_overlaps_with_what_is_left_of_a_former_one_is_refused() -> None:
    def at(network: str, address: str) -> dict[str, Any]:
        return samples.two_nodes(
            n1={"networks": {network: {"bridge": "br-gnv-0a1b2c3d", "addresses": [address], "tunnels": {}}}}
        )

    message = samples.refusal(samples.talk(), at("azure", "192.168.88.1/24"))
    assert (
        message.startswith(
            "cloud_networks.blue.cidr: 192.168.88.0/24 overlaps with 192.168.88.1/24 of the network azure"
        )
        and "ik-node-01" in message
    )
    assert "cloud_purge: true" in message and "another cidr" in message and message.count("overlaps") == 1
    assert samples.refusal(samples.talk(), at("azure", "192.168.0.1/16"))
    gone = purge(samples.talk(), at("azure", "192.168.88.1/24"))
    assert gone["ik-node-01"]["bridges"] == ["br-gnv-0a1b2c3d"]
    # Its own former address, another network's, and one on a node that has no gateway of this network are in nobody's
    # way.
    assert not samples.refusal(samples.talk(), at("blue", "192.168.88.9/24"))
    assert not samples.refusal(samples.talk(), at("azure", "192.168.89.1/24"))
    assert not samples.refusal(
        samples.talk(**{"networks.blue.gateway_node": "ik-node-02"}), at("azure", "192.168.88.1/24")
    )


def test_more_than_the_limit_is_refused() -> None:
    many = samples.talk(
        instances={f"web-{number}": {"image": "bionic", "network": "blue", "memory": 64} for number in range(5)}
    )
    none = {**samples.talk(), "instances": {}, "purge": True}
    message = samples.refusal(none, there(many))
    assert (
        "would remove 5 instances" in message
        and "cloud_purge_limit allows 3" in message
        and "-e cloud_purge_limit=5" in message
    )
    assert not samples.refusal({**none, "purge_limit": 5}, there(many))
    assert samples.refusal({**none, "purge_limit": 0}, there(many))
    assert "cloud_purge_limit" in samples.refusal({**none, "purge_limit": "many"}, there(many))


def test_data_volumes_that_would_be_lost_count_in_the_limit() -> None:
    names = [f"data-{number}" for number in range(4)]
    nodes = there(samples.talk())
    nodes["ik-node-02"]["info"]["volumes"].update({name: {"base": ""} for name in names})
    purging = {**samples.talk(), "purge": True, "purge_volumes": True}
    message = samples.refusal(purging, nodes)
    assert (
        "would remove 4 data volumes" in message
        and "data-0 on ik-node-02, data-1 on" in message
        and "-e cloud_purge_limit=4" in message
    )
    assert not samples.refusal({**purging, "purge_limit": 4}, nodes)
    assert not samples.refusal({**purging, "volumes": {"data-0": {"size": "1G"}}}, nodes)
    # Kept aside, they can be put back; an instance's own disk goes with it and counts once.
    assert not samples.refusal({**purging, "purge_volumes": False}, nodes)
    both = samples.refusal({**purging, "instances": {}, "purge_limit": 5}, nodes)
    assert (
        "2 instances (web-1 on ik-node-01, web-2 on ik-node-02) and 4 data volumes" in both
        and "-e cloud_purge_limit=6" in both
    )
    assert not samples.refusal({**purging, "instances": {}, "purge_limit": 6}, nodes)


def test_with_a_missing_node_what_may_live_there_stays() -> None:
    nodes = there(samples.talk(), missing="ik-node-02")
    tunnels = [
        item["name"] for item in make_plan(samples.talk(), samples.two_nodes())["nodes"]["ik-node-01"]["tunnels"]
    ]
    # web-3 is declared and may live on the missing node; a disk of it on this one may be what an interrupted run left.
    third = samples.talk(**{"instances.web-3": {"image": "bionic", "network": "blue"}, "instances.web-2": None})
    identifier = make_plan(third, samples.two_nodes())["instances"]["web-3"]["id"]
    nodes["ik-node-01"]["info"]["volumes"][f"compute-{identifier}"] = {"base": "bionic"}
    gone = purge(third, nodes)
    assert gone == {"ik-node-01": {}}
    assert tunnels and "volumes" not in gone["ik-node-01"]


@settings(max_examples=25)
@given(samples.clouds(), st.data())
def test_after_a_purge_there_is_nothing_more_to_purge(
    cloud: tuple[dict[str, Any], dict[str, Any]], data: st.DataObject
) -> None:
    declaration, nodes = cloud
    was = make_plan(declaration, nodes)
    stay = data.draw(st.sets(st.sampled_from(sorted(declaration["instances"])))) if declaration["instances"] else set()
    less = {
        **declaration,
        "instances": {name: spec for name, spec in declaration["instances"].items() if name in stay},
        "purge": True,
        "purge_limit": 100,
    }
    now = make_plan(less, {name: {**spec, "info": info(was, name)} for name, spec in nodes.items()})
    gone = [item["name"] for leaving in now["purge"].values() for item in leaving.get("instances", [])]
    assert sorted(gone) == sorted(set(declaration["instances"]) - stay)
    after = make_plan(less, {name: {**spec, "info": info(now, name)} for name, spec in nodes.items()})
    assert all(leaving == {} for leaving in after["purge"].values())
    assert after["nodes"] == now["nodes"]


@settings(max_examples=60)
@given(samples.JSON)
def test_any_node_info_is_taken(value: Any) -> None:
    keys = ("boot_files", "protected", "seeds", "volumes", "kept_bases", "taps", "tunnels", "networks", "images")
    samples.refusal({**samples.talk(), "purge": True}, samples.two_nodes(n1=dict.fromkeys(keys, value)))


def test_one_that_is_known_by_its_id_alone_is_the_declared_one() -> None:
    """Its files don't say any more who it is: it stays where it lives, and does not count as one that goes."""
    nodes = there(samples.talk())
    instances = nodes["ik-node-01"]["info"]["instances"]
    identifier = instances["web-1"]["id"]
    instances[f"compute-{identifier}"] = {**instances.pop("web-1"), "labels": {}, "error": "start is not there."}
    # A node with fewer instances, where one that is new would go.
    nodes["ik-node-00"] = {"underlay_address": "10.10.20.100", "info": {}}
    plan = make_plan({**samples.talk(), "purge": True, "purge_limit": 0}, nodes)
    assert plan["instances"]["web-1"]["node"] == "ik-node-01"
    assert plan["purge"] == {"ik-node-00": {}, "ik-node-01": {}, "ik-node-02": {}} and plan["undeclared"] == {}


def test_remains_by_an_id_beside_the_whole_instance_are_no_second_one() -> None:
    nodes = there(samples.talk())
    identifier = nodes["ik-node-01"]["info"]["instances"]["web-1"]["id"]
    nodes["ik-node-02"]["info"]["instances"][f"compute-{identifier}"] = {"id": identifier, "labels": {}, "memory": 1}
    assert purge(samples.talk(), nodes)["ik-node-02"]["instances"] == [
        {"name": f"compute-{identifier}", "id": identifier}
    ]
