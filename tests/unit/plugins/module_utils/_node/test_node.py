# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node says of itself, bare or not."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._core.commands import PACKAGES
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._network.bridge import BridgeResource
from ansible_collections.ikcloud.compute.plugins.module_utils._network.firewall.nft import Rules, text_of
from ansible_collections.ikcloud.compute.plugins.module_utils._node import node
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.declared import from_item, paths
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.start_script import start_script
from ansible_collections.ikcloud.compute.plugins.module_utils._storage import qcow2
from ansible_collections.ikcloud.compute.plugins.module_utils._system import systemd
from ansible_collections.ikcloud.compute.tests.unit.plugins.modules.instance_samples import item

LINKS: list[dict[str, Any]] = [
    {"ifname": "lo", "flags": ["UP"], "addr_info": [{"local": "127.0.0.1", "prefixlen": 8, "scope": "host"}]},
    {
        "ifname": "ens3",
        "flags": ["UP"],
        "mtu": 1500,
        "addr_info": [
            {"local": "10.10.20.101", "prefixlen": 24, "scope": "global"},
            {"local": "fe80::1", "prefixlen": 64, "scope": "link"},
        ],
    },
    {
        "ifname": "br-gnv-fc814e42",
        "flags": ["UP"],
        "mtu": 1450,
        "ifalias": "ikcloud.compute/network/blue",
        "addr_info": [{"local": "192.168.88.1", "prefixlen": 24, "scope": "global"}],
    },
    {
        "ifname": "gnv-12345678",
        "flags": ["UP"],
        "mtu": 1450,
        "ifalias": "ikcloud.compute/tunnel/blue",
        "addr_info": [],
        "linkinfo": {"info_kind": "geneve", "info_data": {"id": 88, "remote": "10.10.20.102"}},
    },
    {
        "ifname": "vnet-af95e879",
        "flags": [],
        "mtu": 1450,
        "master": "br-gnv-fc814e42",
        "ifalias": "ikcloud.compute/instance/web-1",
        "addr_info": [],
    },
    {"ifname": "vnet-other", "flags": [], "ifalias": "somebody's", "addr_info": []},
]


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "UNIT_FOLDER", str(tmp_path / "units"))
    monkeypatch.setattr(systemd, "is_running", lambda: False)
    monkeypatch.setattr(Layout, "__post_init__", lambda self: None)


