# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images, from a real web server to a real disk."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.volumes import InstanceVolumeResource
from ansible_collections.ikcloud.compute.plugins.module_utils._core import lock, marks
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._storage.image.resource import ImageResource
from storage_helpers import IMAGE, SUMS, Converge, begin, bionic, by_hand, files, place, qemu_img, sha256
from webserver import Web


def test_check_then_run_then_again(root: Path, run: Converge, web: Web, data: bytes) -> None:
    check = run(ImageResource, check=True, images=[bionic(web)])
    assert list(root.iterdir()) == [] and web.requests == []
    real = run(ImageResource, images=[bionic(web)])
    assert "msg" not in real and check["commands"] == real["commands"]
    assert place(root).read_bytes() == data and place(root).stat().st_mode & 0o777 == 0o444
    assert files(root) == ["bionic.img"]
    assert real["after"]["bionic"]["checksum"] == f"sha256:{sha256(data)}"
    assert "gzip" not in web.asked(IMAGE)[0].get("accept-encoding", "")
    before, requests = place(root).stat(), len(web.requests)
    for check_mode in (True, False):
        again = run(ImageResource, check=check_mode, images=[bionic(web)])
        assert not again["changed"] and not again["commands"] and not again["diff"]
        assert again["results"][0]["virtual_size"] == 3 << 20
    assert len(web.requests) == requests  # not even the list of checksums
    assert (place(root).stat().st_ino, place(root).stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_nothing_is_read_when_nothing_is_to_do(
    root: Path, run: Converge, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ansible_collections.ikcloud.compute.plugins.module_utils._storage.image import images

    run(ImageResource, images=[bionic(web)])
    monkeypatch.setattr(images, "hash_file", lambda *_: pytest.fail("it was read as a whole"))
    assert not run(ImageResource, images=[bionic(web)])["changed"]


@pytest.mark.skipif(
    not subprocess.run(["which", "wget"], capture_output=True, check=False).stdout, reason="wget is not installed"
)
def test_by_hand(root: Path, run: Converge, web: Web, data: bytes, tmp_path: Path) -> None:
    by_hand(run(ImageResource, check=True, images=[bionic(web)])["commands"], tmp_path)
    assert place(root).read_bytes() == data
    after = run(ImageResource, images=[bionic(web)])
    assert after["results"][0]["reasons"] == ["it was verified anew"] and len(web.asked(IMAGE)) == 1
    assert not run(ImageResource, images=[bionic(web)])["changed"]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_literal_checksum(root: Path, run: Converge, web: Web, data: bytes, algorithm: str) -> None:
    item = bionic(web, checksum=f"{algorithm}:{hashlib.new(algorithm, data).hexdigest().upper()}")
    run(ImageResource, images=[item])
    assert not run(ImageResource, images=[item])["changed"]
    # The same content by another declaration: compared, recorded, not downloaded again.
    other = bionic(
        web,
        checksum=f"{'sha512' if algorithm == 'sha256' else 'sha256'}:"
        + hashlib.new("sha512" if algorithm == "sha256" else "sha256", data).hexdigest(),
    )
    assert run(ImageResource, images=[other])["results"][0]["reasons"] == ["it was verified anew"]
    assert not run(ImageResource, images=[other])["changed"]
    assert len(web.asked(IMAGE)) == 1


def test_another_checksum_never_replaces(root: Path, run: Converge, web: Web, data: bytes) -> None:
    run(ImageResource, images=[bionic(web)])
    with pytest.raises(ComputeError, match=r"An image is never replaced.*under a new name"):
        run(ImageResource, images=[bionic(web, checksum=f"sha256:{'1' * 64}")])
    # A new list at the same URL, as "current" ones have it, changes nothing.
    web.files[SUMS] = f"{'2' * 64} *bionic-server-cloudimg-amd64.img\n".encode()
    assert not run(ImageResource, images=[bionic(web)])["changed"]
    # Another URL of a list is looked at, and what it says differs.
    web.files["/other/SHA256SUMS"] = web.files[SUMS]
    with pytest.raises(ComputeError, match="never replaced"):
        run(ImageResource, images=[bionic(web, checksum=f"sha256:{web.url}/other/SHA256SUMS")])
    assert place(root).read_bytes() == data


def test_changed_on_the_disk(root: Path, run: Converge, web: Web, data: bytes) -> None:
    run(ImageResource, images=[bionic(web)])
    os.utime(place(root))  # touched, the content is the same
    touched = run(ImageResource, images=[bionic(web)])
    assert touched["results"][0]["reasons"] == ["it was verified anew"]
    assert not run(ImageResource, images=[bionic(web)])["changed"]
    place(root).chmod(0o644)
    assert run(ImageResource, images=[bionic(web)])["results"][0]["reasons"] == ["mode is 0644, not 0444"]
    with open(place(root), "r+b") as stream:
        stream.seek(-10, 2)
        stream.write(b"X" * 10)
    with pytest.raises(ComputeError, match="is not what it was when it was verified"):
        run(ImageResource, images=[bionic(web)])


@pytest.mark.parametrize("case", ["backing", "data file", "raw", "html", "broken"])
def test_what_is_no_base_image(root: Path, run: Converge, web: Web, tmp_path: Path, case: str) -> None:
    image, other = tmp_path / "image", tmp_path / "other"
    if case == "backing":
        qemu_img("create", "-f", "raw", str(other), "1M")
        qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", str(other), str(image))
    elif case == "data file":
        qemu_img("create", "-f", "qcow2", "-o", f"data_file={other}", str(image), "1M")
    else:
        image.write_bytes(
            {"raw": b"\0" * 4096, "html": b"<!DOCTYPE html>", "broken": b"QFI\xfb\0\0\0\x09" + b"\0" * 200}[case]
        )
    words = {
        "backing": "it stands on another file",
        "data file": "its data are in another file",
        "broken": "its header is broken",
    }
    content = image.read_bytes()
    web.files["/a.img"] = content
    failed = run(
        ImageResource, images=[{"name": "odd", "url": f"{web.url}/a.img", "checksum": f"sha256:{sha256(content)}"}]
    )
    assert words.get(case, "it is no qcow2 image, declared is format qcow2") in failed["msg"]
    assert failed["msg"].count("image odd:") == 1 and ".part" not in failed["msg"]
    assert files(root) == []


def test_qcow2_declared_as_raw(root: Path, run: Converge, web: Web) -> None:
    assert "it is qcow2, declared is format raw" in run(ImageResource, images=[bionic(web, format="raw")])["msg"]
    assert files(root) == []


def test_from_a_file(root: Path, run: Converge, tmp_path: Path, data: bytes) -> None:
    source = tmp_path / "a b.img"
    source.write_bytes(data)
    items = [
        {"name": "one", "path": str(source)},
        {"name": "two", "url": source.as_uri(), "checksum": f"sha256:{sha256(data)}"},
    ]
    check = run(ImageResource, check=True, images=items)
    real = run(ImageResource, images=items)
    assert "msg" not in real and check["commands"] == real["commands"]
    assert files(root) == ["one.img", "two.img"] and place(root, "one").read_bytes() == data
    assert not run(ImageResource, images=items)["changed"]
    source.unlink()
    assert not run(ImageResource, images=items)["changed"]
    with pytest.raises(ComputeError, match=r"images\[0\]: .*a b\.img.* is not a file on this node"):
        run(ImageResource, images=[{"name": "three", "path": str(source)}])
    assert run(ImageResource, check=True, images=[{"name": "three", "path": str(source)}])["changed"]


def test_truncated_file_with_a_checksum(root: Path, run: Converge, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.img").write_bytes(data[:-100])
    failed = run(
        ImageResource, images=[{"name": "one", "path": str(tmp_path / "a.img"), "checksum": f"sha256:{sha256(data)}"}]
    )
    assert "It was thrown away" in failed["msg"] and files(root) == []


def test_foreign_files(root: Path, run: Converge, web: Web, data: bytes) -> None:
    place(root).parent.mkdir(parents=True)
    place(root).write_bytes(b"mine")
    (place(root).parent / "notes.txt").write_text("mine")
    with pytest.raises(ComputeError, match="did not make"):
        run(ImageResource, images=[bionic(web)])
    assert not run(ImageResource, images=[], purge=True)["changed"]
    assert not run(ImageResource, images=[{"name": "bionic"}], state="absent")["changed"]
    place(root).write_bytes(data)  # what the talk's wget got
    taken = run(ImageResource, images=[bionic(web)])
    assert "it was there, with the declared content, without our mark" in taken["results"][0]["reasons"]
    assert not web.asked(IMAGE) and not run(ImageResource, images=[bionic(web)])["changed"]
    run(ImageResource, images=[], purge=True)
    assert files(root) == ["notes.txt"]


def test_base_of_a_volume_stays(root: Path, run: Converge, web: Web) -> None:
    run(ImageResource, images=[bionic(web)])
    run(InstanceVolumeResource, volumes=[{"name": "compute-af95e879", "image": "bionic"}])
    assert "is the base of compute-af95e879.img now" in run(ImageResource, check=True, images=[], purge=True)["warn"][0]
    for params in ({"images": [], "purge": True}, {"images": [{"name": "bionic"}], "state": "absent"}):
        assert "which would be lost with it" in run(ImageResource, **params)["msg"]
    run(InstanceVolumeResource, volumes=[], purge=True)
    assert run(ImageResource, images=[], purge=True)["changed"] and files(root) == []


def test_without_extended_attributes(root: Path, run: Converge, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    monkeypatch.setattr(os, "getxattr", unsupported)
    run(ImageResource, images=[bionic(web)])
    assert files(root) == [".bionic.img.marks", "bionic.img"]
    assert not run(ImageResource, images=[bionic(web)])["changed"]
    run(ImageResource, images=[], purge=True)
    assert files(root) == []


def test_part_of_what_is_no_longer_wanted(root: Path, run: Converge, web: Web, data: bytes) -> None:
    begin(root, data, web.url + IMAGE, 1000, "")
    run(ImageResource, images=[], purge=True)
    assert files(root) == []


SCRIPT = """
import json, sys
from ansible_collections.ikcloud.compute.plugins.module_utils._core.reconcile import converge
from ansible_collections.ikcloud.compute.plugins.module_utils._storage.image.resource import ImageResource
print(json.dumps(converge(ImageResource(json.loads(sys.argv[1])), False)))
"""


def start(root: Path, item: dict[str, Any]) -> subprocess.Popen[bytes]:
    params = {
        "images": [{"format": "qcow2", "path": None, **item}],
        "state": "present",
        "purge": False,
        "root": str(root),
        "timeout": 30,
    }
    return subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(params)], stdout=subprocess.PIPE)


def test_killed_and_resumed(root: Path, run: Converge, web: Web, data: bytes) -> None:
    web.pause, web.piece = 0.05, 1 << 16
    process = start(root, bionic(web))
    part = root / "lib/images/.bionic.img.part"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not (part.exists() and part.stat().st_size > 1 << 19):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    have = part.stat().st_size
    assert 1 << 19 < have < len(data) and files(root) == [".bionic.img.part", ".bionic.img.part.json"]
    web.pause = 0
    assert "msg" not in run(ImageResource, images=[bionic(web)])
    assert web.asked(IMAGE)[-1]["range"] == f"bytes={have}-"
    assert place(root).read_bytes() == data and files(root) == ["bionic.img"]


def test_two_runs_at_once(root: Path, run: Converge, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LOCK_TIMEOUT", 0.2)
    web.pause = 0.05
    process = start(root, bionic(web))
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not web.asked(IMAGE):
        time.sleep(0.01)
    with pytest.raises(ComputeError, match="Another run is changing this node"):
        run(ImageResource, images=[bionic(web)])
    web.pause = 0
    assert process.wait(timeout=30) == 0


@pytest.fixture
def small_disk(root: Path) -> Iterator[Path]:
    """Mount a disk of 2 MiB at lib/images."""
    folder = root / "lib/images"
    folder.mkdir(parents=True)
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
        != 0
    ):
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_is_known_before(root: Path, run: Converge, web: Web, small_disk: Path) -> None:
    failed = run(ImageResource, images=[bionic(web)])
    assert "image bionic needs 3 MiB" in failed["msg"] and "MiB free" in failed["msg"]
    assert files(root) == []


def test_disk_that_becomes_full(root: Path, run: Converge, web: Web, small_disk: Path) -> None:
    web.length = False
    failed = run(ImageResource, images=[bionic(web)])
    assert "became full during the download" in failed["msg"]
    assert files(root) == []


def test_full_disk_for_a_copy(root: Path, run: Converge, tmp_path: Path, data: bytes, small_disk: Path) -> None:
    (tmp_path / "a.img").write_bytes(data)
    assert "needs 3 MiB" in run(ImageResource, images=[{"name": "one", "path": str(tmp_path / "a.img")}])["msg"]
    assert files(root) == []


def test_marks_say_what_was_verified(root: Path, run: Converge, web: Web, data: bytes) -> None:
    run(ImageResource, images=[bionic(web)])
    assert marks.read_mark(str(place(root)), marks.MARK) == "image/bionic"
    record = json.loads(marks.read_mark(str(place(root)), marks.VERIFIED))
    assert record["sha256"] == sha256(data) and record["size"] == len(data)
    assert web.url not in json.dumps(record)
