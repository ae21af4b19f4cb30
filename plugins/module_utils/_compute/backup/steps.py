# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where backups stand, and the steps of a backup that do more than run a command."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import time
from collections.abc import Container
from dataclasses import dataclass, replace

from ..._core.commands import run
from ..._core.errors import ComputeError
from ..._core.layout import Layout
from ..._core.marks import MARK, write_mark
from ..._core.steps import Do, MakeFolder, Run, Stage, Step, Write, remove_file
from ..._qemu.hotplug import QmpCommand
from ..._qemu.qmp.jobs import Abort, Job
from ..._qemu.qmp.qmp import Qmp
from ..._storage import qcow2
from ..._storage.disk_files import refuse_locked, unfinished
from ..disks import base_of

# QEMU's names for the job, and for the file that it writes.
JOB, NODE = "ikcloud-backup", "backup-target"
# A backup has all of a guest's secrets.
MODE = 0o600
END = ".qcow2"


@dataclass(frozen=True)
class CopyDisk(Job):
    """Have QEMU copy a disk as it is at this moment.

    When that fails, nothing is left of it, which may have filled the disk.

    :ivar made: What QEMU writes to.
    """

    made: str = ""

    def run(self) -> None:
        try:
            super().run()
        except ComputeError:
            with contextlib.suppress(ComputeError), Qmp(self.socket) as qmp:
                qmp.execute("blockdev-del", {"node-name": NODE})
            remove_file(self.made)
            raise


@dataclass(frozen=True)
class TakeOver(Step):
    """Make root's what a disk's owner has written.

    It is copied only where that owner can still write to it, or on another filesystem: a rename takes no more room.

    :ivar target: The file.
    :ivar path: What it is called then.
    """

    target: str
    path: str

    @property
    def text(self) -> str:
        return f"mv -fT {shlex.quote(self.target)} {shlex.quote(self.path)}"

    def run(self) -> None:
        remove_file(self.path)
        handle = os.open(self.target, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchown(handle, os.geteuid(), os.getegid())
            os.fchmod(handle, MODE)
            if _nobody_writes(handle) and os.fstat(handle).st_dev == os.stat(os.path.dirname(self.path)).st_dev:
                os.rename(self.target, self.path)
                return
        finally:
            os.close(handle)
        Write(self.path, "", mode=MODE, secret=True).run()
        try:
            run(("cp", "--reflink=auto", "--sparse=always", self.target, self.path))
        except ComputeError:
            remove_file(self.path)
            raise
        finally:
            remove_file(self.target)


def _nobody_writes(handle: int) -> bool:
    """Check that nobody has this file open for writing: only then the kernel gives a lease for reading (F_SETLEASE in
    fcntl(2)).
    """
    try:
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False  # or a filesystem without leases
    return True


@dataclass(frozen=True)
class Check(Run):
    """Have qemu-img check an image, unless it says that it is not whole: qemu-img would open what it refers to with
    root's rights.

    :ivar image: Nobody else may be able to write to it.
    :ivar base: What it may stand on, "" for nothing.
    """

    image: str = ""
    base: str = ""

    def run(self) -> None:
        header = qcow2.read_header(self.image)
        if not replace(header, backing_file="").whole or base_of(self.image, header) != self.base:
            remove_file(self.image)
            raise ComputeError(
                f"What was written to {self.image} is not a whole qcow2 image; it was removed.",
                "Look at its QEMU, which wrote it.",
            )
        super().run()


def check_step(path: str, base: str = "") -> Step:
    """Have an image of root's own looked at. See :class:`Check`."""
    return Check(("qemu-img", "check", "-q", "-f", "qcow2", path), image=path, base=base)


def end_copy(
    script: tuple[str, ...], socket: str, jobs: Container[str], nodes: Container[str], stage: Stage
) -> list[Step]:
    """List what ends a copy that an interrupted run has left in QEMU.

    No other run is at it, for one holds the root's lock.

    :param script: What a person types before a command to QEMU.
    :param socket: Where that listens.
    :param jobs: The ids of its jobs.
    :param nodes: The names of its block nodes.
    """
    steps: list[Step] = []
    if JOB in jobs:
        steps.append(Abort(script, socket, JOB, stage=stage))
    if NODE in nodes:
        steps.append(QmpCommand(script, socket, "blockdev-del", {"node-name": NODE}, stage=stage))
    return steps


def backup_path(folder: str, instance: str, name: str) -> str:
    """Give the path of a backup: ``<folder>/web-1/nightly.qcow2``."""
    return f"{folder}/{instance}/{name}{END}"


def names_in(folder: str) -> list[str]:
    """Give the names of the backups in an instance's folder."""
    with contextlib.suppress(OSError):
        return sorted(
            name[: -len(END)] for name in os.listdir(folder) if name.endswith(END) and not name.startswith(".")
        )
    return []


def left_behind(folder: str) -> list[str]:
    """Give what interrupted runs have left in an instance's folder of backups: no other run is at it, for one holds the
    root's lock.
    """
    with contextlib.suppress(OSError):
        return sorted(
            f"{folder}/{name}" for name in os.listdir(folder) if name.startswith(".") and name.endswith(f"{END}.new")
        )
    return []


def in_the_way(folder: str) -> str:
    """Give what stands on the way to a folder, or in its place, and is none; "" when it can be made."""
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return "" if os.path.isdir(folder) else folder


def nothing_but(folder: str, paths: list[str]) -> bool:
    """Tell whether a folder is there and holds at most these files."""
    with contextlib.suppress(OSError):
        return {f"{folder}/{name}" for name in os.listdir(folder)} <= set(paths)
    return False


def begin_target(path: str, owner: tuple[int, int]) -> list[Step]:
    """List what makes an empty file that a disk's owner writes a backup to.

    :param owner: The user and the group, as numbers.
    """
    steps: list[Step] = [Write(path, "", mode=MODE, secret=True)]
    if os.geteuid() == 0 and owner[0] != 0:
        steps.append(Do(f"chown {owner[0]}:{owner[1]} {shlex.quote(path)}", lambda: os.chown(path, *owner)))
    return steps


def target_path(layout: Layout, instance: str) -> str:
    """Give where the QEMU of the instance with these 8 hex digits writes a backup to: a folder that its sandbox leaves
    open, where it can make no file itself.

    The name is that of an unfinished volume, so that purge and teardown know what is left of it.
    """
    return unfinished(layout.volume(f"compute-{instance}-backup"))


def keep_former(path: str, layout: Layout, stem: str, said: list[str]) -> list[Step]:
    """List what keeps a disk that is about to be replaced, under a second name: its own is never without a disk.

    :param stem: What the second name begins with; the time is added.
    :param said: Where it is noted what that is.
    """

    def link() -> None:
        refuse_locked(path)
        former = os.stat(path)
        others = [f"{layout.kept}/{name}" for name in os.listdir(layout.kept)] if former.st_nlink > 1 else []
        target = next(
            (other for other in others if os.path.samestat(os.lstat(other), former)), ""
        )  # by a run that was interrupted after it
        if not target:
            target = f"{layout.kept}/{stem}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.img"
            os.link(path, target)
        write_mark(target, MARK, f"kept/{stem}")
        said.append(f"The disk that was there is kept as {target}; remove it when nobody needs it any more.")

    typed = f"ln {shlex.quote(path)} {shlex.quote(f'{layout.kept}/{stem}')}-$(date -u +%Y%m%dT%H%M%SZ).img"
    return [MakeFolder(layout.kept, mode=0o700), Do(typed, link)]