def test_bare_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tool, no folder, no user: that is reported, never an error."""

    def fail(*_arguments: object, **_options: object) -> None:
        raise ComputeError("not installed")

    monkeypatch.setattr(node, "missing_tools", list)
    monkeypatch.setattr(node, "run_json", fail)
    monkeypatch.setattr(node, "run", fail)
    found = node.read_node(Layout(str(tmp_path / "no/where")))
    json.dumps(found)
    assert found["missing_packages"] == sorted(set(PACKAGES.values()))
    assert (found["qemu"], found["folders_ready"], found["instances"], found["images"], found["networks"]) == (
        None,
        False,
        {},
        {},
        {},
    )
    assert found["disk_free_mb"] > 0


def test_links(monkeypatch: pytest.MonkeyPatch) -> None:
    assert node._sort_links(LINKS) == {
        "underlay_addresses": ["10.10.20.101/24"],
        "networks": {
            "blue": {
                "bridge": "br-gnv-fc814e42",
                "mtu": 1450,
                "up": True,
                "addresses": ["192.168.88.1/24"],
                "tunnels": {
                    "gnv-12345678": {"kind": "geneve", "vni": 88, "remote": "10.10.20.102", "mtu": 1450, "up": True}
                },
            }
        },
        "tunnels": ["gnv-12345678"],
        "taps": {"vnet-af95e879": {"mtu": 1450, "up": False, "instance": "web-1", "bridge": "br-gnv-fc814e42"}},
    }


def test_images_and_instances(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    for folder in layout.folders:
        Path(folder).mkdir(exist_ok=True)
    # QEMU's docs/interop/qcow2.txt: magic, version 2, and the size at offset 24.
    Path(layout.image("small")).write_bytes(
        b"QFI\xfb\0\0\0\2" + b"\0" * 12 + (16).to_bytes(4, "big") + (1 << 30).to_bytes(8, "big") + b"\0" * 65536
    )
    Path(layout.image("broken")).write_bytes(b"QFI\xfb\0\0\0\7")
    Path(layout.image(".half")).write_bytes(b"")
    declared = item(
        name="web-1", id="af95e879", memory=512, labels={"networks": ["blue"], "addresses": ["192.168.88.2"]}
    )
    declared["volumes"] = [
        {"name": "data-1", "path": None, "format": "qcow2"},
        {"name": None, "path": "/srv/data.img", "format": "raw"},
    ]
    start = Path(layout.instance("compute-af95e879").start)
    start.parent.mkdir()
    start.write_text(
        start_script(from_item(declared, layout, "tcg"), declared["labels"], paths(declared, layout)), encoding="utf-8"
    )
    Path(layout.instance("compute-af95e879").record).write_text("web-1\n", encoding="utf-8")
    found = node.read_node(layout)
    assert found["folders_ready"]
    assert found["images"]["small"] == {"format": "qcow2", "virtual_size": 1 << 30, "size": 32 + 65536, "ours": False}
    assert found["images"]["broken"]["virtual_size"] is None
    assert sorted(found["images"]) == ["broken", "small"]
    assert found["instances"] == {
        "web-1": {
            "id": "af95e879",
            "labels": {"networks": ["blue"], "addresses": ["192.168.88.2"]},
            "cpu": 1,
            "memory": 512,
            "memory_max": 512,
            "running": False,
            "enabled": False,
            "supervisor": "systemd",
            "volumes": ["data-1"],
        }
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_what_runs_as_the_user_outside_of_the_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = pwd.struct_passwd(("compute-service", "x", 60993, 60993, "ikcloud.compute", "/", "/usr/sbin/nologin"))
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: ours)
    assert node.user_processes(set()) == []
    # What the process calls itself may be anything.
    name = (
        "import ctypes, os, sys; os.setuid(60993); ctypes.CDLL(None).prctl(15, b'a\\x1b[2J\\n', 0, 0, 0);"
        " print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        (found,) = node.user_processes(set())
        assert found["pid"] == process.pid and found["name"].isprintable() and found["name"].startswith("a\\x1b[2J")
        assert node.user_processes({process.pid}) == []
        monkeypatch.setattr(node, "units_of", lambda _pid: {"system.slice", "compute-instance@0a1b2c3d.service"})
        assert node.user_processes(set()) == []
        monkeypatch.undo()
        assert node.user_processes(set(), "nobody") == []  # not ours to remove
        process.communicate()


def test_folders_that_are_not_as_they_were_made_are_due(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "root"))
    leaves = dict.fromkeys(("lib/images", "lib/volumes", "run/instances", "run/networks"), "it is not there")
    assert node.folders_due(layout) == leaves
    for folder in layout.folders:
        Path(folder).mkdir(mode=0o755)
    Path(layout.root).chmod(0o711)  # an administrator's
    # Images on a larger disk.
    Path(layout.images).rmdir()
    (tmp_path / "large").mkdir(mode=0o755)
    Path(layout.images).symlink_to(tmp_path / "large")
    assert node.folders_due(layout) == {}
    Path(layout.instances).chmod(0o777)
    (tmp_path / "large").chmod(0o775)
    assert node.folders_due(layout) == {
        "lib/images": f"mode of {tmp_path}/large is 0775, not 0755",
        "run/instances": f"mode of {layout.instances} is 0777, not 0755",
    }
    Path(layout.root).chmod(0o1777)
    assert node.folders_due(layout)["."] == f"mode of {layout.root} is 1777, not 0755"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_that_was_given_away_is_due(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    for folder in layout.folders:
        Path(folder).mkdir(mode=0o755, exist_ok=True)
    for folder in (layout.root, layout.networks):
        os.chown(folder, 65534, 65534)
    os.chmod(layout.root, 0o755)
    assert node.folders_due(layout) == {
        name: f"{path} does not belong to root"
        for name, path in ((".", layout.root), ("run/networks", layout.networks))
    }


QCOW2 = b"QFI\xfb\0\0\0\2"


def test_volumes_say_how_large_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(str(tmp_path))
    Path(layout.volumes).mkdir(parents=True)
    monkeypatch.setattr(
        node, "read_mark", lambda path, _mark: None if path.endswith("theirs.img") else f"volume/{Path(path).stem}"
    )
    for name, content in (
        ("whole", QCOW2 + b"\0" * 12 + (16).to_bytes(4, "big") + (3 << 30).to_bytes(8, "big") + b"\0" * 65536),
        ("raw", b"\0" * 512),
    ):
        Path(layout.volume(name)).write_bytes(content)
    Path(layout.volume("broken")).write_bytes(b"QFI\xfb\0\0\0\7")
    Path(layout.volume("theirs")).write_bytes(b"")
    found = node.read_node(layout)["volumes"]
    assert {volume["allocated"] for volume in found.values()} == {
        Path(layout.volume(name)).stat().st_blocks * 512 for name in found
    }
    sizes = {name: volume["virtual_size"] for name, volume in found.items()}
    assert sizes == {"whole": 3 << 30, "raw": None, "broken": None}


def test_what_the_files_of_networks_say(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    Path(layout.networks).mkdir(parents=True)
    bridge = {
        "name": "br-gnv-fc814e42",
        "network": "blue",
        "mtu": 1450,
        "addresses": [],
        "labels": {"vni": 88, "protect": True},
    }
    Path(layout.network("10-br-gnv-fc814e42.ip")).write_text(
        BridgeResource({"bridges": [bridge], "root": str(tmp_path), "state": "present"}).text(bridge)
    )
    Path(layout.network("50-nat-blue.nft")).write_text(
        text_of(Rules("blue", "fc814e42", "br-gnv-fc814e42", "192.168.88.0/24", "ens3"), "50-nat-blue.nft")
    )
    Path(layout.network("50-nat-red.nft")).write_text(
        text_of(Rules("red", "0a1b2c3d", "br-gnv-0a1b2c3d", "10.77.0.0/16", ""), "50-nat-red.nft")
    )
    Path(layout.network("50-nat-odd.nft")).write_text("table inet odd {}\n")
    found = node.read_node(layout)
    assert found["recorded"] == {"blue": {"vni": 88, "cidr": "192.168.88.0/24"}, "red": {"cidr": "10.77.0.0/16"}}
    assert found["protected"]["networks"] == ["blue"]


ROUTES = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "uplink"),
    [
        ("", "", None),
        (
            "ens4\t00000000\t0114A8C0\t0003\t0\t0\t200\t00000000\t0\t0\t0\n"
            "ens3\t00000000\t0114A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n",
            "",
            "ens3",
        ),
        (
            "ens3\t0014A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
            f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} 00000400 1 0 00000003 ens6\n",
            "ens6",
        ),
        ("", f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 1 0 00200200 lo\n", None),
    ],
)
def test_uplink(monkeypatch: pytest.MonkeyPatch, ipv4: str, ipv6: str, uplink: str | None) -> None:
    files = {"/proc/net/route": ROUTES + ipv4, "/proc/net/ipv6_route": ipv6}
    monkeypatch.setattr(node, "_lines", lambda path: files[path].splitlines())
    assert node.default_uplink() == uplink


def test_qemu_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        node,
        "open",
        lambda *_arguments, **_options: (_never for _never in ()).throw(FileNotFoundError()),
        raising=False,
    )
    monkeypatch.setattr(
        node,
        "run",
        lambda argv, **_options: subprocess.CompletedProcess(argv, 0, "QEMU emulator version 7.2.22 (Debian)\n", ""),
    )
    assert node._qemu_version() == "7.2.22"


def test_a_base_that_no_image_of_ours_can_be() -> None:
    """A volume's header is QEMU's user's to write: what it says must not reach a terminal."""
    layout = Layout()
    for name, expected in (
        ("bionic", "bionic"),
        ("\x1b[2J", None),
        ("\udcff", None),
        ("a\nb", None),
        ("x" * 900, None),
    ):
        assert node._base(layout, qcow2.Header("qcow2", 1, backing_file=f"{layout.images}/{name}.img")) == expected


