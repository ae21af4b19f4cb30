# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The script that joins a terminal to a serial console, run in a terminal of its own against a socket that answers."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils.console import console_text
from ansible_collections.ikcloud.compute.plugins.module_utils.layout import Layout


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ikc-") as folder:
        path = Path(folder)
        (path / "run/instances/compute-0a1b2c3d").mkdir(parents=True)
        (path / "run/instances/compute-0a1b2c3d/start").write_text("#!/bin/sh\n# ikcloud.compute instance web-1\n# labels: {}\nexec true\n", encoding="ascii")
        (path / "run/instances/other").mkdir()
        (path / "run/console").write_text(console_text(Layout(str(path))), encoding="utf-8")
        yield path


def script(root: Path, *words: str) -> list[str]:
    return [sys.executable, "-I", str(root / "run/console"), *words]


@pytest.mark.parametrize("word", ["web-1", "0a1b2c3d", "compute-0a1b2c3d"])
def test_talk_and_leave(root: Path, word: str) -> None:
    with socket.socket(socket.AF_UNIX) as guest:
        guest.bind(str(root / "run/instances/compute-0a1b2c3d/console.sock"))
        guest.listen()
        guest.settimeout(20)
        ours, theirs = pty.openpty()
        with subprocess.Popen(script(root, word), stdin=theirs, stdout=theirs, stderr=theirs) as person:
            line, _address = guest.accept()
            line.settimeout(20)
            line.sendall(b"login: ")
            seen = wait_for(ours, b"login: ")
            assert b"Ctrl-] leaves" in seen
            os.write(ours, b"root\r")
            said = b""
            while len(said) < 5:
                said += line.recv(100)
            assert said == b"root\r"  # as it was typed: the terminal is raw
            os.write(ours, b"\x03\x1d")
            assert line.recv(100) == b"\x03"  # Ctrl-C is the guest's
            assert person.wait(20) == 0
            assert b"Left the console." in wait_for(ours, b"console.")
            line.close()
    os.close(ours)
    os.close(theirs)


def wait_for(terminal: int, words: bytes) -> bytes:
    seen = b""
    until = time.monotonic() + 20
    while words not in seen and time.monotonic() < until:
        seen += os.read(terminal, 4096)
    return seen


def test_what_is_wrong_is_said(root: Path) -> None:
    for words, message in (((), "Usage: console NAME. There is: web-1."), (("web-2",), "No instance web-2. Usage: console NAME. There is: web-1.")):
        done = subprocess.run(script(root, *words), check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert (done.returncode, done.stderr.strip()) == (1, message)
    done = subprocess.run(script(root, "web-1"), check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and done.stderr.startswith("web-1 does not run: ")


def test_a_link_is_not_followed(root: Path) -> None:
    path = root / "run/instances/compute-0a1b2c3d/console.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(root / "other.sock"))
        other.listen()
        path.symlink_to(root / "other.sock")
        done = subprocess.run(script(root, "web-1"), check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr.strip()) == (1, f"{path} is not a socket.")


def test_pipes_and_links_of_other_instances_hold_nobody_up(root: Path) -> None:
    """Each instance's folder is its own QEMU's to write in."""
    for number, make in enumerate((os.mkfifo, lambda path: path.symlink_to(root / "run/instances/compute-0a1b2c3d/start"), Path.mkdir)):
        folder = root / f"run/instances/compute-0000000{number}"
        folder.mkdir()
        make(folder / "start")
    os.mkfifo(root / "run/instances/compute-0a1b2c3d/console.sock")
    done = subprocess.run(script(root, "web-1"), check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20)
    assert (done.returncode, done.stderr.strip()) == (1, f"{root}/run/instances/compute-0a1b2c3d/console.sock is not a socket.")
    done = subprocess.run(script(root), check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20)
    assert done.stderr.strip() == "Usage: console NAME. There is: web-1."


def test_the_guests_end_ends_it(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as guest:
        guest.bind(str(root / "run/instances/compute-0a1b2c3d/console.sock"))
        guest.listen()
        guest.settimeout(20)
        with subprocess.Popen(script(root, "web-1"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as person:
            line, _address = guest.accept()
            line.close()
            assert person.wait(20) == 0
            assert person.stdout and "The instance has ended." in person.stdout.read()
