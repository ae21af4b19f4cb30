"""The few words of QMP the lab needs."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from .host import LabError


def execute(path: Path, command: str, seconds: float = 5) -> Any:
    """Run one command on a machine's monitor and return its result."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(str(path))
            with connection.makefile("rw", encoding="utf-8") as stream:
                stream.readline()  # the greeting
                for name in ("qmp_capabilities", command):
                    stream.write(json.dumps({"execute": name}) + "\n")
                    stream.flush()
                    reply = _reply(stream)
                return reply
    except (OSError, ValueError) as error:
        raise LabError(f"{path.parent.name} does not answer on its monitor: {error}") from error


def _reply(stream: Any) -> Any:
    while line := stream.readline():
        message = json.loads(line)
        if "return" in message:
            return message["return"]
        if "error" in message:
            raise LabError(f"QMP: {message['error'].get('desc', message['error'])}")
        # Anything else is an event.
    raise LabError("the monitor closed the connection")
