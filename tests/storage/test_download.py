# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads of images from a real web server, the good and the bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._storage.image.resource import ImageResource
from storage_helpers import IMAGE, SUMS, Converge, begin, bionic, files, place, sha256
from webserver import Web


def test_wrong_checksum(root: Path, run: Converge, web: Web, data: bytes) -> None:
    failed = run(ImageResource, images=[bionic(web, checksum=f"sha256:{'1' * 64}")])
    assert f"has sha256:{sha256(data)}, declared is sha256:{'1' * 64}. It was thrown away." in failed["msg"]
    assert files(root) == []


def test_the_list_changes_during_the_download(root: Path, run: Converge, web: Web, data: bytes) -> None:
    new, original = web.files[SUMS], web._send
    web.files[SUMS] = f"{'2' * 64} *bionic-server-cloudimg-amd64.img\n".encode()

    def send(request: Any, content: bytes, start: int) -> None:
        if content is data:
            web.files[SUMS] = new
        original(request, content, start)

    web._send = send  # type: ignore[method-assign]  # the list is to change while the image is sent
    assert "msg" not in run(ImageResource, images=[bionic(web)])


def test_not_in_the_list(root: Path, run: Converge, web: Web) -> None:
    web.files[SUMS] = b"hello\n"
    failed = run(ImageResource, images=[bionic(web)])
    assert "there is no sha256 checksum of bionic-server-cloudimg-amd64.img in it" in failed["msg"] and not web.asked(
        IMAGE
    )


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_resumed(root: Path, run: Converge, web: Web, data: bytes, size: int) -> None:
    begin(root, data, web.url + IMAGE, size, f'"{sha256(data)[:8]}"')
    assert "msg" not in run(ImageResource, images=[bionic(web)])
    asked = web.asked(IMAGE)
    assert [headers.get("range") for headers in asked] == [f"bytes={size}-"] and asked[0][
        "if-range"
    ] == f'"{sha256(data)[:8]}"'
    assert place(root).read_bytes() == data and files(root) == ["bionic.img"]


def test_all_of_it_was_there(root: Path, run: Converge, web: Web, data: bytes) -> None:
    begin(root, data, web.url + IMAGE, len(data), "")
    assert "msg" not in run(ImageResource, images=[bionic(web)])
    assert not web.asked(IMAGE) and place(root).read_bytes() == data


@pytest.mark.parametrize("case", ["no ranges", "changed", "dishonest", "shorter", "another url", "garbage"])
def test_begins_anew_when_it_must(root: Path, run: Converge, web: Web, data: bytes, case: str) -> None:
    """The server ignores or refuses the range, has another file by now, or lies about it; or what is here is something
    else.
    """
    old = b"old" * (1 << 20)
    web.ranges, web.honest = case != "no ranges", case != "dishonest"
    url = web.url + ("/elsewhere.img" if case == "another url" else IMAGE)
    begin(
        root,
        old * (2 if case == "shorter" else 1),
        url,
        len(data) + 5 if case == "shorter" else 1 << 20,
        f'"{sha256(old)[:8]}"' if case != "shorter" else "",
    )
    if case == "dishonest":  # it says the same file and gives the rest of another
        (root / "lib/images/.bionic.img.part.json").write_text(
            json.dumps({"url": url, "total": len(data), "etag": "", "last_modified": ""})
        )
    if case == "garbage":
        (root / "lib/images/.bionic.img.part.json").write_text("{")
    assert "msg" not in run(ImageResource, images=[bionic(web)])
    assert place(root).read_bytes() == data and files(root) == ["bionic.img"]


def test_connection_that_breaks_now_and_then(root: Path, run: Converge, web: Web, data: bytes) -> None:
    web.cut, web.cuts = 700_000, 4
    assert "msg" not in run(ImageResource, images=[bionic(web, checksum=f"sha256:{sha256(data)}")])
    assert place(root).read_bytes() == data
    assert [headers.get("range") for headers in web.asked(IMAGE)] == [
        None,
        *(f"bytes={700_000 * number}-" for number in range(1, 5)),
    ]


