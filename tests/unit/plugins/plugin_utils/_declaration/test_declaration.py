# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a declaration is said with its place and a way out, all at once."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.ikcloud.compute.plugins.plugin_utils._declaration import ip
from ansible_collections.ikcloud.compute.plugins.plugin_utils._declaration.declaration import parse
from ansible_collections.ikcloud.compute.plugins.plugin_utils._planning.planner import make_plan
from ansible_collections.ikcloud.compute.tests.unit.plugins.plugin_utils import samples
from ansible_collections.ikcloud.compute.tests.unit.plugins.plugin_utils.samples import refusal, talk, two_nodes

GREEN = {"vni": 89, "cidr": "192.168.89.0/24"}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("networks.blue.vni", 1 << 24, ["cloud_networks.blue.vni: 16777216", "0 to 16777215"]),
        ("networks.blue.vni", True, ["cloud_networks.blue.vni: True"]),
        ("networks.blue.vni", "x" * 500, ["cloud_networks.blue.vni", "..."]),
        ("networks.blue.vni", None, ["cloud_networks.blue: vni is missing"]),
        (
            "networks.green",
            {**GREEN, "vni": "88"},
            ["cloud_networks.green.vni: the VNI 88 is used already at cloud_networks.blue.vni"],
        ),
        ("networks.blue.cidr", "192.168.88.7/24", ["cloud_networks.blue.cidr", "host bits", "192.168.88.0/24"]),
        ("networks.blue.cidr", "192.168.88.0", ["cloud_networks.blue.cidr", "address and prefix"]),
        ("networks.blue.cidr", "fd00::/64", ["only IPv4"]),
        ("networks.blue.cidr", "10.0.0.0/31", ["prefix of 31"]),
        ("networks.blue.cidr", "127.0.0.0/24", ["reserved"]),
        ("networks.blue.cidr", "224.0.0.0/8", ["reserved"]),
        ("networks.blue.cidr", "10.10.20.0/24", ["holds 10.10.20.101, the underlay address of ik-node-01"]),
        ("networks.blue.cidr", "192.168.88.100/30", ["cloud_networks.blue.cidr", "room for 1"]),
        ("networks.blue.gateway", "192.168.89.1", ["cloud_networks.blue.gateway", "192.168.88.1 to 192.168.88.254"]),
        ("networks.blue.gateway", False, ["cloud_networks.blue.nat: it needs a gateway"]),
        ("networks.blue.gateway_node", "ik-node-1", ["Did you mean ik-node-01?"]),
        ("networks.blue.nodes", ["nowhere"], ["cloud_networks.blue.nodes[0]"]),
        ("networks.blue.mtu", 1500, ["cloud_networks.blue.mtu: 1500", "1450 are left"]),
        ("networks.blue.dns", ["8.8.8.8", "dns"], ["cloud_networks.blue.dns[1]"]),
        ("networks.blue.encapsulation", "gre", ["geneve, vxlan"]),
        (
            "networks.green",
            {"vni": 89, "cidr": "192.168.88.128/25"},
            ["overlaps with 192.168.88.0/24 of cloud_networks.blue", "ik-node-01"],
        ),
        ("instances.web-2.address", "192.168.88.0", ["cloud_instances.web-2.address", "network's own"]),
        ("instances.web-2.address", "192.168.88.255", ["broadcast"]),
        ("instances.web-2.address", "192.168.88.1", ["gateway of blue"]),
        ("instances.web-2.address", "192.168.89.2", ["outside of blue"]),
        ("instances.web-2.address", "192.168.88.2/24", ["without prefix"]),
        (
            "instances.web-1.address",
            "192.168.88.102",
            ["192.168.88.102", "cloud_instances.web-1.address", "cloud_instances.web-2.address"],
        ),
        ("instances.web-1.mac", "02:00:5E:00:00:01", ["lower case"]),
        ("instances.web-1.mac", 190_000, ["quotes"]),
        ("instances.web-1.mac", "02:c5:8e:3d:a0:27", ["cloud_instances.web-1.mac", "cloud_instances.web-2.mac"]),
        ("instances.web-1.image", "bionc", ["Did you mean bionic?"]),
        ("instances.web-1.network", "blu", ["Did you mean blue?"]),
        ("instances.web-1.nics", [{"network": "blue"}], ["cloud_instances.web-1.network: it can't stand beside nics"]),
        (
            "instances.web-3",
            {"image": "bionic", "nics": [{"network": "blue"}, {"network": "blue"}]},
            ["nics[1].network", "nics[0]"],
        ),
        ("instances.web-3", {"image": "bionic", "nics": []}, ["list of 1 to 8"]),
        ("instances.web-3", None, []),
        ("instances.web-3", "bionic", ["cloud_instances.web-3: 'bionic' is not a mapping"]),
        ("instances.web-1.ram", 5, ["unknown key 'ram'. Did you mean memory?"]),
        ("instances.web-1.cpu_max", 1, ["1 is less than cpu, 2"]),
        ("instances.web-1.memory_max", "1G", ["1024 is less than memory, 4096"]),
        ("instances.web-1.memory_max", "4X", ["write MiB as a number"]),
        ("instances.web-1.memory", "4X", ["write MiB as a number"]),
        ("instances.web-1.memory", "1K", ["write MiB as a number"]),
        ("instances.web-1.memory", 4, ["from 16 to"]),
        ("instances.web-1.cpu", 0, ["from 1 to 255"]),
        ("instances.web-1.cpu", 1.5, ["from 1 to 255"]),
        ("instances.web-1.disk", 10, ["Write the unit: 10G"]),
        ("instances.web-1.disk", "ten", ["cloud_instances.web-1.disk"]),
        ("instances.web-1.power", False, ["running, stopped"]),
        ("instances.web-1.user", "Root", ["user name"]),
        ("instances.web-1.user_data", "echo", ["#cloud-config"]),
        ("instances.web-1.ssh_keys", ["ssh-rsa"], ["cloud_instances.web-1.ssh_keys[0]", "SSH public key"]),
        ("instances.web-1.vnc", "loopback", ["vnc_display"]),
        ("instances.Web", {"image": "bionic", "network": "blue"}, ["'Web' is not a valid name"]),
        ("instances.{{ x }}", {}, ["is not a valid name"]),
        ("instances.a\nb", {}, ["is not a valid name"]),
        ("instances.é", {}, ["is not a valid name"]),
        ("instances." + "a" * 64, {}, ["at most 63"]),
        ("images.bionic.checksum", "md5:1", ["sha256:"]),
        ("images.bionic.checksum", None, ["checksum is missing"]),
        ("images.bionic.url", "ftp://x/y", ["https://"]),
        ("images.bionic.url", "https://[x/y", ["whole URL"]),
        ("images.bionic.path", "/x", ["just one of url"]),
        ("images.bionic.url", None, ["just one of url"]),
        ("images.new", {"path": "/srv/../x"}, ["leads upwards"]),
        ("images.new", {"path": "/srv/a,b"}, ["absolute path"]),
        ("ssh_keys", [3], ["cloud_ssh_keys: [3] is not a list of texts"]),
        ("underlay_mtu", 9, ["cloud_underlay_mtu: 9"]),
        ("restart", "always", ["cloud_restart: 'always' is not one of never, when_required"]),
        ("restart_serial", "x", ["cloud_restart_serial: 'x' is not a whole number of instances"]),
        ("restart_serial", "2", []),
        ("purge", "maybe", ["cloud_purge: 'maybe' is neither true nor false"]),
        ("instances", 7, ["cloud_instances: 7 is neither a mapping"]),
    ],
)
def test_a_problem_is_named(path: str, value: Any, words: list[str]) -> None:
    message = refusal(talk(**{path: value}))
    assert bool(message) == bool(words)
    for word in words:
        assert word in message


