# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seed images that QEMU's user has written: each is read within limits, or not at all."""

from __future__ import annotations

import contextlib
import os
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._cloudinit import documents
from ansible_collections.ikcloud.compute.plugins.module_utils._cloudinit.iso9660 import read_files
from hypothesis import given
from hypothesis import strategies as st

SECTOR = 2048


def record(name: bytes, extent: int, size: int, flags: int = 0) -> bytes:
    """Write a folder's record (ECMA-119 section 9.1)."""
    data = struct.pack("<BBIIII7sBBBHHB", 0, 0, extent, 0, size, 0, b"", flags, 0, 0, 1, 0, len(name)) + name
    data += b"\0" * (len(data) % 2)
    return bytes([len(data)]) + data[1:]


def image(records: list[bytes], size: int | None = None, extent: int = 18) -> bytes:
    """Write an image with these records in its root folder, which begins at sector 18 and is as large as it says."""
    folder = b""
    for entry in records:
        if len(folder) % SECTOR + len(entry) > SECTOR:
            folder += b"\0" * (-len(folder) % SECTOR)
        folder += entry
    root = record(b"\0", extent, len(folder) if size is None else size, 2)
    descriptor = (b"\x01CD001\x01".ljust(156, b"\0") + root).ljust(SECTOR, b"\0")
    return b"\0" * (16 * SECTOR) + descriptor + b"\xffCD001\x01".ljust(SECTOR, b"\0") + folder


def test_an_honest_one(tmp_path: Path) -> None:
    (tmp_path / "seed").write_bytes(
        image([record(b"\0", 18, 100, 2), record(b"META-DATA.;1", 19, 5)]).ljust(19 * SECTOR, b"\0") + b"hello"
    )
    assert read_files(str(tmp_path / "seed")) == {"meta-data": b"hello"}


@pytest.mark.parametrize(
    "data",
    [
        # was a MemoryError
        image([record(b"F%d" % number, 0, 4 << 20) for number in range(5000)]).ljust(8 << 20, b"\0"),
        image([record(b"F%d" % number, 0, 15 << 20) for number in range(9)]).ljust(16 << 20, b"\0"),
        image([record(b"F%d" % number, 0, 0) for number in range(5000)]),
        image([record(b"A", 0xFFFFFFFF, 0xFFFFFFFF)]),
        image([], size=0xFFFFFFFF),
        image([record(b"A", 18, 10)], extent=0xFFFFFFFF),
        image([b"\x01" * 99]),
        image([record(b"\x1b[2J", 18, 10)]),
        image([record(b"A", 0, 10)])[: 16 * SECTOR + 160],
    ],
    ids=[
        "5000 large files",
        "9 that overlap",
        "5000 empty files",
        "a file past the end",
        "a huge folder",
        "a folder past the end",
        "a short record",
        "a terminal's command",
        "cut off",
    ],
)
def test_is_refused_soon_and_in_little_memory(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "seed").write_bytes(data)
    del data
    began = time.monotonic()
    tracemalloc.start()
    with pytest.raises(ValueError):
        read_files(str(tmp_path / "seed"))
    assert tracemalloc.get_traced_memory()[1] < 64 << 20 and time.monotonic() - began < 3
    tracemalloc.stop()


def test_a_folder_that_holds_itself_and_a_sparse_tebibyte(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    path.write_bytes(
        image(
            [
                record(b"\0", 18, 2048, 2),
                record(b"\x01", 18, 2048, 2),
                record(b"LOOP", 18, 2048, 2),
                record(b"A", 17, 4),
            ]
        )
    )
    os.truncate(path, 1 << 40)
    began = time.monotonic()
    assert list(read_files(str(path))) == ["a"]
    assert time.monotonic() - began < 2


def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), str(tmp_path), "/dev/null"):
        with pytest.raises(OSError):
            read_files(path)


@given(st.binary(max_size=300), st.integers(0, 300), st.integers(0, 1 << 32))
def test_anything_is_files_or_an_error_that_is_known(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, place: int, size: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-seed"
    whole = image([record(b"META-DATA.;1", 18, 20), data], size=size & 0xFFFFFFFF)
    path.write_bytes(whole[: -place or None])
    with contextlib.suppress(ValueError):
        read_files(str(path))


def test_the_texts_of_a_hostile_seed_take_little_time() -> None:
    """Each beginning was looked at to the end, 10^10 letters in all."""
    began = time.monotonic()
    assert not documents.applies_network_at_boot("#cloud-config\n" + "updates:\n  network:\n" * 50_000)
    assert documents.applies_network_at_boot("#cloud-config\n" + "updates:\n  network:\n" * 5 + "    when: [boot]\n")
    assert documents.instance_id_of("instance-id: " + "a" * 1_000_000 + "\n") == ""
    assert documents.instance_id_of('instance-id: "iid-1"\n') == "iid-1"
    assert time.monotonic() - began < 3
