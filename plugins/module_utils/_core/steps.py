# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps: the smallest changes of a node. Each has the text that a person would type, and does just that."""

from __future__ import annotations

import contextlib
import enum
import grp
import os
import pwd
import re
import shlex
import stat
from collections.abc import Callable
from dataclasses import dataclass

from .commands import run
from .errors import ComputeError
from .untrusted import read_text

# Seconds that the removal of a folder may take in which somebody made very many others.
REMOVE_LIMIT = 600.0


class Stage(enum.IntEnum):
    """When a step runs: all items' steps of one stage run before any item's of the next."""

    FILES = 0  # what the other steps read
    DELETE = 1  # what is in the way of what is created
    CREATE = 2
    CHANGE = 3  # what runs is changed or stopped
    WORK = 4  # what takes that
    START = 5
    REMOVE = 6  # what nothing uses any more
    FINISH = 7  # what all items share


@dataclass(frozen=True)
class Step:
    """One change. Within a stage items are independent, an item's steps keep their order.

    :cvar stage: When it runs; a field of those steps that any stage may have.
    """

    stage = Stage.FILES

    @property
    def text(self) -> str:
        """The command as a person would type it."""
        raise NotImplementedError

    def run(self) -> None:
        """Make the change.

        :raises ComputeError: When it can't be made.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Run(Step):
    """Run a command: ``argv`` without a shell, with ``stdin`` as its input, for at most ``timeout`` seconds."""

    argv: tuple[str, ...]
    stdin: str | None = None
    timeout: float | None = None
    stage: Stage = Stage.FILES

    @property
    def text(self) -> str:
        return shlex.join(self.argv)

    def run(self) -> None:
        run(self.argv, self.stdin, self.timeout)


@dataclass(frozen=True)
class Ip(Step):
    """One line of ``ip -batch``; all that stand in a stage go to the kernel in one process."""

    line: str
    stage: Stage = Stage.FILES

    @property
    def text(self) -> str:
        return f"ip {self.line}"

    def run(self) -> None:
        run(["ip", *shlex.split(self.line)])


@dataclass(frozen=True)
class Write(Step):
    """Put a file in place, whole or not at all; its folders are made where they lack.

    ``owner`` is a user (its own group goes with it, unless ``group`` says another), "" for whoever runs; a ``secret``
    content never stands in a diff.
    """

    path: str
    content: str
    mode: int = 0o644
    owner: str = ""
    secret: bool = False
    stage: Stage = Stage.FILES
    group: str = ""

    @property
    def text(self) -> str:
        owner = f" -o {shlex.quote(self.owner)} -g {shlex.quote(self.group or self.owner)}" if self.owner else ""
        return f"install -D -m {self.mode:04o}{owner} /dev/stdin {shlex.quote(self.path)}"

    def run(self) -> None:
        folder = os.path.dirname(self.path)
        # One name, so that what a killed run left of it is replaced and not left over; O_EXCL follows no link that
        # another user laid there.
        temporary = os.path.join(folder, f".new-{os.path.basename(self.path)}")
        owner = user_ids(self.owner, self.group) if self.owner else None
        try:
            os.makedirs(folder, mode=0o755, exist_ok=True)
            Remove(temporary, tree=True).run()
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(self.content)
                stream.flush()
                os.fchmod(stream.fileno(), self.mode)
                if owner:
                    os.fchown(stream.fileno(), *owner)
                os.fsync(stream.fileno())
            os.replace(temporary, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                remove_file(temporary)
            raise ComputeError(f"{self.path} can't be written: {error.strerror}.") from None


@dataclass(frozen=True)
class MakeFolder(Step):
    """Make a folder with this mode and owner; its parents too, for everybody to read."""

    path: str
    mode: int = 0o755
    owner: str = ""
    stage: Stage = Stage.FILES

    @property
    def text(self) -> str:
        owner = f" -o {shlex.quote(self.owner)} -g {shlex.quote(self.owner)}" if self.owner else ""
        return f"install -d -m {self.mode:04o}{owner} {shlex.quote(self.path)}"

    def run(self) -> None:
        try:
            os.makedirs(self.path, mode=0o755, exist_ok=True)
            os.chmod(self.path, self.mode)
            if self.owner:
                os.chown(self.path, *user_ids(self.owner))
        except OSError as error:
            raise ComputeError(f"{self.path} can't be made: {error.strerror}.") from None


@dataclass(frozen=True)
class Remove(Step):
    """Remove a file or, with ``tree``, a folder and all in it. That it is gone already is no error."""

    path: str
    tree: bool = False
    stage: Stage = Stage.FILES

    @property
    def text(self) -> str:
        return f"rm -{'r' if self.tree else ''}f {shlex.quote(self.path)}"

    def run(self) -> None:
        try:
            if self.tree and os.path.isdir(self.path) and not os.path.islink(self.path):
                remove_tree(self.path)
            else:
                remove_file(self.path)
        except OSError as error:
            raise ComputeError(f"{self.path} can't be removed: {error.strerror}.") from None


@dataclass(frozen=True)
class Symlink(Step):
    """Make a symbolic link; its folder is made where it lacks.

    Somebody else's that has come to be there meanwhile is an error.
    """

    path: str
    target: str
    stage: Stage = Stage.FILES

    @property
    def text(self) -> str:
        return f"ln -s {shlex.quote(self.target)} {shlex.quote(self.path)}"

    def run(self) -> None:
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o755, exist_ok=True)
            os.symlink(self.target, self.path)
        except OSError as error:
            raise ComputeError(f"{self.path} can't be made: {error.strerror}.") from None


@dataclass(frozen=True)
class Do(Step):
    """Call a function; ``typed`` is the command that does the same by hand."""

    typed: str
    function: Callable[[], None]
    stage: Stage = Stage.FILES

    @property
    def text(self) -> str:
        return self.typed

    def run(self) -> None:
        self.function()


def user_ids(user: str, group: str = "") -> tuple[int, int]:
    """Give the numeric ids of a user and of the group of the same name (or else its primary group).

    :param group: Another group.
    :raises ComputeError: When there is no such user or group.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ComputeError(
            f"There is no user {user!r} on this node.", "The role ikcloud.compute.prepare makes it."
        ) from None
    try:
        return entry.pw_uid, grp.getgrnam(group or user).gr_gid
    except KeyError:
        if group:
            raise ComputeError(
                f"There is no group {group!r} on this node.", "The role ikcloud.compute.prepare makes it."
            ) from None
        return entry.pw_uid, entry.pw_gid


