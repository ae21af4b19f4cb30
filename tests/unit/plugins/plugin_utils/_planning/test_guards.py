# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A network keeps its VNI and its addresses while instances are in it, and no disk shrinks."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.plugin_utils._planning.planner import make_plan
from ansible_collections.ikcloud.compute.tests.unit.plugins.plugin_utils import samples

GREEN = {"vni": 99, "cidr": "192.168.99.0/24"}
BASE = {"networks.green": GREEN, "instances.web-2.address": None}
VNI = {"networks.blue.vni": 89}
CIDR = {"networks.blue.cidr": "192.168.77.0/24"}


def talk(**changes: Any) -> dict[str, Any]:
    return samples.talk(**{**BASE, **changes})


def info(plan: dict[str, Any], node: str) -> dict[str, Any]:
    """What node_info says of a node once a plan is carried out."""
    lists = plan["nodes"][node]
    networks: dict[str, Any] = {item["network"]: {"bridge": item["name"], "tunnels": {}} for item in lists["bridges"]}
    for item in lists["tunnels"]:
        networks[item["network"]]["tunnels"][item["name"]] = {"vni": item["vni"]}
    cidrs = {item["name"]: item["cidr"] for item in lists["nats"]}
    return {
        "instances": {item["name"]: {"id": item["id"], "labels": item["labels"]} for item in lists["instances"]},
        "networks": networks,
        "recorded": {
            item["network"]: {"vni": item["labels"]["vni"], "cidr": cidrs[item["network"]]} for item in lists["bridges"]
        },
        "tunnels": [item["name"] for item in lists["tunnels"]],
        "taps": {item["name"]: {"bridge": item["bridge"], "instance": item["instance"]} for item in lists["taps"]},
    }


def there(declaration: dict[str, Any] | None = None, missing: str = "") -> dict[str, Any]:
    """The talk's nodes with a declaration carried out, one of them missing."""
    nodes = samples.two_nodes()
    plan = make_plan(talk() if declaration is None else declaration, nodes)
    return {name: {**spec, "info": None if name == missing else info(plan, name)} for name, spec in nodes.items()}


@pytest.mark.parametrize(
    ("change", "begin"),
    [
        (
            VNI,
            (
                "cloud_networks.blue.vni: 89 is declared and 88 is there, with instances in it, under which it does not"
                " change: web-1 on ik-node-01; web-2 on "
            ),
        ),
        (
            CIDR,
            "cloud_networks.blue.cidr: 192.168.77.0/24 is declared and 192.168.88.0/24 is there, with instances in it",
        ),
    ],
)
def test_refused_with_the_way_out(change: dict[str, Any], begin: str) -> None:
    message = samples.refusal(talk(**change), there())
    assert message.startswith(begin)
    key, other = ("vni", "cidr") if change is VNI else ("cidr", "vni")
    assert (
        f"declare another network with {key}: {next(iter(change.values()))} and a {other} of its own, move the"
        " instances to it (their nics)" in message
    )
    assert "(2)" not in message


def test_each_key_is_one_error() -> None:
    assert samples.refusal(talk(**VNI, **CIDR), there()).startswith("2 problems:\n(1) cloud_networks.blue.vni: ")


def test_no_more_than_three_are_named() -> None:
    more = {
        f"instances.web-{number}": {"image": "bionic", "network": "blue", "power": "stopped"} for number in range(3, 7)
    }
    message = samples.refusal(talk(**more, **VNI), there(talk(**more)))
    named = message.partition("does not change: ")[2].partition(". Write")[0].split("; ")
    assert len(named) == 4 and named[-1] == "and 3 more"


