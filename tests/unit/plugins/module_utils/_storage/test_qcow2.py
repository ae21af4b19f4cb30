# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading disk images without a process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from pathlib import Path

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.disks import Disk, sound_header
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.snapshot.snapshots import read_snapshots
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._storage import qcow2
from hypothesis import given
from hypothesis import strategies as st


def header(
    version: int = 3,
    size: int = 1 << 30,
    backing: bytes = b"",
    backing_format: bytes = b"",
    incompatible: int = 0,
    data_file: bytes = b"",
) -> bytes:
    """Build a header by the specification."""
    extensions = b""
    for kind, text in ((0xE2792ACA, backing_format), (0x44415441, data_file)):
        if text:
            extensions += struct.pack(">II", kind, len(text)) + text + b"\0" * (-len(text) % 8)
    extensions += struct.pack(">II", 0, 0)
    length = 104 if version == 3 else 72
    offset = length + len(extensions) if backing else 0
    fields = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", version, offset, len(backing), 16, size, 0, 1, 0, 0, 1, 2, 0)
    if version == 3:
        fields += struct.pack(">QQQII", incompatible, 0, 0, 4, 104)
    return fields + extensions + backing


@given(
    st.sampled_from([2, 3]),
    st.integers(0, 1 << 60),
    st.binary(max_size=1023).filter(lambda name: b"\0" not in name),
    st.sampled_from([b"", b"raw", b"qcow2"]),
)
def test_reads_what_the_specification_says(version: int, size: int, backing: bytes, backing_format: bytes) -> None:
    found = qcow2.parse_header(header(version, size, backing, backing_format) + b"\0" * 512)
    assert (found.format, found.virtual_size) == ("qcow2", size)
    assert found.backing_file.encode(errors="surrogateescape") == backing
    assert found.backing_format.encode() == backing_format
    assert not found.data_file and not found.corrupt and not found.encrypted


@given(st.binary(max_size=300))
def test_garbage_is_an_error_that_is_meant(data: bytes) -> None:
    for start in (b"", header()[:72], header()):
        with contextlib.suppress(ValueError, struct.error):
            qcow2.parse_header(start + data)


def test_what_makes_an_image_unfit() -> None:
    assert qcow2.parse_header(header(incompatible=2)).corrupt
    assert qcow2.parse_header(header(incompatible=4)).data_file
    assert qcow2.parse_header(header(data_file=b"x.raw")).data_file


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have files of two users")
@pytest.mark.parametrize("uid", [65534, 4_000_000, 0])
def test_root_is_told_to_look_at_a_file_as_its_owner(tmp_path: Path, uid: int) -> None:
    """What its header names, qemu-img opens; the owner may rewrite that while root types."""
    image = tmp_path / "a b.img"
    image.write_bytes(header())
    os.chown(image, uid, uid)
    user = {65534: "runuser -u nobody -- ", 0: ""}.get(uid, f"setpriv --reuid={uid} --regid={uid} --clear-groups ")
    assert f"`{user}qemu-img check -f qcow2 '{image}'`" in qcow2.Header("qcow2", 1, corrupt=True).trouble(str(image))
    assert f"`{user}qemu-img convert -f qcow2 -O qcow2 '{image}' NEW`" in qcow2.Header(
        "qcow2", 1, data_file=True
    ).trouble(str(image))
    image.write_bytes(header(backing=b"/etc/shadow"))
    with pytest.raises(ComputeError) as told:
        sound_header(Disk(str(image), "qcow2"), Layout("/var/lib/compute-service"), str(image))
    assert f"`{user}qemu-img info -f qcow2 '{image}'`" in str(told.value)
    image.write_bytes(header()[:60] + struct.pack(">IQ", 1, 1 << 40) + header()[72:])
    with pytest.raises(ComputeError) as told:
        read_snapshots(str(image), str(tmp_path))
    assert f"`{user}qemu-img check -f qcow2 '{image}'`" in str(told.value)


def test_files(tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(b"plain" * 1000)
    assert qcow2.read_header(str(image)) == qcow2.Header("raw", 5000)
    image.write_bytes(header()[:50])
    with pytest.raises(ComputeError, match="header is broken"):
        qcow2.read_header(str(image))


def test_users_of_a_base(tmp_path: Path) -> None:
    base, folder = tmp_path / "base.img", tmp_path / "volumes"
    folder.mkdir()
    base.write_bytes(header())
    (folder / "absolute.img").write_bytes(header(backing=str(base).encode()))
    (folder / "relative.img").write_bytes(header(backing=b"../base.img"))
    (folder / "other.img").write_bytes(header(backing=b"/elsewhere.img"))
    (folder / "junk.img").write_bytes(header()[:20])
    users = qcow2.users_of([str(base)], str(folder))
    assert users == {str(base): [str(folder / "absolute.img"), str(folder / "relative.img")]}
    assert qcow2.users_of([str(base)], str(tmp_path / "none")) == {}


def test_locks_of_another_process(tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(b"x")
    assert not qcow2.is_locked(str(image)) and not qcow2.is_locked(str(tmp_path / "none"))
    handle = os.open(image, os.O_RDONLY)
    # An open-file-description lock as QEMU takes it, on byte 100, for reading (fcntl(2)); another description sees it,
    # even in this process.
    fcntl.fcntl(
        handle, getattr(fcntl, "F_OFD_SETLK", 37), struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 100, 1, 0)
    )
    assert qcow2.is_locked(str(image))
    os.close(handle)
    assert not qcow2.is_locked(str(image))
