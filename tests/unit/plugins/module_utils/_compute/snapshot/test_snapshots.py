# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots as they stand in qcow2 images: what qemu-img wrote is read, and whatever else is there breaks nothing."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import time
import tracemalloc
from pathlib import Path

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.snapshot.snapshots import (
    Snapshot,
    own_snapshots,
    parse_table,
    read_snapshots,
    tag_of,
)
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.modules import instance_info
from hypothesis import given
from hypothesis import strategies as st


def table(entries: list[Snapshot], extra: int) -> bytes:
    """Write a table as docs/interop/qcow2.txt has it."""
    data = b""
    for number, entry in enumerate(entries):
        tag, key = entry.tag.encode(), str(number).encode()
        small = entry.memory & 0xFFFFFFFF
        data += struct.pack(">QIHHIIQII", 65536, 1, len(key), len(tag), entry.seconds, 0, 0, small, extra)
        data += struct.pack(">QQQ", entry.memory, 0, 0)[:extra] + key + tag
        data += b"\0" * (-len(data) % 8)
    return data


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=40), st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)), max_size=5
    ),
    st.sampled_from([8, 16, 24]),
)
def test_what_is_written_is_read(entries: dict[str, tuple[int, int]], extra: int) -> None:
    snapshots = [Snapshot(tag, *numbers) for tag, numbers in entries.items()]
    assert parse_table(table(snapshots, extra), len(snapshots)) == {snapshot.tag: snapshot for snapshot in snapshots}


def test_before_there_were_64_bits_for_the_memory() -> None:
    assert parse_table(table([Snapshot("old", 5, 7)], 0), 1)["old"].memory == 7


@given(st.binary(max_size=400), st.integers(1, 5))
def test_anything_else_is_an_error_that_is_known(data: bytes, count: int) -> None:
    with contextlib.suppress(ValueError, struct.error):
        parse_table(data, count)


def test_a_real_image(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "1M"], check=True)
    assert read_snapshots(str(image), str(tmp_path)) == {}
    began = int(time.time())
    for tag in ("compute-0a1b2c3d.first", "somebody's", "compute-0a1b2c3d.second", "compute-ffffffff.first"):
        subprocess.run(["qemu-img", "snapshot", "-c", tag, str(image)], check=True)
    found = read_snapshots(str(image), str(tmp_path))
    assert len(found) == 4 and all(
        began <= entry.seconds <= time.time() and entry.memory == 0 for entry in found.values()
    )
    assert list(own_snapshots("0a1b2c3d", found)) == ["first", "second"]
    subprocess.run(["qemu-img", "snapshot", "-d", tag_of("0a1b2c3d", "first"), str(image)], check=True)
    assert list(own_snapshots("0a1b2c3d", read_snapshots(str(image), str(tmp_path)))) == ["second"]


def test_what_is_no_image_holds_none(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"\0" * 4096)
    (tmp_path / "short").write_bytes(b"QFI\xfb")
    assert [read_snapshots(str(tmp_path / name), str(tmp_path)) for name in ("raw", "short", "none")] == [{}, {}, {}]
    broken = tmp_path / "broken"
    broken.write_bytes(b"QFI\xfb" + b"\0" * 56 + struct.pack(">IQ", 1, 1 << 40) + b"\0" * 100)
    with pytest.raises(ComputeError, match="table of snapshots is out of bounds"):
        read_snapshots(str(broken), str(tmp_path))
    broken.write_bytes(b"QFI\xfb" + b"\0" * 56 + struct.pack(">IQ", 3, 72) + b"\0" * 10)
    with pytest.raises(ComputeError, match="table of snapshots is broken"):
        read_snapshots(str(broken), str(tmp_path))


def test_only_a_plain_file_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening alone does something to a terminal, a watchdog or a tape."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    opened: list[int] = []
    with monkeypatch.context() as patch:
        really = os.open
        patch.setattr(
            os, "open", lambda path, flags, *more, **named: opened.append(flags) or really(path, flags, *more, **named)
        )
        assert [read_snapshots(str(tmp_path / name), str(tmp_path)) for name in ("pipe", "link")] == [{}, {}]
    assert len(opened) == 2 and all(flags & os.O_PATH for flags in opened)
    assert instance_info._tail(str(tmp_path / "pipe"), 3, Layout("/nowhere")) == []
    (tmp_path / "log").write_text("one\r\ntwo\nthree\n", encoding="utf-8")
    assert instance_info._tail(str(tmp_path / "log"), 2, Layout("/nowhere")) == ["two", "three"]


def test_facts() -> None:
    assert Snapshot("x", 0, 5).facts("x") == {
        "name": "x",
        "created": "1970-01-01T00:00:00Z",
        "memory": True,
        "memory_bytes": 5,
    }


def hostile(path: Path, count: int, entries: bytes) -> str:
    """Write a qcow2 image's header with a table of snapshots, and 3 GiB behind it that take no room."""
    path.write_bytes(b"QFI\xfb" + b"\0" * 56 + struct.pack(">IQ", count, 72) + entries)
    os.truncate(path, 3 << 30)
    return str(path)


@pytest.mark.parametrize(
    ("count", "entries"),
    [
        (65536, b""),
        (4096, struct.pack(">QIHHIIQII", 0, 0, 0, 65535, 0, 0, 0, 0, 24)),
        (2, struct.pack(">QIHHIIQII", 0, 0, 0, 1, 0, 0, 0, 0, 0xFFFFFFF0)),
        (4096, struct.pack(">QIHHIIQII", 0, 0, 65535, 65535, 0, 0, 0, 0, 1 << 20) * 2),
    ],
    ids=["more than there can be", "long names", "a long entry", "long entries"],
)
def test_a_table_of_three_gibibytes(tmp_path: Path, count: int, entries: bytes) -> None:
    """What QEMU's user writes into its disk takes root neither memory nor time, and says nothing of others."""
    path = hostile(tmp_path / "disk.img", count, entries)
    began = time.monotonic()
    tracemalloc.start()
    with contextlib.suppress(ComputeError):
        assert len(read_snapshots(path, str(tmp_path))) < 5
    assert tracemalloc.get_traced_memory()[1] < 16 << 20 and time.monotonic() - began < 2
    tracemalloc.stop()


def test_names_that_we_could_not_have_given(tmp_path: Path) -> None:
    tags = [
        "compute-0a1b2c3d.first",
        "compute-0a1b2c3d.\x1b[2J",
        "compute-0a1b2c3d.a\nb",
        "compute-0a1b2c3d.",
        f"compute-0a1b2c3d.{'x' * 999}",
    ]
    found = read_snapshots(
        hostile(tmp_path / "disk.img", len(tags), table([Snapshot(tag, 1, 1) for tag in tags], 8)), str(tmp_path)
    )
    assert len(found) == len(tags) and list(own_snapshots("0a1b2c3d", found)) == ["first"]
