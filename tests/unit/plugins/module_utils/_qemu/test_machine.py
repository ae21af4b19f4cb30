# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine as a value and as QEMU's command line: golden scripts, reading them back, and what differs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance import service
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.stop_script import stop_script
from ansible_collections.ikcloud.compute.plugins.module_utils._core.changes import Item
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.argv import (
    describe,
    from_argv,
    number,
    parse_options,
    phrases,
    to_argv,
)
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.declared import from_item, mac, paths
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.machine import (
    FIRST_SLOT,
    LAST_SLOT,
    Machine,
    Nic,
    diff,
    placed,
)
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.start_script import (
    Start,
    parse_script,
    start_script,
)
from ansible_collections.ikcloud.compute.tests.unit.plugins.modules.instance_samples import (
    FULL,
    LAYOUT,
    item,
    start_text,
)
from hypothesis import given
from hypothesis import strategies as st

GOLDEN = Path(__file__).parents[3] / "golden" / "instance"
TALK: Item = {
    "name": "web-1",
    "id": "af95e879",
    "cpu": 2,
    "memory": 4096,
    "accel": "kvm",
    "nics": [{"mac": "02:00:5e:10:00:01"}],
}
CASES: dict[str, Item] = {
    "talk": TALK,
    "full": FULL,
    "alone": {
        "name": "ik-node-01",
        "memory": 3072,
        "cpu": 2,
        "accel": "tcg",
        "cpu_model": "qemu64,+svm,+npt",
        "supervisor": "none",
        "vnc": "none",
        "nics": [
            {"type": "user", "hostfwd": ["tcp:127.0.0.1:22101:22"]},
            {"type": "socket", "mcast": "230.0.0.1:23100"},
        ],
    },
    "reserve": {**TALK, "cpu_max": 8, "memory_max": 8192},
    "netboot": {
        "name": "pxe",
        "accel": "tcg",
        "boot_network": True,
        "vnc": "loopback",
        "vnc_display": 1,
        "seed": False,
        "nics": [{"tap": "vnet-blue"}],
    },
}


def golden(name: str, text: str) -> None:
    """Compare a text with its golden file; with UPDATE_GOLDEN=1, write the file instead, for a person to read in git's
    diff.
    """
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("case", CASES)
def test_start_script(case: str) -> None:
    declared = item(**CASES[case])
    machine = placed(from_item(declared, LAYOUT, declared["accel"]), None, False)
    text = start_script(machine, declared["labels"], paths(declared, LAYOUT))
    golden(f"{case}.start", text)
    parsed = parse_script(text)
    assert parsed == Start(declared["name"], declared["labels"], machine)
    assert to_argv(parsed.machine) == to_argv(machine)
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0


@pytest.mark.parametrize("case", ["talk", "full"])
def test_stop_script(case: str) -> None:
    text = stop_script(item(**CASES[case]), LAYOUT)
    # ansible-test wants no other first line in a file than it knows; so the golden one begins with an empty line.
    golden(f"{case}.stop", f"\n{text}")
    compile(text, "stop", "exec")


def test_a_guest_may_write_what_it_likes_over_its_command_line() -> None:
    for text, value in (
        ("\u00b2", None),
        ("\u0663", None),
        ("9" * 5000, None),
        ("-1", None),
        ("", None),
        ("4096", 4096),
    ):
        assert number(text) == value
        assert describe(from_argv([("-m", text), ("-smp", text)]))["memory"] == value


def test_units() -> None:
    for path, (text, mode) in service.shared_files(LAYOUT).items():
        # As above: ansible-test knows no such first line.
        golden(os.path.basename(path), f"\n{text}" if text.startswith("#!/usr/bin/python3 -I") else text)
        assert mode == (0o755 if text.startswith("#!") else 0o644)
    golden("full.drop-in", service.drop_in(item(**FULL), LAYOUT))
    assert service.drop_in(item(**CASES["talk"]), LAYOUT) == ""


