# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""IPv4 forwarding: on while a network has NAT, and afterwards as it was before, where that is still ours to say."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass

from ..._core.changes import Change
from ..._core.commands import run_json
from ..._core.errors import ComputeError
from ..._core.names import OWNER, is_marked
from ..._core.steps import Remove, Run, Stage, Step, Write
from ..persistence import SYSCTL_FILE, read_text

KEY = "net.ipv4.ip_forward"
_PROC = "/proc/sys/net/ipv4/ip_forward"
# sysctl.d(5).
_FOLDERS = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d")
_BEFORE = re.compile(r"^# before: ([01])$", re.MULTILINE)
_SETS = re.compile(r"^\s*-?net[./]ipv4[./](?:ip_forward|conf[./]all[./]forwarding)\s*=\s*1\s*$", re.MULTILINE)


@dataclass
class Forwarding:
    """What is there of it.

    :ivar value: What the kernel says, "0" or "1".
    :ivar file: Our file in sysctl.d, None when it isn't there.
    :ivar others: Whether somebody else asks for forwarding too.
    """

    value: str = "0"
    file: str | None = None
    others: bool = False

    def make(self) -> list[Change]:
        """List what turns forwarding on, for now and for every boot.

        :raises ComputeError: When a file of somebody else has the name of ours.
        """
        steps: list[Step] = []
        if self.file is not None and not is_marked(self.file):
            raise ComputeError(f"{SYSCTL_FILE} is there and ikcloud.compute did not make it.", "Rename that file.")
        text = sysctl_text(self.before() or self.value)
        if self.file != text:
            steps.append(Write(SYSCTL_FILE, text, stage=Stage.FILES))
        if self.value != "1":  # after the tables: nothing is forwarded unfiltered
            steps.append(Run(("sysctl", "-w", f"{KEY}=1"), stage=Stage.CHANGE))
        reasons = (
            [f"{KEY} is {self.value}"]
            if self.value != "1"
            else [f"{SYSCTL_FILE} is {'missing' if self.file is None else 'changed'}"]
        )
        return [Change(KEY, "update", steps=steps, reasons=reasons)] if steps else []

    def drop(self) -> list[Change]:
        """List what brings back the value from before the first network with NAT."""
        if self.file is None or not is_marked(self.file):
            return []
        steps: list[Step] = []
        if self.before() == "0" and self.value == "1" and not self.others:
            steps.append(Run(("sysctl", "-w", f"{KEY}=0"), stage=Stage.DELETE))
        steps.append(Remove(SYSCTL_FILE, stage=Stage.REMOVE))
        return [Change(KEY, "delete", steps=steps, reasons=["no network has NAT any more"])]

    def before(self) -> str:
        """Give the value from before, as our file remembers it; "" when it doesn't."""
        match = _BEFORE.search(self.file or "")
        return match.group(1) if match else ""


def sysctl_text(before: str) -> str:
    """Give our file in sysctl.d; the next to last line is what the removal of the last NAT restores."""
    return f"# {OWNER}: guests reach the uplink through this node.\n# before: {before}\n{KEY} = 1\n"


def read_forwarding(others: bool) -> Forwarding:
    """Read the kernel's value and the files.

    :param others: Whether it is known already that somebody else forwards.
    """
    found = Forwarding((read_text(_PROC) or "0").strip(), read_text(SYSCTL_FILE), others)
    if found.file is not None and not others:
        files = ["/etc/sysctl.conf"] + [
            path for folder in _FOLDERS for path in sorted(glob.glob(f"{folder}/*.conf")) if path != SYSCTL_FILE
        ]
        found.others = any(_SETS.search(read_text(path) or "") for path in files)
    return found


def read_uplink() -> str:
    """Give the link of the IPv4 default route, of the lowest metric where there are several; "" when there is none.

    :raises ComputeError: When ``ip`` fails.
    """
    routes = sorted(
        run_json(["ip", "-j", "-4", "route", "show", "default"]), key=lambda route: int(route.get("metric", 0))
    )
    for route in routes:
        devices = [route.get("dev")] + [hop.get("dev") for hop in route.get("nexthops", [])]
        for device in devices:
            if device:
                return str(device)
    return ""
