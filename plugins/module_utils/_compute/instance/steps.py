# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of an instance that do more than run a command: they look whether it had its effect."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from ..._core.changes import PendingSteps
from ..._core.commands import TookTooLongError, run
from ..._core.errors import ComputeError
from ..._core.layout import InstancePaths
from ..._core.steps import Run, Stage, Step, Write
from ..._qemu.declared import DEFAULT_GRACE
from ..._qemu.guest_agent import Guest
from ..._qemu.hotplug import RELEASE_LIMIT
from ..._qemu.qmp import qmp
from ..._storage.qcow2 import is_locked
from ..._system import systemd
from ..._system.process import locked_by, send_signal
from . import service
from .instances import Instance
from .stop_script import grace_of

# What systemd takes to end processes that are killed.
FORCE_LIMIT = 30.0
# QEMU answers within 70 ms; many at once on a node that is itself emulated take their time.
START_LIMIT = 60.0
# Before that a QEMU that has not made its pidfile is more likely busy than dead, and asking systemd takes a process
# each time.
ASK_AFTER = 0.5
# To look at a pidfile takes some microseconds.
LONGEST_PAUSE = 0.03
# So many are given to systemd at a time, at most; the next ones when their QEMUs are executed.
AT_ONCE = 20


@dataclass(frozen=True)
class WriteStart(Write):
    """Write ``start``: ``content`` is a forecast, and ``resolve`` asks the node and gives the text."""

    resolve: Callable[[], str] = str

    def run(self) -> None:
        Write(self.path, self.resolve(), self.mode, self.owner, stage=self.stage).run()


class Starts:
    """Has one ``systemctl start`` start all that are due, or twenty of them, which takes a fifth less time than a
    process for each.
    """

    def __init__(self) -> None:
        self._started: set[str] = set()

    def begin(self, steps: list[Step]) -> None:
        """Start the units of these steps. What does not come up is left for its own step, which says why."""
        units = [
            step.unit
            for step in steps
            if isinstance(step, StartInstance) and not isinstance(step, RestartInstance) and step.unit
        ]
        for first in range(0, len(units), AT_ONCE):
            some = units[first : first + AT_ONCE]
            with suppress(ComputeError, OSError):
                if len(some) > 1:
                    done = run(("systemctl", "start", *some), timeout=START_LIMIT * 2, check=False)
                    states = systemd.states(some) if done.returncode else {}
                    self._started |= {
                        unit
                        for unit in some
                        if not done.returncode or states.get(unit, {}).get("ActiveState") == "active"
                    }

    def started(self, unit: str) -> bool:
        """Tell whether a unit was started with the others."""
        return unit in self._started


@dataclass(frozen=True)
class StartInstance(Run):
    """Start QEMU and wait until it says over QMP that the guest runs.

    :ivar unit: The systemd unit, "" where QEMU makes itself a daemon.
    :ivar memory: MiB that the guest is to do with, 0 for all it has. ``start`` asks for that too, in its own time.
    :ivar starts: What may have started it with others.
    """

    unit: str = ""
    pidfile: str = ""
    qmp: str = ""
    memory: int = 0
    starts: Starts = field(default_factory=Starts)

    def run(self) -> None:
        if not self.starts.started(self.unit):
            self._start()
        until, ask = time.monotonic() + START_LIMIT, time.monotonic() + ASK_AFTER
        state, pause = "no answer", 0.01
        while time.monotonic() < until:
            if locked_by(self.pidfile):
                try:
                    state = qmp.status(self.qmp, timeout=5)
                except ComputeError as error:
                    state = str(error)
                if state == "running":
                    self._balloon()
                    return
                if state in ("io-error", "internal-error", "guest-panicked"):
                    break
            elif not self.unit or (time.monotonic() >= ask and self._failed()):
                state = "it has ended"
                break
            elif time.monotonic() >= ask:
                ask = time.monotonic() + ASK_AFTER
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 1.5)
        words = systemd.journal_tail(self.unit) if self.unit else ""
        raise ComputeError(
            f"QEMU was started with `{self.text}` and does not run: {state}."
            + (f" It last said: {words}" if words else "")
        )

    def _start(self) -> None:
        if self.argv[:2] == ("systemctl", "restart"):
            identifier = service.id_of(self.unit)
            run_unit(self.argv, identifier, service.stop_limit(identifier) + START_LIMIT)
        else:
            run(self.argv, timeout=START_LIMIT * 2)

    def _balloon(self) -> None:
        if self.memory:
            with qmp.Qmp(self.qmp) as monitor:
                monitor.execute("balloon", {"value": self.memory << 20})

    def _failed(self) -> bool:
        state = systemd.states([self.unit]).get(self.unit, {})
        return state.get("ActiveState") in ("failed", "inactive") or state.get("SubState") == "auto-restart"


