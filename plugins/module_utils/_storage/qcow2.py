# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disk images as they are on the disk: read without a process, and whether a QEMU has one open.

The format is QEMU's docs/interop/qcow2.txt; all numbers in it are big-endian.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from .._core.commands import typed_as_owner
from .._core.errors import ComputeError

MAGIC = b"QFI\xfb"
_EXTENSION_END = 0x00000000
_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_EXTENSION_DATA_FILE = 0x44415441
_INCOMPATIBLE_CORRUPT = 1 << 1
_INCOMPATIBLE_DATA_FILE = 1 << 2
# "The backing file name … must not be longer than 1023 bytes"; with the extensions before it, all stands in the first
# 64 KiB cluster.
_HEADER_BYTES = 65536


@dataclass(frozen=True)
class Header:
    """What a disk image says of itself.

    :ivar format: ``qcow2`` or ``raw`` (whatever has no qcow2 header).
    :ivar virtual_size: Bytes of the disk as the guest sees it.
    :ivar backing_file: As it is written in the header, "" for none.
    :ivar backing_format: "" when the header doesn't say.
    :ivar data_file: Whether its data stand in another file.
    """

    format: str
    virtual_size: int
    backing_file: str = ""
    backing_format: str = ""
    data_file: bool = False
    encrypted: bool = False
    corrupt: bool = False
    snapshots: int = 0

    @property
    def whole(self) -> bool:
        """Whether it is a qcow2 image that holds all of its data itself and can be read as it is, such as a backup."""
        return self.format == "qcow2" and not (self.backing_file or self.data_file or self.encrypted or self.corrupt)

    def trouble(self, path: str) -> str:
        """Say why no guest may have the disk as it is, and what to do about it; "" when it may.

        Nothing of ours makes such a one: who could write to the file may want QEMU, or root's qemu-img, to open another
        one.
        """
        if self.data_file:
            flatten = typed_as_owner(path, "qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", path)
            return (
                f"{path} says that its data stand in another file. If that is meant, flatten it: `{flatten} NEW`, where"
                " its owner may write NEW. Else remove it, and have it made anew."
            )
        if self.corrupt:
            check = typed_as_owner(path, "qemu-img", "check", "-f", "qcow2", path)
            return (
                f"{path} is marked as corrupt. Stop its instance and see what `{check}` says; with `-r all` it repairs"
                " what it can."
            )
        return ""


def read_header(path: str) -> Header:
    """Read what a disk image says of itself.

    :raises ComputeError: When it has qcow2's magic, and what follows breaks the format.
    :raises OSError: When it can't be read.
    """
    with open(path, "rb") as stream:
        return read_stream(stream, path)


def read_untrusted(path: str, root: str) -> tuple[Header, int]:
    """Read a disk image that somebody else names, such as a QEMU's command line, without opening anything but a plain
    file.

    :param root: The one folder that may be a link itself, or below one; else no link is followed, and none can come
        between (O_PATH in open(2)).
    :returns: What it says of itself, and the bytes that it takes on the disk.
    :raises ComputeError: As :func:`read_header`.
    :raises OSError: When it can't be read, is reached by a link, or is no plain file.
    """
    with plain_file(path, root) as (stream, entry):
        return read_stream(stream, path), entry.st_blocks * 512


