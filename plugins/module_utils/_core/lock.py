# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps two runs from changing one node at once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from .errors import ComputeError
from .names import short_id

# Seconds: the module of a run that was interrupted on the controller ends what it is at, most often within these.
LOCK_TIMEOUT = 10.0


@contextlib.contextmanager
def node_lock(root: str, check_mode: bool) -> Iterator[None]:
    """Keep two runs from changing one node at once, by flock(2); the later one waits a little.

    Root's runs lock a file that nobody else can open, and so not hold against them; it is there only while they last,
    or until the next run where one was killed. Others, who have no such place, lock the folder itself, or where that is
    going to be.
    """
    if check_mode:
        yield
        return
    path = lock_path(root) if os.geteuid() == 0 else ""
    handle = _locked_file(path) if path else _locked_folder(root)
    try:
        yield
    finally:
        if path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        os.close(handle)


def lock_path(root: str) -> str:
    """Give the file that root's runs lock; /run is root's own, and empty after a boot (file-hierarchy(7))."""
    return f"/run/ikcloud-compute-{short_id('lock', os.path.realpath(root))}.lock"


def _locked_file(path: str) -> int:
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ComputeError(f"{path}, which keeps two runs apart, can't be made: {error.strerror}.") from None
        _take(handle)
        try:
            if os.path.samestat(os.fstat(handle), os.lstat(path)):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # the run that had it has ended meanwhile, and removed it


def _locked_folder(root: str) -> int:
    folder = root
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder) or "/"
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    _take(handle)
    return handle


def _take(handle: int) -> None:
    until = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(handle)
                raise ComputeError(
                    f"Another run is changing this node, for more than {LOCK_TIMEOUT:g} s by now.",
                    "Run again when it has ended.",
                ) from None
        time.sleep(0.1)
