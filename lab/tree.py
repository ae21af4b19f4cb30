# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing into an unpacked root. Its names and links are another system's, and its absolute links would lead into
this machine's own files: every write goes through here, replaces what stands there, and never leaves the root."""

from __future__ import annotations

import shutil
from pathlib import Path

from .host import LabError


def inside(root: Path, name: str) -> Path:
    """Where `name` stands in the root, free to be written: its directory is there, an old file or link is gone."""
    place = root / name
    if Path(name).is_absolute() or not place.parent.resolve().is_relative_to(root.resolve()):
        raise LabError(f"{name} would be written outside of {root}")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    return place


def write(root: Path, name: str, content: str | bytes, mode: int = 0o644) -> None:
    place = inside(root, name)
    place.write_bytes(content.encode() if isinstance(content, str) else content)
    place.chmod(mode)


def copy(root: Path, name: str, source: Path) -> None:
    """A file with its mode, what it links to rather than the link."""
    shutil.copy(source, inside(root, name))


def link(root: Path, name: str, goal: str) -> None:
    inside(root, name).symlink_to(goal)