def primary_group(user: str) -> str:
    """Give the name of a user's primary group; the user's own name where there is no such user as yet."""
    try:
        return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    except KeyError:
        return user


def read_plain(path: str) -> tuple[str, int] | None:
    """Read a text file and its mode, following no link and waiting for no pipe: QEMU's user owns the instances'
    folders.

    :returns: None when it is not there, not ours to read, no plain file, or too long.
    """
    try:
        return read_text(path)
    except ComputeError:
        return None


def remove_file(path: str) -> None:
    """Remove a file if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_tree(path: str) -> None:
    """Remove a folder and all in it.

    What we make has no folders in it: of such there may be thousands, one in the other, and ``rm`` manages those.

    :raises ComputeError: When it can't be removed.
    :raises OSError: Likewise.
    """
    # By a handle, so that nobody can lay a link where the folder is.
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with os.scandir(folder) as entries:
            deep = any(stat.S_ISDIR(_remove_or_keep(entry, folder)) for entry in entries)
    finally:
        os.close(folder)
    if deep:
        run(("rm", "-rf", "--", path), timeout=REMOVE_LIMIT)
    else:
        os.rmdir(path)


def _remove_or_keep(entry: os.DirEntry[str], folder: int) -> int:
    """Remove what is no folder; give its mode."""
    mode = entry.stat(follow_symlinks=False).st_mode
    if not stat.S_ISDIR(mode):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(entry.name, dir_fd=folder)
    return mode


def run_ip_batch(lines: list[str]) -> tuple[int, str] | None:
    """Give the lines to one ``ip -batch -`` (ip(8)), which stops at the first that fails.

    :returns: None when all went well, else the index of the line that failed and the kernel's words.
    :raises ComputeError: When ``ip`` can't be run or says nothing that names a line.
    """
    done = run(["ip", "-batch", "-"], stdin="".join(f"{line}\n" for line in lines), check=False)
    if done.returncode == 0:
        return None
    failed = re.search(r"^Command failed -:(\d+)", done.stderr, re.MULTILINE)
    if not failed:
        raise ComputeError(f"`ip -batch -` failed with status {done.returncode}: {done.stderr.strip()}")
    words = "; ".join(line for line in done.stderr.splitlines() if line and not line.startswith("Command failed"))
    return int(failed.group(1)) - 1, words