def test_describe() -> None:
    declared = item(**CASES["full"])
    assert describe(from_item(declared, LAYOUT, "kvm")) == {
        "cpu": 2,
        "cpu_max": 4,
        "memory": 4096,
        "memory_max": 4096,
        "accel": "kvm",
        "cpu_model": "host",
        "supervisor": "systemd",
        "vnc": "unix:/var/lib/compute-service/run/instances/compute-af95e879/vnc.sock",
        "disks": [
            {"path": "/var/lib/compute-service/lib/volumes/compute-af95e879.img", "format": "qcow2", "readonly": False},
            {
                "path": "/var/lib/compute-service/lib/volumes/compute-af95e879-seed.img",
                "format": "raw",
                "readonly": True,
            },
            {"path": "/srv/data.img", "format": "raw", "readonly": False},
            {"path": "/var/lib/compute-service/lib/volumes/data-1.img", "format": "qcow2", "readonly": False},
        ],
        "nics": [
            {"type": "tap", "mac": "02:00:5e:10:00:01", "mtu": 1430, "tap": "vnet-af95e879"},
            {
                "type": "user",
                "mac": mac(declared, 1),
                "mtu": None,
                "hostfwd": ["tcp:127.0.0.1:22101:22", "udp:127.0.0.1:5353:53"],
            },
            {
                "type": "socket",
                "mac": mac(declared, 2),
                "mtu": None,
                "local": "127.0.0.1:23101",
                "remote": "127.0.0.1:23102",
            },
            {
                "type": "socket",
                "mac": mac(declared, 3),
                "mtu": None,
                "local": "127.0.0.1",
                "mcast": "230.0.0.1:23100",
            },
        ],
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"cpu": 4}, ["cpu is 2, declared 4", "cpu_max is 4, declared 8"]),
        ({"memory": 8192}, ["memory is 4096, declared 8192", "memory_max is 4096, declared 8192"]),
        ({"memory": 1024, "memory_max": 4096}, ["memory is 4096, declared 1024"]),
        ({"accel": "tcg"}, ["accel is kvm, declared tcg", "cpu_model is host, declared max"]),
        (
            {"vnc": "none"},
            ["vnc is unix:/var/lib/compute-service/run/instances/compute-af95e879/vnc.sock, declared none"],
        ),
        ({"supervisor": "none"}, ["supervisor is systemd, declared none"]),
        (
            {"volumes": [{"path": "/srv/data.img"}]},
            ["disk /srv/data.img is declared, not there"],
        ),
        (
            {"nics": [{"mac": "02:00:5e:10:00:02"}]},
            [
                "card 02:00:5e:10:00:01 is there, not declared",
                "card 02:00:5e:10:00:02 is declared, not there",
            ],
        ),
        ({"labels": {"a": 1}, "grace": 5, "power": "stopped"}, []),
    ],
)
def test_differences(change: Item, words: list[str]) -> None:
    have, want = item(**CASES["talk"]), item(**{**CASES["talk"], **change})
    machines = [from_item(one, LAYOUT, one["accel"]) for one in (have, want)]
    assert phrases(diff(*machines)) == words
    # The same is found when both were read from a command line.
    assert phrases(diff(*(from_argv(to_argv(machine)) for machine in machines))) == words


def test_other_order_is_a_difference() -> None:
    one, other = (from_argv(options) for options in ([("-a", "1"), ("-b", "2")], [("-b", "2"), ("-a", "1")]))
    assert phrases(diff(one, other)) == ["the QEMU command differs"]


LABELS = st.dictionaries(
    st.text(max_size=8),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5),
    max_size=4,
)


@given(LABELS)
def test_any_label_comes_back(labels: dict[str, Any]) -> None:
    """Labels may hold anything, newlines and quotes too: they stay within their comment."""
    declared = item(accel="tcg", labels=labels)
    text = start_text(declared)
    assert parse_script(text) == Start("web-1", labels, from_item(declared, LAYOUT, "tcg"))
    assert text.splitlines()[3] == "exec qemu-system-x86_64 \\"


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert parse_script(text) is None
    parsed = parse_script(f"#!/bin/sh\n# ikcloud.compute instance web-1\n# labels: {{}}\n{text}")
    assert parsed is not None
    assert parsed.name == "web-1"
    describe(parsed.machine)
    assert diff(parsed.machine, parsed.machine) == []


