# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The script that joins a terminal to a serial console, run in a terminal of its own against a socket that answers."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.console import console_text, qmp_text, vnc_text
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ikc-") as folder:
        path = Path(folder)
        (path / "run/instances/compute-0a1b2c3d").mkdir(parents=True)
        (path / "run/instances/compute-0a1b2c3d/start").write_text(
            "#!/bin/sh\n# ikcloud.compute instance web-1\n# labels: {}\nexec true\n", encoding="ascii"
        )
        (path / "run/instances/compute-0a1b2c3d.name").write_text("web-1\n", encoding="ascii")
        (path / "run/instances/other").mkdir()
        (path / "run/console").write_text(console_text(Layout(str(path))), encoding="utf-8")
        (path / "run/qmp").write_text(qmp_text(Layout(str(path))), encoding="utf-8")
        (path / "run/vnc").write_text(
            vnc_text(Layout(str(path))).replace("/run/ikcloud-compute-vnc-", f"{path}/vnc-"), encoding="utf-8"
        )
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
    usage = "Usage: console [--log] NAME. There is: web-1."
    for words, message in (((), usage), (("web-2",), f"No instance web-2. {usage}")):
        done = subprocess.run(
            script(root, *words), check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert (done.returncode, done.stderr.strip()) == (1, message)
    done = subprocess.run(script(root, "web-1"), check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and done.stderr.startswith("web-1 does not run: ")


def test_a_link_is_not_followed(root: Path) -> None:
    path = root / "run/instances/compute-0a1b2c3d/console.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(root / "other.sock"))
        other.listen()
        path.symlink_to(root / "other.sock")
        done = subprocess.run(
            script(root, "web-1"), check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    assert (done.returncode, done.stderr.strip()) == (1, f"{path} is not a socket.")


def test_pipes_and_links_of_other_instances_hold_nobody_up(root: Path) -> None:
    """Each instance's folder is its own QEMU's to write in."""
    for number, make in enumerate(
        (os.mkfifo, lambda path: path.symlink_to(root / "run/instances/compute-0a1b2c3d/start"), Path.mkdir)
    ):
        folder = root / f"run/instances/compute-0000000{number}"
        folder.mkdir()
        make(folder / "start")
    os.mkfifo(root / "run/instances/compute-0a1b2c3d/console.sock")
    done = subprocess.run(
        script(root, "web-1"), check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20
    )
    assert (done.returncode, done.stderr.strip()) == (
        1,
        f"{root}/run/instances/compute-0a1b2c3d/console.sock is not a socket.",
    )
    done = subprocess.run(
        script(root), check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20
    )
    assert done.stderr.strip() == "Usage: console [--log] NAME. There is: web-1."


def test_the_guests_end_ends_it(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as guest:
        guest.bind(str(root / "run/instances/compute-0a1b2c3d/console.sock"))
        guest.listen()
        guest.settimeout(20)
        with subprocess.Popen(
            script(root, "web-1"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as person:
            line, _address = guest.accept()
            line.close()
            assert person.wait(20) == 0
            assert person.stdout and "The instance has ended." in person.stdout.read()


def test_nobody_passes_for_another_one(root: Path) -> None:
    """A password that is typed at a console is not for who claims to be that instance."""
    for folder, name in (("compute-00000000", "web-1"), ("compute-00000001", "db-1")):
        (root / f"run/instances/{folder}").mkdir()
        (root / f"run/instances/{folder}/start").write_text(
            f"#!/bin/sh\n# ikcloud.compute instance {name}\n# labels: {{}}\n", encoding="ascii"
        )
    done = subprocess.run(script(root, "db-1"), check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.stderr.strip() == "No instance db-1. Usage: console [--log] NAME. There is: web-1."
    done = subprocess.run(script(root, "web-1"), check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert "compute-0a1b2c3d/console.sock" in done.stderr


def test_the_log_is_followed_without_what_moves_the_cursor(root: Path) -> None:
    log = root / "run/instances/compute-0a1b2c3d/console.log"
    log.write_bytes(b"x" * 20_000 + b"\x1b[31mred\x1b[0m\x07\x9b\r\nlogin:\n")
    with subprocess.Popen(script(root, "--log", "web-1"), stdout=subprocess.PIPE) as person:
        assert person.stdout is not None
        assert person.stdout.readline().endswith(b"xxxred\xef\xbf\xbd\n")
        assert person.stdout.readline() == b"login:\n"
        log.write_bytes(b"")  # as the timer cuts it
        time.sleep(1)
        with log.open("ab") as stream:
            stream.write(b"more\n")
        assert person.stdout.readline() == b"more\n"
        person.terminate()


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_log_that_is_none_is_not_followed(root: Path, kind: str) -> None:
    log = root / "run/instances/compute-0a1b2c3d/console.log"
    (root / "secret").write_text("secret", encoding="ascii")
    if kind == "link":
        log.symlink_to(root / "secret")
    else:
        os.mkfifo(log)
    done = subprocess.run(script(root, "--log", "web-1"), check=False, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and str(log) in done.stderr and "secret" not in done.stdout + done.stderr


def answered(root: Path, answers: bytes, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the script ``qmp`` against a QEMU that says this after each line that it hears."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "run/instances/compute-0a1b2c3d/qmp.sock"))
        listener.listen()

        def serve() -> None:
            client, _address = listener.accept()
            client.sendall(b'{"event": "OLD"}\n{"QMP": {}}\n')
            for line in client.makefile("rb"):
                client.sendall(answers.replace(b"ID", str(json.loads(line)["id"]).encode()))

        threading.Thread(target=serve, daemon=True).start()
        command = [sys.executable, "-I", str(root / "run/qmp"), *words]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=50)


def test_qemu_is_asked_by_roots_own_script(root: Path) -> None:
    (root / "run/instances/compute-0a1b2c3d/qmp").write_text("#!/bin/sh\ntouch hacked\n", encoding="ascii")
    done = answered(
        root, b'[]\n7\n{"id": 0}\n{"return": {"status": "\\u001b[31mrunning"}, "id": ID}\n', "web-1", "query-status"
    )
    assert (done.returncode, json.loads(done.stdout)) == (0, {"status": "\x1b[31mrunning"})
    assert "\x1b" not in done.stdout


def test_qemu_that_refuses_or_is_none_is_said(root: Path) -> None:
    done = answered(root, b'{"error": [], "id": ID}\n', "web-1", "quit")
    assert (done.returncode, done.stderr) == (1, "QEMU refused quit: []\n")
    (root / "run/instances/compute-0a1b2c3d/qmp.sock").unlink()
    done = answered(root, b'{"a":' * 100_000 + b'\n{"return": {}, "id": ID}\n', "web-1", "stop")
    assert (done.returncode, done.stdout) == (0, "{}\n")
    for words, message in (
        (("web-1",), "Usage: qmp NAME COMMAND"),
        (("web-1", "quit", "{"), "the arguments are not JSON"),
    ):
        done = subprocess.run(
            [sys.executable, "-I", str(root / "run/qmp"), *words], check=False, capture_output=True, text=True
        )
        assert done.returncode == 1 and message in done.stderr


def viewed(root: Path) -> bytes:
    """See what a viewer hears first at the socket that ``vnc`` makes."""
    with socket.socket(socket.AF_UNIX) as viewer:
        viewer.settimeout(20)
        viewer.connect(str(root / "vnc-0a1b2c3d.sock"))
        return viewer.recv(100)


def answer(screen: socket.socket) -> None:
    """Be a QEMU's screen: greet each viewer, and hear what it says."""

    def serve() -> None:
        while True:
            viewer, _address = screen.accept()
            with viewer, contextlib.suppress(OSError):  # who only looks whether it answers is gone at once
                viewer.sendall(b"RFB 003.008\n")
                while viewer.recv(100):
                    pass

    screen.listen()
    threading.Thread(target=serve, daemon=True).start()


def test_a_screen_is_shown_by_a_socket_of_roots(root: Path) -> None:
    (root / "vnc-0a1b2c3d.sock").touch()  # one that was killed left it
    with socket.socket(socket.AF_UNIX) as screen:
        screen.bind(str(root / "run/instances/compute-0a1b2c3d/vnc.sock"))
        answer(screen)
        command = [sys.executable, "-I", str(root / "run/vnc"), "web-1"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as person:
            assert person.stdout and person.stderr and person.stdin
            assert person.stdout.readline() == f"The screen of web-1 is at {root}/vnc-0a1b2c3d.sock. Ctrl-C leaves.\n"
            assert (root / "vnc-0a1b2c3d.sock").stat().st_mode & 0o777 == 0o600
            assert viewed(root) == viewed(root) == b"RFB 003.008\n"
            # QEMU's user can lay a link there at any moment.
            (root / "run/instances/compute-0a1b2c3d/vnc.sock").rename(root / "other.sock")
            (root / "run/instances/compute-0a1b2c3d/vnc.sock").symlink_to(root / "other.sock")
            assert viewed(root) == b""
            assert (
                person.stderr.readline().strip() == f"{root}/run/instances/compute-0a1b2c3d/vnc.sock is not a socket."
            )
            person.stdin.close()
            assert person.wait(20) == 0
    assert not (root / "vnc-0a1b2c3d.sock").exists()


@pytest.mark.parametrize(
    ("left", "words"),
    [("link", "is not a socket."), ("owner", "belongs to somebody else"), ("", "does not run, or has no screen")],
)
def test_a_screen_that_is_none_is_not_shown(root: Path, left: str, words: str) -> None:
    path = root / "run/instances/compute-0a1b2c3d/vnc.sock"
    if left == "owner" and os.geteuid():
        pytest.skip("only root can give files away")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(root / "other.sock" if left != "owner" else path))
        other.listen()
        if left == "link":
            path.symlink_to(root / "other.sock")
        elif left == "owner":
            os.chown(path.parent, 65534, 65534)
        done = subprocess.run(
            [sys.executable, "-I", str(root / "run/vnc"), "web-1"],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
    assert done.returncode == 1 and words in done.stderr and not (root / "vnc-0a1b2c3d.sock").exists()


@pytest.mark.parametrize(("name", "words"), [("console", ()), ("vnc", ()), ("qmp", ("query-status",))])
def test_a_queue_that_nobody_serves_holds_nobody_up(root: Path, name: str, words: tuple[str, ...]) -> None:
    """QEMU's user can make the socket anew, and listen without ever accepting."""
    path = root / f"run/instances/compute-0a1b2c3d/{name}.sock"
    with socket.socket(socket.AF_UNIX) as deaf, contextlib.ExitStack() as waiting:
        deaf.bind(str(path))
        deaf.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                client = waiting.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))
        argv = [sys.executable, "-I", str(root / "run" / name), "web-1", *words]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (1, f"{path}: so many wait there for an answer that nobody else can.\n")
