"""Bringing the nodes up and down, whatever state an earlier run left."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

from . import webserver
from .cache import locked
from .host import LabError, environment, require_tools, run, say
from .images import build_images
from .machine import Machine
from .pidfile import holder, stop
from .recipes import GUESTS
from .settings import Settings


class Cluster:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.machines = [Machine(index, settings) for index in range(1, settings.nodes + 1)]
        self.web_pid = settings.run / "webserver.pid"
        self.web_directory = settings.run / "images"
        self._ports = settings.run / "ports.json"

    # --- up -----------------------------------------------------------------------------------------------------

    def up(self) -> None:
        settings = self.settings
        require_tools()
        images = build_images(settings.cache)
        settings.run.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(settings.cache / "up.lock", "bringing the lab up or down"):
            self._refuse_other_size()
            key = self._key()
            webserver.publish([images[name] for name in GUESTS], self.web_directory)
            if webserver.start(self.web_directory, settings.http_port, self.web_pid, settings.run / "webserver.log"):
                say(f"serving the guest images on 127.0.0.1:{settings.http_port} (10.0.2.2 in the nodes)")
            ports = self._allocate_ports()
            for machine in self.machines:
                self._start(machine, images["node"].path, key, ports[machine.name])
            self._write_ssh_config(ports)
            for machine in self.machines:
                self._wait(machine, ports[machine.name])
        say(f"up: {', '.join(machine.name for machine in self.machines)}; `python3 -m lab status` says how to reach them")

    def _refuse_other_size(self) -> None:
        """The underlay's form depends on the number of nodes, so a running lab cannot grow."""
        found = self.settings.run / "nodes"
        ours = {machine.name for machine in self.machines}
        running = {path.name for path in found.glob("*") if holder(path / f"{path.name}.pid") is not None}
        if running and len(ours) != (len(json.loads(self._ports.read_text())) if self._ports.exists() else len(ours)):
            raise LabError(f"{', '.join(sorted(running))} run in a lab of another size: `python3 -m lab down` first")
        if not running:
            self._ports.unlink(missing_ok=True)

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

    def _allocate_ports(self) -> dict[str, int]:
        """The ports of a lab that runs stay; otherwise the configured ones, or the next free when one is taken."""
        ports = self.ports()
        candidate = self.settings.ssh_port
        for machine in self.machines:
            if machine.running() is not None and machine.name in ports:
                continue
            candidate = max(candidate, self.settings.ssh_port + machine.index - 1)
            while candidate in {port for name, port in ports.items() if name != machine.name} or not _free(candidate):
                candidate += 1
            wanted = self.settings.ssh_port + machine.index - 1
            if candidate != wanted:
                say(f"{machine.name}: port {wanted} is taken, using {candidate}: tell the inventory (see status)")
            ports[machine.name] = candidate
        temp = self._ports.with_suffix(".tmp")
        temp.write_text(json.dumps(ports, indent=2) + "\n", encoding="utf-8")
        temp.rename(self._ports)
        return ports

    def _start(self, machine: Machine, image: Path, key: str, port: int) -> None:
        base = machine.base()
        if machine.running() is not None:
            stale = "" if base == image else " (from an older image; `down` and `up` renew it)"
            say(f"{machine.name} is running{stale}")
            return
        if base != image:
            say(f"{machine.name}: new disk and seed")
            machine.create(image, key)
            self._forget_host_key(port)
        machine.console.unlink(missing_ok=True)
        machine.start(port)
        say(f"{machine.name}: started, {self.settings.memory} MiB, {self.settings.cpus} CPUs")

    def _forget_host_key(self, port: int) -> None:
        if self.settings.known_hosts.exists():
            run(["ssh-keygen", "-q", "-R", f"[127.0.0.1]:{port}", "-f", self.settings.known_hosts])

    def _wait(self, machine: Machine, port: int) -> None:
        began = time.monotonic()
        told = 0.0
        while not self._answers(port):
            passed = time.monotonic() - began
            if machine.running() is None:
                raise LabError(f"{machine.name} ended while booting; its console's last lines:\n{machine.console_tail()}")
            if passed > self.settings.boot_timeout:
                raise LabError(f"{machine.name}: no SSH after {passed:.0f} s; its console's last lines:\n{machine.console_tail()}")
            if passed - told >= 5:
                told = passed
                say(f"waiting for SSH on {machine.name}… {passed:.0f} s")
            time.sleep(0.5)
        say(f"{machine.name}: SSH answers")

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
            done = subprocess.run([*self.ssh_command(port), "true"], stdin=subprocess.DEVNULL, capture_output=True, env=environment(), timeout=30, check=False)
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

    def _write_ssh_config(self, ports: dict[str, int]) -> None:
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
        with locked(self.settings.cache / "up.lock", "bringing the lab up or down"):
            found = sorted((self.settings.run / "nodes").glob("ik-node-*"))
            machines = [Machine(int(path.name.rsplit("-", 1)[-1]), self.settings) for path in found]
            for machine in machines:
                say(f"{machine.name}: {machine.stop()}")
            stop(self.web_pid)
            if self.settings.run.exists():
                shutil.rmtree(self.settings.run)
        say(f"down; the images stay in {self.settings.cache / 'images'}")

    def status(self) -> bool:
        ports = self.ports()
        everything = True
        for machine in self.machines:
            pid = machine.running()
            port = ports.get(machine.name, 0)
            answers = pid is not None and self._answers(port)
            everything = everything and answers
            state = f"pid {pid}, SSH {'answers' if answers else 'does not answer'}" if pid else "down"
            print(f"{machine.name}: {state}")
            if pid:
                print(
                    f"  ansible_host=127.0.0.1 ansible_port={port} ansible_user=root "
                    f"ansible_ssh_private_key_file={self.settings.key}\n  underlay {machine.address}, console {machine.console}"
                )
        web = holder(self.web_pid)
        print(f"images: {f'pid {web}, http://10.0.2.2:{self.settings.http_port}/ in the nodes' if web else 'not served'}")
        if everything:
            print(f"ssh -F {self.settings.run / 'ssh_config'} {self.machines[0].name}")
        return everything and web is not None


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
