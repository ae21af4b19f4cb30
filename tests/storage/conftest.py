# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real runs of the storage modules: real files, qemu-img, genisoimage, a web server on 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._core.reconcile import Resource, argument_spec, converge
from ansible_collections.ikcloud.compute.plugins.module_utils._storage import download
from storage_helpers import IMAGE, SUMS, Converge, declare, qemu_img, sha256
from webserver import Web


@pytest.fixture(autouse=True)
def _tools() -> None:
    for tool in ("qemu-img", "genisoimage"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")


@pytest.fixture
def root() -> Iterator[Path]:
    """Give an empty folder as the root (short: sockets stand below it), owned by whoever runs the tests."""
    with tempfile.TemporaryDirectory(prefix="ikc-") as folder:
        path = Path(folder) / "root"
        path.mkdir()
        yield path


@pytest.fixture
def run(root: Path) -> Converge:
    """Run a kind's sentence on the root: ``run(Volumes, check=True, volumes=[…])``."""

    def call(kind: type[Resource], check: bool = False, **params: Any) -> dict[str, Any]:
        if "owner" in argument_spec(kind):
            params.setdefault("owner", "")
        return converge(declare(kind, root=str(root), **params), check)

    return call


@pytest.fixture
def base(root: Path) -> Path:
    """Make a base image called ``small`` of 16 MiB."""
    path = root / "lib/images/small.img"
    path.parent.mkdir(parents=True, exist_ok=True)
    qemu_img("create", "-f", "qcow2", str(path), "16M")
    path.chmod(0o444)
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Make a qcow2 image with 3 MiB of noise in it."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "noise").write_bytes(os.urandom(3 << 20))
    qemu_img("convert", "-f", "raw", "-O", "qcow2", str(folder / "noise"), str(folder / "image"))
    return (folder / "image").read_bytes()


@pytest.fixture
def web(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "_PAUSE", 0)
    sums = f"{'0' * 64} *other.img\n{sha256(data)} *bionic-server-cloudimg-amd64.img\n"
    found = Web({IMAGE: data, SUMS: sums.encode()})
    server = found.serve()
    yield found
    server.shutdown()
    server.server_close()