def test_what_is_not_in_it_does_not_hold_it() -> None:
    nodes = there()
    assert not samples.refusal(talk(), nodes)
    assert not samples.refusal(talk(**{"networks.green": {"vni": 100, "cidr": "10.9.0.0/16"}}), nodes)
    assert not samples.refusal(talk(**VNI, **CIDR), samples.two_nodes())
    # Other properties, encapsulation among them, change as they do.
    assert not samples.refusal(talk(**{"networks.blue.encapsulation": "vxlan", "networks.blue.nat": False}), nodes)
    # A new instance in it: it was empty.
    empty = there(
        talk(**{"instances.web-1": None, "instances.web-2": None, "networks.blue.nodes": ["ik-node-01", "ik-node-02"]})
    )
    assert not samples.refusal(talk(**VNI, **CIDR), empty)


def test_what_leaves_it_in_this_run_does_not_hold_it() -> None:
    nodes = there()
    one = {"instances.web-1.network": "green"}
    assert "change: web-2 on ik-node-02. Write" in samples.refusal(talk(**one, **VNI), nodes)
    assert not samples.refusal(talk(**one, **{"instances.web-2.network": "green"}, **VNI), nodes)


def test_what_is_not_declared_any_more_holds_it_unless_it_is_purged() -> None:
    less = talk(**{"instances.web-1": None, "instances.web-2": None}, **CIDR)
    assert "web-1 on ik-node-01; web-2 on ik-node-02" in samples.refusal(less, there())
    assert not samples.refusal({**less, "purge": True}, there())
    assert "change: web-1 on ik-node-01. Write" in samples.refusal(
        {**talk(**{"instances.web-2": None}, **CIDR), "purge": True}, there()
    )


def test_another_name_is_another_network() -> None:
    renamed = {**talk(**{"networks.blue": None, "networks.blau": samples.TALK["networks"]["blue"]}), "purge": True}
    for instance in renamed["instances"].values():
        instance["network"] = "blau"
    assert not samples.refusal(renamed, there())


def test_a_port_tells_as_the_labels_do() -> None:
    nodes = there()
    for spec in nodes.values():
        for instance in spec["info"]["instances"].values():
            instance["labels"] = {}
    assert "change: web-1 on ik-node-01; web-2 on ik-node-02. Write" in samples.refusal(talk(**VNI), nodes)


def test_tunnels_tell_the_vni_where_no_file_does() -> None:
    nodes = there()
    for spec in nodes.values():
        spec["info"]["recorded"] = {}
    assert "cloud_networks.blue.vni: 89 is declared and 88 is there" in samples.refusal(talk(**VNI), nodes)
    assert not samples.refusal(talk(**CIDR), nodes)  # nothing tells


def test_what_was_changed_by_hand_or_interrupted_is_mended() -> None:
    nodes = there()
    first, second = (spec["info"] for spec in nodes.values())
    for tunnel in first["networks"]["blue"]["tunnels"].values():
        tunnel["vni"] = 5
    second["recorded"]["blue"] = {"vni": 7, "cidr": "10.1.0.0/16"}
    assert not samples.refusal(talk(), nodes)
    assert "89 is declared and 5 or 7 or 88 is there" in samples.refusal(talk(**VNI), nodes)


def test_a_file_that_was_edited_where_nothing_else_tells_is_mended() -> None:
    nodes = there()
    for spec in nodes.values():
        spec["info"]["recorded"]["blue"]["cidr"] = "10.1.0.0/16"
    assert not samples.refusal(talk(), nodes)


def test_what_another_node_has_by_now_does_not_count() -> None:
    """Made with another VNI beside a node that was missing, a network is not remade under the instances there once that
    is back.
    """
    nodes = there()
    blue = nodes["ik-node-01"]["info"]
    blue["recorded"]["blue"]["vni"] = 89
    for tunnel in blue["networks"]["blue"]["tunnels"].values():
        tunnel["vni"] = 89
    message = samples.refusal(talk(**VNI), nodes)
    assert "89 is declared and 88 is there" in message and "web-2 on ik-node-02. Write" in message


