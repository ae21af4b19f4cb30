# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a guest is up, and the order of restarts that depends on it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.steps import Roll
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.guest_agent import (
    AGENT,
    Guest,
    address_answers,
    agent_answers,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder with a short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="ikc-") as path:
        yield Path(path)


class Agent:
    """Listens as QEMU does for a guest's agent, and answers what the test says (None: nothing)."""

    def __init__(self, path: Path, answer: bytes | None) -> None:
        self.heard: list[bytes] = []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        threading.Thread(target=self._serve, args=(answer,), daemon=True).start()

    def _serve(self, answer: bytes | None) -> None:
        while True:
            client, _peer = self._listening.accept()
            with client:
                self.heard.append(client.recv(4096))
                if answer is not None:
                    token = json.loads(self.heard[-1])["arguments"]["id"]
                    client.sendall(answer.replace(b"TOKEN", str(token).encode()))
                client.recv(1)  # until the other end has heard enough


@pytest.mark.parametrize(
    ("answer", "up"),
    [
        (b'{"return": TOKEN}\n', True),
        (b'junk {"return": 1}\n{"return": TOKEN}\n', True),
        (b'{"return": 7}\n', False),
        (b"\xff\x00", False),
        (None, False),
    ],
)
def test_agent(folder: Path, answer: bytes | None, up: bool) -> None:
    agent = Agent(folder / "agent.sock", answer)
    assert agent_answers(str(folder / "agent.sock"), limit=0.3) is up
    assert json.loads(agent.heard[0])["execute"] == "guest-sync"


def test_no_agent(folder: Path) -> None:
    """Nobody there, a plain file, and a link that QEMU's user laid to another one's socket: nothing is said to that."""
    other = Agent(folder / "other.sock", b'{"return": TOKEN}\n')
    (folder / "file").write_text("", encoding="ascii")
    os.symlink("other.sock", folder / "agent.sock")
    for name in ("nothing.sock", "file", "agent.sock"):
        assert not agent_answers(str(folder / name), limit=0.3)
    assert other.heard == []


def test_address_that_cant_be_asked() -> None:
    assert not address_answers("nosuchlink", "192.168.88.2", limit=0.1)
    assert not address_answers("lo", "not an address", limit=0.1)
    assert not address_answers("lo", "192.0.2.1", limit=0.1)


def test_only_what_answered_before_is_waited_for(folder: Path) -> None:
    path = str(folder / "agent.sock")
    silent = Guest(path)
    assert silent.answering(0.1) == []
    silent.wait([], limit=0)
    with pytest.raises(ComputeError, match="its guest agent did not answer within"):
        silent.wait([AGENT], limit=0)
    threading.Timer(0.3, lambda: Agent(folder / "agent.sock", b'{"return": TOKEN}\n')).start()
    silent.wait([AGENT, "192.0.2.1"], limit=20)


@pytest.mark.parametrize(("serial", "at_once"), [(1, 1), (2, 2), (0, 6)])
def test_so_many_at_a_time(serial: int, at_once: int) -> None:
    roll, lock = Roll(serial), threading.Lock()
    now, most = 0, 0

    def restart(name: str) -> None:
        nonlocal now, most
        with roll.turn(name):
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.1)
            with lock:
                now -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(restart, "abcdef"))
    assert most == at_once


def test_none_after_one_that_went_wrong() -> None:
    roll = Roll(1)
    with roll.turn("web-1"):
        pass
    with pytest.raises(ComputeError, match="does not run"), roll.turn("web-2"):
        raise ComputeError("it does not run")
    with pytest.raises(ComputeError, match="since the restart of web-2 went wrong"), roll.turn("web-3"):
        pytest.fail("it was begun")


@pytest.mark.parametrize("flood", [b"x", b'{"return": 1}\n' * 4000, b"[" * 65536])
def test_an_agent_that_talks_without_end(folder: Path, flood: bytes) -> None:
    """The guest says this, which nobody trusts: a byte at a time, or as much as it can, it is over in time."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "agent.sock"))
        listening.listen()

        def serve() -> None:
            client, _peer = listening.accept()
            with client, contextlib.suppress(OSError):
                while True:
                    client.sendall(flood)
                    time.sleep(0.001 if len(flood) == 1 else 0)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        began = time.monotonic()
        assert not agent_answers(str(folder / "agent.sock"), limit=0.5)
        assert time.monotonic() - began < 3
        thread.join(10)
