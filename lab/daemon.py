# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's own processes in the background: `python3 -m lab WORD…`, each with a pidfile that it locks once it is
ready.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import pidfile
from .host import LabError, environment


class Daemon:
    def __init__(self, run: Path, name: str) -> None:
        self.name = name
        self.pidfile = run / f"{name}.pid"
        self._log = run / f"{name}.log"

    def pid(self) -> int | None:
        return pidfile.holder(self.pidfile)

    def start(self, words: Sequence[str], prefix: Sequence[str] = ()) -> bool:
        """Start it unless it runs, and wait until it is ready; returns whether it was started.

        :param words: What follows `python3 -m lab`.
        :param prefix: What precedes it, such as nsenter(1) with its options.
        """
        if self.pid() is not None:
            return False
        with self._log.open("wb") as stream:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "lab", *words],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                cwd=Path(__file__).parent.parent,
                env=environment(),
            )
        pidfile.wait_until(lambda: self.pid() is not None or process.poll() is not None, 20, step=0.05)
        if self.pid() is None:
            said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise LabError(
                f"the lab's {self.name} did not start: {''.join(said) or 'it said nothing'}. See {self._log}"
            )
        return True

    def stop(self) -> None:
        pidfile.stop(self.pidfile)
