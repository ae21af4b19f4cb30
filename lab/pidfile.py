# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a process is alive, asked of the lock it keeps on its pidfile: a number alone may be anybody's by now."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

_FLOCK = "hhqqi"  # struct flock on 64-bit Linux: type, whence, start, length, pid


def holder(path: Path) -> int | None:
    """The pid of the process that has `path` locked as QEMU locks its pidfile, or None when nobody has."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _whence, _start, _length, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    finally:
        os.close(descriptor)
    return pid if kind != fcntl.F_UNLCK and pid > 0 else None


def take(path: Path) -> int:
    """Lock a pidfile as QEMU does and write our pid; the descriptor must stay open as long as the process lives."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def wait_until(condition: Callable[[], bool], seconds: float, step: float = 0.2) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(step)
    return True


def stop(
    path: Path, signals: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGKILL), seconds: float = 5
) -> None:
    """End the pidfile's process. The pidfd is taken before the lock is asked again, so no other process is hit."""
    for number in signals:
        pid = holder(path)
        if pid is None:
            return
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if holder(path) == pid:
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            continue
        finally:
            os.close(descriptor)
        if wait_until(lambda: holder(path) is None, seconds):
            return
