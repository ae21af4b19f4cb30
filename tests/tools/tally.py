# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pytest plugin: adds a line ``passed failed skipped`` to the file IKCLOUD_TALLY at the end of each session."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    tally = os.environ.get("IKCLOUD_TALLY")
    # A worker of xdist counts, too, what its master counts.
    if tally and "PYTEST_XDIST_WORKER" not in os.environ:
        counts = {kind: len(terminalreporter.stats.get(kind, [])) for kind in ("passed", "failed", "error", "skipped")}
        with Path(tally).open("a", encoding="ascii") as stream:
            stream.write(f"{counts['passed']} {counts['failed'] + counts['error']} {counts['skipped']}\n")
