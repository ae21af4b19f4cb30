# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The storage modules as a playbook runs them, the progress of downloads included."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from storage_helpers import IMAGE, bionic, sha256
from webserver import Web


def play(folder: Path, tasks: list[dict[str, Any]], *options: str) -> subprocess.CompletedProcess[str]:
    """Run tasks on this machine."""
    book = folder / "book.yml"
    book.write_text(json.dumps([{"hosts": "ik-node-01", "gather_facts": False, "tasks": tasks}]))
    (folder / "hosts").write_text(f"ik-node-01 ansible_connection=local ansible_python_interpreter={sys.executable}\n")
    environment = {
        **os.environ,
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
        "ANSIBLE_LOCALHOST_WARNING": "0",
    }
    environment.setdefault("ANSIBLE_COLLECTIONS_PATH", os.environ.get("PYTHONPATH", "").split(os.pathsep)[0])
    command = [sys.executable, "-m", "ansible", "playbook", "-i", str(folder / "hosts"), str(book), *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_downloads_are_seen(root: Path, tmp_path: Path, web: Web, data: bytes) -> None:
    web.pause, web.piece = 0.2, len(data) // 40  # 8 seconds
    tasks = [
        {"ikcloud.compute.image": {"images": [bionic(web)], "root": str(root)}, "register": "done"},
        {"ansible.builtin.debug": {"var": "done"}},
    ]
    checked = play(tmp_path, tasks, "--check", "--diff")
    assert checked.returncode == 0 and "changed=1" in checked.stdout, checked.stdout + checked.stderr
    assert not web.asked(IMAGE)
    first = play(tmp_path, tasks)
    assert first.returncode == 0 and "changed=1" in first.stdout, first.stdout + first.stderr
    assert re.search(r"^ik-node-01: image bionic \d+ % of 3 MiB, 0\.\d MiB/s$", first.stdout, re.MULTILINE), (
        first.stdout
    )
    assert '"action": "create"' in first.stdout and "ansible_job_id" not in first.stdout
    assert (root / "lib/images/bionic.img").read_bytes() == data
    second = play(tmp_path, tasks, "-vvv")
    assert second.returncode == 0 and "changed=0" in second.stdout
    assert second.stdout.count("Using module file") == 1
    assert len(web.asked(IMAGE)) == 1


def test_one_call_where_nothing_is_downloaded(root: Path, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "image").write_bytes(data)
    task = {
        "ikcloud.compute.image": {"images": [{"name": "copied", "path": str(tmp_path / "image")}], "root": str(root)}
    }
    done = play(tmp_path, [task], "-vvv")
    assert done.returncode == 0 and "changed=1" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("Using module file") == 1


def test_errors_come_through(root: Path, tmp_path: Path, web: Web) -> None:
    wrong = bionic(web, checksum=f"sha256:{sha256(b'')}")
    failed = play(tmp_path, [{"ikcloud.compute.image": {"images": [wrong], "root": str(root)}}])
    assert failed.returncode == 2 and "It was thrown away" in failed.stdout
    refused = play(tmp_path, [{"ikcloud.compute.image": {"images": [{"name": "../x"}], "root": str(root)}}])
    assert refused.returncode == 2 and "is not a valid name" in refused.stdout


def test_a_volume_and_a_seed(root: Path, tmp_path: Path) -> None:
    name = "compute-af95e879"
    tasks: list[dict[str, Any]] = [
        {"ikcloud.compute.volume": {"volumes": [{"name": name, "size": 10 << 20}], "root": str(root), "owner": ""}},
        {
            "ikcloud.compute.seed": {
                "seeds": [
                    {"name": name, "user_data": {"packages": ["nginx"]}, "password_hash": "$6$abcdefgh$" + "x" * 86}
                ],
                "root": str(root),
                "owner": "",
            }
        },
    ]
    first = play(tmp_path, tasks, "--diff", "-v")
    assert first.returncode == 0 and "changed=2" in first.stdout, first.stdout + first.stderr
    assert "x" * 86 not in first.stdout + first.stderr
    second = play(tmp_path, tasks, "--diff")
    assert "changed=0" in second.stdout, second.stdout


def test_killed_on_the_node(root: Path, tmp_path: Path, web: Web) -> None:
    """The module is killed in the middle: that is said, and the next run goes on."""
    web.pause = 0.2
    tasks = [{"ikcloud.compute.image": {"images": [bionic(web)], "root": str(root)}}]
    killed: list[int] = []

    def kill() -> None:
        part = root / "lib/images/.bionic.img.part"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (part.exists() and part.stat().st_size > 200_000):
            time.sleep(0.05)
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and str(part) in _open_files(folder):
                os.kill(int(folder.name), signal.SIGKILL)
                killed.append(int(folder.name))

    thread = threading.Thread(target=kill)
    thread.start()
    failed = play(tmp_path, tasks)
    thread.join()
    assert len(killed) == 1 and failed.returncode == 2, failed.stdout
    web.pause = 0
    again = play(tmp_path, tasks)
    assert again.returncode == 0 and "changed=1" in again.stdout, again.stdout
    assert int(web.asked(IMAGE)[-1]["range"].removeprefix("bytes=").removesuffix("-")) > 200_000


def _open_files(process: Path) -> list[str]:
    """Give what a process has open; nothing for one that is gone or not ours to see."""
    try:
        return [str(link.readlink()) for link in (process / "fd").iterdir()]
    except OSError:
        return []
