# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of an instance without systemd, and what breaks in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.console import vnc_text
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.instances import (
    Instance,
    read_instances,
)
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.stop_script import stop_script
from ansible_collections.ikcloud.compute.plugins.module_utils._core import commands, execution
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._core.names import short_id
from ansible_collections.ikcloud.compute.plugins.module_utils._core.steps import Step
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu import running
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.declared import from_item, paths
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.qmp.qmp import Qmp, status
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.start_script import start_script
from ansible_collections.ikcloud.compute.plugins.module_utils._system import kvm
from ansible_collections.ikcloud.compute.plugins.module_utils._system.process import locked_by
from ansible_collections.ikcloud.compute.plugins.modules.instance_info import describe
from ansible_collections.ikcloud.compute.tests.qemu.conftest import Converge, machine
from ansible_collections.ikcloud.compute.tests.qemu.lifecycle import power

Volume = Callable[[str], Path]
ID = short_id("instance", "one")


def read(root: Path) -> dict[str, Instance]:
    return read_instances(Layout(str(root)), units=False)


def entry(result: dict[str, Any], name: str = "one") -> dict[str, Any]:
    return next(found for found in result["results"] if found["name"] == name)


def test_life(root: Path, run: Converge, volume: Volume) -> None:
    """Check, run, run again, check again, change, restart, stop, start, remove."""
    predicted = run([machine()], check=True)
    assert not (root / "run").exists()
    with pytest.raises(ComputeError, match=r"its disk .* is not there; the module ikcloud.compute.volume makes it"):
        run([machine()])
    assert not (root / "run").exists()
    volume(ID)
    done = run([machine()])
    assert "msg" not in done
    assert done["commands"] == predicted["commands"]
    assert done["after"] == predicted["after"]
    assert read(root)["one"].running == read(root)["one"].written
    for check in (False, True):
        same = run([machine()], check=check)
        assert (same["changed"], same["commands"], same["diff"]) == (False, [], [])

    predicted = run([machine(cpu_model="qemu64")], check=True)
    changed = run([machine(cpu_model="qemu64")])
    assert changed["commands"] == predicted["commands"]
    assert entry(changed)["restart_reason"] == entry(predicted)["restart_reason"] == "cpu_model is max, declared qemu64"
    assert entry(run([machine(cpu_model="qemu64")]))["restart_required"]
    pid = read(root)["one"].pid
    predicted = run([machine(cpu_model="qemu64")], check=True, restart="when_required")
    restarted = run([machine(cpu_model="qemu64")], restart="when_required")
    assert restarted["commands"] == predicted["commands"] != []
    assert read(root)["one"].pid not in (0, pid)
    assert not entry(run([machine(cpu_model="qemu64")], restart="when_required"))["changed"]

    stopped = run([machine(cpu_model="qemu64", power="stopped")])
    assert stopped["after"]["one"]["power"] == "stopped"
    assert not run([machine(cpu_model="qemu64", power="stopped")])["changed"]
    assert entry(run([machine(cpu_model="qemu64")]))["reasons"] == ["is stopped, declared running"]

    predicted = run([{"name": "one", "grace": 0}], check=True, state="absent")
    gone = run([{"name": "one", "grace": 0}], state="absent")
    assert gone["commands"] == predicted["commands"]
    assert not os.listdir(root / "run/instances")
    assert (root / f"lib/volumes/compute-{ID}.img").exists()
    assert not run([{"name": "one"}], state="absent")["changed"]


def test_killed_and_stale(root: Path, run: Converge, volume: Volume) -> None:
    volume(ID)
    run([machine()])
    pid = read(root)["one"].pid
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 10
    while read(root)["one"].pid and time.monotonic() < until:
        time.sleep(0.05)
    pidfile = root / f"run/instances/compute-{ID}/compute-{ID}.pid"
    assert pidfile.read_text(encoding="ascii").strip() == str(pid)  # stale
    pidfile.write_text(f"{os.getpid()}\n", encoding="ascii")  # and by now somebody else's number
    assert entry(run([machine()]))["reasons"] == ["is stopped, declared running"]
    assert read(root)["one"].pid not in (0, pid, os.getpid())


def test_stopped_process_is_ended_by_force(root: Path, run: Converge, volume: Volume) -> None:
    """A QEMU that answers nothing at all can be removed; nobody else is signalled."""
    volume(ID)
    run([machine()])
    pid = read(root)["one"].pid
    os.kill(pid, signal.SIGSTOP)
    assert "msg" not in run([{"name": "one", "grace": 0}], state="absent")
    assert not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text(encoding="ascii")


