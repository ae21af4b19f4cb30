# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a declaration of instances, and what a node lacks for them."""

from __future__ import annotations

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance import checks
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.resource import InstanceResource
from ansible_collections.ikcloud.compute.plugins.module_utils._core.changes import Item
from ansible_collections.ikcloud.compute.plugins.module_utils._core.reconcile import plan
from ansible_collections.ikcloud.compute.plugins.module_utils._system import systemd
from ansible_collections.ikcloud.compute.tests.unit.plugins.modules.instance_samples import (
    ALONE,
    FULL,
    LAYOUT,
    ROOT,
    TALK,
    declared,
    item,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def words(kind: InstanceResource, index: int = 0) -> str:
    return " ".join(kind.validate_item(index, kind.params["instances"][index]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Web"}, "instances[0].name: 'Web' is not a valid name"),
        ({"id": "AF95E879"}, "instances[0].id: 'AF95E879' is not an id"),
        ({"cpu": 0}, "instances[0].cpu: 0 is out of range; 1 to 255"),
        ({"cpu": 4, "cpu_max": 2}, "instances[0].cpu_max: 2 is out of range; 4 to 255"),
        ({"memory_max": 512}, "instances[0].memory_max: 512 is out of range; 4096 to"),
        (
            {"volumes": [{"path": f"/srv/{number}.img"} for number in range(17)]},
            "instances[0].volumes: 17 disks are too many; 16 fit",
        ),
        ({"memory": 8}, "instances[0].memory: 8 is out of range"),
        ({"grace": -1}, "instances[0].grace: -1 is out of range"),
        ({"volume": "disk.img"}, "instances[0].volume: 'disk.img' is not usable"),
        ({"volumes": [{"path": "/srv/../etc/shadow"}]}, "instances[0].volumes[0].path"),
        ({"volumes": [{"format": "raw"}]}, "instances[0].volumes[0]: give just one of name"),
        ({"volumes": [{"name": "a", "path": "/srv/a.img"}]}, "instances[0].volumes[0]: give just one of name"),
        ({"volumes": [{"name": "../a"}]}, "instances[0].volumes[0].name"),
        (
            {"volumes": [{"name": "compute-0a1b2c3d"}]},
            "instances[0].volumes[0].name: 'compute-0a1b2c3d' is an instance's own disk",
        ),
        ({"volume": "/home/me/disk.img"}, "instances[0].volume: /home/me/disk.img lies where services don't see it"),
        ({"cpu_model": "host,"}, "instances[0].cpu_model"),
        ({"user": "a b"}, "instances[0].user"),
        ({"vnc": "loopback"}, "instances[0].vnc_display: missing"),
        ({"nics": [{"tap": "a-link-that-is-too-long"}]}, "instances[0].nics[0].tap"),
        (
            {"nics": [{"mac": "01:00:5e:00:00:01"}]},
            "instances[0].nics[0].mac: '01:00:5e:00:00:01' is a multicast address",
        ),
        ({"nics": [{"mtu": 100}]}, "instances[0].nics[0].mtu: 100 is out of range"),
        (
            {"nics": [{"hostfwd": ["tcp:127.0.0.1:1:2"]}]},
            "instances[0].nics[0].hostfwd: only for type=user; this one is tap.",
        ),
        ({"nics": [{"type": "user", "hostfwd": ["tcp::22101-:22"]}]}, "instances[0].nics[0].hostfwd[0]"),
        ({"nics": [{"type": "user", "hostfwd": ["tcp:127.0.0.1:0:22"]}]}, "instances[0].nics[0].hostfwd[0]"),
        ({"nics": [{"type": "socket"}]}, "instances[0].nics[0]: type=socket needs local and remote, or mcast."),
        ({"nics": [{"type": "socket", "mcast": "127.0.0.1:5"}]}, "is not a multicast group and a port"),
        (
            {"nics": [{"type": "socket", "mcast": "230.0.0.1:5", "remote": "127.0.0.1:5"}]},
            "can't be given together with mcast",
        ),
        ({"nics": [{"type": "socket", "mcast": "230.0.0.1:5", "local": "x"}]}, "is not an IPv4 address"),
        (
            {"nics": [{"type": "socket", "local": "127.0.0.1:5", "remote": "127.0.0.1:70000"}]},
            "instances[0].nics[0].remote",
        ),
    ],
)
def test_problems(change: Item, message: str) -> None:
    assert message in words(declared({**TALK, **change}))


def test_systemd_needs_root() -> None:
    assert "systemd needs root" in words(declared(TALK, as_root=False))
    assert words(declared(ALONE, as_root=False)) == ""
    assert words(declared(FULL)) == ""


def test_root_is_checked() -> None:
    kind = declared(TALK)
    kind.root = "/srv/a,b"
    assert words(kind).startswith("root: '/srv/a,b' is not usable")


BAD = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda text: not set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
)


