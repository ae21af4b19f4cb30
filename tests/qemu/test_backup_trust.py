# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of instances: what QEMU, its user or somebody else has laid there leads root nowhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.backup.steps import target_path
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.tests.qemu.conftest import Converge, machine
from ansible_collections.ikcloud.compute.tests.qemu.lifecycle import (
    ID,
    Volume,
    backup,
    before_step,
    both,
    holds,
    refused,
    snapshot,
    write,
)


def test_qemu_can_not_lead_root_elsewhere(
    root: Path, run: Converge, volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A QEMU that is not to be trusted still has the file open that it wrote the backup to, and makes it refer to
    another one.
    """
    write(volume(ID), 1)
    run([machine(grace=0)])
    secret = tmp_path / "secret"
    secret.write_bytes(b"\7" * (16 << 20))
    target, file = Path(target_path(Layout(str(root)), ID)), root / "lib/backups/one/nightly.qcow2"
    options = {
        "backing": ["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", str(secret), str(target)],
        "data": ["create", "-q", "-f", "qcow2", "-o", f"data_file={secret},data_file_raw=on", str(target), "16M"],
    }
    for arguments in options.values():
        with monkeypatch.context() as patch:
            before_step(
                patch,
                "mv -fT ",
                lambda arguments=arguments: subprocess.run(["qemu-img", *arguments], check=True, capture_output=True),
            )
            assert "is not a whole qcow2 image; it was removed" in backup(root, "created")["msg"]
        assert not file.exists() and not file.with_name(f".{file.name}.new").exists()
    # What it keeps open is not what is kept.
    held: list[int] = []
    with monkeypatch.context() as patch:
        before_step(patch, "mv -fT ", lambda: held.append(os.open(target, os.O_RDWR)))
        assert "msg" not in backup(root, "created")
    os.pwrite(held[0], b"\0" * 4096, 0)
    os.close(held[0])
    assert holds(file, 1)


def test_foreign_and_forged_backups(root: Path, run: Converge, volume: Volume, tmp_path: Path) -> None:
    disk = volume(ID)
    write(disk, 1)
    run([machine(power="stopped")])
    file = root / "lib/backups/one/nightly.qcow2"
    file.parent.mkdir(parents=True)
    secret = tmp_path / "secret"
    secret.write_bytes(b"\7" * (1 << 20))
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(secret), str(file)], check=True)
    for state in ("present", "created", "absent"):
        with pytest.raises(ComputeError, match=r"ikcloud\.compute did not make it; it was not touched"):
            backup(root, state)
    with pytest.raises(ComputeError, match="not a whole qcow2 image that holds all of its data itself"):
        backup(root, "restored")
    # One that was copied away and back has lost its mark, and is as good as before.
    backup(root, "created", name="other")
    write(disk, 2)
    moved = file.with_name("moved.qcow2")
    shutil.copyfile(file.with_name("other.qcow2"), moved)
    both(backup, root, "restored", name="moved", aside=False)
    assert holds(disk, 1)


def test_a_disk_that_leads_elsewhere_is_not_read_as_root(
    root: Path, run: Converge, volume: Volume, tmp_path: Path
) -> None:
    """The disk and the script that names it are QEMU's user's: what they lead to is not copied where that user's guest
    could read it.
    """
    disk = volume(ID)
    run([machine(power="stopped")])
    secret = tmp_path / "secret"
    secret.write_bytes(b"\7" * (1 << 20))
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", str(secret), str(disk)], check=True)
    for call in (backup, snapshot):
        assert f"stands on {secret}, which is no image in" in refused(call, root, "present")
    disk.unlink()
    disk.symlink_to(secret)
    for call in (backup, snapshot):
        assert "is no plain file" in refused(call, root, "present")
    assert not (root / "lib/backups").exists()


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_a_disk_of_somebody_else_is_not_read_as_root(root: Path, run: Converge, disk_format: str) -> None:
    """The script is QEMU's user's to write: a file of root's that it names, such as /etc/shadow, is not copied."""
    if os.geteuid() != 0:
        pytest.skip("only root can have files of two users")
    root.parent.chmod(0o755)
    secret = root.parent / "secret"
    secret.write_bytes(b"\7" * (1 << 20))
    if disk_format == "qcow2":
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(secret), "1M"], check=True)
    run([machine(power="stopped", volume=str(secret), volume_format=disk_format)])
    folder = root / f"run/instances/compute-{ID}"
    os.chown(folder, 65534, 65534)
    belongs = (
        f"secret can't be read: it does not belong to the owner of {folder}, nor is it a volume in {root}/lib/volumes"
    )
    assert belongs in refused(backup, root, "present")
    if disk_format == "qcow2":
        assert belongs in refused(snapshot, root, "present")
    else:
        with pytest.raises(ComputeError, match="is raw, which holds no snapshots"):
            snapshot(root, "present")
    os.symlink(secret, root / "lib/volumes/link.img")
    (folder / "start").write_text(
        (folder / "start").read_text().replace(str(secret), str(root / "lib/volumes/link.img"))
    )
    assert "reached by a link" in refused(backup, root, "present")
    assert not (root / "lib/backups").exists()
    os.chown(secret, 65534, 65534)
    (folder / "start").write_text(
        (folder / "start").read_text().replace(str(root / "lib/volumes/link.img"), str(secret))
    )
    both(backup, root, "present")


def test_a_backup_that_others_can_write_is_not_restored(root: Path, run: Converge, volume: Volume) -> None:
    """They could make it refer to a file of root's while root reads it."""
    if os.geteuid() != 0:
        pytest.skip("only root can have files of two users")
    disk = volume(ID)
    write(disk, 1)
    run([machine(power="stopped")])
    backup(root, "created")
    write(disk, 2)
    file = root / "lib/backups/one/nightly.qcow2"
    for user, group, mode in ((65534, 0, 0o600), (0, 0, 0o602), (0, 65534, 0o620), (65534, 65534, 0o400)):
        os.chown(file, user, group)
        file.chmod(mode)
        for check in (True, False):
            with pytest.raises(
                ComputeError,
                match=(
                    f"{file} can be changed by others than root while it is restored; nothing was changed.*chown"
                    " root:root"
                ),
            ):
                backup(root, "restored", check=check)
        assert holds(disk, 2)
    os.chown(file, 0, 0)
    for mode in (0o600, 0o660, 0o644):  # root's own group is root
        file.chmod(mode)
        both(backup, root, "restored", aside=False)
        assert holds(disk, 1)
