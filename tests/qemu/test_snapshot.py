# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of instances, with a real QEMU and real disks."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.backup.steps import NODE
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.snapshot import operation as snapshot_operation
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.snapshot.snapshots import read_snapshots, tag_of
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.marks import MARK, write_mark
from ansible_collections.ikcloud.compute.plugins.module_utils._core.names import short_id
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.qmp.qmp import Qmp, status
from ansible_collections.ikcloud.compute.tests.qemu.conftest import Converge, machine
from ansible_collections.ikcloud.compute.tests.qemu.lifecycle import (
    ID,
    Killed,
    Volume,
    backup,
    backup_left_running,
    before_step,
    both,
    holds,
    killed_after,
    pid,
    power,
    snapshot,
    socket_of,
    write,
    write_running,
)


def test_snapshot_of_one_that_is_off(root: Path, run: Converge, volume: Volume) -> None:
    disk = volume(ID)
    write(disk, 1)
    run([machine(power="stopped")])
    done = both(snapshot, root, "created")
    assert done["commands"] == [f"qemu-img snapshot -q -c compute-{ID}.clean {disk}"]
    assert done["after"]["one"]["snapshots"] == ["clean"]
    assert not snapshot(root, "present")["changed"]
    with pytest.raises(
        ComputeError,
        match=r"has a snapshot clean already, of 20.*nothing was changed. Take another name, or delete it first",
    ):
        snapshot(root, "created")
    write(disk, 2)
    with pytest.raises(ComputeError, match="has no snapshot dirty; there is clean"):
        snapshot(root, "reverted", name="dirty")
    done = both(snapshot, root, "reverted")
    assert done["changed"] and holds(disk, 1)
    # Somebody's own snapshot is nothing to us.
    subprocess.run(["qemu-img", "snapshot", "-c", "clean", str(disk)], check=True)
    both(snapshot, root, "absent")
    assert list(read_snapshots(str(disk), str(root))) == ["clean"]
    assert not snapshot(root, "absent")["changed"]
    # A disk that grew since is as large as it was.
    snapshot(root, "present")
    subprocess.run(["qemu-img", "resize", "-q", "-f", "qcow2", str(disk), "32M"], check=True)
    both(snapshot, root, "reverted")
    assert holds(disk, 1)


def test_snapshot_of_one_that_runs(root: Path, run: Converge, volume: Volume) -> None:
    disk, data = volume(ID), volume("11111111")
    write(disk, 1)
    run([machine(grace=0, volumes=[{"path": str(data)}])])
    one = pid(root)
    done = both(snapshot, root, "created")
    assert [line.split("/")[-1].split(" ")[1] for line in done["commands"]] == ["snapshot-save", "job-dismiss"]
    held = read_snapshots(str(disk), str(root))[tag_of(ID, "clean")]
    assert held.memory > 0 and tag_of(ID, "clean") in read_snapshots(str(data), str(root))
    assert (
        subprocess.run(
            ["qemu-img", "snapshot", "-U", "-l", str(disk)], check=True, capture_output=True, text=True
        ).stdout.count("clean")
        == 1
    )
    write_running(root, 2)
    assert holds(disk, 2)
    done = both(snapshot, root, "reverted")
    assert holds(disk, 1) and pid(root) == one and status(socket_of(root)) == "running"
    power(root, "paused")
    snapshot(root, "reverted")
    assert status(socket_of(root)) == "paused"  # as it was
    assert not run([machine(grace=0, volumes=[{"path": str(data)}])])["changed"]
    # Off, it is reverted without its memory, which is said.
    power(root, "stopped", grace=0)
    write(disk, 3)
    assert "without the memory in its snapshot clean" in both(snapshot, root, "reverted")["warn"][0]
    assert holds(disk, 1)
    # And the other way round.
    snapshot(root, "created", name="off")
    power(root, "started")
    write_running(root, 4)
    with pytest.raises(
        ComputeError,
        match=r"runs, and its snapshot off, taken while it was off.*state=stopped\), or set restart=when_required",
    ):
        snapshot(root, "reverted", name="off")
    assert holds(disk, 4)
    one = pid(root)
    both(snapshot, root, "reverted", name="off", restart="when_required")
    assert holds(disk, 1) and pid(root) not in (0, one)
    done = both(snapshot, root, "absent")
    assert done["after"]["one"]["snapshots"] == ["off"]
    assert (
        list(read_snapshots(str(disk), str(root))) == list(read_snapshots(str(data), str(root))) == [tag_of(ID, "off")]
    )


