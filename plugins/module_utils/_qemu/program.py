# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU as it is installed on a node."""

from __future__ import annotations

import re

from .._core.commands import run
from .._core.errors import ComputeError

PROGRAM = "qemu-system-x86_64"
# `-machine help`: "pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)".
_ALIAS = re.compile(r"^pc +.*\(alias of (pc-i440fx-[0-9.]+)\)", re.MULTILINE)


def newest_machine_type() -> str:
    """Return the machine type, with its version, that ``pc`` is in this QEMU.

    :raises ComputeError: When it does not say.
    """
    argv = [PROGRAM, "-machine", "help"]
    found = _ALIAS.search(run(argv, timeout=30).stdout)
    if not found:
        raise ComputeError(f"`{' '.join(argv)}` names no machine type of which pc is an alias.", "Reinstall QEMU.")
    return found.group(1)