def test_a_password_is_never_repeated() -> None:
    message = refusal(talk(**{"instances.web-1.password_hash": "s3cret"}))
    assert "web-1.password_hash" in message and "s3cret" not in message


def test_a_private_key_is_never_repeated() -> None:
    message = refusal(talk(ssh_keys=["-----BEGIN OPENSSH PRIVATE KEY-----\ns3cret"]))
    assert "cloud_ssh_keys[0]" in message and "s3cret" not in message


def test_all_problems_come_at_once() -> None:
    message = refusal(
        talk(
            **{
                "networks.blue.vni": -1,
                "instances.web-1.cpu": "x",
                "instances.web-2.image": "y",
                "images.bionic.checksum": "z",
            }
        )
    )
    assert message.startswith("4 problems:\n(1) ") and message.count("\n") == 4


def test_of_very_many_problems_the_first_are_listed_and_all_counted() -> None:
    """A line each: nobody reads two hundred sentences in one."""
    spec = {"image": "none", "network": "blue"}
    lines = refusal(talk(instances={f"web-{number}": spec for number in range(200)})).split("\n")
    assert (
        len(lines) == 22
        and lines[0] == "200 problems:"
        and lines[1].startswith("(1) cloud_instances.web-")
        and lines[-1] == "... and 180 more."
    )


