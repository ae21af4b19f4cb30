# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things stand, and how files come there."""

from __future__ import annotations

import io
import os
import tempfile
import urllib.request
from email.message import Message
from pathlib import Path

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._cloudinit import iso9660
from ansible_collections.ikcloud.compute.plugins.module_utils._core import layout, marks
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._core.steps import MakeFolder
from ansible_collections.ikcloud.compute.plugins.module_utils._storage import disk_files
from ansible_collections.ikcloud.compute.plugins.module_utils._storage.download import Space, _Redirects
from ansible_collections.ikcloud.compute.plugins.module_utils._storage.image import images
from hypothesis import given
from hypothesis import strategies as st

ID = "compute-af95e879"


def test_the_talks_layout() -> None:
    talk = Layout("/root/compute-service")
    assert talk.image("bionic") == "/root/compute-service/lib/images/bionic.img"
    assert talk.volume(ID) == f"/root/compute-service/lib/volumes/{ID}.img"
    assert talk.seed(ID) == f"/root/compute-service/lib/volumes/{ID}-seed.img"
    assert talk.network("up") == "/root/compute-service/run/networks/up"
    paths = talk.instance(ID)
    assert paths.pid == f"/root/compute-service/run/instances/{ID}/{ID}.pid"
    names = (
        paths.user_data,
        paths.network_config,
        paths.meta_data,
        paths.start,
        paths.stop,
        paths.qmp,
        paths.vnc,
        paths.console,
        paths.console_log,
        paths.agent,
    )
    assert [os.path.basename(name) for name in names] == [
        "cloud_init.cfg",
        "net_1.cfg",
        "meta_data.cfg",
        "start",
        "stop",
        "qmp.sock",
        "vnc.sock",
        "console.sock",
        "console.log",
        "agent.sock",
    ]
    assert all(folder.startswith(talk.root) for folder in talk.folders)


@pytest.mark.parametrize(
    "root",
    [
        "",
        "relative",
        "/",
        "/a/",
        "/a//b",
        "/a/../b",
        "/a/./b",
        "/a b",
        "/a,b",
        "/a%b",
        "/a\n",
        "/ä",
        "/a;b",
        "/{{x}}",
        "/" + "a" * 64,
    ],
)
def test_roots_that_cannot_be(root: str) -> None:
    with pytest.raises(ComputeError, match="root: "):
        Layout(root)


def test_sockets_of_the_longest_root_fit() -> None:
    assert len(Layout("/" + "a" * (layout.MAX_ROOT - 1)).instance(ID).console) == 107


@given(st.text(max_size=30))
def test_instance_ids(name: str) -> None:
    assert layout.instance_id(name) is None or name == f"compute-{layout.instance_id(name)}"


def test_folder_of_an_instance(tmp_path: Path) -> None:
    folder = tmp_path / ID
    step = [MakeFolder(str(folder), 0o750, "")]
    assert layout.instance_folder_steps(str(folder), "", creating=True) == step
    assert (
        layout.instance_folder_steps(str(folder), "", creating=False) == []
    )  # not there: whoever makes files makes it too
    folder.mkdir(mode=0o755)
    assert layout.instance_folder_steps(str(folder), "", creating=False) == step
    folder.chmod(0o750)
    assert layout.instance_folder_steps(str(folder), "", creating=False) == []
    assert layout.instance_folder_steps(str(folder), "", creating=True) == step
    assert layout.folder_drift(str(folder), 0o750, "no-such-user") == f"{folder} does not belong to no-such-user"


def test_hidden_names() -> None:
    assert disk_files.unfinished("/v/data-1.img") == "/v/.data-1.img.new"
    assert disk_files.finished_name(".data-1.img.new") == "data-1.img"
    assert [disk_files.finished_name(name) for name in ("data-1.img", ".new-abc", "x.img.new")] == ["", "", ""]


def test_never_over_another(tmp_path: Path) -> None:
    (tmp_path / ".a.img.new").write_text("ours")
    (tmp_path / "a.img").write_text("theirs")
    with pytest.raises(ComputeError, match="has come to be there meanwhile"):
        disk_files.finish_step(str(tmp_path / "a.img")).run()
    assert (tmp_path / "a.img").read_text() == "theirs"
    disk_files.finish_step(str(tmp_path / "a.img"), replace=True).run()
    assert (tmp_path / "a.img").read_text() == "ours"


