# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd says of units."""

from __future__ import annotations

import os

from .._core.commands import run

UNIT_FOLDER = "/etc/systemd/system"


def is_running() -> bool:
    """Tell whether systemd is what runs this machine (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def states(names: list[str]) -> dict[str, dict[str, str]]:
    """Ask systemd once for the states of units, all there is to know of them; that takes it a millisecond for each.

    :param names: Unit names.
    :returns: For each what is asked for here (org.freedesktop.systemd1(5)); nothing where systemd does not run.
    """
    if not names or not is_running():
        return {}
    done = run(
        [
            "systemctl",
            "show",
            "--property=Id,ActiveState,SubState,NeedDaemonReload,UnitFileState,DropInPaths",
            "--",
            *names,
        ],
        timeout=60,
        check=False,
    )
    found: dict[str, dict[str, str]] = {}
    for block in done.stdout.split("\n\n"):
        properties = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in properties:
            found[properties["Id"]] = properties
    return found


def is_outdated(state: dict[str, str], enabled: bool) -> bool:
    """Tell whether systemd has a unit otherwise than its files have it by now; that includes whether it is enabled,
    which it shows as it first saw it.

    :param state: As :func:`states` gives it.
    :param enabled: Whether the link is there.
    """
    return state.get("NeedDaemonReload") == "yes" or (enabled and state.get("UnitFileState") == "disabled")


def loaded(patterns: list[str]) -> dict[str, dict[str, str]]:
    """Ask systemd once which of these units it has in its memory: what runs or failed, and what something refers to.

    :param patterns: Unit names, or patterns of them (systemctl(1)).
    :returns: For each its ActiveState and SubState; nothing where systemd does not run.
    """
    if not is_running():
        return {}
    argv = ["systemctl", "list-units", "--all", "--full", "--plain", "--no-legend", "--no-pager", *patterns]
    lines = [line.split() for line in run(argv, timeout=60, check=False).stdout.splitlines()]
    return {words[0]: {"ActiveState": words[2], "SubState": words[3]} for words in lines if len(words) > 3}


def journal_tail(name: str, lines: int = 5) -> str:
    """Give the last that a unit's processes said (QEMU, not systemd about it), on one line."""
    argv = ["journalctl", "--no-pager", "--quiet", "--output=cat", f"--lines={lines}", f"_SYSTEMD_UNIT={name}"]
    done = run(argv, timeout=60, check=False)
    return "; ".join(line.strip() for line in done.stdout.splitlines() if line.strip())
