# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the disk has room for whole copies of images, asked before one is begun."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from .._core.commands import run

_MEASURE_SECONDS = 120
_MIB, _GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Copy:
    """A copy that is to be made.

    :ivar what: What to call it in a message.
    :ivar folder: Where it is to be; that need not be there yet.
    :ivar size: Bytes that it takes.
    """

    what: str
    folder: str
    size: int


def copy_size(path: str, image_format: str, user: tuple[str, ...] = (), in_use: bool = False) -> int:
    """Return the bytes that a whole copy of an image takes, which may be far more than the image does.

    It is 0 for one that qemu-img can't open: the copy itself then says why.

    :param user: What the command line begins with, see :func:`as_owner`.
    :param in_use: Whether a QEMU may have it open.
    :raises ComputeError: When that takes too long.
    """
    shared = ("-U",) if in_use else ()
    argv = (*user, "qemu-img", "measure", *shared, "--output=json", "-f", image_format, "-O", "qcow2", path)
    done = run(argv, timeout=_MEASURE_SECONDS, check=False)
    return int(json.loads(done.stdout)["required"]) if done.returncode == 0 else 0


def lacking_room(copies: Sequence[Copy], advice: str) -> list[str]:
    """Say for which copies there is no room, a sentence for each filesystem.

    :param advice: What to do about it, besides making room.
    """
    together: dict[int, list[Copy]] = {}
    places: dict[int, str] = {}
    for copy in copies:
        folder = existing(copy.folder)
        device = os.stat(folder).st_dev
        places.setdefault(device, folder)
        together.setdefault(device, []).append(copy)
    return [problem for device, wanted in together.items() for problem in _problems(wanted, places[device], advice)]


def _problems(wanted: list[Copy], folder: str, advice: str) -> list[str]:
    status = os.statvfs(folder)
    need, free = sum(copy.size for copy in wanted), status.f_bavail * status.f_frsize
    if need <= free:
        return []
    names = ", ".join(copy.what for copy in wanted)
    needs = "needs" if len(wanted) == 1 else "need"
    return [f"{names} {needs} {readable(need)}, {folder} has {readable(free)} free. Make room there{advice}."]


def existing(folder: str) -> str:
    """Return the nearest folder that is there already."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def readable(size: int) -> str:
    """Return a number of bytes as a person says it: ``1.5 GiB``."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / _MIB:.1f} MiB"
