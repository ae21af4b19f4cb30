# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU's command: golden scripts, and reading them back."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils import qemu, systemd
from ansible_collections.ikcloud.compute.plugins.module_utils.engine import Item
from ansible_collections.ikcloud.compute.plugins.module_utils.stop_script import stop_script
from ansible_collections.ikcloud.compute.tests.unit.plugins.modules.instance_samples import FULL, LAYOUT, item
from hypothesis import given
from hypothesis import strategies as st

GOLDEN = Path(__file__).parents[2] / "golden" / "instance"
TALK: Item = {"name": "web-1", "id": "af95e879", "cpu": 2, "memory": 4096, "accel": "kvm", "nics": [{"mac": "02:00:5e:10:00:01"}]}
CASES: dict[str, Item] = {
    "talk": TALK,
    "full": FULL,
    "alone": {
        "name": "ik-node-01", "memory": 3072, "cpu": 2, "accel": "tcg", "cpu_model": "qemu64,+svm,+npt", "supervisor": "none", "vnc": "none",
        "nics": [{"type": "user", "hostfwd": ["tcp:127.0.0.1:22101:22"]}, {"type": "socket", "mcast": "230.0.0.1:23100"}],
    },
    "reserve": {**TALK, "cpu_max": 8, "memory_max": 8192},
    "netboot": {"name": "pxe", "accel": "tcg", "boot_network": True, "vnc": "loopback", "vnc_display": 1, "seed": False, "nics": [{"tap": "vnet-blue"}]},
}  # fmt: skip


def golden(name: str, text: str) -> None:
    """Compare a text with its golden file; with UPDATE_GOLDEN=1, write the file instead, for a person to read in git's diff."""
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("case", CASES)
def test_start_script(case: str) -> None:
    declared = item(**CASES[case])
    text = qemu.start_script(declared, LAYOUT, declared["accel"])
    golden(f"{case}.start", text)
    parsed = qemu.parse_script(text)
    assert parsed == (declared["name"], declared["labels"], qemu.options(declared, LAYOUT, declared["accel"]))
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0


@pytest.mark.parametrize("case", ["talk", "full"])
def test_stop_script(case: str) -> None:
    text = stop_script(item(**CASES[case]), LAYOUT)
    # ansible-test wants no other first line in a file than it knows; so the golden one begins with an empty line.
    golden(f"{case}.stop", f"\n{text}")
    compile(text, "stop", "exec")


def test_a_guest_may_write_what_it_likes_over_its_command_line() -> None:
    for text, number in (("\u00b2", None), ("\u0663", None), ("9" * 5000, None), ("-1", None), ("", None), ("4096", 4096)):
        assert qemu.number(text) == number
        assert qemu.describe([("-m", text), ("-smp", text)])["memory"] == number


def test_units() -> None:
    for path, (text, mode) in systemd.shared_files(LAYOUT).items():
        # As above: ansible-test knows no such first line.
        golden(os.path.basename(path), f"\n{text}" if text.startswith("#!/usr/bin/python3 -I") else text)
        assert mode == (0o755 if text.startswith("#!") else 0o644)
    golden("full.drop-in", systemd.drop_in(item(**FULL), LAYOUT))
    assert systemd.drop_in(item(**CASES["talk"]), LAYOUT) == ""


def test_describe() -> None:
    declared = item(**CASES["full"])
    assert qemu.describe(qemu.options(declared, LAYOUT, "kvm")) == {
        "cpu": 2, "cpu_max": 4, "memory": 4096, "memory_max": 4096, "accel": "kvm", "cpu_model": "host", "supervisor": "systemd",
        "vnc": "unix:/var/lib/compute-service/run/instances/compute-af95e879/vnc.sock",
        "disks": [
            {"path": "/var/lib/compute-service/lib/volumes/compute-af95e879.img", "format": "qcow2", "readonly": False},
            {"path": "/var/lib/compute-service/lib/volumes/compute-af95e879-seed.img", "format": "raw", "readonly": True},
            {"path": "/srv/data.img", "format": "raw", "readonly": False},
            {"path": "/var/lib/compute-service/lib/volumes/data-1.img", "format": "qcow2", "readonly": False},
        ],
        "nics": [
            {"type": "tap", "mac": "02:00:5e:10:00:01", "mtu": 1430, "tap": "vnet-af95e879"},
            {"type": "user", "mac": qemu.mac(declared, 1), "mtu": None, "hostfwd": ["tcp:127.0.0.1:22101:22", "udp:127.0.0.1:5353:53"]},
            {"type": "socket", "mac": qemu.mac(declared, 2), "mtu": None, "local": "127.0.0.1:23101", "remote": "127.0.0.1:23102"},
            {"type": "socket", "mac": qemu.mac(declared, 3), "mtu": None, "local": "127.0.0.1", "mcast": "230.0.0.1:23100"},
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "phrases"),
    [
        ({}, []),
        ({"cpu": 4}, ["cpu is 2, declared 4", "cpu_max is 4, declared 8"]),
        ({"memory": 8192}, ["memory is 4096, declared 8192", "memory_max is 4096, declared 8192"]),
        ({"memory": 1024, "memory_max": 4096}, ["memory is 4096, declared 1024"]),
        ({"accel": "tcg"}, ["accel is kvm, declared tcg", "cpu_model is host, declared max"]),
        ({"vnc": "none"}, ["vnc is unix:/var/lib/compute-service/run/instances/compute-af95e879/vnc.sock, declared none"]),
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
def test_differences(change: Item, phrases: list[str]) -> None:
    have, want = item(**CASES["talk"]), item(**{**CASES["talk"], **change})
    assert qemu.differences(qemu.options(have, LAYOUT, have["accel"]), qemu.options(want, LAYOUT, want["accel"])) == phrases


def test_other_order_is_a_difference() -> None:
    assert qemu.differences([("-a", "1"), ("-b", "2")], [("-b", "2"), ("-a", "1")]) == ["the QEMU command differs"]


LABELS = st.dictionaries(st.text(max_size=8), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5), max_size=4)


@given(LABELS)
def test_any_label_comes_back(labels: dict[str, Any]) -> None:
    """Labels may hold anything, newlines and quotes too: they stay within their comment."""
    declared = item(accel="tcg", labels=labels)
    text = qemu.start_script(declared, LAYOUT, "tcg")
    parsed = qemu.parse_script(text)
    assert parsed is not None
    assert parsed[1] == labels
    assert parsed[2] == qemu.options(declared, LAYOUT, "tcg")
    assert text.splitlines()[3] == "exec qemu-system-x86_64 \\"


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert qemu.parse_script(text) is None
    parsed = qemu.parse_script(f"#!/bin/sh\n# ikcloud.compute instance web-1\n# labels: {{}}\n{text}")
    assert parsed is not None
    assert parsed[0] == "web-1"
    qemu.describe(parsed[2])


@given(st.lists(st.text(min_size=1)))
def test_any_command_line_is_read(words: list[str]) -> None:
    assert [word for entry in qemu.parse_options(words) for word in entry if word] == words