@given(st.lists(st.text(min_size=1)))
def test_any_command_line_is_read(words: list[str]) -> None:
    assert [word for entry in parse_options(words) for word in entry if word] == words


@given(
    st.lists(
        st.sampled_from(["-device", "-netdev", "-blockdev", "-smp", "-m", "a=b", "x,id=1", "1,maxcpus=2", "-drive"])
    )
)
def test_any_options_are_a_machine(words: list[str]) -> None:
    machine = from_argv(parse_options(words))
    assert diff(machine, machine) == []
    phrases(diff(machine, from_item(item(accel="tcg"), LAYOUT, "tcg")))
    describe(machine)


@pytest.mark.parametrize(
    ("option", "edited", "words"),
    [
        ("-device", ",num-queues=4", "disk /srv/data.img is `virtio-blk-pci,num-queues=4 "),
        ("-netdev", ",queues=4", "card 02:00:5e:10:00:01 is `virtio-net-pci,"),
        ("-blockdev", ",cache.direct=on", "disk /srv/data.img is `virtio-blk-pci driver=qcow2,"),
        ("-drive", ",cache=none", "`-drive file=/var/lib/compute-service/lib/volumes/compute-af95e879.img,"),
        ("-rtc", "", "`-rtc base=utc` is there, not declared"),
        ("-machine", ",usb=off", "machine is pc,usb=off, declared pc"),
    ],
)
def test_what_was_edited_by_hand_is_seen(option: str, edited: str, words: str) -> None:
    want = from_item(item(**{**TALK, "volumes": [{"path": "/srv/data.img"}]}), LAYOUT, "kvm")
    options = to_argv(want)
    index = next((number for number, (name, _value) in enumerate(options) if name == option), None)
    if index is None:
        options.append((option, "base=utc"))
    else:
        options[index] = (option, options[index][1] + edited)
    found = phrases(diff(from_argv(options), want))
    assert found and found[0].startswith(words)


@pytest.mark.parametrize(
    ("have", "want", "same"),
    [
        ("pc", "pc-i440fx-7.2", True),
        ("pc-i440fx-7.2", "pc", True),
        ("pc-i440fx-7.2", "pc-i440fx-8.0", False),
        ("pc", "q35", False),
        ("pc", "pc-i440fx-7.2,usb=off", False),
    ],
)
def test_a_machine_type_without_a_version_is_any_version(have: str, want: str, same: bool) -> None:
    assert (diff(Machine(type=have), Machine(type=want)) == []) is same


def test_what_was_plugged_in_keeps_its_place() -> None:
    first = item(**{**TALK, "volumes": [{"name": "a"}, {"name": "b"}]})
    made = placed(from_item(first, LAYOUT, "kvm"), None, False)
    assert [disk.slot for disk in made.disks] == [None, None, FIRST_SLOT, FIRST_SLOT + 1]
    assert [nic.slot for nic in made.nics] == [None]
    # The first one goes and two come, and a NIC: what stays has its place, and what goes has it until it is gone.
    nics = [*first["nics"], {"mac": "02:00:5e:10:00:02"}]
    other = item(**{**TALK, "nics": nics, "volumes": [{"name": name} for name in "cbd"]})
    runs = placed(from_item(other, LAYOUT, "kvm"), made, True)
    assert [disk.slot for disk in runs.disks[2:]] == [FIRST_SLOT + 2, FIRST_SLOT + 1, FIRST_SLOT + 3]
    assert [nic.slot for nic in runs.nics] == [None, LAST_SLOT]
    # So it is written down, and so it starts.
    assert placed(from_item(other, LAYOUT, "kvm"), from_argv(to_argv(runs)), False) == runs
    assert [nic.slot for nic in from_argv(to_argv(runs)).nics] == [None, LAST_SLOT]


def test_places_are_never_given_twice() -> None:
    nics = tuple(Nic(f"02:00:5e:10:00:{number:02x}") for number in range(20))
    full = placed(Machine(nics=nics), Machine(), True)
    slots = [nic.slot for nic in full.nics if nic.slot is not None]
    assert sorted(slots) == list(range(FIRST_SLOT, LAST_SLOT + 1))
