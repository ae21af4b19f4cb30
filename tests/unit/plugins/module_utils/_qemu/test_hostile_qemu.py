# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest that has broken out of its QEMU answers over QMP: whatever it says is a value or a ComputeError of that
instance, within a limit of time.
"""

from __future__ import annotations

import contextlib
import copy
import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.disks import read_disks, read_work
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.instances import Instance
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu import running
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.argv import describe, phrases
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.declared import from_item
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.hotplug import DeviceUnplug, HotplugPlanner
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.machine import diff
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.qmp import jobs
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.qmp.answers import Answer
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.qmp.qmp import Qmp, status
from ansible_collections.ikcloud.compute.tests.unit.plugins.modules.instance_samples import LAYOUT, item
from hypothesis import given, settings
from hypothesis import strategies as st

DECLARED = item(cpu=1, cpu_max=2, accel="tcg", nics=[{"mac": "02:00:5e:10:00:01"}])
STARTED = from_item(DECLARED, LAYOUT, "tcg")
OWN = STARTED.disks[0].path
BARS = [{"bar": 0, "type": "io", "address": 49152, "size": 32}, {"bar": 4, "type": "memory", "address": 1 << 32}]
BALLOON = {"qdev_id": "balloon", "slot": 5, "regions": BARS}
DEVICES = [
    ("card7", "child<virtio-net-pci>"),
    ("disk-7", "child<virtio-blk-pci>"),
    ("balloon", "child<virtio-balloon-pci>"),
    ("cpu1", "child<max-x86_64-cpu>"),
    ("type", "string"),
]
MEDIA = {
    "node-name": "volume-7",
    "file": OWN,
    "drv": "qcow2",
    "ro": False,
    "image": {"filename": OWN, "format": "qcow2", "virtual-size": 1 << 24},
}
# What a QEMU with a card and a disk that were plugged in says (shortened).
TRUE: dict[str, Any] = {
    "qmp_capabilities": {},
    "query-status": {"status": "running", "running": True},
    "qom-list": [{"name": name, "type": kind} for name, kind in DEVICES],
    "query-hotpluggable-cpus": [
        {"type": "max-x86_64-cpu", "vcpus-count": 1, "props": {"socket-id": 1, "core-id": 0}},
        {
            "type": "max-x86_64-cpu",
            "vcpus-count": 1,
            "props": {"socket-id": 0, "core-id": 0},
            "qom-path": "/machine/unattached/device[0]",
        },
    ],
    "human-monitor-command": (
        "card0: index=0,type=nic,model=virtio-net-pci\r\n \\ network0:"
        " index=0,type=tap,ifname=vnet-7\r\n0000000100002000: 0x00004000\r\n"
    ),
    "query-named-block-nodes": [MEDIA, {**MEDIA, "node-name": "#block1", "drv": "file"}],
    "query-pci": [{"bus": 0, "devices": [BALLOON, {**BALLOON, "qdev_id": "card7", "slot": 31, "regions": []}]}],
    "query-block": [
        {"device": "", "qdev": "/machine/peripheral/disk-7/virtio-backend", "inserted": MEDIA},
        {"device": "cd"},
    ],
    "query-balloon": {"actual": 1 << 27},
    "query-jobs": [
        {
            "id": "backup",
            "type": "backup",
            "status": "concluded",
            "current-progress": 1,
            "total-progress": 1,
            "error": "No space left",
        }
    ],
    "query-cpus-fast": [
        {"cpu-index": 0, "qom-path": "/machine/unattached/device[0]"},
        {"cpu-index": 1, "qom-path": "/machine/peripheral/cpu1"},
    ],
    "qom-get netdev": "network0",
    "qom-get mac": "02:00:5e:10:00:07",
    "qom-get host_mtu": 1450,
    "qom-get romfile": "",
    "qom-get serial": "data-1",
    "qom-get type": "pc-i440fx-7.2-machine",
}


class Liar:
    """Listens as a QEMU does, one client after the other, and gives each command the answer that the test wants."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.answers = TRUE
        self.speak: Callable[[socket.socket, bytes], None] = lambda client, said: client.sendall(said)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen(16)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _peer = self._listening.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.sendall(b'{"QMP": {}}\n')
                for line in client.makefile("rb"):
                    asked = json.loads(line)
                    command, key = asked["execute"], asked.get("arguments", {}).get("property")
                    answer = self.answers[f"{command} {key}" if key else command]
                    said = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                    self.speak(client, b'{"id": %d, "return": %s}\n' % (asked["id"], said))

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture(scope="module")
def liar() -> Iterator[Liar]:
    with tempfile.TemporaryDirectory(prefix="ikc-") as folder:
        made = Liar(f"{folder}/qmp.sock")
        yield made
        made.close()


