# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A callback that writes down what a run did, for tests to look at.

Enable it with ``ANSIBLE_CALLBACK_PLUGINS=tests/tools/callbacks ANSIBLE_CALLBACKS_ENABLED=record``; each run then leaves
one file in the folder ``IKCLOUD_RECORD``, named by when it began, its playbook, and whether it was in check mode
(``…-site-check.json``, ``…-site-run.json``).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: record
type: notification
short_description: Write down every task's result as JSON
description:
  - For the tests of this collection.
"""

# Tasks that run on the controller, whatever host they are listed for.
CONTROLLER_ONLY = {
    "add_host",
    "assert",
    "cloud_plan",
    "cloud_report",
    "cloud_status",
    "debug",
    "fail",
    "gather_facts",
    "group_by",
    "import_role",
    "import_tasks",
    "include_role",
    "include_tasks",
    "meta",
    "set_fact",
    "validate_argument_spec",
}


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core has no types
    """Collects (host, task, status, result) and writes them when the run ends."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "record"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._began = time.time()
        self._playbook = "playbook"
        self._play = ""
        self._tasks: list[dict[str, Any]] = []
        self._started: dict[tuple[str, str], float] = {}

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._began = time.time()
        self._playbook = Path(playbook._file_name).stem

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._play = play.get_name()

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self._started[(host.get_name(), task._uuid)] = time.time()

    def v2_runner_on_ok(self, result: Any) -> None:
        self._add(result, "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._add(result, "ignored" if ignore_errors else "failed")

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._add(result, "skipped")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._add(result, "unreachable")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        folder = os.environ.get("IKCLOUD_RECORD")
        if not folder:
            return
        check = bool(context.CLIARGS.get("check"))
        began = time.strftime("%Y%m%d-%H%M%S", time.localtime(self._began))
        record = {
            "playbook": self._playbook,
            "check": check,
            "seconds": round(time.time() - self._began, 2),
            "hosts": {host: stats.summarize(host) for host in sorted(stats.processed)},
            "tasks": self._tasks,
        }
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{began}-{self._playbook}-{'check' if check else 'run'}.json").write_text(
            json.dumps(record, indent=1, default=str)
        )

    def _add(self, result: Any, status: str) -> None:
        task = result._task
        action = task.action.rsplit(".", 1)[-1]
        self._tasks.append(
            {
                "host": result._host.get_name(),
                "play": self._play,
                "task": task.get_name(),
                "action": action,
                "node": action not in CONTROLLER_ONLY and status in ("ok", "failed", "ignored"),
                "status": status,
                "seconds": round(
                    time.time() - self._started.get((result._host.get_name(), task._uuid), time.time()), 2
                ),
                "changed": bool(result._result.get("changed")),
                "result": {key: value for key, value in result._result.items() if not key.startswith("_")},
            }
        )
