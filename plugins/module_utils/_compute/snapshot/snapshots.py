# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots inside qcow2 images, read without a process (QEMU's docs/interop/qcow2.txt, "Snapshots"; all numbers there
are big-endian).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..._core.commands import typed_as_owner
from ..._core.errors import ComputeError
from ..._core.layout import Layout, instance_id
from ..._core.marks import MARK, read_mark
from ..._core.names import name_problem
from ..._storage.qcow2 import MAGIC, plain_file

# "Number of snapshots contained in the image" at byte 60 of the header, and where they stand.
_PLACE = 60
_ENTRY = ">QIHHIIQII"
_ENTRY_BYTES = struct.calcsize(_ENTRY)
# A table is a few hundred bytes. QEMU takes 65536 snapshots in 64 MiB; who can write to a disk is not to have root read
# that much of each.
_MOST, _TABLE_BYTES = 4096, 1 << 22


@dataclass(frozen=True)
class Snapshot:
    """One snapshot in an image.

    :ivar tag: Its name there.
    :ivar seconds: When it was taken, since the epoch.
    :ivar memory: Bytes of the guest's memory in it; 0 for one of the disk alone.
    """

    tag: str
    seconds: int
    memory: int

    def facts(self, name: str) -> dict[str, Any]:
        """Give what a user is told of it."""
        return {
            "name": name,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.seconds)),
            "memory": self.memory > 0,
            "memory_bytes": self.memory,
        }


def tag_of(instance: str, name: str) -> str:
    """Give what a snapshot is called inside the images: ``compute-4fd66e29.before-upgrade``.

    So nobody's own snapshot of that name is touched, nor one that a data volume holds of another instance, and no name
    is taken for one of the numbers that QEMU knows snapshots by too.

    :param instance: 8 hex digits.
    """
    return f"compute-{instance}.{name}"


def own_snapshots(instance: str, found: dict[str, Snapshot]) -> dict[str, Snapshot]:
    """Give the snapshots of an instance by their names, oldest first.

    :param found: What its disk holds, by tag.
    """
    start = tag_of(instance, "")
    # One that we could not have made is somebody's own, and may be a terminal's command.
    names = {tag: tag[len(start) :] for tag in found if tag.startswith(start)}
    ours = [(found[tag].seconds, name, found[tag]) for tag, name in names.items() if not name_problem("", name)]
    return {name: entry for _seconds, name, entry in sorted(ours, key=lambda one: one[:2])}


def elsewhere(layout: Layout, tag: str, disks: Iterable[str]) -> dict[str, Snapshot]:
    """Find a snapshot in data volumes of ours that are none of these disks: those that the instance had then, and has
    no more.

    An instance's own disk is not looked at; one with another's snapshot is a copy that somebody made. What can't be
    read holds none.

    :returns: By path.
    """
    known = {os.path.realpath(path) for path in disks}
    found: dict[str, Snapshot] = {}
    with contextlib.suppress(OSError):
        for file in sorted(os.listdir(layout.volumes)):
            name, path = file[: -len(".img")], f"{layout.volumes}/{file}"
            if (
                not file.endswith(".img")
                or instance_id(name)
                or os.path.realpath(path) in known
                or read_mark(path, MARK) != f"volume/{name}"
            ):
                continue
            with contextlib.suppress(ComputeError):
                held = read_snapshots(path, layout.root)
                if tag in held:
                    found[path] = held[tag]
    return found


def read_snapshots(path: str, root: str) -> dict[str, Snapshot]:
    """Read what snapshots an image holds, by tag. One that is not there, is no plain file or is not qcow2 holds none.

    :param path: It may come from QEMU's user.
    :param root: The one folder that may be reached by a link (see :func:`qcow2.plain_file`).
    :raises ComputeError: When its table breaks the format.
    """
    try:
        with plain_file(path, root) as (stream, entry):
            head = stream.read(72)
            if len(head) < 72 or head[:4] != MAGIC:
                return {}
            count, place = struct.unpack_from(">IQ", head, _PLACE)
            if not count:
                return {}
            size = entry.st_size
            if count > _MOST:
                delete = typed_as_owner(path, "qemu-img", "snapshot", "-d")
                raise ComputeError(
                    f"{path}: it says that it has {count} snapshots; at most {_MOST} are read.",
                    f"Delete some with `{delete} TAG {shlex.quote(path)}` while its instance is off.",
                )
            if place >= size:
                raise ComputeError(f"{path}: its table of snapshots is out of bounds.", _look_at(path))
            stream.seek(place)
            return parse_table(stream.read(min(size - place, _TABLE_BYTES)), count)
    except OSError:
        return {}
    except (struct.error, ValueError) as error:
        raise ComputeError(f"{path}: its table of snapshots is broken: {error}.", _look_at(path)) from None


def _look_at(path: str) -> str:
    return f"Look at it with `{typed_as_owner(path, 'qemu-img', 'check', '-f', 'qcow2', path)}`."


def parse_table(data: bytes, count: int) -> dict[str, Snapshot]:
    """Parse a snapshot table.

    :param data: From its beginning, or more.
    :raises ValueError: When it breaks the format.
    :raises struct.error: When it ends too early.
    """
    found: dict[str, Snapshot] = {}
    place = 0
    for _number in range(count):
        _l1, _l1_size, id_bytes, name_bytes, seconds, _nanoseconds, _clock, memory, extra = struct.unpack_from(
            _ENTRY, data, place
        )
        if extra >= 8:  # the first extra field is the memory's size, for which 32 bits are not enough
            (memory,) = struct.unpack_from(">Q", data, place + _ENTRY_BYTES)
        begin = place + _ENTRY_BYTES + extra + id_bytes
        if begin + name_bytes > len(data):
            raise ValueError("a name is out of bounds")
        tag = data[begin : begin + name_bytes].decode(errors="replace")
        found[tag] = Snapshot(tag, seconds, memory)
        place = (begin + name_bytes + 7) // 8 * 8
    return found
