"""One QEMU machine of the lab: an overlay of the node image, a NoCloud seed, two network cards.

This is what the collection's own modules (image, volume, seed, instance with `supervisor: none`) do for an instance;
it stands here so that the lab can come up without them, and is to give way to lab/up.yml.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from . import pidfile, qmp
from .host import LabError, run
from .seed import Interface, network_config, user_data, write_seed
from .settings import Settings

UNDERLAY = "10.10.20"
# What QEMU's user networking hands out on its side.
_USER_ADDRESS, _USER_GATEWAY, _USER_NAMESERVER = "10.0.2.15/24", "10.0.2.2", "10.0.2.3"
# Nothing but documentation addresses and this one are used for a lab's own multicast; it never leaves 127.0.0.1.
_MULTICAST = "239.192.20.88"


@dataclass(frozen=True)
class Machine:
    index: int  # from 1
    settings: Settings

    @property
    def name(self) -> str:
        return f"ik-node-{self.index:02d}"

    @property
    def directory(self) -> Path:
        return self.settings.run / "nodes" / self.name

    @property
    def pid(self) -> Path:
        return self.directory / f"{self.name}.pid"

    @property
    def monitor(self) -> Path:
        return self.directory / "qmp"

    @property
    def console(self) -> Path:
        return self.directory / "console.log"

    @property
    def disk(self) -> Path:
        return self.directory / f"{self.name}.img"

    @property
    def address(self) -> str:
        return f"{UNDERLAY}.{100 + self.index}"

    def mac(self, card: int) -> str:
        return f"02:1b:c1:0d:{card:02x}:{self.index:02x}"

    def running(self) -> int | None:
        return pidfile.holder(self.pid)

    def base(self) -> Path | None:
        """The image this machine's disk was made from; None when there is no finished disk."""
        note = self.directory / "base"
        return Path(note.read_text(encoding="utf-8")) if note.exists() and self.disk.exists() else None

    def create(self, image: Path, public_key: str) -> None:
        """A fresh disk and seed. The note of the base is written last: without it, the rest is what a killed run
        left, and is made again."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True, mode=0o700)
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, self.disk])
        interfaces = [
            Interface(self.mac(1), _USER_ADDRESS, gateway=_USER_GATEWAY, nameserver=_USER_NAMESERVER),
            Interface(self.mac(2), f"{self.address}/24"),
        ]
        write_seed(
            self.directory,
            self.name,
            user_data(self.name, "root", public_key),
            network_config(interfaces),
            self.directory / f"{self.name}-seed.iso",
        )
        (self.directory / "base").write_text(str(image), encoding="utf-8")

    def command(self, ssh_port: int) -> list[str]:
        settings = self.settings
        return [
            "qemu-system-x86_64",
            "-name", self.name,
            "-machine", "pc",
            "-accel", settings.accel,
            "-cpu", settings.cpu_model,
            "-smp", str(settings.cpus),
            "-m", str(settings.memory),
            "-nodefaults", "-no-user-config",
            "-display", "none",
            "-drive", f"file={_escaped(self.disk)},format=qcow2,if=virtio,discard=unmap,cache=unsafe",
            "-drive", f"file={_escaped(self.directory / f'{self.name}-seed.iso')},format=raw,if=virtio,readonly=on",
            "-netdev", f"user,id=net1,hostfwd=tcp:127.0.0.1:{ssh_port}-:22",
            "-device", f"virtio-net-pci,netdev=net1,mac={self.mac(1)},romfile=",
            "-netdev", f"socket,id=net2,{self._underlay()}",
            "-device", f"virtio-net-pci,netdev=net2,mac={self.mac(2)},romfile=",
            "-device", "virtio-rng-pci",
            "-serial", f"file:{self.console}",
            "-qmp", f"unix:{self.monitor},server=on,wait=off",
            "-pidfile", str(self.pid),
            "-daemonize",
        ]  # fmt: skip

    def _underlay(self) -> str:
        """Two nodes are two ends of a UDP pair, which no host firewall for multicast can be in the way of."""
        port = self.settings.underlay_port
        if self.settings.nodes == 2:
            return f"udp=127.0.0.1:{port + 2 - self.index},localaddr=127.0.0.1:{port + self.index - 1}"
        return f"mcast={_MULTICAST}:{port},localaddr=127.0.0.1"

    def start(self, ssh_port: int) -> None:
        run(self.command(ssh_port))

    def stop(self, seconds: float = 40) -> str:
        """Power button, then signals to the process that holds the pidfile. Says which it took."""
        if self.running() is None:
            return "was not running"
        try:
            qmp.execute(self.monitor, "system_powerdown")
        except LabError:
            pass
        else:
            if pidfile.wait_until(lambda: self.running() is None, seconds):
                return "powered off"
        pidfile.stop(self.pid)
        if self.running() is not None:
            raise LabError(f"{self.name}: process {self.running()} does not end")
        return "ended by a signal"

    def console_tail(self, lines: int = 15) -> str:
        if not self.console.exists():
            return ""
        return "\n".join(self.console.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _escaped(path: Path) -> str:
    """QEMU's option parser ends a value at a comma, and reads two as one."""
    return str(path).replace(",", ",,")