def test_broken_scripts(root: Path, run: Converge, volume: Volume) -> None:
    volume(ID)
    run([machine()])
    folder = root / f"run/instances/compute-{ID}"
    (folder / "start").write_text("#!/bin/sh\nexec sleep 1\n", encoding="ascii")
    with pytest.raises(ComputeError, match="did not make"):
        run([machine()])  # the mark is gone: somebody else's
    (folder / "start").unlink()
    (folder / "stop").write_text("#!/bin/sh\nexit 1\n", encoding="ascii")
    mended = run([machine()])
    assert [command.split()[-1] for command in mended["commands"]] == [str(folder), f"{folder}/start", f"{folder}/stop"]
    assert (entry(mended)["action"], entry(mended)["reasons"][-1]) == ("update", "start is not there")
    assert not run([machine()])["changed"]
    (folder / "start").unlink()
    (folder / "stop").write_text("#!/bin/sh\nexit 1\n", encoding="ascii")
    assert "msg" not in run([], state="present", purge=True)
    assert not folder.exists()
    assert not read(root)


@pytest.mark.parametrize("power", ["stopped", "running"])
def test_what_stands_in_the_place_of_its_files_is_removed(
    root: Path, run: Converge, volume: Volume, tmp_path: Path, power: str
) -> None:
    """QEMU's user can write there what it likes; what that leads to is not touched."""
    volume(ID)
    run([machine(power="stopped")])
    folder = root / f"run/instances/compute-{ID}"
    for name in ("start", "stop", "qmp"):
        (folder / name).unlink()
    for name in (
        "start",
        "stop",
        "qmp",
        "qmp.sock",
        "console.sock",
        "console.log",
        "vnc.sock",
        f"compute-{ID}.pid",
        ".new-start",
    ):
        (folder / name / "a/b").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    for place in ("start", "qmp.sock/a"):
        (folder / place / "link").symlink_to(tmp_path / "other")
    planned = run([machine(power=power)], check=True)
    done = run([machine(power=power)])
    assert "msg" not in done and done["commands"] == planned["commands"]
    assert {f"rm -rf {folder}/start", f"rm -rf {folder}/qmp.sock"} <= set(done["commands"])
    assert (tmp_path / "other/file").exists() and bool(read(root)["one"].pid) == (power == "running")
    assert not run([machine(power=power)])["changed"]


def make_link(path: Path) -> None:
    path.symlink_to("/etc/shadow")


def make_unwritable(path: Path) -> None:
    path.touch()
    path.chmod(0)


@pytest.mark.parametrize("kind", [os.mkfifo, os.mkdir, make_link, make_unwritable])
@pytest.mark.parametrize("starting", ["site", "start"])
def test_what_is_no_log_and_no_pidfile_keeps_no_instance_off(
    root: Path, run: Converge, volume: Volume, kind: Callable[[Path], None], starting: str
) -> None:
    """QEMU would wait for ever, or fail. What a link leads to is as before."""
    volume(ID)
    run([machine(power="stopped")])
    before = Path("/etc/shadow").stat()
    folder = root / f"run/instances/compute-{ID}"
    files = [folder / "console.log", folder / f"compute-{ID}.pid"]
    for file in files:
        kind(file)
    layout = Layout(str(root))
    said = describe(read(root)["one"], layout, 0)["error"]
    assert all(f"{file} is not a file of ours" in said for file in files)
    act = partial(run, [machine()]) if starting == "site" else partial(power, root, "started")
    planned, done = act(check=True), act()
    assert "msg" not in done and done["commands"] == planned["commands"]
    assert {f"rm -rf {file}" for file in files} <= set(done["commands"])
    found = read(root)["one"]
    assert found.pid and not describe(found, layout, 0)["error"]
    assert all(stat.S_ISREG(file.lstat().st_mode) for file in files)
    after = Path("/etc/shadow").stat()
    assert (before.st_ino, before.st_mode, before.st_mtime_ns, before.st_size) == (
        after.st_ino,
        after.st_mode,
        after.st_mtime_ns,
        after.st_size,
    )


def test_a_restart_removes_what_stands_in_the_way(root: Path, run: Converge, volume: Volume) -> None:
    volume(ID)
    run([machine(grace=0)])
    log = root / f"run/instances/compute-{ID}/console.log"
    log.unlink()
    log.mkdir()
    assert "msg" not in power(root, "restarted")
    assert read(root)["one"].pid and log.is_file()


