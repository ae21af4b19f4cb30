# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Built things, kept by a hash of what they are built from, and never seen half built."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .host import inherited, say


def digest(*parts: str) -> str:
    """A short name for a list of texts; lengths keep ("ab", "c") apart from ("a", "bc")."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode()
        hasher.update(f"{len(data)}:".encode())
        hasher.update(data)
    return hasher.hexdigest()[:16]


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """One run at a time. The kernel lets go of the lock when its last holder dies, however it dies; the commands that
    `host.run` starts hold it too, so nobody goes to work beside what a killed run left running."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another run is busy with {what}; waiting for it")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _is(path, descriptor):
                continue  # the one before removed it with its folder
            inherited.append(descriptor)
            try:
                yield
            finally:
                inherited.remove(descriptor)
            return
        finally:
            os.close(descriptor)


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def build_once(target: Path, work: Path, build: Callable[[Path, Path], None]) -> bool:
    """Make `target` unless it is there. `build(temp, work)` writes temp and may use the directory work; what an
    interrupted build left of either is removed first. The caller holds the lock. Returns whether it was built."""
    if target.exists():
        return False
    temp = target.with_name(f"{target.name}.tmp")
    _remove(temp)
    _remove(work)
    target.parent.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True)
    try:
        build(temp, work)
        descriptor = os.open(temp, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temp.rename(target)
    finally:
        _remove(temp)
        _remove(work)
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