def test_a_disk_added_since_is_not_torn_from_the_others(root: Path, run: Converge, volume: Volume) -> None:
    volume(ID)
    run([machine(power="stopped")])
    snapshot(root, "present")
    data = volume("11111111")
    run([machine(power="stopped", volumes=[{"path": str(data)}])])
    with pytest.raises(
        ComputeError, match=rf"the snapshot clean does not have its disk {data}; nothing was changed. Detach that first"
    ):
        snapshot(root, "reverted")
    raw = root / "lib/volumes/raw.img"
    raw.write_bytes(b"\0" * (1 << 20))
    run([machine(power="stopped", volumes=[{"path": str(raw), "format": "raw"}])])
    with pytest.raises(ComputeError, match=r"its disk .*raw\.img is raw, which holds no snapshots"):
        snapshot(root, "present", name="other")


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("state", ["present", "absent", "reverted"])
def test_snapshot_killed_at_every_step(
    root: Path, run: Converge, volume: Volume, monkeypatch: pytest.MonkeyPatch, state: str, runs: bool
) -> None:
    disk, data = volume(ID), volume("11111111")
    write(disk, 1)
    run([machine(grace=0, power="running" if runs else "stopped", volumes=[{"path": str(data)}])])
    for number in range(6):
        snapshot(root, "absent" if state == "present" else "present")
        with monkeypatch.context() as patch:
            killed_after(patch, number)
            try:
                snapshot(root, state)
            except Killed:
                pass
            else:
                assert number > 1
                return
        assert "msg" not in snapshot(root, state)
        assert [tag_of(ID, "clean") in read_snapshots(str(path), str(root)) for path in (disk, data)] == [
            state != "absent"
        ] * 2
        assert holds(disk, 1)
        if runs:
            with Qmp(socket_of(root)) as qmp:
                assert qmp.execute("query-jobs") == []
    pytest.fail("it never came to its end")