def test_truncated(root: Path, run: Converge, web: Web, data: bytes) -> None:
    web.cut, web.cuts, web.ranges = 1 << 20, 100, False
    failed = run(ImageResource, images=[bionic(web, checksum=f"sha256:{sha256(data)}")])
    assert (
        f"it is truncated: it ended after {1 << 20} of {len(data)} bytes" in failed["msg"]
        and "1.0 MiB of it are here" in failed["msg"]
    )
    assert not place(root).exists()
    web.cuts, web.ranges = 0, True
    assert "msg" not in run(ImageResource, images=[bionic(web)])
    assert web.asked(IMAGE)[-1]["range"] == f"bytes={1 << 20}-"


def test_no_length(root: Path, run: Converge, web: Web, data: bytes) -> None:
    web.length = False
    assert "msg" not in run(ImageResource, images=[bionic(web)])
    assert place(root).read_bytes() == data


def test_servers_troubles(root: Path, run: Converge, web: Web, data: bytes) -> None:
    item = bionic(web, checksum=f"sha256:{sha256(data)}")
    web.answers = [404]
    assert "the server answers 404" in run(ImageResource, images=[item])["msg"]
    web.answers = [503] * 5
    assert "the server answers 503" in run(ImageResource, images=[item])["msg"]
    web.answers = [503, 500]
    assert "msg" not in run(ImageResource, images=[item])


def test_nobody_there(root: Path, run: Converge, web: Web) -> None:
    failed = run(
        ImageResource, images=[{"name": "bionic", "url": "http://127.0.0.1:9/a.img", "checksum": f"sha256:{'1' * 64}"}]
    )
    assert (
        "http://127.0.0.1:9/a.img can't be downloaded: Connection refused" in failed["msg"] and "proxy" in failed["msg"]
    )


def test_redirects(root: Path, run: Converge, web: Web, data: bytes) -> None:
    web.redirects["/latest.img"] = web.url + IMAGE
    item = {"name": "bionic", "url": f"{web.url}/latest.img", "checksum": f"sha256:{sha256(data)}"}
    assert "msg" not in run(ImageResource, images=[item])
    web.redirects["/bad.img"] = "file:///etc/passwd"
    failed = run(ImageResource, images=[{**item, "name": "bad", "url": f"{web.url}/bad.img"}])
    assert "the server answers 302" in failed["msg"] and "not allowed" in failed["msg"]


def test_proxy(root: Path, run: Converge, web: Web, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy gets the whole URL as the path: the test's server stands in for one."""
    monkeypatch.setenv("http_proxy", web.url)
    monkeypatch.delenv("no_proxy", raising=False)
    web.files["http://images.example/a.img"] = data
    assert "msg" not in run(
        ImageResource,
        images=[{"name": "far", "url": "http://images.example/a.img", "checksum": f"sha256:{sha256(data)}"}],
    )


def test_four_at_a_time(root: Path, run: Converge, web: Web, data: bytes) -> None:
    web.pause, web.piece = 0.02, 1 << 18
    items = [bionic(web, name=f"bionic-{number}", checksum=f"sha256:{sha256(data)}") for number in range(6)]
    assert "msg" not in run(ImageResource, images=items)
    assert web.most == 4 and len(files(root)) == 6


def test_one_fails_the_others_go_on(root: Path, run: Converge, web: Web, data: bytes) -> None:
    result = run(
        ImageResource,
        images=[bionic(web), bionic(web, name="bad", url=f"{web.url}/none.img", checksum=f"sha256:{'1' * 64}")],
    )
    assert "image bad:" in result["msg"] and "1 other change was made" in result["msg"]
    assert [entry["changed"] for entry in result["results"]] == [True, False]
    assert files(root) == ["bionic.img"]


def test_list_of_checksums_that_comes_late(root: Path, run: Converge, web: Web) -> None:
    web.answers = [503, 503]
    assert "msg" not in run(ImageResource, images=[bionic(web)])


def test_list_of_checksums_that_does_not_come(root: Path, run: Converge, web: Web) -> None:
    web.answers = [503, 503, 503]
    assert "SHA256SUMS can't be downloaded: the server answers 503" in run(ImageResource, images=[bionic(web)])["msg"]
    del web.files[SUMS]
    assert "SHA256SUMS: the server answers 404" in run(ImageResource, images=[bionic(web)])["msg"]
