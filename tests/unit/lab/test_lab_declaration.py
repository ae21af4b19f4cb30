# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab declares: for the collection's modules, for its namespaces, for the inventory."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.ikcloud.compute.plugins.module_utils._cloudinit import documents
from ansible_collections.ikcloud.compute.plugins.module_utils._cloudinit.seed.resource import SeedResource
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.resource import InstanceResource
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.volumes import InstanceVolumeResource
from ansible_collections.ikcloud.compute.plugins.module_utils._core import reconcile
from ansible_collections.ikcloud.compute.plugins.module_utils._storage.image.resource import ImageResource

from lab import apt, distribution, forward, vm, webserver, wires
from lab.cluster import Cluster, inventory
from lab.container import Containers
from lab.distribution import Distribution, find_distribution
from lab.host import LabError
from lab.images import Image, image_key
from lab.recipes import RECIPES
from lab.settings import Settings, node_index, node_name

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7u5ZQzQxGJ1lF2R1nWmXk0iW0bqkPjv0o8kqB3xY6e lab"
IMAGE = Image("node", Path("/cache/images/node-0123456789abcdef.qcow2"), "0" * 64)
BOOKWORM, TRIXIE = (Distribution("debian", suite, "bookworm") for suite in ("bookworm", "trixie"))
FILES = Path(vm.__file__).parent / "files"


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name in [name for name in os.environ if name == "NODES" or name.startswith("IKCLOUD_LAB_")]:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings.from_environment()


def declared(monkeypatch: pytest.MonkeyPatch, nodes: int, **bases: str) -> dict[str, vm.Items]:
    wanted = settings(monkeypatch, NODES=str(nodes))
    return vm.declaration(wanted, IMAGE, bases, {name: 22100 + node_index(name) for name in wanted.node_names()}, KEY)


def checked(kind: type[reconcile.Resource], items: vm.Items) -> vm.Items:
    """Have a list examined as the module does it, and give it with its defaults."""
    done = ArgumentSpecValidator(reconcile.argument_spec(kind)).validate({kind.option: items, "root": "/home/me/lab"})
    assert done.error_messages == []
    params = done.validated_parameters
    assert reconcile.validate(kind(params)) == []
    found: vm.Items = params[kind.option]
    return found


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_the_modules_take_what_is_declared(monkeypatch: pytest.MonkeyPatch, nodes: int) -> None:
    lists = declared(monkeypatch, nodes)
    for kind, name in (
        (ImageResource, "lab_images"),
        (InstanceVolumeResource, "lab_volumes"),
        (SeedResource, "lab_seeds"),
        (InstanceResource, "lab_instances"),
    ):
        assert len(checked(kind, lists[name])) == (1 if kind is ImageResource else nodes)


def test_two_nodes_are_two_ends_of_one_cable(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (item["nics"][1] for item in declared(monkeypatch, 2)["lab_instances"])
    assert (one["local"], one["remote"]) == (two["remote"], two["local"]) == ("127.0.0.1:22201", "127.0.0.1:22202")
    assert one["mac"] != two["mac"]


def test_three_nodes_share_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [item["nics"][1] for item in declared(monkeypatch, 3)["lab_instances"]]
    assert {card["mcast"] for card in cards} == {"239.192.20.88:22201"}
    assert len({card["mac"] for card in cards}) == 3


def test_a_node_that_runs_keeps_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    volumes = declared(monkeypatch, 2, **{"ik-node-02": "node-older"})["lab_volumes"]
    assert [volume["image"] for volume in volumes] == ["node-0123456789abcdef", "node-older"]


def test_the_seed_reader_reads_what_the_module_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seed, _other = checked(SeedResource, declared(monkeypatch, 2)["lab_seeds"])
    (tmp_path / "seed").mkdir()
    for name, text in documents.texts(seed, "iid-1").items():
        (tmp_path / "seed" / name).write_text(text)
    subprocess.run(["sh", FILES / "seed-reader", tmp_path / "seed", tmp_path / "out"], check=True)
    read = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert read["hostname"] == "ik-node-01\n"
    assert read["keys"] == f"root {KEY}\n"
    assert read["network"].splitlines() == [
        "02:1b:c1:0d:01:01 mtu 1500",
        "02:1b:c1:0d:01:01 address 10.0.2.15/24",
        "02:1b:c1:0d:01:01 route 0.0.0.0/0 10.0.2.2",
        "02:1b:c1:0d:01:01 nameserver 10.0.2.3",
        "02:1b:c1:0d:02:01 mtu 1500",
        "02:1b:c1:0d:02:01 address 10.10.20.101/24",
    ]


@pytest.mark.parametrize(
    "variables",
    [
        {"NODES": "0"},
        {"NODES": "two"},
        {"NODES": "-1"},
        {"NODES": "21"},
        {"IKCLOUD_LAB_KIND": "docker"},
        {"IKCLOUD_LAB_SSH_PORT": "70000"},
    ],
)
def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    (name,) = variables
    with pytest.raises(SystemExit, match=name):
        settings(monkeypatch, **variables)


def test_the_namespaces_lines() -> None:
    assert wires.cables(3, "iklab-1-03") == [
        "link add outside-03 type veth peer name eth0 address 02:1b:c1:0c:00:03 netns iklab-1-03",
        "link set outside-03 master outside up",
        "link add underlay-03 type veth peer name eth1 address 02:1b:c1:0c:01:03 netns iklab-1-03",
        "link set underlay-03 master underlay up",
    ]
    assert "addr add 10.10.20.103/24 dev eth1" in wires.addresses(3)
    assert wires.between()[-1] == "addr add 10.0.2.2/24 dev outside"


def test_names_and_rules() -> None:
    assert [node_index(node_name(index)) for index in (1, 20)] == [1, 20]
    assert forward.parse("22101:10.0.2.101:22") == (22101, "10.0.2.101", 22)
    hosts: dict[str, Any] = inventory({"ik-node-03": 22103}, {"cloud_encapsulation": "vxlan"})
    assert hosts["compute_nodes"] == {"hosts": ["ik-node-03"], "vars": {"cloud_encapsulation": "vxlan"}}
    assert hosts["_meta"]["hostvars"]["ik-node-03"] == {"compute_underlay_address": "10.10.20.103"}


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes=0-", (0, 99)),
        ("bytes=10-19", (10, 19)),
        ("bytes=-5", (95, 99)),
        ("bytes=90-200", (90, 99)),
        ("bytes=100-", None),
        ("bytes=-", None),
        ("x", None),
    ],
)
def test_ranges_of_bytes(header: str, found: tuple[int, int] | None) -> None:
    assert webserver.parse_range(header, 100) == found