def test_marks_of_read_only_files(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    path.write_text("x")
    path.chmod(0o444)
    marks.write_mark(str(path), marks.MARK, "image/a")
    assert marks.read_mark(str(path), marks.MARK) == "image/a" and path.stat().st_mode & 0o777 == 0o444
    assert marks.read_mark(str(tmp_path / "none"), marks.MARK) == ""
    with pytest.raises(ComputeError, match="can't be marked"):
        marks.write_mark(str(tmp_path / "none"), marks.MARK, "x")


def test_marks_beside_hold_for_the_same_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    monkeypatch.setattr(os, "getxattr", unsupported)
    hidden, path = tmp_path / ".a.img.new", tmp_path / "a.img"
    hidden.write_text("x")
    marks.write_mark(str(hidden), marks.MARK, "volume/a", str(path))
    hidden.rename(path)
    assert marks.read_mark(str(path), marks.MARK) == "volume/a"
    (tmp_path / "b").write_text("another")
    (tmp_path / "b").rename(path)
    assert marks.read_mark(str(path), marks.MARK) == ""
    marks.forget_marks(str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.img"]


def test_space_is_shared_out(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    free = status.f_bavail * status.f_frsize
    space = Space(str(tmp_path))
    space.reserve("image a", free // 2)
    with pytest.raises(ComputeError, match=r"image b needs .* free beside the other downloads"):
        space.reserve("image b", int(free * 0.7))
    space.used("image a", free // 2)
    space.reserve("image b", int(free * 0.7))
    space.release("image b")
    with pytest.raises(ComputeError, match="image c needs"):
        space.reserve("image c", free * 2)


def test_no_way_from_https_to_http() -> None:
    request = urllib.request.Request("https://a.example/x")
    with pytest.raises(ComputeError, match="which is not followed"):
        _Redirects().redirect_request(request, io.BytesIO(), 302, "Found", Message(), "http://a.example/x")
    assert (
        _Redirects().redirect_request(request, io.BytesIO(), 302, "Found", Message(), "https://b.example/x") is not None
    )


@pytest.mark.parametrize("reflink", [True, False])
def test_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reflink: bool) -> None:
    def unsupported(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    if not reflink:
        monkeypatch.setattr(os, "copy_file_range", unsupported)
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)
    with open(tmp_path / "a", "rb") as source, open(tmp_path / "b", "wb") as target:
        images.copy_content(source.fileno(), target.fileno())
    assert (tmp_path / "b").read_bytes() == content


@given(st.binary(max_size=4096))
def test_what_is_no_iso_is_an_error_that_is_meant(data: bytes) -> None:
    path = Path(tempfile.gettempdir()) / f"ikc-iso-{os.getpid()}"
    for head in (b"", b"\0" * 32768 + b"\x01CD001"):
        path.write_bytes(head + data)
        try:
            iso9660.read_files(str(path))
        except ValueError:
            pass
        finally:
            path.unlink()


def test_a_large_blank_is_made_anew_each_time(tmp_path: Path) -> None:
    """What it takes more than a MiB to say nothing in is not kept in memory; and what could not be made is tried
    again.
    """
    blanks, made = disk_files.Blanks(), []

    def create(path: Path, size: int) -> None:
        made.append(path.name)
        if size < 0:
            raise ComputeError("no room")
        path.write_bytes(b"x" * size)

    with pytest.raises(ComputeError):
        blanks.make(("small",), str(tmp_path / "a"), lambda: create(tmp_path / "a", -1))
    for name, options, size in (
        ("b", "small", 9),
        ("c", "small", 9),
        ("d", "large", (1 << 20) + 1),
        ("e", "large", (1 << 20) + 1),
    ):
        blanks.make((options,), str(tmp_path / name), lambda name=name, size=size: create(tmp_path / name, size))
    assert made == ["a", "b", "d", "e"]
    assert (tmp_path / "c").read_bytes() == b"x" * 9