@dataclass(frozen=True)
class ForgetUnit(Run):
    """Have systemd forget that a unit that is removed has failed, which it may do up to the last moment; it's no error
    if it hasn't.
    """

    def run(self) -> None:
        run(self.argv, timeout=60, check=False)


@dataclass(frozen=True)
class StopUnit(Run):
    """Have systemd stop an instance; by force when it takes longer than it may.

    What its unit runs to stop it is QEMU's user's to write.

    :ivar id: Its 8 hex digits.
    :ivar grace: Seconds that were asked for; None for its own.
    """

    id: str = ""
    grace: int | None = None

    def run(self) -> None:
        run_unit(self.argv, self.id, service.stop_limit(self.id) if self.grace is None else self.grace + FORCE_LIMIT)


def run_unit(argv: tuple[str, ...], identifier: str, limit: float) -> None:
    """Run a ``systemctl`` that stops or restarts an instance; when it is not done in time, kill all that its unit runs,
    and wait for that.

    :raises ComputeError: When it fails, or is not even done then.
    """
    try:
        run(argv, timeout=limit)
    except TookTooLongError:
        # Its QEMU, and the `stop` that waits.
        run(("systemctl", "kill", "--signal=SIGKILL", service.unit(identifier)), timeout=FORCE_LIMIT, check=False)
        run(argv, timeout=FORCE_LIMIT)