def instance() -> Instance:
    return Instance("web-1", "0a1b2c3d", "/nowhere", written=STARTED, pid=1, running=STARTED)


def plan(path: str) -> None:
    """All that is made of what a QEMU says of its devices: what it runs with, in what that differs, and the steps to
    what is declared.
    """
    state = running.query(path, STARTED)
    now = running.effective(STARTED, state, STARTED)
    describe(now)
    planner = HotplugPlanner(now, STARTED, state, ("qmp",), path)
    words = [
        *phrases(diff(now, STARTED)),
        *(step.text for step in planner.plan().steps),
        *(step.text for step in planner.release({OWN})),
    ]
    json.dumps(words, ensure_ascii=False).encode()
    assert all(word.isprintable() for word in words)


READERS: dict[str, Callable[[str], Any]] = {
    "status": status,
    "live": plan,
    "disks": lambda path: read_disks(instance(), path),
    "work": lambda path: read_work(instance(), path),
    "job": lambda path: jobs.wait(path, "backup"),
}
ODD = st.sampled_from(["\ud800", "a\0b", "x" * 9999, "-1", 1 << 64])
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9) | ODD,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "driver", "file", "qom-path"]) | st.text(max_size=5), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@st.composite
def lies(draw: st.DrawFn) -> dict[str, Any]:
    """Give true answers with one to three of the values in them, or an answer as a whole, replaced by anything."""
    made: dict[str, Any] = copy.deepcopy(TRUE)
    for _lie in range(draw(st.integers(1, 3))):
        inside: Any = made
        key: Any = draw(st.sampled_from(sorted(set(TRUE) - {"qmp_capabilities"})))
        while isinstance(inside[key], (dict, list)) and inside[key] and draw(st.integers(0, 4)):
            inside = inside[key]
            key = draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside))))
        if isinstance(inside, dict) and inside is not made and not draw(st.integers(0, 3)):
            del inside[key]
        else:
            inside[key] = draw(ANY)
    return made


def test_the_truth_is_understood(liar: Liar) -> None:
    liar.answers = TRUE
    state = running.query(liar.path, STARTED)
    assert (state.cpus, state.max_cpus, state.balloon_reclaimed, state.balloon_actual) == (1, 2, 0x4000 * 4096, 1 << 27)
    assert state.free_cpu_slots == (running.CpuSlot("max-x86_64-cpu", {"socket-id": 1, "core-id": 0}),)
    assert list(state.nics) == ["card7"] and [disk.serial for disk in state.disks.values()] == ["data-1"]
    assert (state.type, state.nics["card7"].slot) == ("pc-i440fx-7.2", 31)
    assert read_disks(instance(), liar.path).own.node == "volume-7"
    assert jobs.wait(liar.path, "backup") == "No space left"


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=100)
@given(answers=lies())
def test_any_lie_is_a_value_or_an_error_that_is_known(liar: Liar, reader: str, answers: dict[str, Any]) -> None:
    liar.answers = answers
    if reader == "job":  # one that never ends is waited for
        entries = answers["query-jobs"]
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict):
                entry["status"] = "concluded"
    with contextlib.suppress(ComputeError):
        READERS[reader](liar.path)