def test_a_name_that_stands_twice_in_a_list_is_named_with_both_places() -> None:
    spec = {"image": "bionic", "network": "blue"}
    message = refusal(talk(instances=[{"name": "web-1", **spec}, {"name": "x", **spec}, {"name": "web-1", **spec}]))
    assert (
        message == "cloud_instances[2].name: 'web-1' stands already at cloud_instances[0]; a name may be declared once."
    )


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("yes", "true or false"),
        ("null", "nothing"),
        ("0x10", "a number"),
        ("12:30:00", "a number"),
        ("2024-01-01", "a date"),
    ],
)
def test_a_name_that_yaml_reads_as_something_else(written: str, read: str) -> None:
    spec = "{image: bionic, network: blue}"
    for text in (f"{{{written}: {spec}}}", f"[{{name: {written}, image: bionic, network: blue}}]"):
        said = refusal(talk(instances=yaml.safe_load(text)))
        assert f"YAML reads this name as {read}" in said and "put it in quotes" in said
    quoted = yaml.safe_load(f"{{'{written}': {spec}}}")
    assert "YAML" not in refusal(talk(instances=quoted))


@pytest.mark.parametrize(
    ("memory", "mebibytes"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("4G", 4096),
        ("4GiB", 4096),
        ("512M", 512),
        ("4GB", 4096),
        ("4 GiB", 4096),
        ("1.5G", 1536),
        (4096.0, 4096),
        (None, 1024),
    ],
)
def test_memory(memory: Any, mebibytes: int) -> None:
    plan = make_plan(talk(**{"instances.web-1.memory": memory}), two_nodes())
    assert plan["instances"]["web-1"]["memory"] == mebibytes


@pytest.mark.parametrize(
    ("disk", "size"),
    [
        ("10G", "10G"),
        ("10 GiB", "10G"),
        ("10GB", "10G"),
        ("10Gi", "10G"),
        ("10240M", "10G"),
        (1 << 30, "1G"),
        ("1500000768", "1500000768"),
        (None, None),
    ],
)
def test_disk(disk: Any, size: str | None) -> None:
    plan = make_plan(talk(**{"instances.web-1.disk": disk}), two_nodes())
    volume = next(
        item
        for lists in plan["nodes"].values()
        for item in lists["volumes"]
        if item["name"] == f"compute-{plan['instances']['web-1']['id']}"
    )
    assert volume.get("size") == size


def test_overlap_is_fine_without_a_common_gateway_node() -> None:
    for extra in ({"gateway_node": "ik-node-02"}, {"gateway": False}):
        green = {"vni": 89, "cidr": "192.168.88.0/24", **extra}
        # web-2 is on ik-node-02, where both would be then.
        assert not refusal(talk(**{"networks.green": green, "instances.web-2": None}))
        assert bool(refusal(talk(**{"networks.green": green}))) == ("gateway_node" in extra)
    message = refusal(
        talk(
            **{
                "networks.green": {"vni": 89, "cidr": "192.168.88.0/25", "gateway": False},
                "instances.both": {"image": "bionic", "nics": [{"network": "blue"}, {"network": "green"}]},
            }
        )
    )
    assert "cloud_instances.both.nics" in message


def test_a_disk_smaller_than_its_image_is_refused_where_a_node_knows_the_image() -> None:
    nodes = two_nodes(n1={"images": {"bionic": {"virtual_size": 20 << 30}}})
    assert "cloud_instances.web-1.disk: 10G is less than the 20G of the image bionic" in refusal(talk(), nodes)


def test_underlay_addresses_are_checked() -> None:
    nodes = two_nodes()
    nodes["ik-node-02"]["underlay_address"] = None
    assert "compute_underlay_address of ik-node-02 is missing: blue" in refusal(talk(), nodes)
    nodes["ik-node-02"]["underlay_address"] = "10.10.20.101"
    assert "the underlay address 10.10.20.101 is used already at ik-node-01" in refusal(talk(), nodes)
    nodes["ik-node-02"]["underlay_address"] = "fd00::2"
    assert "both IP versions" in refusal(talk(), nodes)
    nodes["ik-node-02"]["underlay_address"] = "node-02.example.com"
    assert "nodes.ik-node-02.underlay_address" in refusal(talk(), nodes)


