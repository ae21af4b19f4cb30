# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's playbooks on the nodes of these tests, as users run them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from nodes import PROJECT, Settings


class Playbooks:
    """Runs of playbooks.

    :ivar folder: Where declarations, plans and records are left.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.folder = folder
        self.connections = settings.run / "cp"
        self.environment = {
            **os.environ,
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.connections),
            "IKCLOUD_LAB_RUN": str(settings.run),
            "ANSIBLE_COLLECTIONS_PATH": str(PROJECT / ".venv" / "collections"),
            "ANSIBLE_CALLBACK_PLUGINS": str(PROJECT / "tests" / "tools" / "callbacks"),
            "ANSIBLE_CALLBACKS_ENABLED": "record",
            "ANSIBLE_NOCOLOR": "1",
            "IKCLOUD_RECORD": str(folder / "records"),
        }

    def begin(self, playbook: str, declaration: dict[str, Any], *options: str) -> subprocess.Popen[bytes]:
        """Start one, in a process group of its own."""
        # Whole, for the lab's inventory declares a cloud of its own.
        whole = {"cloud_ssh_keys": [], "cloud_images": {}, "cloud_networks": {}, "cloud_instances": {}, **declaration}
        (self.folder / "declaration.json").write_text(json.dumps(whole))
        argv = [
            "ansible-playbook",
            "-i",
            str(PROJECT / "inventory" / "lab"),
            "-e",
            f"@{self.folder / 'declaration.json'}",
            f"ikcloud.compute.{playbook}",
        ]
        with (self.folder / "said").open(
            "w"
        ) as said:  # a pipe would be held open by ssh's connections, which outlive the run
            return subprocess.Popen(
                [*argv, *options],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )

    def run(self, playbook: str, declaration: dict[str, Any], *options: str) -> float:
        """Run one, which must succeed; give its seconds."""
        began = time.monotonic()
        process = self.begin(playbook, declaration, *options)
        assert process.wait(timeout=300) == 0, (self.folder / "said").read_text()
        return time.monotonic() - began

    def plan(self, declaration: dict[str, Any]) -> dict[str, Any]:
        """Run `plan` and give it."""
        path = self.folder / "plan.json"
        self.run("plan", declaration, "-e", f"plan_json={path}")
        found = json.loads(path.read_text())
        assert isinstance(found, dict)
        return found

    def site(self, declaration: dict[str, Any]) -> dict[str, Any]:
        """Run `site` and give the record of its tasks."""
        self.run("site", declaration)
        found = json.loads(sorted((self.folder / "records").glob("*-site-run.json"))[-1].read_text())
        assert isinstance(found, dict)
        return found

    def killed(self, playbook: str, declaration: dict[str, Any], seconds: float) -> bool:
        """Run one and kill all of its processes after some time; give whether it was still running. ssh's connections
        go on, for the next run to use.
        """
        process = self.begin(playbook, declaration)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            # Ansible's workers have sessions of their own: kill all that stands below, from the top.
            for pid in frozen(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            return True
        return False

    def hang_up(self) -> None:
        """End ssh's connections.

        A Python on a node that got half of its module shows all of it in a SyntaxError, more than a pipe holds
        (pipe(7)): it can't end as long as a connection that nobody reads from goes on. It has done nothing.
        """
        for connection in self.connections.iterdir():  # one may have ended by itself
            subprocess.run(
                ["ssh", "-q", "-S", str(connection), "-O", "exit", "node"], stderr=subprocess.DEVNULL, check=False
            )


def frozen(pid: int) -> list[int]:
    """Stop a process and its children, and theirs, and give them: of processes that go on, children may be missing in
    the list (proc(5), children).
    """
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            os.kill(one, signal.SIGSTOP)
            until = time.monotonic() + 1
            while (
                Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[0] not in "TZ"
                and time.monotonic() < until
            ):
                time.sleep(0.001)
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found
