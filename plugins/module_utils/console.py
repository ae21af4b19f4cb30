# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The script ``run/console``, which joins a person's terminal to an instance's serial console. It takes nothing but python3."""

from __future__ import annotations

from ansible_collections.ikcloud.compute.plugins.module_utils.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils.names import OWNER

_SCRIPT = '''\
#!/usr/bin/python3 -I
# %(owner)s: joins this terminal to the serial console of an instance.
# Usage: console NAME    Ctrl-] leaves; without a name, or with a wrong one, it says which there are
import os
import re
import select
import socket
import stat
import sys
import termios
import tty

INSTANCES = "%(instances)s"
LEAVE = b"\\x1d"  # Ctrl-]


def instances():
    """Folders by name and by id."""
    found = {}
    for folder in sorted(os.listdir(INSTANCES)):
        try:
            # The folder is QEMU's to write in: a link is not followed, a pipe not waited for.
            handle = os.open(os.path.join(INSTANCES, folder, "start"), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            start = os.read(handle, 512).decode("utf-8", "replace") if stat.S_ISREG(os.fstat(handle).st_mode) else ""
        finally:
            os.close(handle)
        match = re.match(r"#!/bin/sh\\n# %(pattern)s instance ([a-z0-9-]+)\\n", start)
        if match:
            found[match.group(1)] = folder
    return found


def connect(path):
    """A socket that is connected to the very file that was looked at: a link could lead to anybody's."""
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(handle).st_mode):
            sys.exit("%%s is not a socket." %% path)
        console = socket.socket(socket.AF_UNIX)
        console.connect("/proc/self/fd/%%d" %% handle)
        return console
    finally:
        os.close(handle)


def join(console):
    """Copy both ways until the guest's end, ours or Ctrl-]."""
    terminal = sys.stdin.fileno()
    while True:
        ready = select.select([terminal, console], [], [])[0]
        if console in ready:
            said = console.recv(65536)
            if not said:
                return "The instance has ended."
            os.write(sys.stdout.fileno(), said)
        if terminal in ready:
            typed = os.read(terminal, 4096)
            before, leave, _after = typed.partition(LEAVE)
            console.sendall(before)
            if leave or not typed:
                return "Left the console."


def main():
    found = instances()
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    folder = found.get(name) or next((folder for folder in found.values() if name and folder in (name, "compute-" + name)), None)
    if folder is None:
        sys.exit("%%sUsage: console NAME. There is: %%s." %% ("No instance %%s. " %% name if name else "", ", ".join(sorted(found)) or "none"))
    path = os.path.join(INSTANCES, folder, "console.sock")
    try:
        console = connect(path)
    except OSError as error:
        sys.exit("%%s does not run: %%s: %%s" %% (name, path, error.strerror))
    print("Joined %%s. Ctrl-] leaves. Nothing to see? Press Enter; only one at a time can be here." %% name, flush=True)
    former = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
    try:
        if former:
            tty.setraw(sys.stdin)
        words = join(console)
    finally:
        if former:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, former)
    print("\\r\\n" + words)


main()
'''


def console_script(layout: Layout) -> str:
    """Give the path of the script."""
    return f"{layout.root}/run/console"


def console_text(layout: Layout) -> str:
    """Give its text."""
    return _SCRIPT % {"owner": OWNER, "pattern": OWNER.replace(".", r"\."), "instances": layout.instances}
