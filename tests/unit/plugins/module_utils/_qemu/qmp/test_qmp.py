# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The QMP client against a server that behaves, and against ones that don't."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.stop_script import stop_script
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.declared import paths
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.qmp.qmp import Qmp, status
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.qmp.script import qmp_script
from ansible_collections.ikcloud.compute.tests.unit.plugins.modules.instance_samples import LAYOUT, item

GREETING: dict[str, object] = {"QMP": {"version": {}, "capabilities": []}}


class Server:
    """Answers each line that comes with the next of its answers; an answer gets the line's id, unless it has one."""

    def __init__(self, folder: str, answers: list[bytes]) -> None:
        self.path = f"{folder}/qmp.sock"
        self.heard: list[dict[str, object]] = []
        self._answers = answers
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        client, _peer = self._socket.accept()
        with client, client.makefile("rb") as lines:
            client.sendall(self._answers.pop(0))
            for line in lines:
                asked = json.loads(line)
                number = asked.pop("id")
                self.heard.append(asked)
                if not self._answers:
                    return
                client.sendall(
                    b"".join(self._with_id(answer, number) for answer in self._answers.pop(0).splitlines(keepends=True))
                )

    @staticmethod
    def _with_id(line: bytes, number: str) -> bytes:
        if not line.endswith(b"\n"):
            return line
        answer = json.loads(line)
        return line if "event" in answer else json.dumps({"id": number, **answer}).encode() + b"\r\n"

    def close(self) -> None:
        self._socket.close()


def line(*messages: object) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\r\n" for message in messages)


@pytest.fixture
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as path:
        yield path


def test_conversation(folder: str) -> None:
    server = Server(
        folder,
        [
            line(GREETING),
            line({"return": {}}),
            line({"event": "RESET"}, {"return": {"status": "running"}}),
            line({"return": {}}),
        ],
    )
    with Qmp(server.path) as qmp:
        assert qmp.execute("query-status") == {"status": "running"}
        assert qmp.execute("block_resize", {"device": "d", "size": 1}) == {}
    assert server.heard == [
        {"execute": "qmp_capabilities"},
        {"execute": "query-status"},
        {"execute": "block_resize", "arguments": {"device": "d", "size": 1}},
    ]
    server.close()


def test_what_was_meant_for_the_client_before(folder: str) -> None:
    """QEMU tells the next client what it still had to say: seen with QEMU 7.2, events before the greeting, answers
    after it.
    """
    stale = [{"return": {"status": "stale"}, "id": "ikcloud-1-2-3"}, {"error": {"desc": "stale"}, "id": None}]
    answers = [
        b"half a line}\n" + line({"event": "JOB_STATUS_CHANGE"}, *stale, GREETING),
        line(*stale, {"return": {}}),
        line(*stale, {"return": {"status": "paused"}}),
    ]
    server = Server(folder, answers)
    assert status(server.path) == "paused"
    server.close()


def test_scripts_hear_what_was_meant_for_the_client_before(folder: str) -> None:
    stale = {"return": {"status": "paused"}, "id": -1}
    greeting = b"half a line}\n" + line({"event": "JOB_STATUS_CHANGE"}, GREETING)
    server = Server(folder, [greeting, line(stale, {"return": {}}), line(stale, {"return": {"status": "running"}})])
    text = qmp_script(item(), LAYOUT).replace(paths(item(), LAYOUT).qmp, server.path)
    done = subprocess.run(
        [sys.executable, "-I", "-", "query-status"], input=text, capture_output=True, text=True, check=False, timeout=60
    )
    assert json.loads(done.stdout) == {"status": "running"}, done.stderr
    server.close()


def test_status(folder: str) -> None:
    server = Server(folder, [line(GREETING), line({"return": {}}), line({"return": {"status": "paused"}})])
    assert status(server.path) == "paused"
    server.close()


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            [
                line(GREETING),
                line({"return": {}}),
                line({"error": {"class": "GenericError", "desc": "no such device"}}),
            ],
            "refused query-status: no such device",
        ),
        ([line(GREETING), line({"return": {}})], "closed"),
        ([line({"hello": 1})], "not QMP"),
        ([line({"event": "RTC_CHANGE"})], "does not answer"),
        ([b"HTTP/1.1 400\n"], "not QMP"),
        ([b"[]\n"], "not QMP"),
        ([b""], "does not answer"),
        ([line(GREETING), b'{"return": '], "did not answer qmp_capabilities"),
    ],
)
def test_trouble(folder: str, answers: list[bytes], message: str) -> None:
    server = Server(folder, answers)
    with pytest.raises(ComputeError, match=message), Qmp(server.path, timeout=0.2) as qmp:
        qmp.execute("query-status")
    server.close()


@pytest.mark.parametrize("flood", [line({"event": "RTC_CHANGE"}) * 4000, b"x" * 65536])
def test_one_that_talks_without_end(folder: str, flood: bytes) -> None:
    """The time runs also while there is always something to read."""
    path = f"{folder}/qmp.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def serve() -> None:
            client, _peer = server.accept()
            with client, contextlib.suppress(OSError):
                client.sendall(line(GREETING))
                while True:
                    client.sendall(flood)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        began = time.monotonic()
        with pytest.raises(ComputeError, match=r"did not answer .*timed out|not QMP"):
            Qmp(path, timeout=0.5)
        assert time.monotonic() - began < 5
        thread.join(10)


def test_nobody_listens(folder: str) -> None:
    with pytest.raises(ComputeError, match="does not answer"):
        Qmp(f"{folder}/none.sock")
    Path(folder, "file.sock").touch()
    with pytest.raises(ComputeError, match="does not answer"):
        Qmp(f"{folder}/file.sock")


@pytest.mark.parametrize("said", ["running", "paused", "io-error", "suspended"])
def test_power_button_of_the_stop_script(folder: str, said: str) -> None:
    """It lets go on what an operator has paused, not what QEMU holds after an error."""
    held = said == "paused"
    went_on = [line({"event": "RESUME"}, {"return": {}})] if held else []
    server = Server(
        folder,
        [
            line({"event": "RESUME"}, GREETING),
            line({"return": {}}),
            line({"event": "STOP"}, {"return": {"status": said}}),
            *went_on,
            line({"return": {}}),
        ],
    )
    script: dict[str, Any] = {"__name__": "stop"}
    exec(
        compile(stop_script(item(), LAYOUT).replace("sys.exit(main())", ""), "stop", "exec"), script
    )  # the text under test
    script["QMP"] = server.path
    script["press"]()
    assert [message["execute"] for message in server.heard] == [
        "qmp_capabilities",
        "query-status",
        *(["cont"] if held else []),
        "system_powerdown",
    ]
    server.close()
