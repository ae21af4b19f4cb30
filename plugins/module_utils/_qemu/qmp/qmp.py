# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""QMP, QEMU's own control protocol: one JSON object a line over a unix socket (QEMU's docs/interop/qmp-spec).

QEMU has one client at a time, and what it still had to say to the last one, the next one hears: events even before the
greeting, answers after it. So whatever comes before the greeting is passed over, and an answer is ours only when it
bears our ``id``. It does one command after the other, so once our first, whose ``id`` nobody else has, is answered, the
last client's are too.

What answers may be a guest that has broken out of its QEMU. So a conversation has a limit in seconds and in bytes,
whatever is said in it, and what is said is read by type (see :mod:`answers`).

QEMU 7.2 reads what it is told byte by byte (``monitor_can_read`` in its monitor/monitor.c), which takes it some 4 µs
each, so messages are kept short.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import socket
import stat
import time
from types import TracebackType
from typing import Any

from ..._core.errors import ComputeError
from ..._core.untrusted import parse_json, readable
from .answers import Answer

# Status is answered within 2 ms; a guest that is busy under emulation, or another client that is just being served
# (QEMU serves one at a time), may hold it up.
TIMEOUT = 10.0
# Bytes that are read in one conversation. The longest answers are those about disks: 250 bytes for each snapshot in
# them.
LONGEST = 8 << 20
# Values in one message: twenty disks that hold a hundred snapshots each are some 50,000.
MOST_VALUES = 200_000


class Qmp:
    """A conversation with one QEMU, for a ``with`` statement.

    :param path: The socket that QEMU listens at.
    :param timeout: Seconds that each answer may take.
    :param limit: Seconds that all of it may take, from now on; those of one answer by default.
    :raises ComputeError: When nobody listens there, or what answers is not QMP.
    """

    def __init__(self, path: str, timeout: float = TIMEOUT, limit: float | None = None) -> None:
        self.path = path
        self._timeout = timeout
        self._end = time.monotonic() + (timeout if limit is None else limit)
        self._buffer = bytearray()
        self._seen = self._bytes = 0
        # The first is from anywhere in 32 bits, so that it is not one of the client before.
        self._numbers = itertools.chain([int.from_bytes(os.urandom(4), "big")], itertools.count())
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connect(self._socket, path, timeout)
            self._greeting(self._deadline())
            self.execute("qmp_capabilities")
        except OSError as error:
            self.close()
            raise ComputeError(f"QEMU does not answer at {path}: {error.strerror or error}.") from None
        except ComputeError:
            self.close()
            raise

    def __enter__(self) -> Qmp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the conversation, so that others can have theirs."""
        self._socket.close()

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Have a command done.

        :param command: Such as ``query-status``.
        :param arguments: Its arguments.
        :returns: What it returns; events in between are passed over.
        :raises ComputeError: With QEMU's own words when it refuses, and when it does not answer in time.
        """
        return self.execute_all([(command, arguments or {})])[0]

    def ask(self, command: str, arguments: dict[str, Any] | None = None) -> Answer:
        """Ask for something, as :meth:`execute`.

        :returns: The answer, to be read by type.
        """
        return self.ask_all([(command, arguments or {})])[0]

    def ask_all(self, commands: list[tuple[str, dict[str, Any]]]) -> list[Answer]:
        """Ask for several things, as :meth:`execute_all`."""
        found = self.execute_all(commands)
        return [
            Answer(value, f"QEMU answered {command} at {self.path}")
            for (command, _arguments), value in zip(commands, found)
        ]

    def execute_all(self, commands: list[tuple[str, dict[str, Any]]]) -> list[Any]:
        """Have several commands done, one after the other, without waiting for each answer: that halves the time.

        :param commands: Each with its arguments.
        :returns: What they return.
        :raises ComputeError: As :meth:`execute`, for the first that is refused.
        """
        messages = [
            {"execute": command, **({"arguments": arguments} if arguments else {}), "id": next(self._numbers)}
            for command, arguments in commands
        ]
        deadline = self._deadline()
        found: list[Any] = []
        current = commands[0][0] if commands else ""
        try:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            self._socket.sendall(
                b"".join(json.dumps(message, separators=(",", ":")).encode() + b"\n" for message in messages)
            )
            for message in messages:
                current = str(message["execute"])
                found.append(self._answer(message, deadline))
        except OSError as error:
            raise ComputeError(f"QEMU did not answer {current} at {self.path}: {error.strerror or error}.") from None
        return found

    def _deadline(self) -> float:
        return min(self._end, time.monotonic() + self._timeout)

    def _greeting(self, deadline: float) -> None:
        heard = False
        try:
            while True:
                answer = self._read(deadline)
                if answer is not None and "QMP" in answer:
                    return
                heard = heard or answer is None or not answer.keys() & {"event", "return", "error"}
        except (OSError, ComputeError):
            if heard:
                raise ComputeError(f"{self.path}: what answers there is not QMP.") from None
            raise

    def _answer(self, message: dict[str, Any], deadline: float) -> Any:
        while True:
            answer = self._read(deadline)
            if answer is None:
                raise ComputeError(f"{self.path}: what answers there is not QMP.")
            if answer.get("id") != message["id"]:
                continue
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                words = answer["error"].get("desc") if isinstance(answer["error"], dict) else None
                raise ComputeError(
                    f"QEMU refused {message['execute']}:"
                    f" {readable(words) if isinstance(words, str) else 'it does not say why'}"
                )

    def _read(self, deadline: float) -> dict[str, Any] | None:
        """Give the next message; nothing for a line that is none."""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:  # also where there is always something to read: one event after the other, a line without end
                raise TimeoutError(errno.ETIMEDOUT, "timed out")
            end = self._buffer.find(b"\n", self._seen)
            if end >= 0:
                break
            self._socket.settimeout(left)
            part = self._socket.recv(65536)
            self._bytes += len(part)
            if self._bytes > LONGEST:
                raise ComputeError(
                    f"{self.path}: what answers there is not QMP: it says more than {LONGEST >> 20} MiB."
                )
            if not part:
                raise ComputeError(f"QEMU closed {self.path} in the middle of the conversation.")
            # Where a line's end was looked for already: not again, or byte by byte it would take the square of the
            # time.
            self._seen = len(self._buffer)
            self._buffer += part
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._seen = 0
        try:
            answer = parse_json(line, "what QEMU said", size=LONGEST, values=MOST_VALUES)
        except ComputeError:
            return None
        return answer if isinstance(answer, dict) else None


def connect(client: socket.socket, path: str, timeout: float) -> None:
    """Connect to a unix socket, following no link: QEMU's user owns the instances' folders, and root's words are not
    for whatever a link leads to.

    :param timeout: Seconds that this, and each later wait, may take.
    :raises OSError: When there is no socket, or nobody listens.
    """
    client.settimeout(timeout)
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(handle).st_mode):
            raise ConnectionRefusedError(errno.ECONNREFUSED, "it is no socket")
        # The very file that was looked at, whatever has that name by now (proc(5), fd).
        client.connect(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


def status(path: str, timeout: float = TIMEOUT) -> str:
    """Ask a QEMU for its run state (QAPI RunState), such as ``running``, ``paused`` or ``io-error``.

    :raises ComputeError: When it does not answer.
    """
    with Qmp(path, timeout) as qmp:
        return qmp.ask("query-status").get("status").word()