@pytest.mark.parametrize(
    ("comment", "group", "words"),
    [
        (None, False, []),
        ("ikcloud.compute", True, []),
        (
            "",
            False,
            [
                "its comment is ''",
                "(`usermod --login OTHER compute-service`)",
                "usermod --comment ikcloud.compute compute-service",
            ],
        ),
        (
            "Robot",
            True,
            ["'Robot'", "(`usermod --login OTHER compute-service; groupmod --new-name OTHER compute-service`)"],
        ),
        (None, True, ["group compute-service without a user", "groupdel compute-service"]),
    ],
)
def test_an_account_of_somebody_else_s(
    monkeypatch: pytest.MonkeyPatch, comment: str | None, group: bool, words: list[str]
) -> None:
    users = (
        {}
        if comment is None
        else {"compute-service": pwd.struct_passwd(("compute-service", "x", 999, 999, comment, "/", "/bin/sh"))}
    )
    groups = {"compute-service": grp.struct_group(("compute-service", "x", 999, []))} if group else {}
    monkeypatch.setattr(pwd, "getpwnam", users.__getitem__)
    monkeypatch.setattr(grp, "getgrnam", groups.__getitem__)
    said = node.user_error()
    assert (said is None) == (not words)
    assert all(word in str(said) for word in words), said
