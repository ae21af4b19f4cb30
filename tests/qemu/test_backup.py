# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of instances, with a real QEMU and real disks."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.backup.operation import BackupOperation
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.backup.steps import (
    JOB,
    NODE,
    CopyDisk,
    target_path,
)
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.volumes import InstanceVolumeResource
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._core.reconcile import argument_spec, converge
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.qmp.qmp import Qmp, status
from ansible_collections.ikcloud.compute.tests.qemu.conftest import Converge, machine
from ansible_collections.ikcloud.compute.tests.qemu.lifecycle import (
    ID,
    Killed,
    Volume,
    act,
    backup,
    backup_left_running,
    before_step,
    both,
    holds,
    killed_after,
    pid,
    power,
    refused,
    socket_of,
    write,
    write_running,
)


def test_backup_and_restore(root: Path, run: Converge, volume: Volume) -> None:
    base = root / "lib/images/base.img"
    base.parent.mkdir()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(base), "16M"], check=True)
    write(base, 9, "4M")
    write(base, 8, "6M")
    disk = root / f"lib/volumes/compute-{ID}.img"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(disk)], check=True)
    write(disk, 1)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -z 6M 1M", str(disk)], check=True, capture_output=True)
    run([machine(grace=0, power="stopped")])
    file = root / "lib/backups/one/nightly.qcow2"
    done = both(backup, root, "created")
    assert done["results"][0]["path"] == str(file)
    assert file.stat().st_mode & 0o777 == 0o600
    subprocess.run(["qemu-img", "compare", "-q", str(file), str(disk)], check=True)
    assert (
        "backing"
        not in subprocess.run(["qemu-img", "info", str(file)], check=True, capture_output=True, text=True).stdout
    )
    assert not backup(root, "present")["changed"]
    with pytest.raises(ComputeError, match=r"has a backup nightly already.*Take another name, or delete it first"):
        backup(root, "created")

    # The same of one that runs.
    power(root, "started")
    write_running(root, 2)
    done = both(backup, root, "created", name="live", compress=True)
    assert any("blockdev-backup" in command for command in done["commands"])
    write_running(root, 3)
    live = root / "lib/backups/one/live.qcow2"
    assert holds(live, 2) and holds(live, 9, "4M") and holds(live, 0, "6M")
    assert not os.path.lexists(target_path(Layout(str(root)), ID))
    with Qmp(socket_of(root)) as qmp:
        assert qmp.execute("query-jobs") == []
        assert NODE not in [node["node-name"] for node in qmp.execute("query-named-block-nodes")]
    with pytest.raises(
        ComputeError,
        match=(
            r"instance one is running; a backup is restored only while it is off; nothing was"
            r" changed.*ikcloud\.compute\.stop"
        ),
    ):
        backup(root, "restored", name="live")
    assert holds(disk, 3)

    power(root, "stopped")
    with pytest.raises(
        ComputeError, match=r"has no backup .*weekly.qcow2; nothing was changed. There is: live, nightly."
    ):
        backup(root, "restored", name="weekly")
    done = both(backup, root, "restored", name="live")
    assert holds(disk, 2) and holds(disk, 9, "4M") and holds(disk, 0, "6M")
    subprocess.run(["qemu-img", "compare", "-q", str(live), str(disk)], check=True)
    assert (
        str(base) in subprocess.run(["qemu-img", "info", str(disk)], check=True, capture_output=True, text=True).stdout
    )
    kept = list((root / "lib/volumes/kept").iterdir())
    assert len(kept) == 1 and str(kept[0]) in done["warn"][0] and holds(kept[0], 3)
    power(root, "started")
    assert run([machine(grace=0)])["changed"] is False
    both(backup, root, "absent")
    assert os.listdir(root / "lib/backups/one") == ["live.qcow2"]
    assert not backup(root, "absent")["changed"]
    both(backup, root, "absent", name="live")
    assert not (root / "lib/backups").exists()