@settings(max_examples=80)
@given(BAD, st.sampled_from(["name", "id", "user", "tap", "mac", "hostfwd", "local", "mcast"]))
def test_special_characters_are_refused(text: str, where: str) -> None:
    text = text.replace("_", ",").replace(".", ",").replace(":", ",")
    nic = {"tap": {"tap": text}, "mac": {"mac": text}, "hostfwd": {"type": "user", "hostfwd": [text]}}
    nic.update(
        {
            "local": {"type": "socket", "local": text, "remote": "127.0.0.1:5"},
            "mcast": {"type": "socket", "mcast": text},
        }
    )
    change: Item = {"nics": [nic[where]]} if where in nic else {where: text}
    assert words(declared({**TALK, **change}))


@settings(max_examples=80)
@given(st.text(max_size=20), st.sampled_from(",%\"'`$\\ \n\t;&|<>(){}*?!#~=é\u2028\0"), st.text(max_size=20))
def test_paths_with_special_characters_are_refused(left: str, bad: str, right: str) -> None:
    assert checks.path_problem("volume", f"/{left}{bad}{right}") is not None


def test_two_places_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "node_memory", lambda: 10000)
    one: Item = {
        "name": "a",
        "vnc": "loopback",
        "vnc_display": 1,
        "nics": [{"tap": "vnet-1", "mac": "02:00:5e:10:00:01"}],
        "volume": "/srv/a.img",
    }
    two: Item = {**one, "name": "b", "volumes": [{"path": "/srv/a.img"}], "volume": "/srv/b.img"}
    kind = declared(one, two)
    assert kind.validate_list(kind.params["instances"]) == [
        (
            "instances[1].volumes[0].path: the disk /srv/a.img is taken already by instances[0].volume; each may be"
            " used once."
        ),
        "instances[1].vnc_display: the display 1 is taken already by instances[0].vnc_display; each may be used once.",
        (
            "instances[1].nics[0].mac: the MAC address 02:00:5e:10:00:01 is taken already by instances[0].nics[0].mac;"
            " each may be used once."
        ),
        (
            "instances[1].nics[0].tap: the link vnet-1 is taken already by instances[0].nics[0].tap; each may be used"
            " once."
        ),
    ]
    kind = declared({"name": "a", "id": "0a1b2c3d"}, {"name": "b", "id": "0a1b2c3d"})
    assert (
        "instances[1].id: the id 0a1b2c3d is taken already by instances[0].id"
        in kind.validate_list(kind.params["instances"])[0]
    )


def test_memory_must_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "node_memory", lambda: 3000)
    items = [item(name="a", memory=1000), item(name="b", memory=2001)]
    assert checks.cross_problems(items, LAYOUT) == [
        "instances: together they need 3001 MiB of memory, and this node has 3000 MiB (instances[1], b, takes most,"
        " 2001 MiB). Declare less, or place some on another node."
    ]
    assert checks.cross_problems([{**items[0], "power": "stopped"}, items[1]], LAYOUT) == []


def test_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "is_running", lambda: False)
    monkeypatch.setattr(checks, "kvm_works", lambda user: (False, "there is no /dev/kvm"))
    monkeypatch.setattr(checks, "memory_limit", lambda: 4095)
    kind = declared(
        {**TALK, "user": "no-such-user"},
        {**TALK, "name": "off", "id": "0a1b2c3d", "nics": [], "power": "stopped", "user": "no-such-user"},
    )
    changes = plan(kind, kind.params["instances"], {}, False)
    assert kind.missing_prerequisites(changes, True) == []
    assert kind.missing_prerequisites(changes, False) == [
        "This machine is not run by systemd; set the instances' supervisor to none.",
        "There is no user no-such-user on this node; the role ikcloud.compute.prepare makes it.",
        (
            "instance web-1: QEMU can't be started with 4096 MiB (memory_max, or memory) on this node, whose memory and"
            " swap are 4095 MiB. Declare less."
        ),
        (
            "instance web-1: accel is kvm, and KVM does not work on this node (there is no /dev/kvm). Declare accel:"
            " auto or tcg, or have KVM made to work."
        ),
        (
            f"instance web-1: its disk {ROOT}/lib/volumes/compute-af95e879.img is not there; the module"
            " ikcloud.compute.volume makes it."
        ),
        (
            f"instance web-1: its seed {ROOT}/lib/volumes/compute-af95e879-seed.img is not there; the module"
            " ikcloud.compute.seed makes it, or set seed to false."
        ),
        "instance web-1: the link vnet-af95e879 is not there; the module ikcloud.compute.tap makes it.",
    ]
