# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab of two nodes for the tests of this folder, with small guests in it.

Needs its images (built when they are missing), and root for containers.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
NODE, OTHER = "ik-node-01", "ik-node-02"
# KIND=vm is the slow truth: two kernels and GENEVE between them.
KIND = os.environ.get("KIND") or "container"
# There a guest is emulated by a machine that is emulated.
PATIENCE = 1 if KIND == "container" else 5
SMALL = {"image": "small", "memory": 128, "disk": "256M"}
ADDRESSES = {"web-1": "192.168.88.101", "web-2": "192.168.88.102", "far-1": "192.168.88.103", "deb-1": "192.168.88.104"}
SMALL_GUESTS = ("web-1", "web-2", "far-1")
# A lab of these tests' own, beside that of a demo; each can be set.
PORTS = {"IKCLOUD_LAB_SSH_PORT": "24101", "IKCLOUD_LAB_HTTP_PORT": "24180", "IKCLOUD_LAB_UNDERLAY_PORT": "24201"}
CLOUD: dict[str, Any] = {
    "cloud_networks": {"blue": {"vni": 88, "cidr": "192.168.88.0/24"}, "green": {"vni": 99, "cidr": "192.168.99.0/24"}},
    "cloud_instances": {
        "web-1": {
            **SMALL,
            "network": "blue",
            "address": ADDRESSES["web-1"],
            "node": NODE,
            "cpu_max": 2,
            "memory_max": 192,
        },
        "web-2": {**SMALL, "network": "blue", "address": ADDRESSES["web-2"], "node": NODE},
        "far-1": {**SMALL, "network": "blue", "address": ADDRESSES["far-1"], "node": OTHER},
    },
    "cloud_volumes": {},
}


class Lab:
    """Two nodes, and the playbooks on them."""

    def __init__(self, run: Path, folder: Path) -> None:
        self.run_folder, self.folder = run, folder
        self.cloud = copy.deepcopy(CLOUD)
        ports = {name: os.environ.get(name) or port for name, port in PORTS.items()}
        self.environment = {
            **os.environ,
            **ports,
            "IKCLOUD_LAB_KIND": KIND,
            "NODES": "2",
            "IKCLOUD_LAB_RUN": str(run),
            "ANSIBLE_NOCOLOR": "1",
        }

    def lab(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "lab", *words],
            cwd=PROJECT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def play(self, name: str, *options: str, fails: bool = False, **variables: Any) -> str:
        """Run a playbook of the collection on the declaration, and give all that it said."""
        path = self.folder / "vars.json"
        path.write_text(json.dumps({**self.cloud, **variables}), encoding="utf-8")
        command = ["ansible-playbook", "-i", "inventory/lab", f"ikcloud.compute.{name}", "-e", f"@{path}", *options]
        done = subprocess.run(command, cwd=PROJECT, env=self.environment, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == fails, done.stdout[-6000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def plan(self, **variables: Any) -> dict[str, Any]:
        """Give what `site` would do."""
        path = self.folder / "plan.json"
        self.play("plan", plan_json=str(path), **variables)
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def changes(self, **variables: Any) -> dict[str, str]:
        """Give the kind of change of each resource that `site` would touch."""
        entries = self.plan(**variables)["entries"]
        return {
            f"{entry['kind']} {entry['name']}": entry["change"] for entry in entries if entry["change"] != "pending"
        }

    def settle(self, **variables: Any) -> str:
        """Run `site`, after which there is nothing to do, and give what it said."""
        said = self.play("site", **variables)
        assert not self.plan(**variables)["changed"], self.plan(**variables)["entries"]
        return said

    def node(self, command: str, name: str = NODE) -> str:
        return self.lab("ssh", name, command)

    def info(self, name: str, node: str = NODE) -> dict[str, Any]:
        command = [
            "ansible",
            node,
            "-i",
            "inventory/lab",
            "-m",
            "ikcloud.compute.instance_info",
            "-a",
            f"names={name}",
            "-o",
        ]
        done = subprocess.run(command, cwd=PROJECT, env=self.environment, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout.split("=>", 1)[1])["instances"][0]
        return found

    def pid(self, name: str) -> int:
        return int(self.info(name)["pid"])

    def started(self, name: str, node: str) -> float:
        """Give when an instance's QEMU was started, in seconds since 1970."""
        unit = f"compute-instance@{self.info(name, node)['id']}"
        return int(
            self.node(f"systemctl show {unit} --timestamp=unix --property=ExecMainStartTimestamp --value", node)
            .strip()
            .lstrip("@")
        )

    def ssh(self, address: str) -> list[str]:
        return [
            "ssh",
            "-F",
            f"{self.run_folder}/ssh_config",
            "-o",
            "ConnectTimeout=10",
            "-J",
            NODE,
            f"ubuntu@{address}",
        ]

    def guest(self, name: str, command: str, limit: float = 240 * PATIENCE) -> str:
        """Run a command in a guest, waiting for the guest as long as it boots."""
        address, until = ADDRESSES[name], time.monotonic() + limit
        while True:
            done = subprocess.run(
                [*self.ssh(address), command],
                capture_output=True,
                text=True,
                check=False,
                timeout=max(limit, 120 * PATIENCE),
            )
            if done.returncode == 0 or time.monotonic() > until:
                assert done.returncode == 0, done.stderr
                return done.stdout
            time.sleep(1)


def squeezed(text: str) -> str:
    """Give a text without blanks and breaks, which Ansible puts where it likes."""
    return "".join(text.split())


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    if KIND == "container" and os.geteuid() != 0:
        pytest.skip("containers need root")
    with tempfile.TemporaryDirectory(prefix="ikc-lab-") as folder:
        cache = (
            os.environ.get("IKCLOUD_LAB_CACHE")
            or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ikcloud-compute-lab"
        )
        made = Lab(Path(os.environ.get("IKCLOUD_LAB_RUN") or Path(cache) / "lifecycle"), Path(folder))
        try:
            made.lab("down")  # what an interrupted run left: the nodes are to be bare
            made.lab("up")
            yield made
        finally:
            made.lab("down")