def test_no_node_at_all_is_a_problem_only_with_something_to_place() -> None:
    assert "compute_nodes" in refusal(talk(), {})
    assert make_plan({}, {})["nodes"] == {}


def test_netaddr_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ip, "HAS_NETADDR", False)
    assert "netaddr" in refusal(talk())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#cloud-config\nusers: [a\n foo: : b", "it is no valid YAML in line 3, column 5: "),
        ("#cloud-config\nusers:\n\t- name: me\n", "in line 3, column 1: found character that cannot start any token."),
        ("#cloud-config\npassword: *hunter2\n", "in line 2, column 11: found undefined alias."),
        ("#cloud-config\npassword: hunter2\x01\n", "in line 2, column 18: the character U+0001 may not stand in it."),
        ("#cloud-config\npassword: 2026-13-45\n", "it is no valid YAML: a value can't be read."),
        ("#cloud-config\n- hunter2\n", "it is no mapping of keys and values"),
    ],
)
def test_cloud_config_that_cloud_init_could_not_read(text: str, words: str) -> None:
    message = refusal(talk(**{"instances.web-1.user_data": text}))
    assert (
        message.startswith("cloud_instances.web-1.user_data: it is no")
        and words in message
        and "hunter2" not in message
    )


@pytest.mark.parametrize(
    "text",
    [
        "#cloud-config\n",
        "#cloud-config\npackages: [nginx]\n",
        "#!/bin/sh\n\t: [}\n",
        "#cloud-config-archive\n- {content: x}\n",
    ],
)
def test_text_that_cloud_init_takes(text: str) -> None:
    assert refusal(talk(**{"instances.web-1.user_data": text})) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"ssh_keys": None}, "Nobody will be able to log in to web-1, web-2: there is no SSH key; set cloud_ssh_keys."),
        (
            {"ssh_keys": None, "instances.web-1.user_data": {"packages": ["nginx"]}},
            "Nobody will be able to log in to web-1, web-2: there is no SSH key",
        ),
        (
            {"ssh_keys": ["# nobody"], "instances.web-2.password_hash": "$6$salt$abcdefghij"},
            "Nobody will be able to log in to web-1: there is no SSH key",
        ),
        (
            {"instances.web-1.user_data": "#cloud-config\npackages: [nginx]\n"},
            "Nobody will be able to log in to web-1: text as user_data replaces what",
        ),
        (
            {"instances.web-1.user_data": "#!/bin/sh\ntrue\n"},
            "Nobody will be able to log in to web-1: text as user_data replaces what",
        ),
        (
            {"instances.web-1.user_data": {"users": "default"}},
            "Nobody will be able to log in to web-1: there is no SSH key",
        ),
        ({"instances.web-1.user_data": "#cloud-config\nusers:\n- {name: me, ssh_import_id: [gh:me]}\n"}, ""),
        ({"instances.web-1.user_data": "#include\nhttps://example.com/x\n"}, ""),
        ({"instances.web-1.user_data": {"packages": ["nginx"]}}, ""),
    ],
)
def test_who_can_log_in_is_told_by_what_is_written(changes: dict[str, Any], words: str) -> None:
    warnings = [text for text in make_plan(talk(**changes), samples.two_nodes())["warnings"] if "log in" in text]
    assert len(warnings) == bool(words) and all(text.startswith(words) for text in warnings)


def test_a_refusal_repeats_no_secret() -> None:
    for wrong in (
        [{"user_data": "hunter2"}],
        {"web-1": [{"user_data": {"a": "hunter2"}, "image": "x"}]},
        [[{"password_hash": "hunter2"}]],
    ):
        message = refusal({**talk(), "instances": wrong})
        assert "hunter2" not in message and "(secret)" in message


@pytest.mark.parametrize("declared", [{}, {"instances": None}])
def test_a_purge_needs_to_be_told_that_there_are_no_instances(declared: dict[str, Any]) -> None:
    _cloud, problems = parse({"purge": True, **declared}, ["ik-node-01"])
    (problem,) = problems
    assert (
        problem.startswith("cloud_purge is true and cloud_instances is not declared at all")
        and "write cloud_instances: {}" in problem
    )
    assert (
        not parse({"purge": True, "instances": {}}, ["ik-node-01"])[1]
        and not parse({"purge": False, **declared}, [])[1]
    )
