# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A container's control group (cgroups(7)): its systemd needs one of its own, and by it all of its processes are found.

Where systemd runs this machine it is a scope that systemd makes; elsewhere it is made here, in the hierarchies that the
container's systemd looks at.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from .host import run
from .pidfile import wait_until

_BASE = Path("/sys/fs/cgroup")


def _by_systemd() -> bool:
    return Path("/run/systemd/system").is_dir()  # sd_booted(3)


def prefix(machine: str) -> list[str]:
    """What starts a command in its scope."""
    if not _by_systemd():
        return []
    return ["systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes", f"--unit={machine}"]


def enter(machine: str) -> None:
    """Move the calling process into its group, unless `prefix` does."""
    for group in [] if _by_systemd() else _own(machine):
        group.mkdir(exist_ok=True)
        (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")


def _own(machine: str) -> list[Path]:
    """The whole of version 2, or the parts of a hybrid one that systemd uses."""
    if (_BASE / "cgroup.procs").exists():
        return [_BASE / machine]
    return [_BASE / part / machine for part in ("unified", "systemd") if (_BASE / part / "cgroup.procs").exists()]


def _groups(machine: str) -> list[Path]:
    if not _by_systemd():
        return [group for group in _own(machine) if group.is_dir()]
    shown = run(["systemctl", "show", "--property=ControlGroup", "--value", f"{machine}.scope"]).strip()
    group = Path(f"{_BASE}{shown}")
    return [group] if shown and group.is_dir() else []


def _processes(group: Path) -> set[int]:
    found: set[int] = set()
    for path in group.rglob("cgroup.procs"):
        try:
            found |= {int(line) for line in path.read_text(encoding="ascii").split()}
        except OSError:
            continue  # gone meanwhile
    return found - {0}


def _kill(groups: list[Path], part: str = "") -> None:
    for pid in set().union(*(_processes(group / part) for group in groups)) if groups else set():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _empty(groups: list[Path]) -> bool:
    return not any(_processes(group) for group in groups)


def end(machine: str) -> bool:
    """Kill all that runs in a container, and nspawn itself only if it does not clean up and end; returns whether all
    have ended.
    """
    groups = _groups(machine)

    def gone(part: str) -> bool:
        _kill(groups, part)
        return _empty(groups)

    ended = wait_until(lambda: gone("payload"), 5, step=0.05) or wait_until(lambda: gone(""), 5, step=0.05)
    if ended and not _by_systemd():
        for group in groups:
            for folder in sorted(
                (path for path in group.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts)
            ):
                folder.rmdir()
            group.rmdir()
    return ended
