# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node reaches and is reached by, which a network must not take from it, and which machine it is.

Read from files, without a process.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from collections.abc import Container
from typing import Any

# route.h: RTF_UP, RTF_REJECT.
_UP, _REJECT = 0x1, 0x200
# What sshd sets for a session (ssh(1), ENVIRONMENT): the client's address comes first.
_SESSION = (b"SSH_CONNECTION=", b"SSH_CLIENT=")
# systemd-resolved's own list (systemd-resolved.service(8)): resolv.conf names only its stub then.
_RESOLV = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
_MAX_ENVIRONMENT, _MAX_PARENTS = 1 << 20, 64
# A line has 128 bytes: 8192 routes, so that a node with a table of the whole world still answers.
_MAX_ROUTES = 128 << 13


def routes(ours: Container[str], path: str = "/proc/net/route") -> list[dict[str, Any]]:
    """Read the IPv4 routes of the main table that do not lead over our links (proc(5)): ``to``, ``via`` (None for none)
    and ``link``.
    """
    found: dict[tuple[Any, ...], None] = {}
    for line in _read(path, _MAX_ROUTES).decode("ascii", "replace").splitlines()[1:]:
        fields = line.split()
        try:
            link, flags = fields[0], int(fields[3], 16)
            to, via, mask = (struct.pack("=I", int(fields[index], 16)) for index in (1, 2, 7))
        except (IndexError, ValueError, struct.error):
            continue
        if link in ours or not flags & _UP or flags & _REJECT:
            continue
        length = bin(int.from_bytes(mask, "big")).count("1")
        found[f"{socket.inet_ntoa(to)}/{length}", socket.inet_ntoa(via) if any(via) else None, link] = None
    return [dict(zip(("to", "via", "link"), route)) for route in found]


def name_servers(paths: tuple[str, ...] = _RESOLV) -> list[str]:
    """Read the addresses of the name servers that the node asks (resolv.conf(5)), without those on the node itself."""
    found: list[str] = []
    for path in paths:
        for line in _read(path, 1 << 16).decode("utf-8", "replace").splitlines():
            words = line.split()
            if (
                len(words) > 1
                and words[0] == "nameserver"
                and not words[1].startswith("127.")
                and words[1] not in ("::1", *found)
            ):
                found.append(words[1])
    return found


def session_client(process: int | None = None, proc: str = "/proc") -> str | None:
    """Read the address from which the SSH session of a process comes, as the node sees it; None for no such session.

    sudo takes the variables away, but not from the processes above itself.
    """
    process = process or os.getpid()
    for _step in range(_MAX_PARENTS):
        variables = _read(f"{proc}/{process}/environ", _MAX_ENVIRONMENT).split(b"\0")
        for name in _SESSION:
            for variable in variables:
                words = variable[len(name) :].split() if variable.startswith(name) else []
                if words:
                    return words[0].decode("ascii", "replace")
        process = _parent(_read(f"{proc}/{process}/stat", 4096))
        if process <= 1:
            break
    return None


def _parent(stat: bytes) -> int:
    """Read the parent's number; the name before it, in parentheses, may hold anything (proc(5))."""
    words = stat.rpartition(b")")[2].split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def machine(machine_id: str = "/etc/machine-id", boot_id: str = "/proc/sys/kernel/random/boot_id") -> str | None:
    """Return what two names of one machine have in common, and no two machines have; None where the node does not say.

    Clones share the machine id, containers of one host the boot id. A digest, because a machine id is confidential
    (machine-id(5)).
    """
    words = [_read(path, 128).strip() for path in (machine_id, boot_id)]
    return hashlib.sha256(b"/".join(words)).hexdigest()[:32] if all(words) else None


def _read(path: str, longest: int) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(longest)
    except OSError:
        return b""
