# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether KVM works here.

A /dev/kvm that exists says little: under some hypervisors a guest hangs at its first instructions.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
import threading
from typing import Any

from .._core.commands import PATH, find_tool

# A guest that runs ends within a second on hardware, and within some seconds where the node itself is emulated.
LIMIT = 30.0
# mov dx,0xf4; mov al,0x10; out dx,al; hlt; jmp to itself: tells QEMU's isa-debug-exit device to end with (0x10 << 1) |
# 1.
_CODE = bytes((0xBA, 0xF4, 0x00, 0xB0, 0x10, 0xEE, 0xF4, 0xEB, 0xFD))
_BOOT_SECTOR = _CODE.ljust(510, b"\0") + b"\x55\xaa"
_EXIT_STATUS = 33

_lock = threading.Lock()
_answers: dict[str, tuple[bool, str]] = {}


def kvm_works(user: str = "") -> tuple[bool, str]:
    """Boot a guest of 512 bytes under KVM and see whether it gets to its end. Tried once per process.

    :param user: Who QEMU is going to run as; "" for whoever runs this.
    :returns: Whether it works, and if not, why.
    """
    with _lock:
        if user not in _answers:
            _answers[user] = _try(user)
        return _answers[user]


def _try(user: str) -> tuple[bool, str]:
    if not os.path.exists("/dev/kvm"):
        return False, "there is no /dev/kvm"
    program = find_tool("qemu-system-x86_64")
    if program is None:
        return False, "qemu-system-x86_64 is not installed"
    identity: dict[str, Any] = {}
    if user:
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            return False, f"there is no user {user}"
        identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": os.getgrouplist(user, entry.pw_gid)}
    with tempfile.NamedTemporaryFile(prefix="ikcloud-kvm-") as disk:
        disk.write(_BOOT_SECTOR)
        disk.flush()
        os.fchmod(disk.fileno(), 0o644)
        argv = [
            program,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-machine",
            "pc",
            "-m",
            "16",
            "-enable-kvm",
            "-cpu",
            "host",
        ]
        argv += [
            "-drive",
            f"file={disk.name},format=raw,if=floppy,readonly=on",
            "-boot",
            "order=a",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=1",
        ]
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                timeout=LIMIT,
                check=False,
                cwd="/",
                env={"PATH": PATH, "LC_ALL": "C"},
                **identity,
            )
        except subprocess.TimeoutExpired:
            return False, f"a guest of one instruction did not end within {LIMIT:g} s"
        except OSError as error:
            return False, f"QEMU can't be run: {error.strerror}"
    if done.returncode == _EXIT_STATUS:
        return True, ""
    return False, (done.stderr.strip().splitlines() or [f"QEMU ended with status {done.returncode}"])[-1]