@dataclass(frozen=True)
class StopInstance(Run):
    """Do what an instance's ``stop`` does, which is QEMU's user's to write: press the power button, wait, and end QEMU.

    :ivar grace: Seconds that the guest may take.
    :ivar unit: The systemd unit that runs it, "" for none.
    """

    pidfile: str = ""
    qmp: str = ""
    grace: int = DEFAULT_GRACE
    unit: str = ""

    def run(self) -> None:
        until = time.monotonic() + self.grace
        # A guest that is still booting misses the button, so it is pressed again.
        while locked_by(self.pidfile) and time.monotonic() < until:
            self._press()
            self._ended(min(10.0, until - time.monotonic()))
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not locked_by(self.pidfile):
                return
            if self.unit:
                run(("systemctl", "kill", f"--signal={number.name}", self.unit), timeout=FORCE_LIMIT, check=False)
            else:
                send_signal(self.pidfile, number)
            self._ended(5)
        # What systemd runs it stops next, and knows by itself whether that has ended.
        if locked_by(self.pidfile) and not self.unit:
            raise ComputeError(f"QEMU still runs after `{self.text}`.")

    def _press(self) -> None:
        with suppress(ComputeError, LookupError, TypeError), qmp.Qmp(self.qmp, timeout=5) as monitor:
            # A guest that is paused would not see the button.
            if monitor.execute("query-status")["status"] == "paused":
                monitor.execute("cont")
            monitor.execute("system_powerdown")

    def _ended(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while locked_by(self.pidfile) and time.monotonic() < until:
            time.sleep(0.05)


def power_off(
    instance: Instance, where: InstancePaths, as_user: tuple[str, ...], grace: int | None, stage: Stage
) -> StopInstance:
    """Give the step that powers an instance off.

    :param as_user: What a command line begins with that is run as its user.
    :param grace: Seconds that the guest may take; None for what its ``stop`` says.
    """
    words = (where.stop,) if grace is None else (where.stop, str(grace))
    seconds = grace_of(instance.files.get(where.stop, ("", 0))[0]) if grace is None else grace
    unit = service.unit(instance.id) if instance.managed else ""
    return StopInstance((*as_user, *words), pidfile=where.pid, qmp=where.qmp, grace=seconds, unit=unit, stage=stage)


class Roll:
    """Restarts one after the other, or so many at a time, and none after one that went wrong.

    :param serial: How many at a time; 0 for all at once.
    """

    def __init__(self, serial: int) -> None:
        self._turns = threading.Semaphore(serial or 1 << 30)
        self._failed = ""
        self._giving: dict[str, str] = {}  # disks that a restart is to free, and whose
        self._under_way: set[str] = set()

    def begin(self, work: list[PendingSteps]) -> list[PendingSteps]:
        """Hear which restarts are due, and put those first that free a disk for others."""
        restarts = {name: step for name, steps in work for step in steps if isinstance(step, RestartInstance)}
        self._giving = {path: name for name, step in restarts.items() for path in step.going}
        waits = {
            name: {self._giving[path] for path in step.coming if path in self._giving}
            for name, step in restarts.items()
        }
        left, ordered = dict(work), []
        while left:
            # Of two that exchange their disks neither is first: they are left to fail.
            first = next((name for name in left if not waits.get(name, set()) & left.keys()), next(iter(left)))
            ordered.append((first, left.pop(first)))
        return ordered

    @contextmanager
    def turn(self, name: str, coming: tuple[str, ...] = ()) -> Iterator[None]:
        """Wait for one's turn.

        :param coming: Disks that nobody else is to have by then.
        :raises ComputeError: When one before has gone wrong, or a disk is not freed.
        """
        with self._turns:
            try:
                if self._failed:
                    raise ComputeError(
                        f"It was not restarted, since the restart of {self._failed} went wrong.",
                        "Look at that one first.",
                    )
                self._await(coming)
                self._under_way.add(name)
                try:
                    yield
                except ComputeError:
                    self._failed = name
                    raise
            finally:
                self._under_way.discard(name)

    def _await(self, coming: tuple[str, ...]) -> None:
        until = time.monotonic() + RELEASE_LIMIT
        while taken := [path for path in coming if is_locked(path)]:
            # The other is just being restarted, and its guest takes its time.
            freed = any(self._giving.get(path) in self._under_way for path in taken)
            if time.monotonic() >= until and not freed:
                raise ComputeError(
                    f"Its disk {taken[0]} is in use by another QEMU, so it was not restarted.",
                    "Run again once that instance was stopped or restarted.",
                )
            time.sleep(0.1)


@dataclass(frozen=True)
class RestartInstance(StartInstance):
    """Restart QEMU when it is its turn, and wait until its guest is up, as far as the guest answered before.

    :ivar halt: What stops it, where ``argv`` only starts it.
    :ivar coming: Disks that it is to have and has not yet: it is not stopped while another has one of them.
    :ivar going: Disks that it has and is not to have any more.
    """

    name: str = ""
    guest: Guest = field(default_factory=Guest)
    roll: Roll = field(default_factory=lambda: Roll(0))
    halt: Run | None = None
    coming: tuple[str, ...] = ()
    going: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return f"{self.halt.text} && {super().text}" if self.halt else super().text

    def run(self) -> None:
        with self.roll.turn(self.name, self.coming):
            answered = self.guest.answering()
            if self.halt:
                self.halt.run()
            super().run()
            self.guest.wait(answered)