@pytest.mark.parametrize("runs", [False, True])
def test_backup_killed_at_every_step(
    root: Path, run: Converge, volume: Volume, monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    disk = volume(ID)
    write(disk, 1)
    run([machine(grace=0, power="running" if runs else "stopped")])
    folder = root / "lib/backups/one"
    for number in range(16):
        with monkeypatch.context() as patch:
            killed_after(patch, number)
            try:
                backup(root, "created", name=f"try-{number}")
            except Killed:
                assert not (folder / f"try-{number}.qcow2").exists()
            else:
                assert number > 4
                return
        assert "msg" not in backup(root, "created", name=f"good-{number}")
        assert holds(folder / f"good-{number}.qcow2", 1)
        assert [name for name in os.listdir(folder) if name.startswith(".")] == []
        assert [name for name in os.listdir(root / "lib/volumes") if name.startswith(".")] == []
    pytest.fail("it never came to its end")


def test_restore_killed_at_every_step(
    root: Path, run: Converge, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is killed, the disk is the former one or the restored one, whole."""
    disk = volume(ID)
    write(disk, 1)
    run([machine(power="stopped")])
    backup(root, "present")
    for number in range(12):
        write(disk, 2)
        with monkeypatch.context() as patch:
            killed_after(patch, number)
            try:
                backup(root, "restored")
            except Killed:
                assert holds(disk, 2)
            else:
                assert number > 4 and holds(disk, 1)
                return
        assert "msg" not in backup(root, "restored")
        assert holds(disk, 1)
        assert len(list((root / "lib/volumes/kept").iterdir())) == 1  # and that disk was kept once
        shutil.rmtree(root / "lib/volumes/kept")
    pytest.fail("it never came to its end")


@pytest.mark.parametrize("aside", [False, True])
def test_a_disk_is_not_replaced_under_a_guest_that_was_started_meanwhile(
    root: Path, run: Converge, volume: Volume, monkeypatch: pytest.MonkeyPatch, aside: bool
) -> None:
    disk = volume(ID)
    write(disk, 1)
    run([machine(grace=0, power="stopped")])
    backup(root, "present")
    write(disk, 2)
    before_step(
        monkeypatch,
        f"mv -T {disk.parent}/.{disk.name}.new {disk}",
        lambda: subprocess.run([root / f"run/instances/compute-{ID}/start"], check=True),
    )
    assert (
        f"{disk} is in use by a running QEMU. Stop its instance first" in backup(root, "restored", aside=aside)["msg"]
    )
    assert holds(disk, 2) and not (disk.parent / f".{disk.name}.new").exists()


def test_a_job_that_goes_on_after_a_kill_is_ended(
    root: Path, run: Converge, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module is killed while QEMU copies, which goes on with it: the next run ends that and begins anew."""
    disk = volume(ID)
    write(disk, 1)
    run([machine(grace=0)])
    backup_left_running(root, monkeypatch)
    both(backup, root, "created")
    assert holds(root / "lib/backups/one/nightly.qcow2", 1)
    with Qmp(socket_of(root)) as qmp:
        assert qmp.execute("query-jobs") == []


def test_a_disk_that_such_a_job_copies_grows(
    root: Path, run: Converge, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU grows no disk while it copies it."""
    disk = volume(ID)
    write(disk, 1)
    run([machine(grace=0)])
    backup_left_running(root, monkeypatch)
    given = {"volumes": [{"name": f"compute-{ID}", "size": "32M"}], "owner": machine()["user"], "root": str(root)}
    validated = ArgumentSpecValidator(argument_spec(InstanceVolumeResource)).validate(given).validated_parameters
    predicted, done, again = (converge(InstanceVolumeResource(validated), check) for check in (True, False, False))
    assert "msg" not in done and done["commands"] == predicted["commands"] and not again["changed"]
    assert [
        next(word for word in ("job-cancel", "blockdev-del", "block_resize") if word in line)
        for line in done["commands"][-3:]
    ] == [
        "job-cancel",
        "blockdev-del",
        "block_resize",
    ]
    assert "an interrupted backup has left its job in QEMU" in done["results"][0]["reasons"]
    assert done["results"][0]["size"] == 32 << 20 and holds(disk, 1)
    both(backup, root, "created")


@pytest.mark.parametrize("broken", ["lost", "corrupt", "foreign", "without its image"])
@pytest.mark.parametrize("aside", [False, True])
@pytest.mark.parametrize("labels", [{"image": "base"}, {"image": "base", "copy": True}, {"image": "../base"}, {}])
def test_restore_when_the_disk_is_broken(
    root: Path, run: Converge, broken: str, aside: bool, labels: dict[str, Any]
) -> None:
    """That is when a backup is needed."""
    base = root / "lib/images/base.img"
    base.parent.mkdir()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(base), "16M"], check=True)
    write(base, 9, "4M")
    disk = root / f"lib/volumes/compute-{ID}.img"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(disk)], check=True)
    write(disk, 1)
    run([machine(power="stopped", labels=labels)])
    backup(root, "created")
    on_image = labels == {"image": "base"} and broken != "without its image"
    if broken == "lost":
        disk.unlink()
    elif broken == "corrupt":
        disk.write_bytes(b"QFI\xfb" + b"\xff" * 4096)
    elif broken == "foreign":
        subprocess.run(
            ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", str(disk)], check=True
        )
    else:
        base.unlink()
    done = both(backup, root, "restored", aside=aside)
    assert holds(disk, 1) and holds(disk, 9, "4M")
    assert (
        "backing file:"
        in subprocess.run(["qemu-img", "info", str(disk)], check=True, capture_output=True, text=True).stdout
    ) is on_image
    (said,) = [words for words in done["warn"] if "Its disk is restored all the same" in words]
    assert (f"on the image {base}" in said) is on_image and ("on no image" in said) is not on_image
    assert (root / "lib/volumes/kept").exists() is (aside and broken != "lost")


def test_a_backup_is_removed_whatever_has_become_of_its_instance(root: Path, run: Converge, volume: Volume) -> None:
    disk = volume(ID)
    write(disk, 1)
    run([machine(grace=0)])
    for name in ("first", "second", "third"):
        backup(root, "created", name=name)
    os.unlink(socket_of(root))  # it runs, and nobody reaches it
    assert "does not answer" in refused(backup, root, "created", name="fourth")
    both(backup, root, "absent", name="first")
    run([machine(grace=0)], state="absent")
    disk.unlink()
    both(backup, root, "absent", name="second")
    assert os.listdir(root / "lib/backups/one") == ["third.qcow2"]
    for name in ("../one", "one/../one"):
        with pytest.raises(ComputeError, match="is not a valid name"):
            act(BackupOperation, root, "absent", name="third", instances=[name])
    both(backup, root, "absent", name="third")
    assert not (root / "lib/backups").exists()
    assert not backup(root, "absent", name="third")["changed"]
    with pytest.raises(ComputeError, match="There is no instance one on this node"):
        backup(root, "restored", name="third")


def test_others_can_talk_to_qemu_while_it_copies(root: Path, run: Converge, volume: Volume) -> None:
    """QEMU serves one conversation at a time: a backup that takes hours holds none, so that the guest's power button
    can be pressed.
    """
    disk = volume(ID)
    write(disk, 1)
    run([machine(grace=0)])
    socket = socket_of(root)
    job = {"job-id": JOB, "target": NODE, "sync": "full", "speed": 4 << 20, "auto-dismiss": False}
    with Qmp(socket) as qmp:
        nodes = [
            node["node-name"]
            for node in qmp.execute("query-named-block-nodes")
            if node["file"] == str(disk) and node["drv"] == "qcow2"
        ]
        qmp.execute("blockdev-add", {"driver": "null-co", "node-name": NODE, "size": 16 << 20, "read-zeroes": True})
    step = CopyDisk((), socket, "blockdev-backup", {**job, "device": nodes[0]}, stage=0, made=str(root / "none"))
    with ThreadPoolExecutor() as pool:
        copying = pool.submit(step.run)
        until = time.monotonic() + 10
        while time.monotonic() < until and not copying.done():
            with Qmp(socket, 2) as qmp:
                if qmp.execute("query-jobs"):
                    break
        time.sleep(1.5)
        asked = time.monotonic()
        assert not copying.done() and status(socket, 5) == "running" and time.monotonic() - asked < 2
        with Qmp(socket, 2) as qmp:
            qmp.execute("job-cancel", {"id": JOB})
        with pytest.raises(ComputeError, match="QEMU could not do blockdev-backup"):
            copying.result(timeout=10)


def test_backup_that_does_not_fit_leaves_nothing(root: Path, run: Converge, volume: Volume) -> None:
    """A copy that QEMU can't finish is an error that says why; QEMU has let go of it, and the guest runs on."""
    disk = volume(ID)
    write(disk, 1)
    run([machine(grace=0)])
    quota = subprocess.run(["prlimit", f"--pid={pid(root)}", "--fsize=65536:65536"], check=False)
    if quota.returncode:
        pytest.skip("prlimit(1) can't limit another process here")
    done = backup(root, "created")
    assert "QEMU could not do blockdev-backup" in done["msg"], done
    assert not os.path.lexists(target_path(Layout(str(root)), ID))
    assert not (root / "lib/backups/one/nightly.qcow2").exists()
    subprocess.run(["prlimit", f"--pid={pid(root)}", "--fsize=unlimited:65536"], check=False)
    assert status(socket_of(root)) == "running"
    with Qmp(socket_of(root)) as qmp:
        assert qmp.execute("query-jobs") == []
        assert NODE not in [node["node-name"] for node in qmp.execute("query-named-block-nodes")]


def test_a_folder_that_can_not_be_one_is_refused_in_check_mode_too(root: Path, run: Converge, volume: Volume) -> None:
    volume(ID)
    run([machine(power="stopped")])
    (root / "file").write_text("x", encoding="utf-8")
    (root / "dangling").symlink_to(root / "nowhere")
    (root / "made").mkdir()
    (root / "made/one").write_text("x", encoding="utf-8")
    for folder, blocked in (("file", "file"), ("file/below", "file"), ("dangling", "dangling"), ("made", "made/one")):
        for check in (True, False):
            with pytest.raises(
                ComputeError,
                match=(
                    rf"can't be made, {root}/{blocked} is no folder; nothing was changed. Give another"
                    r" folder.*backup_folder="
                ),
            ):
                backup(root, "created", check=check, folder=str(root / folder))
    (root / "link").symlink_to(root / "lib")
    both(backup, root, "created", folder=str(root / "link/deep"))


def test_in_another_filesystem(root: Path, run: Converge, volume: Volume) -> None:
    disk = volume(ID)
    write(disk, 1)
    run([machine(grace=0)])
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ikc-") as folder:
        if os.stat(folder).st_dev == os.stat(root).st_dev:
            pytest.skip("/dev/shm is no filesystem of its own here")
        done = both(backup, root, "created", folder=folder)
        assert any(command.startswith("mv -fT ") for command in done["commands"])
        assert holds(Path(folder) / "one/nightly.qcow2", 1)
        assert os.stat(f"{folder}/one/nightly.qcow2").st_mode & 0o777 == 0o600
        assert not backup(root, "present", folder=folder)["changed"]
        assert [name for name in os.listdir(root / "lib/volumes") if name.startswith(".")] == []
        power(root, "stopped")
        write(disk, 2)
        both(backup, root, "restored", folder=folder)
        assert holds(disk, 1)
        both(backup, root, "absent", folder=folder)
        assert not os.path.exists(f"{folder}/one") and os.path.exists(folder)
