# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disk images that appear whole or not at all: made under a hidden name, then renamed."""

from __future__ import annotations

import os
import shlex
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .._core.errors import ComputeError
from .._core.layout import Layout, instance_id
from .._core.marks import MARK, forget_marks, mark_command, read_mark, write_mark
from .._core.steps import Do, MakeFolder, Run, Step, Write, remove_file, user_ids
from .made import record
from .qcow2 import is_locked, read_header, users_of

# What an image without content has is its header and some tables (QEMU's docs/interop/qcow2).
_LARGEST_BLANK = 1 << 20


@dataclass(frozen=True)
class Build(Run):
    """A command that fills the file ``made``. When it fails nothing is left of that, which may have filled the disk."""

    made: str = ""

    def run(self) -> None:
        try:
            super().run()
        except ComputeError:
            remove_file(self.made)
            raise


class Blanks:
    """What one ``qemu-img create`` has written, for all that are to be made with the same options: it is the same, and
    no process is needed for it.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[str, ...], bytes] = {}
        self._locks: dict[tuple[str, ...], threading.Lock] = {}

    def make(self, options: tuple[str, ...], path: str, create: Callable[[], None]) -> None:
        """Fill the file at a path.

        :param options: All that tells what is in it; not the path.
        :param create: Runs ``qemu-img``.
        :raises OSError: When it can't be written.
        """
        with self._locks.setdefault(options, threading.Lock()):
            content = self._made.get(options)
            if content is None:
                create()
                with open(path, "rb") as stream:
                    content = stream.read(_LARGEST_BLANK + 1)
                if len(content) <= _LARGEST_BLANK:
                    self._made[options] = content
                return
        with open(path, "wb") as stream:
            stream.write(content)


@dataclass(frozen=True)
class CreateImage(Build):
    """Have ``qemu-img create`` make an image with nothing of its own in it, or write down what it has made of the same
    options before.
    """

    blanks: Blanks = field(default_factory=Blanks)

    def run(self) -> None:
        try:
            self.blanks.make(tuple(word for word in self.argv if word != self.made), self.made, super().run)
        except OSError:
            remove_file(self.made)
            raise


def unfinished(path: str) -> str:
    """Give the hidden name of a file while it is being made: ``.compute-af95e879.img.new``.

    One run at a time holds the root's lock.
    """
    return f"{os.path.dirname(path)}/.{os.path.basename(path)}.new"


def finished_name(name: str) -> str:
    """Give ``compute-af95e879.img`` for ``.compute-af95e879.img.new``, "" for any other name."""
    return name[1:-4] if name.startswith(".") and name.endswith(".img.new") else ""


def begin_file(path: str, mode: int, owner: str = "") -> Step:
    """Make an empty file under the hidden name, with its mode and owner before anything stands in it.

    What root's qemu-img opens is root's until it is whole: see :func:`hand_over`.
    """
    return Write(unfinished(path), "", mode=mode, owner=owner, secret=True)


def mark_step(path: str, value: str) -> Step:
    """Mark the file under its hidden name, so that it never stands in place unmarked."""
    hidden = unfinished(path)
    return Do(mark_command(hidden, value), lambda: write_mark(hidden, MARK, value, path))


def mark_volume(path: str, name: str) -> Step:
    """Mark a volume as :func:`mark_step`, and write down what it was made as.

    It comes before the file is handed over.
    """
    hidden, value = unfinished(path), f"volume/{name}"

    def mark() -> None:
        write_mark(hidden, MARK, value, path)
        record(hidden, read_header(hidden), path)

    return Do(mark_command(hidden, value), mark)


def hand_over(path: str, owner: str) -> list[Step]:
    """List what gives the file under its hidden name to its owner, when nobody else opens it any more but by name.

    :param owner: A user, "" for whoever runs.
    """
    hidden = unfinished(path)
    return (
        [Do(f"chown {owner}:{owner} {shlex.quote(hidden)}", lambda: os.chown(hidden, *user_ids(owner)))]
        if owner
        else []
    )


def finish_step(path: str, replace: bool = False, unused: bool = False) -> Step:
    """Put the file in place, on the disk for good.

    :param replace: Whether it may take the place of one that is there.
    :param unused: Whether it is refused when a QEMU has that one open: its guest would go on with a disk that nobody
        sees any more.
    """
    hidden = unfinished(path)
    return Do(
        f"mv {'-T' if replace else '-nT'} {shlex.quote(hidden)} {shlex.quote(path)}",
        lambda: put_in_place(hidden, path, replace, unused),
    )


def put_in_place(hidden: str, path: str, replace: bool = False, unused: bool = False) -> None:
    """Rename a finished file, having it and its folder's entry written to the disk. See :func:`finish_step`.

    :raises ComputeError: When something else has come to be there meanwhile, and when what is there is in use; nothing
        is left of the new file then.
    :raises OSError: When it can't be done.
    """
    sync(hidden)
    if not replace and os.path.lexists(path):
        raise ComputeError(
            f"{path} has come to be there meanwhile; it was not touched.", "Something else writes into this folder."
        )
    if unused:
        try:
            refuse_locked(path)
        except ComputeError:
            remove_file(hidden)
            raise
    os.rename(hidden, path)
    sync(os.path.dirname(path))


def refuse_locked(path: str) -> None:
    """Refuse to go on with a disk image that a running QEMU has open.

    :raises ComputeError: When one has.
    """
    if is_locked(path):
        raise ComputeError(
            f"{path} is in use by a running QEMU.",
            "Stop its instance first (ikcloud.compute.instance_power with state=stopped).",
        )


def sync(path: str) -> None:
    """Have a file's or a folder's content written to the disk (fsync(2))."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def access_of(path: str) -> tuple[int, int, int]:
    """Give a file's mode, user and group, as numbers."""
    entry = os.stat(path)
    return stat.S_IMODE(entry.st_mode), entry.st_uid, entry.st_gid