@contextlib.contextmanager
def plain_file(path: str, root: str) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """Open a file that somebody else names, to read, for a ``with`` statement: nothing is opened but a plain file.

    :param root: As for :func:`read_untrusted`.
    :returns: The file, and its inode.
    :raises OSError: When it can't be read, is reached by a link, or is no plain file.
    """
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        real, entry = os.readlink(f"/proc/self/fd/{place}"), os.fstat(place)
        wanted = os.path.realpath(root) + path[len(root) :] if path.startswith(f"{root}/") else path
        # What stands in these are plain files too, some of which do things when they are read.
        if real != wanted or not stat.S_ISREG(entry.st_mode) or real.startswith(("/proc/", "/sys/")):
            raise OSError(errno.EINVAL, "it is no plain file, or reached by a link")
        with open(os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            yield stream, entry
    finally:
        os.close(place)


def read_stream(stream: BinaryIO, path: str) -> Header:
    """Read what an open disk image says of itself.

    :param path: What it is called, for the error.
    :raises ComputeError: As :func:`read_header`.
    """
    head = stream.read(4)
    if head != MAGIC:
        return Header("raw", os.fstat(stream.fileno()).st_size)
    try:
        return parse_header(head + stream.read(_HEADER_BYTES - 4))
    except (struct.error, ValueError) as error:
        raise ComputeError(f"{path} begins as a qcow2 image but its header is broken: {error}.") from None


def parse_header(data: bytes) -> Header:
    """Parse the beginning of a qcow2 image.

    :param data: Its first cluster, or all of it.
    :raises ValueError: When it breaks the format.
    :raises struct.error: When it ends too early.
    """
    magic, version, backing_offset, backing_length, cluster_bits, size, crypt = struct.unpack_from(">4sIQIIQI", data, 0)
    (snapshots,) = struct.unpack_from(">I", data, 60)
    if magic != MAGIC or version not in (2, 3):
        raise ValueError(f"version {version} is not known")
    if not 9 <= cluster_bits <= 21:
        raise ValueError(f"clusters of 2^{cluster_bits} bytes are not allowed")
    incompatible, length = struct.unpack_from(">Q20xI", data, 72) if version == 3 else (0, 72)
    if length < 72 or length > len(data):
        raise ValueError(f"a header of {length} bytes is not allowed")
    extensions = _extensions(data, length, min(backing_offset or len(data), len(data)))
    return Header(
        format="qcow2",
        virtual_size=size,
        backing_file=_text(data, backing_offset, backing_length) if backing_offset else "",
        backing_format=extensions.get(_EXTENSION_BACKING_FORMAT, b"").decode(errors="surrogateescape"),
        data_file=bool(incompatible & _INCOMPATIBLE_DATA_FILE) or _EXTENSION_DATA_FILE in extensions,
        encrypted=bool(crypt),
        corrupt=bool(incompatible & _INCOMPATIBLE_CORRUPT),
        snapshots=snapshots,
    )


def _text(data: bytes, offset: int, length: int) -> str:
    if length > 1023 or offset + length > len(data):
        raise ValueError("the name of the backing file is out of bounds")
    return data[offset : offset + length].decode(errors="surrogateescape")


def _extensions(data: bytes, start: int, end: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while start + 8 <= end:
        kind, length = struct.unpack_from(">II", data, start)
        if kind == _EXTENSION_END:
            break
        if start + 8 + length > end:
            raise ValueError("a header extension is out of bounds")
        found[kind] = data[start + 8 : start + 8 + length]
        start += 8 + (length + 7) // 8 * 8  # padded to 8 bytes
    return found


def backing_path(image: str, backing_file: str) -> str:
    """Give the absolute path of a backing file (QEMU takes a relative one from the image's own folder)."""
    name = backing_file[5:] if backing_file.startswith("file:") else backing_file
    return os.path.normpath(os.path.join(os.path.dirname(image), name))


def users_of(paths: Iterable[str], folder: str) -> dict[str, list[str]]:
    """Find the images in a folder that stand on one of these as their backing file.

    :param paths: Absolute paths of images that might be bases.
    :param folder: Where to look; that it is not there is no error.
    :returns: For each of ``paths`` that has users, the paths of these.
    """
    wanted = {os.path.realpath(path): path for path in paths}
    found: dict[str, list[str]] = {}
    entries: list[str] = []
    for place in (folder, os.path.join(folder, "kept")):  # those that were kept aside stand on their images too
        with contextlib.suppress(OSError):
            entries += sorted(entry.path for entry in os.scandir(place) if entry.is_file())
    for entry in entries:
        try:
            header = read_header(entry)
        except (ComputeError, OSError):
            continue  # no disk image, or one that nobody can open either
        if header.backing_file:
            base = wanted.get(os.path.realpath(backing_path(entry, header.backing_file)))
            if base and os.path.realpath(entry) != os.path.realpath(base):
                found.setdefault(base, []).append(entry)
    return found


def is_locked(path: str) -> bool:
    """Tell whether a process has this file open and locked, as a running QEMU has its images and its pidfile.

    QEMU holds open-file-description locks on bytes from 100 on (block/file-posix.c), also on what it only reads. Asking
    for a lock on the whole file without taking it (F_OFD_GETLK, fcntl(2)) shows any of them.

    :returns: False when there is no such file.
    :raises ComputeError: When it can't be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ComputeError(f"{path} can't be opened: {error.strerror}.") from None
    try:
        # struct flock of a 64-bit Linux: l_type, l_whence, l_start, l_len (0: to the end, wherever that is), l_pid.
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(handle, getattr(fcntl, "F_OFD_GETLK", 36), asked)
    except OSError:
        return False  # a filesystem without locks: QEMU could not lock there either
    finally:
        os.close(handle)
    return int(struct.unpack_from("h", answer)[0]) != fcntl.F_UNLCK
