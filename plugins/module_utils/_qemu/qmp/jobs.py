# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU's jobs: what it goes on with after it has answered (QEMU's docs/interop/qmp-ref, "Background jobs")."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..._core.errors import ComputeError
from ..._core.steps import Stage, Step
from ..._core.untrusted import readable
from ..hotplug import QmpCommand
from .answers import Answer
from .qmp import Qmp
from .script import typed

# QEMU answers nothing while it writes a guest's memory, and copies a disk as fast as that goes: as long as it goes on,
# it is waited for. A day is for what will never end.
LIMIT = 86400.0
# How long each single answer may take: 512 GiB of memory at 200 MB/s.
ANSWER = 2700.0


@dataclass(frozen=True)
class Job(QmpCommand):
    """Have a running QEMU do a job, and wait until it has concluded. A :class:`Dismiss` has to follow.

    :ivar hint: Says what to do when it fails, given QEMU's words.
    """

    hint: Callable[[str], str] = lambda _failed: ""

    def run(self) -> None:
        job = self.arguments["job-id"]
        _once(self.socket, self.command, self.arguments)
        failed = wait(self.socket, job)
        if failed:
            _once(self.socket, "job-dismiss", {"id": job})
            raise ComputeError(f"QEMU could not do {self.command}: {failed}.", self.hint(failed))


@dataclass(frozen=True)
class Dismiss(QmpCommand):
    """Have QEMU forget a job once it has concluded. Typed by hand it is repeated until then."""

    @property
    def text(self) -> str:
        return f"until {super().text}; do sleep 1; done"


@dataclass(frozen=True)
class Abort(Step):
    """End a job that an interrupted run has left, whatever state it is in, and have it forgotten."""

    script: tuple[str, ...]
    socket: str
    job: str
    stage: Stage = Stage.WORK

    @property
    def text(self) -> str:
        return " ".join((*self.script[:-1], typed(self.script[-1], "job-cancel", {"id": self.job})))

    def run(self) -> None:
        found = _look(self.socket, self.job)
        if found and found.get("status").word() in ("created", "running", "paused", "ready", "standby"):
            _once(self.socket, "job-cancel", {"id": self.job})
        wait(self.socket, self.job)
        if _look(self.socket, self.job):
            _once(self.socket, "job-dismiss", {"id": self.job})


def wait(socket: str, job: str) -> str:
    """Wait until a job has concluded, or is gone.

    Others can talk to QEMU meanwhile, such as to press the guest's power button.

    :param socket: Where QEMU listens.
    :returns: Why it failed, "" if it did not.
    :raises ComputeError: When it takes more than a day.
    """
    until, pause = time.monotonic() + LIMIT, 0.01
    while time.monotonic() < until:
        state = _look(socket, job)
        if state is None:
            return ""
        if state.get("status").word() == "concluded":
            failed = state.find("error")
            return readable(failed.text()) if failed else ""
        time.sleep(pause)
        pause = min(1.0, pause * 1.5)
    raise ComputeError(f"QEMU's job {job} has not ended within {LIMIT:g} s.", "Run this again: it is ended then.")


def _once(socket: str, command: str, arguments: dict[str, Any]) -> Any:
    """Have one command done, in a conversation of its own: QEMU has one at a time, and who waits for it is not told."""
    with Qmp(socket, ANSWER) as qmp:
        return qmp.execute(command, arguments)


def _look(socket: str, job: str) -> Answer | None:
    """Give what QEMU says of a job, None when it knows none of that name."""
    with Qmp(socket, ANSWER) as qmp:
        return next((entry for entry in qmp.ask("query-jobs").entries() if entry.get("id").word() == job), None)