def access_steps(path: str, access: tuple[int, int, int], mode: int, owner: str) -> tuple[list[Step], list[str]]:
    """List what gives an existing file its mode and owner, and what differs.

    :param access: What it has, as :func:`access_of` says.
    :param owner: A user, "" to leave the owner as it is.
    """
    steps: list[Step] = []
    reasons: list[str] = []
    if owner and not belongs_to(access, owner):
        steps.append(Do(f"chown {owner}:{owner} {shlex.quote(path)}", lambda: os.chown(path, *user_ids(owner))))
        reasons.append(f"owner is not {owner}")
    if access[0] != mode:
        steps.append(Do(f"chmod {mode:04o} {shlex.quote(path)}", lambda: os.chmod(path, mode)))
        reasons.append(f"mode is {access[0]:04o}, not {mode:04o}")
    return steps, reasons


def belongs_to(access: tuple[int, int, int], owner: str, group: str = "") -> bool:
    """Tell whether a file belongs to a user, and to the user's own group or another one.

    :param access: What it has, as :func:`access_of` says.
    """
    try:
        return access[1:] == user_ids(owner, group)
    except ComputeError:
        return False  # no such user as yet: the step says so


def remove_unused(path: str, volumes: str) -> Step:
    """List the removal of a disk image that nobody may be using when it comes to it."""
    return Do(f"rm -f {shlex.quote(path)}", lambda: _remove_unused(path, volumes))


def keep_aside(path: str, layout: Layout, stem: str, said: list[str], in_use: bool = False) -> list[Step]:
    """List what moves a disk image out of the way, where nobody takes it for a volume.

    :param stem: What its new name begins with; the time is added.
    :param said: Where it is noted where the file has come to be.
    :param in_use: Whether it may be in use, by a QEMU that goes on with it until its end.
    """

    def move() -> None:
        _refuse_used(path, layout.volumes, in_use)
        target = f"{layout.kept}/{stem}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.img"
        # It keeps the mark of a volume: back in its place it is one again. One that has lost it is marked as kept.
        mark = f"volume/{os.path.basename(path)[: -len('.img')]}"
        write_mark(path, MARK, mark if read_mark(path, MARK) == mark else f"kept/{stem}", target)
        put_in_place(path, target)
        forget_marks(path)
        said.append(f"{path} is kept as {target}; remove it when nobody needs it any more.")

    # The command has the time too, so that check mode says the same.
    typed = f"mv -nT {shlex.quote(path)} {shlex.quote(f'{layout.kept}/{stem}')}-$(date -u +%Y%m%dT%H%M%SZ).img"
    return [MakeFolder(layout.kept, mode=0o700), Do(typed, move)]


def _remove_unused(path: str, volumes: str) -> None:
    _refuse_used(path, volumes)
    remove_file(path)
    forget_marks(path)


def _lost_marks(users: list[str], volumes: str) -> str:
    """Return what to do about instances' disks among these that have lost their mark, which nothing of ours removes any
    more.
    """
    names = {user: os.path.basename(user)[: -len(".img")] for user in users if os.path.dirname(user) == volumes}
    typed = [
        mark_command(user, f"volume/{name}")
        for user, name in names.items()
        if instance_id(name) and read_mark(user, MARK) != f"volume/{name}"
    ]
    return f" What has lost its mark is removed as ours once it has it again: `{'; '.join(typed)}`." if typed else ""


def _refuse_used(path: str, volumes: str, in_use: bool = False) -> None:
    users = users_of([path], volumes).get(path)
    if users:
        raise ComputeError(
            f"{path} is the base of {', '.join(users)}, which would be lost with it.",
            f"Remove these first.{_lost_marks(users, volumes)}",
        )
    if not in_use:
        refuse_locked(path)