def test_only_the_distributions_own_sources_count() -> None:
    text = (
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm main #"
        " ours\ndeb http://mirror.example/debian bookworm-backports main\ndeb http://vendor.example/apt stable"
        " vendor\ndeb [signed-by=/etc/apt/vendor.gpg] http://vendor.example/apt bookworm main\ndeb-src"
        " http://mirror.example/debian bookworm main\n"
    )
    lines = [line for source in apt.parse_one_line(text) for line in source.lines(BOOKWORM)]
    assert lines == [
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm main"
    ]
    (source,) = apt.parse_deb822(
        "# a comment\nTypes: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents:"
        " main\n\nEnabled: no\nURIs: x\n"
    )
    assert source.lines(BOOKWORM) == [
        f"deb http://mirror.example/debian {suite} main" for suite in ("bookworm", "bookworm-updates")
    ]


def test_another_release_comes_from_the_same_mirror(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(
        "deb http://mirror.example/debian bookworm main\ndeb http://mirror.example/debian bookworm-updates main\n"
        "deb http://mirror.example/security bookworm-security main\ndeb http://vendor.example/apt bookworm vendor\n"
    )
    assert apt.distribution_sources(TRIXIE, tmp_path) == [
        "deb http://mirror.example/debian trixie main",
        "deb http://mirror.example/debian trixie-updates main",
        "deb http://mirror.example/security trixie-security main",
    ]
    with pytest.raises(LabError, match="no apt source of noble itself found"):
        apt.distribution_sources(Distribution("ubuntu", "jammy", "noble"), tmp_path)


@pytest.mark.parametrize(
    ("host", "suite", "found"),
    [
        ("debian bookworm", "", "bookworm"),
        ("debian bookworm", "trixie", "trixie"),
        ("debian trixie", "bookworm", "bookworm"),
        ("debian forky", "", "forky"),
        ("ubuntu noble", "jammy", "jammy"),
        (
            "ubuntu noble",
            "trixie",
            "DISTRIBUTION=trixie is not a supported release of Ubuntu.*; choose one of noble, jammy$",
        ),
        (
            "debian bookworm",
            "noble",
            "DISTRIBUTION=noble is not a supported release of Debian.*; choose one of bookworm, trixie$",
        ),
        ("fedora", "", "built from Debian or Ubuntu, and this machine runs fedora"),
    ],
)
def test_the_release_is_one_of_the_hosts_distribution(
    monkeypatch: pytest.MonkeyPatch, host: str, suite: str, found: str
) -> None:
    name, _blank, codename = host.partition(" ")
    monkeypatch.setattr(
        distribution, "os_release", lambda: {"ID": name, **({"VERSION_CODENAME": codename} if codename else {})}
    )
    if " " in found:
        with pytest.raises(LabError, match=found):
            find_distribution(suite)
    else:
        assert find_distribution(suite).suite == found


def test_each_release_has_its_own_images() -> None:
    assert image_key(RECIPES["small"], BOOKWORM) != image_key(RECIPES["small"], TRIXIE)
    assert image_key(RECIPES["small"], BOOKWORM) == image_key(
        RECIPES["small"], Distribution("debian", "bookworm", "trixie")
    )


def test_a_lab_of_another_release_is_not_grown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = replace(settings(monkeypatch, IKCLOUD_LAB_RUN=str(tmp_path)), kind="container", distribution=TRIXIE)
    (tmp_path / "nodes" / "ik-node-01").mkdir(parents=True)
    (tmp_path / "ports.json").write_text('{"ik-node-01": 22101, "ik-node-02": 22102}')
    (tmp_path / "kind").write_text("container")
    (tmp_path / "distribution").write_text("bookworm")
    monkeypatch.setattr(Containers, "running", lambda self, name: 1)
    with pytest.raises(LabError, match=r"another kind, size or distribution \(container, 2 nodes, bookworm\)"):
        Cluster(found)._refuse_another()
    (tmp_path / "distribution").write_text("trixie")
    Cluster(found)._refuse_another()


def test_nodes_are_found_by_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules have files of theirs beside these."""
    monkeypatch.setenv("IKCLOUD_LAB_RUN", str(tmp_path))
    instances = tmp_path / "run" / "instances"
    for name in ("compute-00000002", "compute-00000001"):
        (instances / name).mkdir(parents=True)
        (instances / f"{name}.name").touch()
    assert vm.Machines(Settings.from_environment()).found() == ["ik-node-01", "ik-node-02"]
