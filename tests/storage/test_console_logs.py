# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The script that keeps console logs small, run as its unit runs it."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance import service
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout

LONG = 2 << 20


def folder_of(root: Path, number: int, user: str, size: int = LONG) -> Path:
    """Make an instance's folder with a log of so many bytes, as its QEMU leaves it."""
    path = root / f"run/instances/compute-{number:08x}"
    path.mkdir(parents=True, mode=0o750)
    entry = pwd.getpwnam(user)
    log = path / "console.log"
    log.write_bytes(b"x" * (size - 4) + b"end\n")
    log.chmod(0o600)
    for made in (log, path):
        os.chown(made, entry.pw_uid, entry.pw_gid)
    return path


@pytest.mark.skipif(os.geteuid() != 0, reason="the unit is root's")
def test_the_logs_of_every_user_are_bounded(root: Path) -> None:
    for folder in (root.parent, root):
        folder.chmod(0o755)
    folders = [folder_of(root, number, user) for number, user in enumerate(("nobody", "daemon", "root", "daemon"))]
    short = folder_of(root, 9, "nobody", 1000)
    secret = root / "secret"
    secret.write_bytes(b"s" * LONG)
    # What a user may lay into a folder of theirs.
    linked = folder_of(root, 10, "nobody")
    (linked / "console.log").unlink()
    (linked / "console.log").symlink_to(secret)
    (folders[0] / "console.log.end").symlink_to(secret)
    (folders[1] / "console.log.end").symlink_to(folders[0] / "console.log")
    os.mkfifo(folders[3] / "console.log.end")

    files = service.shared_files(Layout(str(root)))
    script = Path(service.trim_script(Layout(str(root))))
    script.write_text(files[str(script)][0])
    script.chmod(files[str(script)][1])
    # The capabilities that the unit leaves it.
    bounded = ["setpriv", "--bounding-set=-all,+setuid,+setgid", "--inh-caps=-all", "--no-new-privs"]
    done = subprocess.run([*bounded, script], capture_output=True, text=True, check=True)
    logs = [path / "console.log" for path in folders]
    assert [log.stat().st_size for log in logs[2:]] == [256 << 10] * 2, done.stderr
    assert all(log.read_bytes().endswith(b"xend\n") for log in logs[2:])
    # Theirs to spoil, and nothing else: what they can't write themselves stays as it was.
    assert secret.read_bytes() == b"s" * LONG
    assert (short / "console.log").stat().st_size == 1000
    for log in logs[:2]:
        log.write_bytes(b"x" * LONG)
    assert subprocess.run([*bounded, script], capture_output=True, text=True, check=True).stderr == ""
    assert [log.stat().st_size for log in logs] == [256 << 10] * 4
    assert [log.owner() for log in logs] == ["nobody", "daemon", "root", "daemon"]
    assert not list(root.rglob("console.log.end"))
