# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports of 127.0.0.1 that lead into the lab's network namespace: what user networking's hostfwd is to the virtual
machines.

The process listens on this machine's side, then enters the namespace for good, so that what it connects to is in there.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from . import pidfile
from .host import LabError

_CLONE_NEWNET = 0x40000000  # sched.h
_CHUNK = 1 << 16


def parse(rule: str) -> tuple[int, str, int]:
    """Take PORT:ADDRESS:PORT apart: ours, and where it leads."""
    port, address, goal = rule.split(":")
    return int(port), address, int(goal)


def forward(namespace: Path, pid: Path, rules: Sequence[str]) -> None:
    """The process itself: `python3 -m lab forward`, started by `up`."""
    listening: list[tuple[socket.socket, str, int]] = []
    for port, address, goal in map(parse, rules):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listening.append((listener, address, goal))
    _enter(namespace)
    asyncio.run(_serve(listening, pid))


def _enter(namespace: Path) -> None:
    """setns(2); Python has it since 3.12 only."""
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    library = ctypes.CDLL(None, use_errno=True)
    failed = library.setns(descriptor, _CLONE_NEWNET)
    os.close(descriptor)
    if failed:
        raise LabError(f"{namespace} can't be entered: {os.strerror(ctypes.get_errno())}")


async def _serve(listening: Sequence[tuple[socket.socket, str, int]], pid: Path) -> None:
    servers = [
        await asyncio.start_server(_Leading(address, goal), sock=listener) for listener, address, goal in listening
    ]
    held = pidfile.take(pid)
    try:
        await asyncio.gather(*(server.serve_forever() for server in servers))
    finally:
        os.close(held)


class _Leading:
    """Joins each connection with one to an address in the namespace."""

    def __init__(self, address: str, port: int) -> None:
        self.address = address
        self.port = port

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(self.address, self.port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, back), _copy(there, writer), return_exceptions=True)
        for end in (writer, back):
            end.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