def test_what_may_be_on_a_node_that_is_missing_holds_it() -> None:
    nodes = there(missing="ik-node-02")
    message = samples.refusal(talk(**{"instances.web-1.network": "green"}, **VNI), nodes)
    assert "change: web-2, which may live on ik-node-02 (not reached, or not in this run). Write" in message
    # Known to be elsewhere, and to have left.
    moved = {"instances.web-1.network": "green", "instances.web-1.address": "192.168.99.7", "instances.web-2": None}
    assert not samples.refusal(talk(**moved, **VNI), nodes)


@pytest.mark.parametrize(
    "odd",
    [
        None,
        5,
        "x",
        [],
        {"blue": None},
        {"blue": {"vni": "x", "cidr": 5, "tunnels": [1], "bridge": ["a"]}},
        {"blue": {"vni": True}},
    ],
)
def test_what_node_info_never_says_counts_as_unknown(odd: Any) -> None:
    nodes = samples.two_nodes(
        n1={"recorded": odd, "networks": odd, "taps": odd, "instances": {"web-1": {"labels": {"networks": odd}}}}
    )
    assert not samples.refusal(talk(**VNI), nodes)


GIB = 1 << 30


def disks(rebuild: object = None, sizes: Any = None, **changes: Any) -> str:
    """Give why a declaration is refused where web-1's disk has 10 GiB, web-2's 3, and data-1, which is web-1's, 2."""
    ids = {name: spec["id"] for name, spec in make_plan(talk(), samples.two_nodes())["instances"].items()}
    sizes = sizes or {"web-1": 10 * GIB, "web-2": 3 * GIB, "data-1": 2 * GIB}
    volumes = {
        f"compute-{ids[name]}" if name in ids else name: {"base": None, "virtual_size": size}
        for name, size in sizes.items()
    }
    first = {name: volume for name, volume in volumes.items() if name != f"compute-{ids['web-2']}"}
    nodes = samples.two_nodes(
        n1={"volumes": first}, n2={"volumes": {name: volume for name, volume in volumes.items() if name not in first}}
    )
    declaration = {
        **talk(**{"instances.web-1.node": "ik-node-01"}),
        "volumes": {"data-1": {"size": "2G", "instance": "web-1"}},
    }
    for path, value in changes.items():
        kind, name, key = path.split("__")
        declaration[kind][name.replace("_", "-")][key] = value
    try:
        make_plan(declaration, nodes, rebuild=rebuild)
    except ComputeError as error:
        return str(error)
    return ""


def test_a_disk_never_shrinks() -> None:
    assert (
        not disks()
        and not disks(instances__web_1__disk="20G", volumes__data_1__size="3G")
        and not disks(instances__web_1__disk=None)
    )
    message = disks(instances__web_1__disk="5G")
    assert (
        message.startswith("cloud_instances.web-1.disk: 5G is declared, and the volume compute-")
        and " on ik-node-01 has 10G: " in message
    )
    assert "Declare 10G or more." in message and "ikcloud.compute.rebuild -e instances=web-1." in message
    message = disks(volumes__data_1__size="2097151K")
    assert (
        message.startswith(
            "cloud_volumes.data-1.size: 2097151K is declared, and the volume data-1 on ik-node-01 has 2G: "
        )
        and "another, smaller" in message
    )
    message = disks(instances__web_1__disk="5G", instances__web_2__disk="1G", volumes__data_1__size="1G")
    assert message.startswith("3 problems:\n") and "cloud_instances.web-2.disk: 1G" in message


def test_a_disk_that_does_not_say_its_size_is_left_to_the_module() -> None:
    for odd in (None, "x", True, -1):
        assert not disks(sizes={"web-1": odd, "data-1": odd}, instances__web_1__disk="5G", volumes__data_1__size="1G")


def test_a_rebuild_looks_at_what_it_takes_and_does_not_make_anew() -> None:
    assert not disks(rebuild="web-1", instances__web_1__disk="5G", instances__web_2__disk="1G")
    assert disks(rebuild="web-1", instances__web_1__disk="5G", volumes__data_1__size="1G").startswith(
        "cloud_volumes.data-1.size: 1G"
    )
    assert disks(rebuild="web-2", instances__web_1__disk="5G") == ""
