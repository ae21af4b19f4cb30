# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network namespaces as nodes: the modules run for real there, and the machine itself is never touched.

The sysctl and the links are the namespace's own; folders of the node that the modules write outside of their root are
covered by mounts that only the module's process sees.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MODULES = "ansible_collections.ikcloud.compute.plugins.modules"
PROBE = str(Path(__file__).with_name("probe.py"))
# The module's process sees an /etc/sysctl.d of the test's own, and no systemd.
COVER = (
    'mount --bind "$1/sysctl.d" /etc/sysctl.d && { [ ! -d /run/systemd ] || mount --bind "$1/empty" /run/systemd; } &&'
    ' shift && exec "$@"'
)


class Node:
    """A network namespace with a root folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.root = str(folder / "cs")
        self.servers: list[subprocess.Popen[str]] = []
        for part in ("sysctl.d", "empty", "cs"):
            (folder / part).mkdir(parents=True)
        subprocess.run(["ip", "netns", "add", name], check=True)
        self.run("ip", "link", "set", "dev", "lo", "up")

    def close(self) -> None:
        for server in self.servers:
            server.kill()
            server.wait()
            if server.stdout:
                server.stdout.close()
        subprocess.run(["ip", "netns", "delete", self.name], check=False)

    def argv(self, *argv: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, "sh", "-c", COVER, "sh", str(self.folder), *argv]

    def run(self, *argv: str, check: bool = True) -> str:
        done = subprocess.run(self.argv(*argv), capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def ip(self, line: str) -> None:
        self.run("ip", *line.split())

    def json(self, *argv: str) -> Any:
        return json.loads(self.run(*argv) or "[]")

    def link(self, name: str) -> dict[str, Any] | None:
        """Give a link as ``ip -j -d addr`` tells it."""
        return next((link for link in self.json("ip", "-j", "-d", "addr", "show") if link.get("ifname") == name), None)

    def module(self, name: str, check: bool = False, **options: Any) -> dict[str, Any]:
        """Run a module as a script, as Ansible would."""
        arguments = {"root": self.root, "_ansible_diff": True, **options, "_ansible_check_mode": check}
        done = subprocess.run(
            self.argv(sys.executable, "-m", f"{MODULES}.{name}"),
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout, done.stderr
        result = json.loads(done.stdout)
        assert isinstance(result, dict)
        return result

    def good(self, name: str, check: bool = False, **options: Any) -> dict[str, Any]:
        result = self.module(name, check, **options)
        assert not result.get("failed"), result["msg"]
        return result

    def converge(self, name: str, **options: Any) -> dict[str, Any]:
        """Check, run, run again, check again: what is predicted is done, and done once."""
        predicted = self.good(name, check=True, **options)
        done = self.good(name, **options)
        assert done["commands"] == predicted["commands"]
        assert done["after"] == predicted["after"]
        assert done["changed"] == predicted["changed"]
        for check in (False, True):
            again = self.good(name, check=check, **options)
            assert not again["changed"], again["results"]
            assert again["commands"] == []
        return done

    def serve(self, *words: str) -> subprocess.Popen[str]:
        server = subprocess.Popen(self.argv(sys.executable, PROBE, *words), stdout=subprocess.PIPE, text=True)
        self.servers.append(server)
        assert server.stdout and server.stdout.readline() == "ready\n"
        return server

    def probe(self, *words: object) -> str:
        return self.run(sys.executable, PROBE, *(str(word) for word in words)).strip()

    def pings(self, address: str, size: int = 84, timeout: float = 3.0) -> bool:
        words = [sys.executable, PROBE, "ping", address, str(size), str(timeout)]
        return subprocess.run(self.argv(*words), check=False, stderr=subprocess.DEVNULL).returncode == 0

    def file(self, name: str) -> Path:
        return Path(self.root, "run/networks", name)


class World:
    """The nodes of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[Node] = []

    def node(self, name: str) -> Node:
        node = Node(f"ikc{os.getpid()}{name}", self.folder / name)
        self.nodes.append(node)
        return node

    def join(self, one: Node, port: str, other: Node, peer: str) -> None:
        """Lay a cable between two nodes; both ends are up."""
        # Made inside one of them: the machine itself never has the link.
        one.ip(f"link add dev {port} type veth peer name {peer} netns {other.name}")
        one.ip(f"link set dev {port} up")
        other.ip(f"link set dev {peer} up")


@pytest.fixture
def world() -> Iterator[World]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    folder = Path(tempfile.mkdtemp(prefix="ikc"))
    made = World(folder)
    yield made
    for node in made.nodes:
        node.close()
    shutil.rmtree(folder)


@pytest.fixture
def node(world: World) -> Node:
    return world.node("a")
