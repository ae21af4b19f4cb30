# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Instances that are there, powered on and off, with a real QEMU."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.names import short_id
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.qmp.qmp import status
from ansible_collections.ikcloud.compute.tests.qemu.conftest import Converge, machine
from ansible_collections.ikcloud.compute.tests.qemu.lifecycle import (
    ID,
    Volume,
    backup,
    both,
    holds,
    pid,
    power,
    snapshot,
    socket_of,
    write,
)


def test_power(root: Path, run: Converge, volume: Volume) -> None:
    volume(ID)
    run([machine(grace=0)])
    first = pid(root)
    done = both(power, root, "paused")
    assert done["before"]["one"]["power"] == "running"
    assert status(socket_of(root)) == "paused"
    assert not power(root, "paused")["changed"]
    assert not run([machine(grace=0)])["changed"]  # as the documentation says: site leaves it paused
    both(power, root, "resumed")
    assert status(socket_of(root)) == "running"
    assert not power(root, "resumed")["changed"] and not power(root, "started")["changed"]
    both(power, root, "restarted", instances=[ID])
    second = pid(root)
    assert second not in (0, first)
    power(root, "paused")
    both(power, root, "stopped")
    assert pid(root) == 0
    assert not power(root, "stopped")["changed"]
    for state in ("paused", "resumed"):
        with pytest.raises(ComputeError, match=f"only what runs can be {state}.*state=started"):
            power(root, state)
    both(power, root, "restarted")
    assert pid(root) not in (0, second)
    power(root, "stopped", grace=0)
    assert run([machine(grace=0)])["results"][0]["reasons"] == [
        "is stopped, declared running"
    ]  # and starts what was stopped by hand
    power(root, "stopped")
    both(power, root, "started")
    assert pid(root)


def test_grace_comes_first(root: Path, run: Converge, volume: Volume) -> None:
    """A guest that takes no notice of its power button is given its time, then it is forced."""
    volume(ID)
    run([machine(grace=0)])
    began = time.monotonic()
    done = power(root, "stopped", grace=2)
    assert time.monotonic() - began >= 2
    assert done["commands"][0].endswith("/stop 2")
    assert pid(root) == 0


def test_paused_guest_sees_its_power_button(root: Path, run: Converge, volume: Volume) -> None:
    """The stop script lets it go on first, so it is shut down by site, by systemd and with its node, too."""
    volume(ID)
    run([machine(grace=0)])
    power(root, "paused")
    with subprocess.Popen([f"{Path(socket_of(root)).parent}/stop", "3"], stderr=subprocess.DEVNULL) as stop:
        until = time.monotonic() + 2
        while (said := status(socket_of(root))) == "paused" and time.monotonic() < until:
            time.sleep(0.05)
        assert said == "running"
        assert stop.wait(20) == 0
    assert pid(root) == 0


def test_unknown_names(root: Path, run: Converge, volume: Volume) -> None:
    for name in ("one", "two"):
        volume(short_id("instance", name))
        run([machine(name, power="stopped")])
    for call in (power, snapshot, backup):
        state = "stopped" if call is power else "present"
        with pytest.raises(
            ComputeError, match=r"There is no instance three, four on this node\. There are: one, two\."
        ):
            call(root, state, instances=["one", "three", "four"])
        with pytest.raises(ComputeError, match=f"one and {ID} are the same instance"):
            call(root, state, instances=["one", ID])
    with pytest.raises(ComputeError, match="grace: -1 is out of range"):
        power(root, "stopped", grace=-1)
    with pytest.raises(ComputeError, match="name: 'a b' is not a valid name"):
        snapshot(root, "present", name="a b")
    assert not power(root, "stopped", instances=["one", "two"])["changed"]


def test_a_stop_that_never_ends(root: Path, run: Converge, volume: Volume) -> None:
    """The script is QEMU's user's to write: `grace` holds all the same, and the lock is given back."""
    volume(ID)
    run([machine(grace=0)])
    stop = root / f"run/instances/compute-{ID}/stop"
    stop.write_text("#!/bin/sh\ntrap '' TERM INT HUP\nwhile :; do sleep 1; done\n", encoding="utf-8")
    began = time.monotonic()
    power(root, "stopped", grace=1)
    assert (pid(root), time.monotonic() - began < 30) == (0, True)


def test_another_process_with_the_lock_is_not_ended(root: Path, run: Converge, volume: Volume) -> None:
    """Who can write the pidfile chooses who holds the lock on it."""
    volume(ID)
    run([machine(grace=0)])
    first = pid(root)
    pidfile = root / f"run/instances/compute-{ID}/compute-{ID}.pid"
    pidfile.rename(pidfile.with_suffix(".old"))
    holder = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); print('locked',"
        " flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(pidfile)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        words = power(root, "stopped", grace=0)["msg"]
        assert f"The process {other.pid} has {pidfile} locked, and is not the QEMU that this is for" in words
        assert other.poll() is None
        other.kill()
    pidfile.with_suffix(".old").rename(pidfile)
    assert pid(root) == first


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, to run QEMU as somebody else")
def test_as_nobody_in_the_sandbox(root: Path, run: Converge, volume: Volume) -> None:
    """What QEMU does for us it does without any rights of root's, in a folder where it can make no file."""
    disk = volume(ID)
    write(disk, 1)
    os.chmod(root.parent, 0o755)
    os.chown(disk, 65534, 65534)
    run([machine(grace=0, user="nobody")])
    assert Path(f"/proc/{pid(root)}").stat().st_uid == 65534
    for name in ("hot", "later"):
        both(snapshot, root, "created", name=name)
    both(snapshot, root, "reverted", name="hot")
    both(backup, root, "created")
    file = root / "lib/backups/one/nightly.qcow2"
    assert holds(file, 1) and (file.stat().st_uid, file.stat().st_mode & 0o777) == (0, 0o600)
    both(power, root, "paused")
    both(power, root, "restarted")
    power(root, "stopped")
    both(backup, root, "restored")
    assert (disk.stat().st_uid, disk.stat().st_mode & 0o777) == (65534, 0o640)
    both(power, root, "started")


def test_commands_typed_by_hand(root: Path, run: Converge, volume: Volume) -> None:
    """What check mode lists is what a person can type."""
    disk = volume(ID)
    write(disk, 1)
    run([machine(grace=0)])
    for call, state in (
        (snapshot, "created"),
        (power, "paused"),
        (power, "resumed"),
        (snapshot, "reverted"),
        (snapshot, "absent"),
    ):
        for command in call(root, state, check=True)["commands"]:
            subprocess.run(
                ["sh", "-c", command],
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=60,
            )
        assert call(root, "present" if state == "created" else state)["changed"] is (state == "reverted")
    os.kill(pid(root), signal.SIGCONT)
