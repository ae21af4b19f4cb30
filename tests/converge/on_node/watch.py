# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Watches a module's process from inside and kills it at a point, with nothing of that in the module's own code.

Points are counted as the process comes to them; reading is none:

- ``before``: before each change that the process itself makes (a file opened for writing, a rename, a mode, a child
  started...), which Python's audit hooks tell (PEP 578), or has QEMU make (QMP), and once more before it answers.
- ``orphan``: right after a child was started; the child runs on, alone.
- ``half``: the child and the process, both, when the child has run for half of its time.
- ``lines``: ``ip -batch`` was killed when it had done so many of its lines.
- ``qemu``: QEMU was just started, with others perhaps; it and the process are killed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Any

# audit events (Python's "Audit events table") that are changes, and which of their arguments say of what.
CHANGES = {
    "os.rename": 2,
    "os.remove": 1,
    "os.mkdir": 1,
    "os.rmdir": 1,
    "os.chmod": 1,
    "os.chown": 1,
    "os.setxattr": 1,
    "os.removexattr": 1,
    "os.link": 2,
    "os.symlink": 2,
    "os.truncate": 1,
    "os.utime": 1,
    "os.kill": 2,
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
READERS = re.compile(
    r"ip .*(-j|-json)\b|bridge -j |nft -j |systemctl (show|list-units|is-\w+) |journalctl |unshare --net |sysctl -n"
    r" |getent |qemu-system-\w+ (--version|-M)"
)
QMP_READERS = re.compile(r"query-|qom-get|qom-list|qmp_capabilities|human-monitor-command")
STARTS = re.compile(r"systemctl (?:re)?start compute-instance@")


class Watch:
    """One process that is watched.

    :ivar kill: None, or the point: its ``mode`` and its ``number``, for ``half`` also ``seconds``, for ``lines`` also
        ``lines``, for ``qemu`` also ``unit``, which of those that were started.
    """

    def __init__(self, notes: int, kill: dict[str, Any] | None) -> None:
        self.notes = notes
        self.kill = kill or {}
        self.counts = {"before": 0, "child": 0}
        self.seen: set[str] = set()
        self.ended = False
        self.busy = threading.local()

    def note(self, **words: Any) -> None:
        """Write a note that outlives the process."""
        os.write(self.notes, json.dumps(words).encode() + b"\n")

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """See an audit event, before it happens."""
        what = self.change(event, arguments) if not self.ended else ""
        if what:
            self.before(what)

    def change(self, event: str, arguments: tuple[Any, ...]) -> str:
        """Say what an event is about to change, "" for nothing."""
        if event == "open":
            path, _mode, flags = arguments
            return (
                f"open {path}"
                if flags & WRITING and isinstance(path, str) and not path.startswith(("/dev/", "/proc/", "/tmp/"))
                else ""
            )
        if event == "subprocess.Popen":
            line = command(arguments[1])
            return "" if READERS.match(line) else line
        if (
            event == "socket.connect"
            and isinstance(arguments[1], str)
            and arguments[1].endswith(".sock")
            and arguments[1] not in self.seen
        ):
            self.seen.add(arguments[1])  # it is tried again and again until QEMU listens
            return f"connect {arguments[1]}"
        if event not in CHANGES or (event == "os.remove" and not os.path.lexists(arguments[0])):
            return ""
        return " ".join([event, *map(str, arguments[: CHANGES[event]])])

    def before(self, what: str) -> None:
        """Come to a point before a change."""
        self.counts["before"] += 1
        self.reach("before", self.counts["before"], what)

    def reach(self, mode: str, number: int, what: str, **more: Any) -> None:
        """Come to a point: note it, and end here if it is the one."""
        self.note(point=mode, number=number, what=what, **more)
        if self.is_point(mode, number):
            self.end(group=mode not in ("before", "orphan"))

    def is_point(self, mode: str, number: int) -> bool:
        return (self.kill.get("mode"), self.kill.get("number")) == (mode, number)

    def end(self, group: bool) -> None:
        """Be killed: alone, or with the children."""
        self.ended = True
        os.kill(0 if group else os.getpid(), signal.SIGKILL)
        time.sleep(60)


class Popen(subprocess.Popen):  # type: ignore[type-arg]  # of text or of bytes, as who starts it says
    """A child that is watched."""

    def __init__(self, args: Any, *more: Any, **options: Any) -> None:
        self.line = command(args)
        self.number = self.lines = 0
        self.noted = False
        self.began = time.monotonic()
        super().__init__(args, *more, **options)
        if READERS.match(self.line):
            return
        WATCH.counts["child"] += 1
        self.number = WATCH.counts["child"]
        WATCH.reach("orphan", self.number, self.line)
        if WATCH.is_point("half", self.number):
            time.sleep(WATCH.kill["seconds"])
            WATCH.reach("half", self.number, self.line)

    def communicate(self, input: Any = None, timeout: float | None = None) -> Any:
        lines = input.splitlines(keepends=True) if input and self.number and "-batch -" in self.line else []
        self.lines = len(lines)
        if lines and WATCH.is_point("lines", self.number):
            super().communicate("".join(lines[: WATCH.kill["lines"]]), timeout)
            WATCH.reach("lines", self.number, f"{self.line}: {lines[WATCH.kill['lines'] - 1].strip()}")
        done = super().communicate(input, timeout)
        if STARTS.match(self.line) and self.number:
            units = self.line.split()[2:]
            if WATCH.is_point("qemu", self.number):
                unit = units[WATCH.kill["unit"]]
                asked = subprocess.run(
                    ["systemctl", "show", "--property=MainPID", "--value", unit],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                os.kill(int(asked.stdout), signal.SIGKILL)
            WATCH.reach("qemu", self.number, self.line, units=len(units))
        return done

    def wait(self, timeout: float | None = None) -> int:
        status = super().wait(timeout)
        self.ended()
        return status

    def poll(self) -> int | None:
        status = super().poll()
        if status is not None:
            self.ended()
        return status

    def ended(self) -> None:
        """Note how long it has taken, once."""
        if self.number and not self.noted:
            self.noted = True
            WATCH.note(
                child=self.number, what=self.line, seconds=round(time.monotonic() - self.began, 3), lines=self.lines
            )


WATCH = Watch(-1, None)


def command(args: Any) -> str:
    """Give a command on one line, without the folder that it stands in."""
    words = [args] if isinstance(args, str) else [os.fsdecode(word) for word in args]
    return " ".join([os.path.basename(words[0]), *words[1:]])


def begin(notes: int, kill: dict[str, Any] | None, points: bool) -> None:
    """Watch this process from here on.

    :param points: Whether to count points too; then items run one after the other, so that a number is always the same
        point.
    """
    global WATCH
    WATCH = Watch(notes, kill)
    _trace()
    if not points:
        return
    from ansible.module_utils.basic import AnsibleModule
    from ansible_collections.ikcloud.compute.plugins.module_utils._core.reconcile import Resource
    from ansible_collections.ikcloud.compute.plugins.module_utils._qemu import guest_agent
    from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.qmp import qmp

    for kind in _below(Resource):
        kind.workers = 1
    # These guests have no system that would answer.
    guest_agent.Guest.answering.__defaults__ = (0.1,)
    answer = AnsibleModule._return_formatted

    def last(*arguments: Any) -> None:
        WATCH.before("the answer")
        answer(*arguments)

    AnsibleModule._return_formatted = last
    execute = qmp.Qmp.execute

    def watched(monitor: Any, name: str, arguments: Any = None) -> Any:
        if not QMP_READERS.match(name):
            WATCH.before(f"qmp {name}")
        return execute(monitor, name, arguments)

    qmp.Qmp.execute = watched
    subprocess.Popen = Popen  # type: ignore[misc]  # to replace it is the purpose
    sys.addaudithook(WATCH.hook)


def _below(kind: Any) -> list[Any]:
    return [kind, *(more for below in kind.__subclasses__() for more in _below(below))]


def _trace() -> None:
    """Note each step that is really run: its text as it is when it begins."""
    from ansible_collections.ikcloud.compute.plugins.module_utils._core import execution, steps

    for kind in _below(steps.Step):
        if "run" in vars(kind):
            kind.run = _noting(kind.run)
    batch = execution.run_ip_batch

    def noting_batch(lines: list[str]) -> Any:
        failed = batch(lines)
        for line in lines[: failed[0] if failed else len(lines)]:
            WATCH.note(step=f"ip {line}")
        return failed

    execution.run_ip_batch = noting_batch


def _noting(run: Any) -> Any:
    def noting(step: Any) -> None:
        if getattr(WATCH.busy, "depth", 0) == 0:
            WATCH.note(step=step.text)
        WATCH.busy.depth = getattr(WATCH.busy, "depth", 0) + 1
        try:
            run(step)
        finally:
            WATCH.busy.depth -= 1

    return noting
