# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files in the root folder of a small ISO 9660 image (ECMA-119), under their Rock Ridge names (IEEE P1282, entry
NM).

That is what says whether a seed is what it should be; an image's own bytes differ each time, since it holds dates.
Somebody hostile may have written it, so all is limited; one with links or loops in its folders is no matter, for only
the root folder is read.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator

_SECTOR = 2048
_PRIMARY = 16 * _SECTOR  # ECMA-119 section 6.7.1: descriptors begin at sector 16
_MAX_BYTES = 16 << 20
_FIRST_BYTES = 128 << 10  # a seed's texts are in these; the rest of what genisoimage makes is 300 KiB of padding
_DIRECTORY = 0x02
# A seed has three files.
_MAX_FILES = 16


def read_files(path: str) -> dict[str, bytes]:
    """Read all files in the root folder of an image.

    :returns: Their contents by name.
    :raises ValueError: When it is no such image, or has more than some files, or what is in it is not in its first 16
        MiB.
    :raises OSError: When it can't be read, or is no plain file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is no plain file")
        data = stream.read(_FIRST_BYTES)
        try:
            return _files(path, data)
        except ValueError:
            data += stream.read(_MAX_BYTES - len(data))
    return _files(path, data)


def _files(path: str, data: bytes) -> dict[str, bytes]:
    if data[_PRIMARY : _PRIMARY + 6] != b"\x01CD001":
        raise ValueError(f"{path} is no ISO 9660 image of ours")
    extent, size = _extent(data, _PRIMARY + 156)  # section 8.4.18: the root folder's record
    if extent * _SECTOR + size > len(data):
        raise ValueError(f"{path} ends in the middle of its folder")
    files: dict[str, bytes] = {}
    left = _MAX_BYTES  # two may say that they are in the same place
    for offset in _records(data, extent * _SECTOR, size):
        name = _name(data, offset)
        if data[offset + 25] & _DIRECTORY or not name:
            continue
        start, length = _extent(data, offset)
        if not name.isprintable():
            raise ValueError(f"{path} has a file with an impossible name")
        if start * _SECTOR + length > len(data):
            raise ValueError(f"{path} ends in the middle of {name}")
        left -= length
        if left < 0 or len(files) == _MAX_FILES:
            raise ValueError(f"{path} has more than {_MAX_FILES} files or {_MAX_BYTES >> 20} MiB")
        files[name] = data[start * _SECTOR : start * _SECTOR + length]
    return files


def _extent(data: bytes, offset: int) -> tuple[int, int]:
    """Give a record's first sector and its length in bytes (sections 9.1.3 and 9.1.4; each is there in both byte
    orders).
    """
    if offset + 34 > len(data):
        raise ValueError("the image ends in a folder's record")
    first, size = struct.unpack_from("<I4xI", data, offset + 2)
    return first, size


def _records(data: bytes, start: int, size: int) -> Iterator[int]:
    offset = start
    while offset < min(start + size, len(data) - 33):
        length = data[offset]
        if length == 0:  # records do not cross sectors: the rest of this one is empty
            offset = (offset // _SECTOR + 1) * _SECTOR
            continue
        if length < 34:
            raise ValueError("the image has a broken folder record")
        yield offset
        offset += length


def _name(data: bytes, offset: int) -> str:
    length, name_length = data[offset], data[offset + 32]
    plain = data[offset + 33 : offset + 33 + name_length]
    area = offset + 33 + name_length + (1 - name_length % 2)
    end = min(offset + length, len(data))
    long = b""
    while area + 4 <= end:
        entry = data[area + 2]
        if entry < 4:
            break
        if data[area : area + 2] == b"NM":
            long += data[area + 5 : area + entry]
        area += entry
    text = long or plain.split(b";")[0].rstrip(b".").lower()
    return "" if plain in (b"\x00", b"\x01") else text.decode(errors="replace")
