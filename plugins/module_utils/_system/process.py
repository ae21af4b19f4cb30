# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which QEMU really runs: asked of the kernel, without a process."""

from __future__ import annotations

import fcntl
import os
import signal
import struct

from .._core.errors import ComputeError
from .._core.untrusted import MAX_TEXT

# struct flock in fcntl(2) on 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid.
_FLOCK = "hhqqi4x"
# Arguments of a QEMU, at most: they are compared one by one, and the longest command of ours has some hundreds.
MAX_WORDS = 2000


def locked_by(pidfile: str) -> int:
    """Give the pid of the QEMU whose pidfile this is, or 0 when none runs.

    QEMU locks its pidfile for as long as it lives, so a stale file, or a pid that something else has by now, can't
    deceive.

    :param pidfile: The path given to ``-pidfile``.
    :returns: The holder of the lock; -1 when it is held by a process outside our pid namespace.
    """
    try:
        handle = os.open(pidfile, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        # F_GETLK fills in the lock that stands in the way of this one.
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _whence, _start, _length, pid = struct.unpack(_FLOCK, fcntl.fcntl(handle, fcntl.F_GETLK, asked))
    except OSError:
        return 0
    finally:
        os.close(handle)
    if kind == fcntl.F_UNLCK:
        return 0
    return pid if pid > 0 else -1


def send_signal(pidfile: str, number: signal.Signals) -> None:
    """Send a signal to the QEMU whose pidfile this is, if it runs.

    Who can write the pidfile can have another process, of anybody, hold the lock on it: that has another pidfile on its
    command line, or none.

    :raises ComputeError: When it is another process, or another user's.
    """
    pid = locked_by(pidfile)
    if pid <= 0:
        return
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The process that is open is the one that is looked at: a pid may have gone to another one meanwhile.
        words = command_line(pid)
        if words is None or ("-pidfile", pidfile) not in zip(words, words[1:]):
            raise ComputeError(
                f"The process {pid} has {pidfile} locked, and is not the QEMU that this is for: it was not ended.",
                f"See `ps -fp {pid}`; end it by hand.",
            )
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return
    except PermissionError:
        raise ComputeError(f"QEMU, process {pid}, belongs to another user and can't be stopped.") from None
    finally:
        os.close(handle)


def command_line(pid: int) -> list[str] | None:
    """Give the arguments that a process was started with (proc(5), cmdline), or None when it is gone, not ours to see,
    or has more than QEMU ever has.

    The process may have written something else there.
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            text = stream.read(MAX_TEXT + 1)
    except OSError:
        return None
    if not text or len(text) > MAX_TEXT or text.count(b"\0") > MAX_WORDS:
        return None
    return [part.decode(errors="replace") for part in text.rstrip(b"\0").split(b"\0")]


def processes_of(user: int) -> dict[int, str]:
    """Return the processes that run with a user's id, one of them at least, and what each is called: printable, and as
    long as the kernel lets it be.
    """
    found: dict[int, str] = {}
    for number in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{number}/status", encoding="utf-8", errors="replace") as stream:
                about = dict(line.rstrip("\n").partition(":")[::2] for line in stream)
        except OSError:
            continue  # gone meanwhile
        if str(user) in about.get("Uid", "").split():
            found[int(number)] = ascii(about.get("Name", "").strip())[1:-1]
    return found


def units_of(pid: int) -> set[str]:
    """Return the systemd units, slices too, that a process is in (proc(5), cgroup)."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as stream:
            return {part for line in stream for part in line.rstrip("\n").rpartition(":")[2].split("/") if part}
    except OSError:
        return set()


def taps_held(pid: int) -> set[str] | None:
    """Give the taps that a process has open.

    One that was deleted is not among them: its file then has no interface (proc(5), fdinfo; tun_chr_show_fdinfo).

    :returns: None where it is gone or not ours to see.
    """
    found: set[str] = set()
    try:
        numbers = os.listdir(f"/proc/{pid}/fdinfo")
    except OSError:
        return None
    for number in numbers:
        try:
            with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii", errors="replace") as stream:
                found |= {line[4:].strip() for line in stream if line.startswith("iff:")}
        except PermissionError:
            return None
        except OSError:
            continue  # closed meanwhile
    return found


def has_open(pid: int, path: str) -> bool | None:
    """Tell whether a process has a file open, as the kernel knows it.

    :returns: None where it is gone or not ours to see.
    """
    if pid <= 0:
        return None
    try:
        wanted = os.stat(path)
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return None
    for number in numbers:
        try:
            if os.path.samestat(os.stat(f"/proc/{pid}/fd/{number}"), wanted):
                return True
        except OSError:
            continue  # closed meanwhile
    return False