def test_a_viewer_is_led_to_the_screen(root: Path, run: Converge, volume: Volume) -> None:
    volume(ID)
    run([machine()])
    script, lead = root / "vnc", f"{root}/vnc-"
    script.write_text(vnc_text(Layout(str(root))).replace("/run/ikcloud-compute-vnc-", lead), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-I", str(script), "one"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as person:
        assert person.stdout and person.stdin and "Ctrl-C leaves" in person.stdout.readline()
        with socket.socket(socket.AF_UNIX) as viewer:
            viewer.settimeout(20)
            viewer.connect(f"{lead}{ID}.sock")
            assert viewer.recv(12) == b"RFB 003.008\n"  # RFC 6143, section 7.1.1
            viewer.sendall(b"RFB 003.008\n")
            assert viewer.recv(2) == b"\x01\x01"  # one kind of security: none
        person.stdin.close()
        assert person.wait(20) == 0


@pytest.mark.parametrize("says", [b"", b"[]\n" * 9, b'{"QMP": {}}\nnonsense\n'])
def test_a_qemu_that_talks_nonsense_is_named(
    root: Path, run: Converge, volume: Volume, says: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its user can have anybody listen at its socket. Its neighbour is shown as ever."""
    monkeypatch.setattr(running, "TIMEOUT", 2.0)
    volume(ID)
    volume(short_id("instance", "two"))
    run([machine(), machine("two")])
    path = root / f"run/instances/compute-{ID}/qmp.sock"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as liar:
        liar.bind(str(path))
        liar.listen()

        def lie() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client = liar.accept()[0]
                    client.sendall(says)
                    client.shutdown(socket.SHUT_WR)

        threading.Thread(target=lie, daemon=True).start()
        found = {
            name: describe(instance, Layout(str(root)), 0)
            for name, instance in read_instances(Layout(str(root)), units=False, talk=True).items()
        }
    assert str(path) in found["one"]["error"] and (found["one"]["power"], found["one"]["state"]) == ("running", None)
    assert (found["two"]["error"], found["two"]["power"], found["two"]["state"]) == ("", "running", "running")


class Killed(BaseException):
    """As if the module had been killed."""


@pytest.mark.parametrize("change", ["create", "restart", "remove"])
def test_killed_at_every_step(
    root: Path, run: Converge, volume: Volume, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Wherever a run is killed, the next one brings it to its end, and the one after that finds nothing to do."""
    volume(ID)
    want: dict[str, Any] = {"items": [machine(cpu=2, vnc="none")], "restart": "when_required"}
    if change == "remove":
        want = {"items": [machine(grace=0)], "state": "absent"}
    elif change == "create":
        want = {"items": [machine()]}
    for number in range(10):
        if change != "create":
            run([machine(grace=0)], restart="when_required")
        left = number

        def step(name: str, steps: list[Step]) -> tuple[str, ComputeError | None]:
            nonlocal left
            for one in steps:
                if left == 0:
                    raise Killed
                left -= 1
                one.run()
            return name, None

        with monkeypatch.context() as patch:
            patch.setattr(execution, "_apply_item", step)
            try:
                run(**want)
            except Killed:
                pass
            else:
                assert number > 1
                return
        assert "msg" not in run(**want)
        assert not run(**want)["changed"]
        assert ("one" in read(root)) == (change != "remove")
        run([machine(grace=0)], state="absent")
    pytest.fail("it never came to its end")


def test_many_side_by_side(root: Path, run: Converge, volume: Volume) -> None:
    names = [f"many-{number}" for number in range(4)]
    for name in names:
        volume(short_id("instance", name))
    items = [machine(name, memory=32, vnc="none") for name in names]
    assert "msg" not in run(items)
    assert sorted(name for name, instance in read(root).items() if instance.pid) == names
    began = time.monotonic()
    assert not run(items)["changed"]
    assert time.monotonic() - began < 3
    run(items[:1], purge=True)
    assert sorted(read(root)) == names[:1]


def test_node_without_qemu_changes_nothing(
    root: Path, run: Converge, volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume("0a1b2c3d")
    monkeypatch.setattr(commands, "PATH", str(tmp_path))
    with pytest.raises(
        ComputeError,
        match=r"This node lacks qemu-system-x86_64.*ikcloud\.compute\.prepare, or install: .*qemu-system-x86",
    ):
        run([machine(id="0a1b2c3d")])
    assert not (root / "run").exists()


def test_qemu_says_why(root: Path, run: Converge, volume: Volume) -> None:
    """An error of QEMU is in the message; the others run."""
    volume(ID).write_bytes(b"no image")
    volume(short_id("instance", "two"))
    result = run([machine(), machine("two")])
    assert "Image is not in qcow2 format" in result["msg"]
    assert "one" in result["msg"]
    assert read(root)["two"].pid
    assert not read(root)["one"].pid


def test_two_cards_talk(root: Path, run: Converge, volume: Volume) -> None:
    """The cards of the lab's own nodes: user networking with a forward, and a cable of UDP."""
    for name in ("one", "two"):
        volume(short_id("instance", name))
    with socket.socket() as first, socket.socket() as second, socket.socket() as third:
        for probe in (first, second, third):
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in (first, second, third)]
    ends = [f"127.0.0.1:{port}" for port in ports[:2]]
    items = [
        machine(
            "one",
            nics=[
                {"type": "user", "hostfwd": [f"tcp:127.0.0.1:{ports[2]}:22"]},
                {"type": "socket", "local": ends[0], "remote": ends[1]},
            ],
        ),
        machine(
            "two",
            nics=[
                {"type": "socket", "local": ends[1], "remote": ends[0]},
                {"type": "socket", "mcast": f"230.0.0.1:{ports[2]}"},
            ],
        ),
    ]
    assert "msg" not in run(items)
    with socket.create_connection(("127.0.0.1", ports[2]), timeout=5):
        pass
    path = read(root)["two"].folder + "/qmp.sock"
    with Qmp(path) as qmp:
        assert "network1" in qmp.execute("human-monitor-command", {"command-line": "info network"})


def test_qmp_waits_for_its_turn(root: Path, run: Converge, volume: Volume) -> None:
    """QEMU serves one client at a time."""
    volume(ID)
    run([machine()])
    path = read(root)["one"].folder + "/qmp.sock"
    first = Qmp(path)
    timer = threading.Timer(0.5, first.close)
    timer.start()
    assert status(path) == "running"
    timer.join()
    with Qmp(path) as qmp:
        qmp.execute("stop")
    assert status(path) == "paused"
    with Qmp(path), pytest.raises(ComputeError, match="does not answer"):
        Qmp(path, timeout=0.2)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, to be somebody else")
def test_without_root(root: Path, volume: Volume) -> None:
    """Nobody, with no home and no privileges, runs an instance by its scripts alone."""
    layout = Layout(str(root))
    disk = volume(ID)
    declared: dict[str, Any] = {
        "nics": [{"type": "user", "hostfwd": []}],
        "volumes": [],
        "volume_format": "qcow2",
        "cpu_model": None,
    }
    item = {
        "cpu": 1,
        "cpu_max": None,
        "memory_max": None,
        "vnc": "none",
        "boot_network": False,
        "labels": {},
        **machine(),
        **declared,
    }
    where = paths(item, layout)
    os.makedirs(where.folder)
    for script, text in (
        (where.start, start_script(from_item(item, layout, "tcg"), item["labels"], where)),
        (where.stop, stop_script(item, layout)),
    ):
        Path(script).write_text(text, encoding="utf-8")
        os.chmod(script, 0o755)
    for path in (where.folder, str(disk)):
        os.chown(path, 65534, 65534)
    os.chmod(root.parent, 0o755)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    subprocess.run([*nobody, where.start], check=True)
    assert Path(f"/proc/{locked_by(where.pid)}").stat().st_uid == 65534
    done = subprocess.run([*nobody, where.stop, "0.5"], check=True, capture_output=True, text=True)
    assert "did not power off within 0.5 s: SIGTERM" in done.stderr
    assert not locked_by(where.pid)


def test_kvm_is_tried_not_believed() -> None:
    """Whatever this machine has, the answer comes in time; where /dev/kvm is there and guests hang, it is no."""
    kvm._answers.clear()
    before, kvm.LIMIT = kvm.LIMIT, 5.0
    try:
        works, why = kvm.kvm_works()
    finally:
        kvm.LIMIT = before
        kvm._answers.clear()
    assert works == (why == "")


def test_a_disk_that_names_another_file_is_not_handed_to_qemu(root: Path, run: Converge, volume: Volume) -> None:
    path = volume(ID)
    other = root / "other"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={other},data_file_raw=on", str(path), "16M"],
        check=True,
    )
    assert "msg" not in run([machine(power="stopped")])
    with pytest.raises(ComputeError, match=r"instance one: .* says that its data stand in another file"):
        run([machine()])
    assert not read(root)["one"].pid
    with pytest.raises(ComputeError, match=r"instance one: .* says that its data stand in another file"):
        run(
            [
                machine(
                    volumes=[{"path": str(path), "format": "qcow2"}], volume=str(root / "mine.img"), volume_format="raw"
                )
            ]
        )


def test_info_waits_for_no_pipe(root: Path, run: Converge, volume: Volume) -> None:
    """What a start script or a QEMU's command line names as a disk is QEMU's user's to say."""
    path = volume(ID)
    run([machine(power="stopped")])
    path.unlink()
    os.mkfifo(path)
    found: list[dict[str, Any]] = []
    reader = threading.Thread(
        target=lambda: found.append(describe(read(root)["one"], Layout(str(root)), 0)), daemon=True
    )
    reader.start()
    reader.join(10)
    assert found and found[0]["disks"][0]["virtual_size"] is None
