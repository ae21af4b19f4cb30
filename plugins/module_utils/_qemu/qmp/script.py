# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The script ``qmp`` in an instance's folder: what a person types to change a running QEMU, and what ``start``
calls.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

from ..._core.layout import Layout
from ..declared import Item, paths

_SCRIPT = """\
#!/usr/bin/python3 -I
# ikcloud.compute: has the QEMU of the instance %(name)s do one command of its control protocol (QMP), and prints
# the answer.
# Usage: qmp [--wait] COMMAND ['{"argument": "value"}']    such as: qmp query-status
#        --wait    give QEMU 30 seconds to begin to listen
import json
import os
import socket
import sys
import time

QMP = "%(qmp)s"


def connect(seconds):
    until = time.monotonic() + seconds
    while True:
        monitor = socket.socket(socket.AF_UNIX)
        monitor.settimeout(30)
        try:
            monitor.connect(QMP)
            return monitor.makefile("rw")
        except OSError:
            monitor.close()
            if time.monotonic() >= until:
                raise
            time.sleep(0.1)


def heard(lines, wanted):
    # What QEMU had to say to the client before us may come first, the rest of a line too.
    for line in lines:
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict) and wanted(answer):
            return answer
    raise ValueError("QEMU closed it in the middle of the conversation")


def refuse(word):
    raise ValueError(word)


def execute(lines, message):
    lines.write(json.dumps({**message, "id": os.getpid()}) + "\\n")
    lines.flush()
    return heard(lines, lambda answer: answer.get("id") == os.getpid())


def main():
    words = [word for word in sys.argv[1:] if word != "--wait"]
    if len(words) not in (1, 2):
        sys.exit("usage: qmp [--wait] COMMAND [ARGUMENTS as JSON]")
    try:
        arguments = {"arguments": json.loads(words[1], parse_constant=refuse)} if words[1:] else {}
        message = {"execute": words[0], **arguments}
    except ValueError:
        sys.exit("qmp: the arguments are not JSON: " + words[1])
    try:
        lines = connect(30 if "--wait" in sys.argv[1:] else 0)
        heard(lines, lambda answer: "QMP" in answer)
        execute(lines, {"execute": "qmp_capabilities"})
        answer = execute(lines, message)
    except (OSError, ValueError) as error:
        sys.exit("%%s: %%s" %% (QMP, error))
    if "error" in answer:
        sys.exit("QEMU refused %%s: %%s" %% (words[0], answer["error"].get("desc")))
    print(json.dumps(answer["return"], indent=2))


main()
"""


def qmp_script(item: Item, layout: Layout) -> str:
    """Give the text of an instance's ``qmp``."""
    return _SCRIPT % {"name": item["name"], "qmp": paths(item, layout).qmp}


def typed(script: str, command: str, arguments: dict[str, Any]) -> str:
    """Give what a person types to have QEMU do a command.

    :param script: The path of the instance's ``qmp``.
    """
    return shlex.join([script, command, json.dumps(arguments)])
