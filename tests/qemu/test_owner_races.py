# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The owner of a disk rewrites it while root works on it: nothing is read or written that the owner may not read or
write.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.backup.steps import target_path
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.volumes import InstanceVolumeResource
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._core.reconcile import argument_spec, converge
from ansible_collections.ikcloud.compute.tests.qemu.conftest import Converge, machine
from ansible_collections.ikcloud.compute.tests.qemu.lifecycle import ID, backup, holds, snapshot

OWNER, OWNER_ID = "nobody", 65534
NAME = f"compute-{ID}"
CLUSTER = 65536
SECRET = b"\7" * (1 << 20)
# Puts one header and then the other into a file, for as long as that is there; before that, waits for it.
REWRITE = """
import os, random, sys, time
path, pause, headers = sys.argv[1], float(sys.argv[2]), [open(name, "rb").read() for name in sys.argv[3:]]
print("ready", flush=True)
while True:
    try:
        handle = os.open(path, os.O_RDWR)
        while os.fstat(handle).st_nlink and os.fstat(handle).st_ino == os.stat(path).st_ino:
            for header in headers:
                if os.fstat(handle).st_size > len(header):
                    os.pwrite(handle, header, 0)
                time.sleep(random.uniform(0, 2 * pause))
        os.close(handle)
    except OSError:
        pass
"""


@pytest.fixture(autouse=True)
def _reachable(root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can have files of two users")
    root.parent.chmod(0o755)


@pytest.fixture
def secret(root: Path) -> Path:
    """Make a file that only root may read."""
    path = root.parent / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


@pytest.fixture
def headers(root: Path, secret: Path) -> Callable[..., list[str]]:
    """Give files with headers of an empty disk that refers to the secret, and of one that doesn't."""

    def make(*kinds: str) -> list[str]:
        options = {
            "data": ["-o", f"data_file={secret},data_file_raw=on"],
            "backing": ["-F", "raw", "-b", str(secret)],
            "plain": [],
        }
        for kind in kinds:
            image = root.parent / "image"
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options[kind], str(image), "16M"], check=True)
            (root.parent / kind).write_bytes(image.read_bytes()[:CLUSTER])
            (root.parent / kind).chmod(0o644)
            image.unlink()
        secret.write_bytes(SECRET)
        return [str(root.parent / kind) for kind in kinds]

    return make


@contextmanager
def rewriting(path: str | Path, headers: list[str], pause: float = 0.003) -> Iterator[None]:
    """Have the owner of a file write headers into it in turn."""
    argv = [
        "setpriv",
        f"--reuid={OWNER_ID}",
        f"--regid={OWNER_ID}",
        "--clear-groups",
        "python3",
        "-c",
        REWRITE,
        str(path),
        str(pause),
        *headers,
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            process.send_signal(signal.SIGKILL)


def volumes(root: Path, **item: Any) -> dict[str, Any]:
    """Run the module volume for one that belongs to the owner."""
    given = {"volumes": [{"name": NAME, **item}], "owner": OWNER, "root": str(root)}
    validated = ArgumentSpecValidator(argument_spec(InstanceVolumeResource)).validate(given)
    assert not validated.error_messages, validated.error_messages
    return converge(InstanceVolumeResource(validated.validated_parameters), check_mode=False)


def attempt(call: Callable[[], dict[str, Any]]) -> bool:
    """Tell whether a run came to its end: what the owner has written may be refused."""
    try:
        return "msg" not in call()
    except ComputeError:
        return False


def test_offline_growth(root: Path, secret: Path, headers: Callable[..., list[str]]) -> None:
    disk, both, hits = root / f"lib/volumes/{NAME}.img", headers("data", "plain"), 0
    for _try in range(60):
        disk.unlink(missing_ok=True)
        assert attempt(lambda: volumes(root, size="16M"))
        with rewriting(disk, both):
            attempt(lambda: volumes(root, size="32M"))
        hits += secret.read_bytes() != SECRET
        secret.write_bytes(SECRET)
    assert hits == 0
    disk.unlink()
    assert attempt(lambda: volumes(root, size="16M"))
    assert attempt(lambda: volumes(root, size="32M"))
    assert disk.stat().st_uid == OWNER_ID


def test_a_copy_with_a_size(root: Path, secret: Path, headers: Callable[..., list[str]]) -> None:
    image = root / "lib/images/small.img"
    image.parent.mkdir(parents=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "16M"], check=True)
    disk, both, hits = root / f"lib/volumes/{NAME}.img", headers("data", "plain"), 0
    for _try in range(24):
        disk.unlink(missing_ok=True)
        with rewriting(root / f"lib/volumes/.{NAME}.img.new", both):
            attempt(lambda: volumes(root, image="small", copy=True, size="32M"))
        hits += secret.read_bytes() != SECRET
        secret.write_bytes(SECRET)
    assert hits == 0
    disk.unlink()
    assert attempt(lambda: volumes(root, image="small", copy=True, size="32M"))
    assert disk.stat().st_uid == OWNER_ID


def test_backup_of_a_stopped_instance(
    root: Path, run: Converge, secret: Path, headers: Callable[..., list[str]]
) -> None:
    assert attempt(lambda: volumes(root, size="16M"))
    assert "msg" not in run([machine(power="stopped", user=OWNER)])
    disk, file, both, hits, done = (
        root / f"lib/volumes/{NAME}.img",
        root / "lib/backups/one/nightly.qcow2",
        headers("plain", "backing"),
        0,
        0,
    )
    for _try in range(60):
        with rewriting(disk, both, 0.03):
            done += attempt(lambda: backup(root, "created"))
        hits += file.exists() and holds(file, 7)
        file.unlink(missing_ok=True)
    assert hits == 0
    assert done


def test_snapshot_of_a_stopped_instance(
    root: Path, run: Converge, secret: Path, headers: Callable[..., list[str]]
) -> None:
    """Reverting writes to where the disk's data are."""
    assert attempt(lambda: volumes(root, size="16M"))
    assert "msg" not in run([machine(power="stopped", user=OWNER)])
    assert attempt(lambda: snapshot(root, "created"))
    disk, both, hits = root / f"lib/volumes/{NAME}.img", headers("data", "plain"), 0
    content = disk.read_bytes()
    for _try in range(20):
        with rewriting(disk, both):
            attempt(lambda: snapshot(root, "created", name="other"))
        hits += secret.read_bytes() != SECRET
        secret.write_bytes(SECRET)
        disk.write_bytes(content)
    assert hits == 0


def test_a_finished_backup_is_roots(root: Path, run: Converge) -> None:
    assert attempt(lambda: volumes(root, size="16M"))
    assert "msg" not in run([machine(power="stopped", user=OWNER)])
    assert attempt(lambda: backup(root, "created"))
    entry = (root / "lib/backups/one/nightly.qcow2").stat()
    assert (entry.st_uid, entry.st_gid, entry.st_mode & 0o777) == (0, 0, 0o600)
    assert not Path(target_path(Layout(str(root)), ID)).exists()
