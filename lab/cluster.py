# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing the nodes up and down, whatever state an earlier run left."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from .cache import locked
from .container import Containers
from .host import LabError, environment, require_tools, run, say
from .images import Image
from .settings import KINDS, Settings, node_index, underlay_address
from .vm import Machines

_BUSY = "bringing the lab up or down"


class Nodes(Protocol):
    """What a kind of lab is to do."""

    def require(self) -> None:
        """Refuse where this machine or user can't have this kind, with what to do about it."""

    def build(self) -> list[Image]:
        """Build what is missing; give the guests' images."""

    def found(self) -> list[str]:
        """The nodes that are there, running or not."""

    def running(self, name: str) -> int | None:
        """The node's process."""

    def holds_port(self, name: str) -> bool:
        """Whether a process of ours listens at the node's port."""

    def console(self, name: str) -> Path: ...

    def serve(self, images: list[Image]) -> None:
        """Have the guest images at http://10.0.2.2:<port>/ in the nodes."""

    def serving(self) -> int | None: ...

    def fresh(self, names: Iterable[str]) -> list[str]:
        """Those of the nodes that `start` makes anew, so that they get a new host key."""

    def start(self, ports: Mapping[str, int], key: str) -> None:
        """Make and start all of these nodes, SSH at their ports."""

    def variables(self) -> dict[str, str]:
        """What an inventory has to say of these nodes besides how they are reached."""

    def remove(self) -> None:
        """Stop and remove whatever is there."""


def nodes_of(settings: Settings, kind: str) -> Nodes:
    return Containers(settings) if kind == "container" else Machines(settings)


