# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes of the kind container: systemd-nspawn on the same root, at this machine's speed and with its kernel.

All their traffic is in network namespaces of the lab's own (wires.py).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from . import cgroup, tree, webserver, wires
from .cache import digest
from .contain import machine_name
from .daemon import Daemon
from .host import LabError, install, missing_packages, run, say
from .images import Image, build_images, build_tree
from .pidfile import holder, wait_until
from .recipes import GUESTS
from .settings import Settings, node_index

TOOLS = {"systemd-nspawn": "systemd-container", "nsenter": "util-linux", "ip": "iproute2"}


class Containers:
    """The nodes of one lab. What it makes outside of its folder is called after that folder."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.prefix = f"iklab-{digest(str(settings.run))[:6]}"
        self._web = webserver.Service(settings.run, settings.http_port)
        self._forward = Daemon(settings.run, "forward")

    def require(self) -> None:
        if os.geteuid() != 0:
            raise LabError(
                "the kind container needs root (namespaces, mounts): run this with sudo, or take the kind vm, which"
                " does not"
            )
        if not re.fullmatch(r"[A-Za-z0-9/._+@-]+", str(self.settings.run)):
            raise LabError(
                f"{self.settings.run} has characters that mount(8) would misread: set IKCLOUD_LAB_RUN to a plain path"
            )
        packages = missing_packages(TOOLS)
        if packages:
            install(packages)

    def build(self) -> list[Image]:
        images = build_images(self.settings.cache, self.settings.distribution, GUESTS)
        self._tree()
        return [images[name] for name in GUESTS]

    def found(self) -> list[str]:
        return sorted(path.name for path in (self.settings.run / "nodes").glob("ik-node-*"))

    def running(self, name: str) -> int | None:
        return holder(self._folder(name) / "node.pid")

    def first_process(self, name: str) -> int:
        """The first process inside a node that runs, found by its number there (proc(5), NSpid); it has all of the
        node's namespaces.
        """
        outside = self.running(name)
        waiting = [outside] if outside else []
        while waiting:
            pid = waiting.pop()
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                for task in Path(f"/proc/{pid}/task").iterdir():
                    waiting += map(int, (task / "children").read_text().split())
                numbers = [
                    line.split()[1:]
                    for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                    if line.startswith("NSpid:")
                ]
                if numbers and len(numbers[0]) > 1 and numbers[0][-1] == "1":
                    return pid
        raise LookupError(f"{name}: {'it has no first process' if outside else 'it does not run'}")

    def holds_port(self, name: str) -> bool:
        return self._forward.pid() is not None

    def console(self, name: str) -> Path:
        return self._folder(name) / "node.log"

    def serve(self, images: list[Image]) -> None:
        if not wires.whole(self.prefix):
            self._web.stop()
            self._forward.stop()
            for name in self.found():
                self._end(name)
            wires.delete(self.prefix)
            wires.make(self.prefix)
        self._web.start(images, wires.GATEWAY, ["nsenter", f"--net={wires.path(self.prefix)}"])

    def serving(self) -> int | None:
        return self._web.pid()

    def fresh(self, names: Iterable[str]) -> list[str]:
        """A node keeps its files as long as they lie over the tree that they were made over."""
        return [name for name in names if self._over(name) != str(self._tree()) and self.running(name) is None]

    def start(self, ports: Mapping[str, int], key: str) -> None:
        for name in ports:
            if self.running(name) is not None:
                older = (
                    "" if self._over(name) == str(self._tree()) else " (from an older root; `down` and `up` renew it)"
                )
                say(f"{name} is running{older}")
                continue
            self._end(name)
            if self.fresh([name]):
                self._make(name, key)
            self._start(name)
            say(f"{name}: started")
        rules = [f"{port}:{wires.outside_address(node_index(name))}:22" for name, port in ports.items()]
        self._forward.start(["forward", str(wires.path(self.prefix)), str(self._forward.pidfile), *rules])

    def remove(self) -> None:
        self._forward.stop()
        self._web.stop()
        for name in self.found():
            self._end(name)
            self._remove_files(name)
        # Also those of nodes whose folder is gone.
        for namespace in sorted(wires.path("").glob(f"{self.prefix}*")):
            wires.delete(namespace.name)

    def variables(self) -> dict[str, str]:
        return {} if wires.supports(self.prefix, "geneve") else {"cloud_encapsulation": "vxlan"}

    def _tree(self) -> Path:
        return build_tree(self.settings.cache, self.settings.distribution)

    def _folder(self, name: str) -> Path:
        return self.settings.run / "nodes" / name

    def _make(self, name: str, key: str) -> None:
        """A node's own files. That they are whole is said last, by the note of the tree that they lie over."""
        folder = self._folder(name)
        self._remove_files(name)
        for part in ("upper", "work", "root"):
            (folder / part).mkdir(parents=True)
        self._identity(folder / "upper", name, key)
        tree.write(folder, "over", str(self._tree()))

    def _over(self, name: str) -> str:
        note = self._folder(name) / "over"
        return note.read_text(encoding="utf-8") if note.exists() else ""

    def _start(self, name: str) -> None:
        folder = self._folder(name)
        daemon = Daemon(folder, "node")
        kvm = ["--kvm"] if self.settings.accel != "tcg" else []
        daemon.start(
            ["contain", *kvm, self.prefix, str(node_index(name)), str(folder), self._over(name), str(daemon.pidfile)]
        )

    def _identity(self, upper: Path, name: str, key: str) -> None:
        """What the seed is to a virtual machine; and the SSH host key, which is made quicker here."""
        tree.write(upper, "etc/hostname", f"{name}\n")
        tree.write(upper, "etc/hosts", f"127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n")
        tree.write(upper, "root/.ssh/authorized_keys", f"{key}\n", 0o600)
        (upper / "etc/ssh").mkdir()
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", upper / "etc/ssh/ssh_host_ed25519_key"])
        for part, mode in (("", 0o755), ("etc", 0o755), ("etc/ssh", 0o755), ("root", 0o700), ("root/.ssh", 0o700)):
            (upper / part).chmod(mode)

    def _end(self, name: str) -> None:
        """End a node's processes, and those that an interrupted run left of it, and remove its cables."""
        machine = machine_name(self.prefix, node_index(name))
        if not cgroup.end(machine) or not wait_until(lambda: self.running(name) is None, 5, step=0.05):
            raise LabError(f"{name}: its processes do not end; see {self.console(name)}")
        wires.delete(machine)

    def _remove_files(self, name: str) -> None:
        # Not shutil's: in an overlay's work the kernel makes a folder of mode 0.
        run(["rm", "-rf", "--one-file-system", self._folder(name)])
