# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real runs of the storage modules: real files, qemu-img, cloud-localds, a web server on 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.ikcloud.compute.plugins.module_utils.engine import Kind, argument_spec, converge

for _tool in ("qemu-img", "cloud-localds"):
    if not shutil.which(_tool):
        pytest.skip(f"{_tool} is not installed", allow_module_level=True)

Converge = Callable[..., dict[str, Any]]


def declare(kind: type[Kind], **params: Any) -> Kind:
    """Give a kind its options as the module would get them from Ansible."""
    validator = ArgumentSpecValidator(argument_spec(kind))
    result = validator.validate(params)
    assert not result.error_messages, result.error_messages
    return kind(result.validated_parameters)


@pytest.fixture
def root() -> Iterator[Path]:
    """Give an empty folder as the root (short: sockets stand below it), owned by whoever runs the tests."""
    with tempfile.TemporaryDirectory(prefix="ikc-") as folder:
        path = Path(folder) / "root"
        path.mkdir()
        yield path


@pytest.fixture
def run(root: Path) -> Converge:
    """Run a kind's sentence on the root: ``run(VolumeKind, check=True, volumes=[…])``."""

    def call(kind: type[Kind], check: bool = False, **params: Any) -> dict[str, Any]:
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


def qemu_img(*arguments: str) -> str:
    """Run qemu-img and give what it prints."""
    return subprocess.run(["qemu-img", *arguments], check=True, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