class Cluster:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._ports = settings.run / "ports.json"
        self._kind = settings.run / "kind"
        self._suite = settings.run / "distribution"
        self._lock = settings.run / "lock"

    # --- up -----------------------------------------------------------------------------------------------------

    def up(self) -> None:
        settings = self.settings
        nodes = nodes_of(settings, settings.kind)
        nodes.require()
        require_tools()
        guests = nodes.build()
        with locked(self._lock, _BUSY):
            self._refuse_another()
            self._kind.write_text(settings.kind, encoding="ascii")
            self._suite.write_text(settings.distribution.suite, encoding="ascii")
            key = self._key()
            ports = self._allocate_ports(nodes)
            nodes.serve(guests)
            for name in nodes.fresh(ports):
                self._forget_host_key(ports[name])
            nodes.start(ports, key)
            self._write_ssh_config(ports)
            write(settings.run / "inventory.json", json.dumps(inventory(ports, nodes.variables()), indent=2) + "\n")
            for name, port in ports.items():
                self._wait(nodes, name, port)
        say(f"up: {', '.join(ports)}; `python3 -m lab status` says how to reach them")

    def kind(self) -> str:
        """The kind of the lab that is there, else of the one that is asked for."""
        found = self._kind.read_text(encoding="ascii").strip() if self._kind.exists() else ""
        return found if found in KINDS else self.settings.kind

    def suite(self) -> str:
        """Return the release of the lab that is there, or else of the one that is asked for."""
        return (
            self._suite.read_text(encoding="ascii").strip()
            if self._suite.exists()
            else self.settings.distribution.suite
        )

    def _refuse_another(self) -> None:
        """The underlay depends on the number of nodes, so a running lab cannot grow."""
        there = nodes_of(self.settings, self.kind())
        running = [name for name in there.found() if there.running(name) is not None]
        if not running:
            if there.found() and self.kind() != self.settings.kind:
                there.remove()
            self._ports.unlink(missing_ok=True)
            return
        found = (self.kind(), len(self.ports()), self.suite())
        if found != (self.settings.kind, self.settings.nodes, self.settings.distribution.suite):
            kind, nodes, suite = found
            raise LabError(
                f"{', '.join(running)} run in a lab of another kind, size or distribution ({kind}, {nodes} nodes,"
                f" {suite}): `python3 -m lab down` first"
            )

    def _key(self) -> str:
        path = self.settings.key
        if not path.exists() or not path.with_suffix(".pub").exists():
            path.unlink(missing_ok=True)
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ikcloud-compute-lab", "-f", path])
        return path.with_suffix(".pub").read_text(encoding="ascii").strip()

    def ports(self) -> dict[str, int]:
        if not self._ports.exists():
            return {}
        return {str(name): int(port) for name, port in json.loads(self._ports.read_text(encoding="utf-8")).items()}

    def _allocate_ports(self, nodes: Nodes) -> dict[str, int]:
        """The ports of a lab that runs stay; otherwise the configured ones, or the next free when one is taken."""
        ports = self.ports()
        candidate = self.settings.ssh_port
        for name in self.settings.node_names():
            if name in ports and nodes.holds_port(name):
                continue
            wanted = self.settings.ssh_port + node_index(name) - 1
            candidate = max(candidate, wanted)
            while candidate in {port for other, port in ports.items() if other != name} or not _free(candidate):
                candidate += 1
            if candidate != wanted:
                say(f"{name}: port {wanted} is taken, using {candidate}: tell the inventory (see status)")
            ports[name] = candidate
        write(self._ports, json.dumps(ports, indent=2) + "\n")
        return ports

    def _forget_host_key(self, port: int) -> None:
        if self.settings.known_hosts.exists():
            run(["ssh-keygen", "-q", "-R", f"[127.0.0.1]:{port}", "-f", self.settings.known_hosts])

    def _wait(self, nodes: Nodes, name: str, port: int) -> None:
        began = time.monotonic()
        told = 0.0
        while not self._answers(port):
            passed = time.monotonic() - began
            ended = nodes.running(name) is None
            if ended or passed > self.settings.boot_timeout:
                what = "ended while booting" if ended else f"no SSH after {passed:.0f} s"
                raise LabError(f"{name}: {what}; its console's last lines:\n{_tail(nodes.console(name))}")
            if passed - told >= 5:
                told = passed
                say(f"waiting for SSH on {name}… {passed:.0f} s")
            time.sleep(0.2)
        say(f"{name}: SSH answers")

    def _answers(self, port: int) -> bool:
        # The greeting first: a login attempt costs a booting machine more than a look at the port.
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                connection.settimeout(2)
                if not connection.recv(4).startswith(b"SSH"):
                    return False
        except OSError:
            return False
        try:
            done = subprocess.run(
                [*self.ssh_command(port), "true"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=environment(),
                timeout=30,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    # --- reaching the nodes -------------------------------------------------------------------------------------

    def ssh_options(self) -> dict[str, str]:
        return {
            "IdentityFile": str(self.settings.key),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.settings.known_hosts),
            "StrictHostKeyChecking": "accept-new",
            "BatchMode": "yes",
            "ConnectTimeout": "15",
        }

    def ssh_command(self, port: int) -> list[str]:
        options = [word for name, value in self.ssh_options().items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-q", "-F", "/dev/null", *options, "-p", str(port), "root@127.0.0.1"]

    def _write_ssh_config(self, ports: Mapping[str, int]) -> None:
        lines: list[str] = []
        for name, port in ports.items():
            lines += [f"Host {name}", "    HostName 127.0.0.1", f"    Port {port}", "    User root"]
            lines += [f'    {option} "{value}"' for option, value in self.ssh_options().items()]
        # By address too, for Ansible and for the commands that the status playbook prints.
        lines += ["Host 127.0.0.1", *(f'    {option} "{value}"' for option, value in self.ssh_options().items())]
        # The instances: their host keys are made anew whenever they are, at the same addresses.
        lines += ["Host 192.168.*", f'    IdentityFile "{self.settings.key}"', "    IdentitiesOnly yes"]
        lines += ["    UserKnownHostsFile /dev/null", "    StrictHostKeyChecking no", "    LogLevel ERROR"]
        (self.settings.run / "ssh_config").write_text("\n".join(lines) + "\n", encoding="utf-8")

    # --- down and status ----------------------------------------------------------------------------------------

    def down(self) -> None:
        if self.settings.run.exists():
            with locked(self._lock, _BUSY):
                nodes_of(self.settings, self.kind()).remove()
                shutil.rmtree(self.settings.run)
        say(f"down; what was built stays in {self.settings.cache}")

    def status(self) -> bool:
        ports = self.ports()
        nodes = nodes_of(self.settings, self.kind())
        everything = True
        for name in list(ports) or self.settings.node_names():
            pid = nodes.running(name)
            port = ports.get(name, 0)
            answers = pid is not None and self._answers(port)
            everything = everything and answers
            state = f"pid {pid}, SSH {'answers' if answers else 'does not answer'}" if pid else "down"
            print(f"{name}: {state}")
            if pid:
                print(
                    f"  ansible_host=127.0.0.1 ansible_port={port} ansible_user=root"
                    f" ansible_ssh_private_key_file={self.settings.key}\n  underlay"
                    f" {underlay_address(node_index(name))}, console {nodes.console(name)}"
                )
        web = nodes.serving()
        print(
            f"images: {f'pid {web}, http://10.0.2.2:{self.settings.http_port}/ in the nodes' if web else 'not served'}"
        )
        if everything:
            print(f"ssh -F {self.settings.run / 'ssh_config'} {next(iter(ports))}")
        return everything and web is not None


def inventory(ports: Mapping[str, int], variables: Mapping[str, str]) -> dict[str, Any]:
    """What inventory/lab/nodes prints, beside what inventory/lab/hosts.yml says: the nodes that are up, and their
    kind's variables.
    """
    hosts = {name: {"compute_underlay_address": underlay_address(node_index(name))} for name in ports}
    return {"compute_nodes": {"hosts": list(ports), "vars": dict(variables)}, "_meta": {"hostvars": hosts}}


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    temp = path.with_suffix(".tmp")
    temp.write_text(text, encoding="utf-8")
    temp.rename(path)


def _tail(console: Path, lines: int = 15) -> str:
    if not console.exists():
        return ""
    return "\n".join(console.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
