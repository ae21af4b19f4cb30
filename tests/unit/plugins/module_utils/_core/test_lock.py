# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that keep each other out, and nobody else who could."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._core import lock
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.lock import lock_path, node_lock

from lab import playbook

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LOCK_TIMEOUT", 0.2)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give an empty folder that everybody can enter; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="ikc-") as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "root"
        path.mkdir(mode=0o755)
        yield path


def status_of(work: Callable[[], int], user: int) -> int:
    """Give what a child that is another user says."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            if user:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            status = work()
        except ComputeError:
            status = 1
        except PermissionError:
            status = 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def once(root: str) -> int:
    with node_lock(root, check_mode=False):
        return 0


def test_who_comes_later_waits_a_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LOCK_TIMEOUT", 20)
    root, ready = str(tmp_path), os.pipe()
    child = os.fork()
    if child == 0:
        with node_lock(root, check_mode=False):
            os.write(ready[1], b"1")
            time.sleep(0.5)
        os._exit(0)
    assert os.read(ready[0], 1) == b"1"
    began = time.monotonic()
    assert once(root) == 0
    assert time.monotonic() - began > 0.3
    os.waitpid(child, 0)


def test_one_at_a_time(tmp_path: Path) -> None:
    root = str(tmp_path / "not" / "there")
    with node_lock(root, check_mode=False):
        assert status_of(lambda: once(root), 0) == 1
        with node_lock(root, check_mode=True):
            pass
    assert status_of(lambda: once(root), 0) == 0
    assert not list(tmp_path.iterdir())


@as_root
def test_others_can_hold_nothing_against_root(open_folder: Path) -> None:
    root = str(open_folder)

    def hold() -> int:
        """As anybody: lock all that can be opened, then see whether root's run goes on."""
        for path in (root, os.path.dirname(root)):
            fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(ready[1], b"1")
        return len(os.read(done[0], 1))

    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os._exit(status_of(hold, NOBODY))
    try:
        assert os.read(ready[0], 1) == b"1"
        assert once(root) == 0
    finally:
        os.write(done[1], b"1")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1

    with node_lock(root, check_mode=False):
        assert os.stat(lock_path(root)).st_mode & 0o777 == 0o600
        assert status_of(lambda: os.open(lock_path(root), os.O_RDONLY), NOBODY) == 2
    assert not os.path.exists(lock_path(root))


@as_root
def test_what_a_killed_run_left_is_taken_and_removed(tmp_path: Path) -> None:
    path = lock_path(str(tmp_path))
    Path(path).touch()
    assert once(str(tmp_path)) == 0
    assert not os.path.exists(path)


@as_root
def test_other_users_keep_each_other_out_too(open_folder: Path) -> None:
    os.chown(open_folder, NOBODY, NOBODY)
    root = str(open_folder)

    def twice() -> int:
        with node_lock(root, check_mode=False):
            return 10 + status_of(lambda: once(root), 0)

    assert status_of(lambda: once(root), NOBODY) == 0
    assert status_of(twice, NOBODY) == 11
    assert not list(open_folder.iterdir())


def test_the_lab_waits_for_the_same_lock(tmp_path: Path) -> None:
    assert playbook.lock_path(tmp_path) == (lock_path(str(tmp_path)) if os.geteuid() == 0 else str(tmp_path))
