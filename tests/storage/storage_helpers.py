# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the storage modules share."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.reconcile import Resource, argument_spec
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.qmp.qmp import status
from webserver import Web

IMAGE = "/bionic/current/bionic-server-cloudimg-amd64.img"
SUMS = "/bionic/current/SHA256SUMS"
Converge = Callable[..., dict[str, Any]]


def declare(kind: type[Resource], **params: Any) -> Resource:
    """Give a kind its options as the module would get them from Ansible."""
    validator = ArgumentSpecValidator(argument_spec(kind))
    result = validator.validate(params)
    assert not result.error_messages, result.error_messages
    return kind(result.validated_parameters)


def qemu_img(*arguments: str) -> str:
    """Run qemu-img and give what it prints."""
    return subprocess.run(
        ["qemu-img", *arguments], check=True, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
    ).stdout


def wait_for_qemu(socket: Path) -> None:
    """Wait until a QEMU answers, which has its disks open then."""
    until = time.monotonic() + 30
    while True:
        try:
            status(str(socket))
            return
        except ComputeError:
            assert time.monotonic() < until
            time.sleep(0.05)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def bionic(web: Web, **other: Any) -> dict[str, Any]:
    return {"name": "bionic", "url": web.url + IMAGE, "checksum": f"sha256:{web.url}{SUMS}", **other}


def by_hand(commands: list[str], tmp_path: Path) -> None:
    """Type commands into a shell. Where setfattr(1) is missing, Python stands in for it."""
    shim = tmp_path / "bin"
    shim.mkdir(exist_ok=True)
    (shim / "setfattr").write_text(
        "#!/usr/bin/python3\nimport os, sys\nos.setxattr(sys.argv[5], sys.argv[2], sys.argv[4].encode())\n"
    )
    (shim / "setfattr").chmod(0o755)
    environment = {**os.environ, "PATH": f"{shim}:{os.environ['PATH']}"}
    for command in commands:
        subprocess.run(["sh", "-c", command], check=True, env=environment, stdin=subprocess.DEVNULL)


def files(root: Path) -> list[str]:
    folder = root / "lib/images"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def place(root: Path, name: str = "bionic") -> Path:
    return root / f"lib/images/{name}.img"


def begin(root: Path, data: bytes, url: str, size: int, etag: str) -> None:
    """Leave a part of a download as an interrupted run leaves it."""
    part = root / "lib/images/.bionic.img.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(data[:size])
    Path(f"{part}.json").write_text(json.dumps({"url": url, "total": len(data), "etag": etag, "last_modified": ""}))
