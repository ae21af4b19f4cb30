# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures the contestants, one beside the other, and holds the figures against what is promised."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import contestants
from machine import PROJECT, Lab, Node, environment

SITE, BARE, VIRSH, VIRT_INSTALL, LOOP = (
    "site",
    "bare commands",
    "virsh define, start",
    "virt-install",
    "loop over community.libvirt",
)
CREATE, NO_CHANGE, IN_TURNS = "create", "no change", "no change, in turns"
ANSIBLE = "ansible>=12,<13"  # with the ansible-core of requirements-dev.txt
HERE = Path(__file__).parent


@dataclass
class Figures:
    """What was measured: seconds, the least of the runs, since what else a machine does only adds to them.

    :ivar seconds: By what was done (create, no change), by whom, and over how many instances (0: an empty run).
    :ivar tasks: How many tasks of a run without change went to the node, by how many instances.
    """

    seconds: dict[tuple[str, str, int], float] = field(default_factory=dict)
    tasks: dict[int, int] = field(default_factory=dict)
    machine: str = ""

    def note(self, what: str, who: str, count: int, seconds: float) -> None:
        key = (what, who, count)
        self.seconds[key] = min(seconds, self.seconds.get(key, seconds))

    def ratio(self, one: tuple[str, str, int], other: tuple[str, str, int]) -> float:
        return self.seconds[one] / self.seconds[other]


