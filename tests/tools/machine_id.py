# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that are all this machine, and are to be taken for several."""

from __future__ import annotations

from pathlib import Path

_INTERPRETER = """#!/bin/sh
exec unshare --mount sh -c 'mount --bind "$0" /etc/machine-id && exec /usr/bin/python3 "$@"' {machine_id} "$@"
"""


def interpreter(folder: Path, index: int) -> str:
    """Return the path of a node's Python, for which this machine has a machine id of that node's own."""
    machine_id, program = folder / f"machine-id-{index}", folder / f"python-{index}"
    machine_id.write_text(f"{index:032x}\n")
    program.write_text(_INTERPRETER.format(machine_id=machine_id))
    program.chmod(0o755)
    return str(program)
