# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The nodes of a container lab as the tests use them: the modules run on them, really, by an agent that is inside
(on_node/agent.py).
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ansible

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

from lab.cluster import Cluster  # noqa: E402  # found by the path that is set above
from lab.container import Containers  # noqa: E402  # found by the path that is set above
from lab.settings import Settings, node_index, underlay_address  # noqa: E402  # found by the path that is set above

ROOT = "/var/lib/compute-service"
PLACE = "/opt/ikcloud-tests"
IMAGE = f"{PLACE}/empty.qcow2"
MODULES = ("apt", "command", "file", "getent", "group", "user")
# systemd goes through all its units, and runs its generators (systemd.generator(7)), at each daemon-reload: without
# those of the system, which nothing here needs once it is up, one takes 25 ms instead of 80. And what is told of each
# step over D-Bus has no listener.
LEAN = """
systemctl stop dbus.socket dbus.service systemd-logind.service uuidd.socket
find /lib/systemd/system -mindepth 1 -maxdepth 1 ! -name '*.target' ! -name 'systemd-journald*' -exec rm -r {} +
rm -r /etc/systemd/system/*.wants
mkdir -p /etc/systemd/system-generators
for name in /lib/systemd/system-generators/*; do ln -sf /dev/null "/etc/systemd/system-generators/${name##*/}"; done
systemctl daemon-reload
"""
Kill = dict[str, Any]


@dataclass
class Answer:
    """What came of a call of a module.

    :ivar status: Its process's exit status; -9 when it was killed.
    :ivar result: What it returned.
    :ivar notes: What was seen of it: steps, points, children (see on_node/watch.py).
    """

    status: int
    result: dict[str, Any]
    errors: str = ""
    notes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def killed(self) -> bool:
        return self.status == -9

    def points(self, mode: str) -> list[dict[str, Any]]:
        """Give the points of a kind that it came to."""
        return [note for note in self.notes if note.get("point") == mode]

    @property
    def children(self) -> list[dict[str, Any]]:
        """Give the children that ended, with how long they took."""
        return [note for note in self.notes if "child" in note]

    @property
    def steps(self) -> list[str]:
        """Give the steps that were really run."""
        return [note["step"] for note in self.notes if "step" in note]


class Node:
    """A node that runs, and an agent in it."""

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self.underlay = underlay_address(node_index(name))
        self._enter = ["nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        self._install()
        modules = sorted(
            path.stem for path in (PROJECT / "plugins/modules").glob("*.py") if not path.stem.startswith("cloud_")
        )
        loaded = [*(f"ikcloud.compute.{name}" for name in modules), "ansible.builtin.user", "ansible.builtin.file"]
        variables = [
            f"PYTHONPATH={PLACE}:{PLACE}/on_node",
            "PYTHONDONTWRITEBYTECODE=1",
            "LC_ALL=C.UTF-8",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        ]
        argv = [*self._enter, "env", "-i", *variables, "/usr/bin/python3", f"{PLACE}/on_node/agent.py", *loaded]
        self._agent = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._read().get("ready")

    def run(self, *argv: str, stdin: bytes = b"") -> bytes:
        """Run a command in the node."""
        return subprocess.run([*self._enter, *argv], input=stdin, capture_output=True, check=True, timeout=60).stdout

    def call(
        self, action: str, arguments: dict[str, Any], check: bool = False, kill: Kill | None = None, watch: bool = False
    ) -> Answer:
        """Run a module.

        :param kill: The point at which it is killed.
        :param watch: Whether it notes the points that it comes to.
        """
        answer = self._ask(
            {"action": action, "arguments": arguments, "check": check, "kill": kill, "watch": watch or kill is not None}
        )
        try:
            result = json.loads(answer["result"] or "{}")
        except ValueError:
            result = {"failed": True, "msg": answer["result"]}
        return Answer(answer["status"], result, answer["errors"], answer["notes"])

    def picture(self) -> dict[str, Any]:
        """Take the node's picture."""
        picture = self._ask({"picture": {"root": ROOT}})["picture"]
        assert isinstance(picture, dict)
        return picture

    def close(self) -> None:
        """End the agent."""
        assert self._agent.stdin
        self._agent.stdin.close()
        self._agent.wait(timeout=20)

    def _ask(self, call: dict[str, Any]) -> dict[str, Any]:
        assert self._agent.stdin
        self._agent.stdin.write(json.dumps(call) + "\n")
        self._agent.stdin.flush()
        answer = self._read()
        assert "broken" not in answer, answer["broken"]
        return answer

    def _read(self) -> dict[str, Any]:
        assert self._agent.stdout
        line = self._agent.stdout.readline()
        assert line, f"{self.name}: the agent has ended"
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def _install(self) -> None:
        """Bring what Ansible would bring, Ansible's own modules that the playbooks use, the agent, and an image."""
        bundle = io.BytesIO()
        there = Path(ansible.__file__).parent
        plugins = PROJECT / "plugins"
        here = Path(__file__).parent
        with tarfile.open(fileobj=bundle, mode="w") as archive:
            for path in (
                there / "release.py",
                there / "module_utils",
                *(there / f"modules/{name}.py" for name in MODULES),
            ):
                archive.add(path, f"ansible/{path.relative_to(there)}", filter=_source)
            for part in ("modules", "module_utils"):
                archive.add(plugins / part, f"ansible_collections/ikcloud/compute/plugins/{part}", filter=_source)
            archive.add(here / "on_node", "on_node", filter=_source)
        self.run(
            "sh",
            "-c",
            f"rm -rf {PLACE} && mkdir -p {PLACE} && tar -x -C {PLACE} && touch {PLACE}/ansible/__init__.py",
            stdin=bundle.getvalue(),
        )
        self.run("sh", "-ec", LEAN)
        self.run("qemu-img", "create", "-q", "-f", "qcow2", IMAGE, "1M")


def _source(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name else entry


def start(settings: Settings) -> list[Node]:
    """Bring a lab up and enter its nodes."""
    Cluster(settings).up()
    containers = Containers(settings)
    nodes = []
    for name in settings.node_names():
        nodes.append(Node(name, containers.first_process(name)))
    return nodes
