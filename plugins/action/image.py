# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin of image: shows how far downloads have come. What is done is the module's affair alone.

Where an image has a URL, the module is first run in check mode. When it has nothing to do, that was all: one call to
the node. When it is to download something, it is run in the background (Ansible's own async), and a line of shell asks
every second what has come so far: the sizes of the files on the node's disk.
"""

from __future__ import annotations

import json
import posixpath
import shlex
import time
from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import DEFAULT_ROOT, Layout, root_problem
from ansible_collections.ikcloud.compute.plugins.plugin_utils._reporting.progress import Progress, read_parts

MODULE = "ikcloud.compute.image"
LIMIT = 24 * 3600  # seconds that a run in the background may take
POLL = 1.0  # seconds between two looks at the node
# What async_status adds to the module's own result.
_ASYNC_KEYS = (
    "ansible_job_id",
    "results_file",
    "started",
    "finished",
    "stdout",
    "stdout_lines",
    "stderr",
    "stderr_lines",
)

display = Display()


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core has no types
    """Run the module, and show its downloads while it runs."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = True

    _task: Any

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Give the module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        result.update(self._converge(task_vars or {}))
        return result

    def _converge(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        if self._task.check_mode or self._task.async_val:
            background = bool(self._task.async_val and not self._task.check_mode)
            return self._as(task_vars, background)
        if not self._may_download():
            return self._as(task_vars)
        plan = self._as(task_vars, check_mode=True)
        if plan.get("failed") or not (plan.get("changed") or plan.get("warnings")):
            return plan
        if not any(command.startswith("wget -c ") for command in plan.get("commands", [])):
            return self._as(task_vars)
        return self._show(task_vars)

    def _may_download(self) -> bool:
        images = self._task.args.get("images")
        return not isinstance(images, list) or any(not isinstance(item, Mapping) or item.get("url") for item in images)

    def _as(self, task_vars: dict[str, Any], wrap_async: bool = False, **attributes: Any) -> dict[str, Any]:
        """Run the module, with other attributes of the task than it has."""
        task = self._task
        self._task = task.copy()
        try:
            for name, value in attributes.items():
                setattr(self._task, name, value)
            done: dict[str, Any] = self._execute_module(module_name=MODULE, task_vars=task_vars, wrap_async=wrap_async)
            return done
        finally:
            self._task = task

    def _show(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        job = self._as(task_vars, wrap_async=True, async_val=LIMIT)
        if job.get("failed") or not job.get("results_file"):
            return job
        root = self._task.args.get("root") or DEFAULT_ROOT
        # A root with "~" or variables in it is for the module to resolve: then nothing is shown.
        folder = Layout(root).images if root_problem(root) is None else ""
        progress = Progress(str(task_vars.get("inventory_hostname", "")))
        missed = 0
        while missed < 3:
            time.sleep(POLL)
            running, parts = self._look(job["results_file"], job["ansible_job_id"], folder)
            if running is None:
                break
            missed = 0 if running else missed + 1
            for line in progress.lines(parts, time.monotonic()):
                display.display(line)
        arguments = {"jid": job["ansible_job_id"], "_async_dir": posixpath.dirname(job["results_file"])}
        status = self._execute_module(
            module_name="ansible.legacy.async_status", module_args={**arguments, "mode": "status"}, task_vars=task_vars
        )
        if not status.get("finished"):
            return {
                "failed": True,
                "msg": (
                    "The module ended without a result; it was killed on the node. Run again: downloads go on where"
                    " they were."
                ),
            }
        self._execute_module(
            module_name="ansible.legacy.async_status", module_args={**arguments, "mode": "cleanup"}, task_vars=task_vars
        )
        return {key: value for key, value in status.items() if key not in _ASYNC_KEYS}

    def _look(self, results: str, job: str, folder: str) -> tuple[bool | None, dict[str, tuple[int, int | None]]]:
        """Look at the node once.

        :returns: Whether the module still runs (None when it has ended with a result), and what has come of each
            download.
        """
        # An argument of the wrapper is the job's name without the number that it adds itself; no argument of this shell
        # or of grep is just that.
        name = job.partition(".")[0]
        script = (
            f"head -c 400 {shlex.quote(results)}; echo; echo ==; grep -lsaz {shlex.quote(f'^{name}$')}"
            f" /proc/[0-9]*/cmdline | head -n 1; echo ==; cd {shlex.quote(folder or '/nonexistent')} 2>/dev/null && for"
            ' part in .*.img.part; do [ -f "$part" ] && echo "$part $(stat -c %s "$part") $(sed -n'
            ' \'s/.*"total": \\([0-9]\\{1,\\}\\).*/\\1/p\' "$part.json" 2>/dev/null)"; done; true'
        )
        said = self._low_level_execute_command(script, sudoable=True)
        # An SSH connection with a terminal ends lines its own way.
        answer, _mark, rest = str(said.get("stdout", "")).replace("\r\n", "\n").partition("\n==\n")
        process, _mark, parts = rest.partition("==\n")
        try:
            started = json.loads(answer) if answer.strip() else {"finished": False, "started": True}
        except ValueError:
            return None, {}  # longer than what stands there as long as it runs: the result
        if "started" not in started or started.get("finished"):
            return None, {}
        return bool(process.strip()), read_parts(parts)
