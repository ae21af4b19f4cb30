"""Built things, kept by a hash of what they are built from, and never seen half built."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .host import say


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
    """One process at a time; the kernel lets go of the lock when its holder dies, however it dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another run is busy with {what}; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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
        with temp.open("rb") as stream:
            os.fsync(stream.fileno())
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