class Bench:
    """Runs it all.

    :param many: How many instances are created (20).
    :param most: How many there are in the largest run without change (100).
    """

    def __init__(
        self, folder: Path, say: Callable[[str], None], many: int = 20, most: int = 100, rounds: int = 3
    ) -> None:
        self.folder, self.say = folder, say
        self.many, self.most, self.rounds = many, most, rounds
        self.lab = Lab(folder)
        self.node, self.other = self.lab.node, self.lab.other
        self.figures = Figures()

    def run(self) -> Figures:
        """Bring the nodes up, measure, and take them down (unless KEEP is set)."""
        libvirt = self._other_ansible()
        try:
            self.lab.up()
            self.figures.machine = describe(self.node)
            self.say(self.figures.machine)
            self._warm(libvirt)
            for number in range(self.rounds):
                for count in (1, self.many):
                    self._create(count, first=number == 0, libvirt=libvirt)
            self._unchanged(libvirt)
        finally:
            if not os.environ.get("KEEP"):
                self.lab.down()
        return self.figures

    def _warm(self, libvirt: Path) -> None:
        """Have compiled, cached and connected what a second run finds so, and make the node ready for instances."""
        self._site(1)
        self._site(0)
        self._loop(libvirt, 0)

    def _create(self, count: int, first: bool, libvirt: Path) -> None:
        node, note = self.node, self._note
        note(CREATE, BARE, count, node.seconds(contestants.bare(count)))
        self._expect(count)
        node.sh(contestants.without_bare())
        note(NO_CHANGE, SITE, 0, self._site(0))
        note(CREATE, SITE, count, self._site(count))
        self._expect(count)
        for _round in range(2):
            note(NO_CHANGE, SITE, count, self._site(count))
        self.figures.tasks[count] = self._tasks(count)
        self._site(0)
        note(CREATE, VIRSH, count, node.seconds(contestants.network() + contestants.virsh(contestants.names(count))))
        self._expect(count)
        if first:
            note(NO_CHANGE, LOOP, count, self._loop(libvirt, count, changes=False))
        node.sh(contestants.without_libvirt())
        note(CREATE, VIRT_INSTALL, count, node.seconds(contestants.virt_install(count)))
        self._expect(count)
        node.sh(contestants.without_libvirt())
        if first:
            node.sh(contestants.network())
            note(CREATE, LOOP, count, self._loop(libvirt, count))
            self._expect(count)
            node.sh(contestants.without_libvirt())

    def _unchanged(self, libvirt: Path) -> None:
        """Measure runs without a change over the most, and in turns with them over one on the other node: a machine is
        not as fast from minute to minute.
        """
        most = self.most
        self._site(1, self.other)
        self._note(CREATE, SITE, most, self._site(most))
        self._expect(most)
        for _round in range(2 * self.rounds + 5):
            self._note(IN_TURNS, SITE, most, self._site(most))
            self._note(IN_TURNS, SITE, 1, self._site(1, self.other))
        self.figures.tasks[most] = self._tasks(most)
        self._site(0)
        self._site(0, self.other)
        self.node.sh(contestants.network())
        listed = contestants.names(most)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self.node.sh, (contestants.virsh(listed[::2]), contestants.virsh(listed[1::2]))))
        self._expect(most)
        self._note(NO_CHANGE, LOOP, most, self._loop(libvirt, most, changes=False))
        self.node.sh(contestants.without_libvirt())

    def _note(self, what: str, who: str, count: int, seconds: float) -> None:
        self.figures.note(what, who, count, seconds)
        rows = [[*key, round(least, 2)] for key, least in self.figures.seconds.items()]
        (self.folder / "figures.json").write_text(json.dumps(rows, indent=1))  # also of a run that is interrupted
        self.say(f"{what}, {who}, {count}: {seconds:.2f} s")

    def _expect(self, count: int) -> None:
        found = self.node.qemus()
        assert found == count, f"{found} QEMUs run where {count} were to be made"

    def _site(self, count: int, node: Node | None = None, /, **more: str) -> float:
        """Run ``site`` over so many instances on a node, purging what is more."""
        venv = Path(sys.executable).parent.parent
        more = {"ANSIBLE_COLLECTIONS_PATH": str(PROJECT / ".venv" / "collections"), **more}
        return self._play(venv, "ikcloud.compute.site", contestants.declaration(count, purge=True), more, node)[0]

    def _tasks(self, count: int) -> int:
        """Run ``site`` recorded, without a change, and give how many tasks it sent to the node."""
        records = self.folder / "records"
        callbacks = {
            "ANSIBLE_CALLBACK_PLUGINS": str(PROJECT / "tests/tools/callbacks"),
            "ANSIBLE_CALLBACKS_ENABLED": "record",
        }
        self._site(count, **callbacks, IKCLOUD_RECORD=str(records))
        record = json.loads(max(records.glob("*-site-run.json")).read_text())
        sent = [task for task in record["tasks"] if task["node"]]
        changed = [task["task"] for task in sent if task["changed"]]
        assert not changed, f"a run without a change over {count} changed: {changed}"
        self.say(
            f"tasks over {count}: "
            + ", ".join(f"{task['action']} {task['seconds']} s" for task in record["tasks"] if task["status"] == "ok")
        )
        return len(sent)

    def _loop(self, venv: Path, count: int, changes: bool = True) -> float:
        """Run the loop over community.libvirt."""
        seconds, said = self._play(venv, str(HERE / "loop.yml"), {"machines": contestants.machines(count)}, {})
        assert changes or "changed=0" in said, said[-2000:]
        return seconds

    def _play(
        self, venv: Path, playbook: str, variables: dict[str, Any], more: dict[str, str], node: Node | None = None
    ) -> tuple[float, str]:
        given = self.folder / "variables.json"
        given.write_text(json.dumps(variables))
        argv = [
            str(venv / "bin" / "ansible-playbook"),
            "-i",
            str((node or self.node).inventory),
            "-e",
            f"@{given}",
            playbook,
        ]
        said = self.folder / "said"
        with said.open("w") as stream:  # a pipe would be held open by ssh's connections, which outlive the run
            began = time.monotonic()
            status = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=environment(venv, self.folder, **more),
                cwd=self.folder,
                check=False,
            ).returncode
            seconds = time.monotonic() - began
        assert status == 0, said.read_text()[-4000:]
        return seconds, said.read_text()

    def _other_ansible(self) -> Path:
        """Give an environment with the PyPI package ansible, which has community.libvirt."""
        venv = self.folder / "venv"
        if not (venv / "made").exists():
            self.say("installing ansible, for community.libvirt ...")
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
            subprocess.run(
                [
                    str(venv / "bin" / "pip"),
                    "install",
                    "--quiet",
                    "--no-compile",
                    "--disable-pip-version-check",
                    ANSIBLE,
                ],
                check=True,
            )
            (venv / "made").touch()
        return venv


def describe(node: Node) -> str:
    """Say what machine it is."""
    model = next(
        (
            line.partition(": ")[2]
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) >> 20
    qemu = node.sh("qemu-system-x86_64 --version").split()[3]
    core = subprocess.run(
        [f"{Path(sys.executable).parent}/ansible-playbook", "--version"], capture_output=True, text=True, check=True
    ).stdout.split("]")[0]
    return (
        f"{os.cpu_count()} processors ({model}), {memory} GiB, Linux {platform.release()}, load"
        f" {os.getloadavg()[0]:.1f} when it began; Python {platform.python_version()}, {core.partition('[')[2]}; on the"
        f" node QEMU {qemu} under TCG, libvirt {node.libvirt_version()}"
    )
