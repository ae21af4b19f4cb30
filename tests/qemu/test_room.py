# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small image may have a very large copy: the room is asked for before one is begun."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.volumes import InstanceVolumeResource
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.reconcile import argument_spec, converge
from ansible_collections.ikcloud.compute.tests.qemu.conftest import Converge, machine
from ansible_collections.ikcloud.compute.tests.qemu.lifecycle import ID, backup

CLUSTER = 2 << 20
COPIED = 1 << 63


def bomb(path: Path) -> None:
    """Make an image of 8 TiB, each of whose clusters is one and the same (QEMU's docs/interop/qcow2.txt)."""
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={CLUSTER}", str(path), "8T"], check=True
    )
    with open(path, "r+b") as stream:
        (entries,) = struct.unpack(">I", stream.read(40)[36:])
        (table,) = struct.unpack(">Q", stream.read(8))
        end = (path.stat().st_size + CLUSTER - 1) // CLUSTER * CLUSTER
        stream.seek(end)
        stream.write(struct.pack(">Q", COPIED | end + CLUSTER) * (CLUSTER // 8))
        stream.write(b"\7" * CLUSTER)
        stream.seek(table)
        stream.write(struct.pack(">Q", COPIED | end) * entries)


def volumes(root: Path, check: bool = False, **item: Any) -> dict[str, Any]:
    given = {"volumes": [{"name": "whole", **item}], "owner": "", "root": str(root)}
    validated = ArgumentSpecValidator(argument_spec(InstanceVolumeResource)).validate(given)
    assert not validated.error_messages, validated.error_messages
    return converge(InstanceVolumeResource(validated.validated_parameters), check)


def test_a_full_copy(root: Path) -> None:
    image = root / "lib/images/bomb.img"
    image.parent.mkdir()
    bomb(image)
    words = (
        r"volume whole, a full copy of its image bomb, needs 819\d\.\d GiB, .*lib/volumes has \d+\.\d [GM]iB free\."
        r" Make room there, or leave out copy\."
    )
    assert any(re.search(words, warning) for warning in volumes(root, check=True, image="bomb", copy=True)["warn"])
    with pytest.raises(ComputeError, match=words):
        volumes(root, image="bomb", copy=True)
    assert list((root / "lib/volumes").iterdir()) == []
    assert "msg" not in volumes(root, image="bomb")


@pytest.mark.parametrize("state", ["created", "restored"])
def test_backups(root: Path, run: Converge, state: str) -> None:
    file = root / "lib/backups/one/nightly.qcow2"
    file.parent.mkdir(parents=True)
    disk = root / f"lib/volumes/compute-{ID}.img"
    bomb(disk if state == "created" else file)
    if state == "restored":
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "16M"], check=True)
    run([machine(power="stopped")])
    before = {path: path.stat().st_mtime_ns for path in root.glob("lib/*/**/*")}
    words = (
        r"instance one: its (backup|disk) needs 819\d\.\d GiB, .*/lib/(volumes|backups/one) has .* free\. Make room"
        r" there"
    )
    assert any(re.search(words, warning) for warning in backup(root, state, check=True)["warn"])
    with pytest.raises(ComputeError, match=words):
        backup(root, state)
    assert {path: path.stat().st_mtime_ns for path in root.glob("lib/*/**/*")} == before


def test_a_compressed_backup_is_as_large_as_it_comes_out(root: Path, run: Converge) -> None:
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", str(root / f"lib/volumes/compute-{ID}.img"), "16M"], check=True
    )
    run([machine(power="stopped")])
    assert "msg" not in backup(root, "created", compress=True)
