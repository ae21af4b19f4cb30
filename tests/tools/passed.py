# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of layers that have passed: on which content, at which commit.

A pass counts as long as no file that the layer depends on has another content. The record is kept in the user's cache,
so that a fresh clone on the same machine knows it too.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol


class HasContent(Protocol):
    """What a pass is recorded of."""

    @property
    def name(self) -> str: ...

    @property
    def depends(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Pass:
    """A layer that has passed.

    :ivar digest: Of all that it depended on.
    :ivar commit: The commit that was checked out; ``+`` follows it where files differed from it.
    """

    digest: str
    commit: str
    date: str
    passed: int
    skipped: int
    seconds: int

    def __str__(self) -> str:
        counts = f"{self.passed:5} passed   0 failed {self.skipped:3} skipped {self.seconds:6} s"
        return f"{counts}   at {self.commit}, {self.date}: nothing that it depends on changed since"


class Passes:
    """The passes of a checkout's layers."""

    def __init__(self, project: Path, folder: Path | None = None) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.project, self.folder = project, folder or cache / "ikcloud-compute-tests" / "passed"

    def now(self, layer: HasContent) -> str:
        """Return the digest of what a layer depends on, as it is now, be it committed or not."""
        listed = self._git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *layer.depends)
        total = hashlib.sha256(repr(layer).encode())
        for name in sorted(set(filter(None, listed.split("\0")))):
            path = self.project / name
            if path.is_symlink():
                content = os.readlink(path).encode()
            elif path.is_file():
                content = path.read_bytes()
            else:
                continue  # removed, and not committed yet
            total.update(f"\0{name}\0{path.lstat().st_mode & 0o111:o}\0{hashlib.sha256(content).hexdigest()}".encode())
        return total.hexdigest()[:16]

    def last(self, layer: HasContent) -> Pass | None:
        """Return the newest pass, whatever it was of."""
        found = sorted(self.folder.glob(f"{layer.name}-*.json"), key=lambda path: path.stat().st_mtime)
        return self._read(found[-1]) if found else None

    def current(self, layer: HasContent) -> Pass | None:
        """Return the pass that still counts."""
        return self._read(self.folder / f"{layer.name}-{self.now(layer)}.json")

    def add(self, layer: HasContent, passed: int, skipped: int, seconds: float) -> None:
        """Record that a layer has passed."""
        changed = self._git("status", "--porcelain", "--", *layer.depends).strip()
        commit = self._git("rev-parse", "--short", "HEAD").strip() + ("+" if changed else "")
        made = Pass(self.now(layer), commit, time.strftime("%Y-%m-%d %H:%M"), passed, skipped, round(seconds))
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{layer.name}-{made.digest}.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(made)), encoding="utf-8")
        temporary.replace(path)

    def _read(self, path: Path) -> Pass | None:
        try:
            return Pass(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None  # none, or one that another version wrote

    def _git(self, *words: str) -> str:
        return subprocess.run(["git", *words], cwd=self.project, capture_output=True, text=True, check=True).stdout