@pytest.mark.parametrize(
    "said",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b"[" * 200 + b"]" * 200,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"1" * 1_000_000,
        b"1e999",
        b"NaN",
        b'"\\ud800"',
        b"[" + b"[]," * 1_000_000 + b"[]]",
        b'"' + b"x" * (16 << 20) + b'"',
        b"[]",
        b"null",
        b"7",
        b"{}",
        b"{",
    ],
    ids=lambda said: f"{said[:8]!r}, {len(said)} bytes",
)
@pytest.mark.parametrize("reader", READERS)
def test_huge_and_odd_answers(liar: Liar, reader: str, said: bytes) -> None:
    """Each of them is over soon, takes little memory, and is an error that says which QEMU it is."""
    began, recursion = time.monotonic(), sys.getrecursionlimit()
    liar.answers = {**dict.fromkeys(TRUE, said), "qmp_capabilities": {}}
    try:
        READERS[reader](liar.path)
        assert reader in ("live", "work") or (
            reader == "job" and said == b"[]"
        )  # they say that it does not answer; and there is no such job
    except ComputeError as error:
        assert liar.path in str(error) or "instance web-1" in str(error), error
    assert time.monotonic() - began < 5 and sys.getrecursionlimit() == recursion


def test_the_limit_holds_for_all_of_a_conversation(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 cards that QEMU invents, each told slowly, took 43 s."""
    monkeypatch.setattr(running, "TIMEOUT", 1.0)
    cards = [{"name": f"card{number}", "type": "child<virtio-net-pci>"} for number in range(24, 48)]
    liar.answers = {**TRUE, "qom-list": cards}

    def late(client: socket.socket, said: bytes) -> None:
        time.sleep(0.15)
        client.sendall(said)

    liar.speak = late
    began = time.monotonic()
    with pytest.raises(ComputeError, match="did not answer"):
        running.query(liar.path, STARTED)
    assert time.monotonic() - began < 3
    liar.speak = lambda client, said: client.sendall(said)


def test_a_byte_at_a_time(liar: Liar) -> None:
    def drip(client: socket.socket, said: bytes) -> None:
        for byte in said:
            client.sendall(bytes([byte]))
            time.sleep(0.05)

    liar.answers, liar.speak = TRUE, drip
    began = time.monotonic()
    with pytest.raises(ComputeError, match="timed out"):
        status(liar.path, timeout=0.5)
    assert time.monotonic() - began < 2
    liar.speak = lambda client, said: client.sendall(said)


def test_events_without_end(liar: Liar) -> None:
    """Events without end are limited in bytes, too: a conversation may have minutes."""
    liar.answers = TRUE
    liar.speak = lambda client, said: client.sendall(b'{"event": "%s"}\n' % (b"x" * 1000) * 20_000)
    with pytest.raises(ComputeError, match="says more than 8 MiB"), Qmp(liar.path, timeout=60):
        pass
    liar.speak = lambda client, said: client.sendall(said)


def test_an_answer_of_another_shape_is_told(liar: Liar) -> None:
    liar.answers = {**TRUE, "qom-list": [{"name": ["card7"], "type": "x"}]}
    with pytest.raises(ComputeError, match=r"QEMU answered qom-list at .*: \[0\].name is not a plain text"):
        DeviceUnplug((), liar.path, "device_del", {"id": "card7"}, key="card").run()


def test_its_words_do_not_reach_the_terminal(liar: Liar) -> None:
    def refuse(client: socket.socket, said: bytes) -> None:
        answer = json.loads(said)
        client.sendall(
            json.dumps({"id": answer["id"], "error": {"desc": "no\x1b[2J\nroot: all is well" + "!" * 9999}}).encode()
            + b"\n"
        )

    liar.answers, liar.speak = TRUE, refuse
    with pytest.raises(ComputeError) as caught, Qmp(liar.path):
        pass
    assert str(caught.value).isprintable() and len(str(caught.value)) < 700 and "no [2J root" in str(caught.value)
    liar.speak = lambda client, said: client.sendall(said)


@given(ANY)
def test_an_answer_has_its_type_or_is_an_error(value: Any) -> None:
    answer = Answer(value, "QEMU answered x at /y")
    for read, kind in (
        (answer.word, str),
        (answer.text, str),
        (answer.number, int),
        (answer.flag, bool),
        (answer.entries, list),
        (answer.numbers, dict),
    ):
        with contextlib.suppress(ComputeError):
            assert isinstance(read(), kind)  # type: ignore[operator]  # a method by its name
    for member in (lambda: answer.get("id"), lambda: answer.find("id")):
        with contextlib.suppress(ComputeError):
            member()
