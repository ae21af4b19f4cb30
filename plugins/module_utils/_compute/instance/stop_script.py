# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An instance's ``stop``: a power button that waits, for people and for systemd."""

from __future__ import annotations

import re

from ..._core.changes import Item
from ..._core.layout import Layout
from ..._qemu import declared

STOP_SCRIPT = '''\
#!/usr/bin/python3 -I
# ikcloud.compute: stops the instance %(name)s. It presses the power button (ACPI) by QMP, waits, and
# ends QEMU if need be.
# Usage: stop [SECONDS]    how long the guest may take; %(grace)s when not given
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import time

GRACE = %(grace)s
PIDFILE = "%(pid)s"
QMP = "%(qmp)s"


def holder(file):
    """The pid that locks the pidfile (fcntl(2), F_GETLK); 0 when QEMU has ended, whatever the file says."""
    lock = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    kind, _, _, _, pid = struct.unpack("hhqqi4x", lock)
    return 0 if kind == fcntl.F_UNLCK else pid


def heard(lines, wanted):
    # Events may come in between, and what QEMU had to say to the client before us, the rest of a line too; some
    # dozens of them at most.
    for _number in range(1000):
        try:
            answer = json.loads(lines.readline() or "{}")
        except ValueError:
            continue
        if isinstance(answer, dict) and wanted(answer):
            return answer
    return {}


def ask(lines, command):
    lines.write(json.dumps({"execute": command, "id": os.getpid()}) + "\\n")
    lines.flush()
    return heard(lines, lambda answer: answer.get("id") == os.getpid())


def press():
    try:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(5)
            monitor.connect(QMP)
            lines = monitor.makefile("rw")
            heard(lines, lambda answer: "QMP" in answer)
            ask(lines, "qmp_capabilities")
            # A guest that is paused would not see the button.
            if ask(lines, "query-status").get("return", {}).get("status") == "paused":
                ask(lines, "cont")
            ask(lines, "system_powerdown")
    except (OSError, ValueError) as error:
        print("%%s: %%s" %% (QMP, error), file=sys.stderr)


def ended(file, seconds):
    until = time.monotonic() + seconds
    while holder(file):
        if time.monotonic() >= until:
            return False
        time.sleep(0.1)
    return True


def main():
    grace = float(sys.argv[1]) if len(sys.argv) > 1 else GRACE
    try:
        file = open(PIDFILE, "rb")
    except FileNotFoundError:
        return 0
    until = time.monotonic() + grace
    # A guest that is still booting misses the button, so it is pressed again.
    while holder(file) and time.monotonic() < until:
        press()
        ended(file, min(10, until - time.monotonic()))
    for number in (signal.SIGTERM, signal.SIGKILL):
        if holder(file) > 0:
            print("The guest did not power off within %%g s: %%s." %% (grace, number.name), file=sys.stderr)
            os.kill(holder(file), number)
            ended(file, 5)
    return 1 if holder(file) else 0


sys.exit(main())
'''


_GRACE = re.compile(r"^GRACE = ([0-9]{1,5})$", re.MULTILINE)


def grace_of(text: str) -> int:
    """Give the seconds that a ``stop`` of ours gives the guest."""
    found = _GRACE.search(text)
    return int(found.group(1)) if found else declared.DEFAULT_GRACE


def stop_script(item: Item, layout: Layout) -> str:
    """Give the text of an instance's ``stop``: a power button that waits ``grace`` seconds, for people and for
    systemd.
    """
    where = declared.paths(item, layout)
    return STOP_SCRIPT % {
        "name": item["name"],
        "grace": declared.DEFAULT_GRACE if item.get("grace") is None else item["grace"],
        "pid": where.pid,
        "qmp": where.qmp,
    }