@pytest.mark.parametrize("state", ["created", "reverted", "absent"])
def test_what_an_interrupted_backup_left_in_qemu_is_ended_first(
    root: Path, run: Converge, volume: Volume, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """A copied disk can't be reverted, nor held in a snapshot: the data disk went back, the own one did not."""
    disk, data = volume(ID), volume("11111111")
    write(disk, 1)
    write(data, 1)
    run([machine(grace=0, volumes=[{"path": str(data)}])])
    if state != "created":
        snapshot(root, "created")
        write_running(root, 2)
        write_running(root, 2, data)
    backup_left_running(root, monkeypatch)
    done = both(snapshot, root, state)
    assert [line.split("/")[-1].split(" ")[1] for line in done["commands"]][:2] == ["job-cancel", "blockdev-del"]
    assert (holds(disk, 2), holds(data, 2)) == (state == "absent",) * 2
    with Qmp(socket_of(root)) as qmp:
        assert qmp.execute("query-jobs") == []
        assert NODE not in [node["node-name"] for node in qmp.execute("query-named-block-nodes")]
    backup(root, "created")
    assert [name for name in os.listdir(root / "lib/volumes") if name.startswith(".")] == []


def detached(root: Path, run: Converge, volume: Volume) -> tuple[Path, Path]:
    """Give the disks of an instance that runs, of which the second was detached since its snapshot."""
    disk, data = volume(ID), root / "lib/volumes/data.img"
    volume("11111111").rename(data)
    write_mark(str(data), MARK, "volume/data")
    write(disk, 1)
    run([machine(grace=0, volumes=[{"path": str(data)}])])
    snapshot(root, "created")
    power(root, "stopped", grace=0)
    run([machine(grace=0)])
    return disk, data


def test_a_memory_with_a_disk_that_was_detached_is_refused_before(
    root: Path, run: Converge, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, data = detached(root, run, volume)
    write_running(root, 2)
    for check in (True, False):
        with pytest.raises(
            ComputeError,
            match=(
                rf"the memory in its snapshot clean has the disk {data}, which was detached since; nothing was changed."
                r" Attach"
            ),
        ):
            snapshot(root, "reverted", check=check)
    assert holds(disk, 2) and status(socket_of(root)) == "running"
    power(root, "stopped", grace=0)
    assert (
        f"{data} was detached since the snapshot clean, and stays as it is"
        in both(snapshot, root, "reverted")["warn"][1]
    )
    assert holds(disk, 1)
    # The volume's is left of another snapshot of that name.
    power(root, "started")
    with monkeypatch.context() as patch:
        patch.setattr(snapshot_operation, "elsewhere", lambda *_arguments: {})
        both(snapshot, root, "absent")
    time.sleep(1.1)
    snapshot(root, "created")
    write_running(root, 2)
    both(snapshot, root, "reverted")
    assert holds(disk, 1) and status(socket_of(root)) == "running"


@pytest.mark.parametrize("runs", [True, False])
def test_a_snapshot_is_deleted_in_a_volume_that_was_detached_too(
    root: Path, run: Converge, volume: Volume, runs: bool
) -> None:
    disk, data = detached(root, run, volume)
    other = root / f"lib/volumes/compute-{short_id('instance', 'two')}.img"  # a copy that somebody made
    shutil.copy(data, other)
    volume("22222222").rename(foreign := root / "lib/volumes/foreign.img")
    subprocess.run(["qemu-img", "snapshot", "-c", tag_of(ID, "clean"), str(foreign)], check=True)
    if not runs:
        power(root, "stopped", grace=0)
    # While another instance has it, it is said that it stays.
    run([machine("two", grace=0, volumes=[{"path": str(data)}])])
    done = both(snapshot, root, "absent")
    assert (
        done["changed"]
        and f"its snapshot clean stays in {data}, which was detached since: it is in use by the instance two."
        in done["warn"][0]
    )
    assert not read_snapshots(str(disk), str(root)) and tag_of(ID, "clean") in read_snapshots(str(data), str(root))
    assert not snapshot(root, "absent")["changed"]
    power(root, "stopped", grace=0, instances=["two"])
    done = both(snapshot, root, "absent")
    assert done["commands"] == [f"qemu-img snapshot -q -d {tag_of(ID, 'clean')} {data}"] and not done["warn"]
    assert not read_snapshots(str(data), str(root))
    assert all(tag_of(ID, "clean") in read_snapshots(str(path), str(root)) for path in (other, foreign))
    assert not snapshot(root, "absent")["changed"]


def test_a_revert_that_fails_at_a_disk_says_so_and_what_mends_it(
    root: Path, run: Converge, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some disks may have gone back by then."""
    disk, data = volume(ID), volume("11111111")
    write(disk, 1)
    run([machine(grace=0, volumes=[{"path": str(data)}])])
    snapshot(root, "created")
    write_running(root, 2)
    with Qmp(socket_of(root)) as qmp:
        (node,) = [
            node["node-name"]
            for node in qmp.execute("query-named-block-nodes")
            if node["file"] == str(disk) and node["drv"] == "qcow2"
        ]

        def bitmap() -> None:
            with Qmp(socket_of(root)) as other:
                other.execute("block-dirty-bitmap-add", {"node": node, "name": "foreign"})

    with monkeypatch.context() as patch:
        before_step(patch, f"{root}/run/instances/compute-{ID}/qmp snapshot-load", bitmap)
        failed = snapshot(root, "reverted")["msg"]
    assert "may be of different times now. Power it off" in failed and "stand at the snapshot" not in failed
    power(root, "stopped", grace=0)
    snapshot(root, "reverted")
    assert holds(disk, 1)


def test_a_memory_that_does_not_fit_is_said_and_a_restart_mends_it(root: Path, run: Converge, volume: Volume) -> None:
    """The machine was made larger since: QEMU can't load the snapshot's memory, and its guest is held rather than run
    with half of it.
    """
    disk = volume(ID)
    write(disk, 1)
    run([machine(grace=0)])
    snapshot(root, "created")
    write_running(root, 2)
    power(root, "stopped", grace=0)
    run([machine(grace=0, memory=96)])
    one = pid(root)
    failed = snapshot(root, "reverted")
    assert "QEMU could not do snapshot-load" in failed["msg"] and "state=restarted" in failed["msg"]
    assert holds(disk, 1) and pid(root) == one and status(socket_of(root)) != "running"
    with Qmp(socket_of(root)) as qmp:
        assert qmp.execute("query-jobs") == []
    done = both(power, root, "restarted", grace=0)
    assert done["before"]["one"]["power"] == "paused"
    assert holds(disk, 1) and pid(root) not in (0, one) and status(socket_of(root)) == "running"
