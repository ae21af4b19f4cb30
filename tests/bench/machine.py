# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench's lab: two nodes that are containers, with a firmware that halts at once; the first one has libvirt beside
what our nodes have.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

from lab import apt  # noqa: E402  # found by the path that is set above
from lab.cluster import Cluster  # noqa: E402  # found by the path that is set above
from lab.container import Containers  # noqa: E402  # found by the path that is set above
from lab.settings import Settings, node_name, underlay_address  # noqa: E402  # found by the path that is set above

PACKAGES = (
    "libvirt-daemon-system",
    "libvirt-clients",
    "virtinst",
    "python3-libvirt",
    "python3-lxml",
    "cloud-image-utils",
)
PLACE = "/var/lib/libvirt/images/bench"  # where libvirt's users keep disks
IMAGE = f"{PLACE}/empty.qcow2"
# QEMU's q35 and pc machines begin 16 bytes below the top of the BIOS, with interrupts off: HLT (f4) there is for good.
# Before it, mov al,30h and out 43h,al: the timer, which wakes QEMU 36 times a second otherwise, waits for a count
# (Intel 8254, mode 0), and does so for good, too.
BIOS = "/usr/share/seabios/bios-256k.bin"
HALT = b"\xb0\x30\xe6\x43\xf4\xeb\xfd".ljust(16, b"\xf4")


class Lab:
    """A lab of the bench's own, beside whatever lab is up.

    :ivar node: What is measured runs here; it has libvirt.
    :ivar other: For runs in turns with those on the first.
    """

    def __init__(self, folder: Path) -> None:
        found = Settings.from_environment()
        first = int(os.environ.get("IKCLOUD_LAB_SSH_PORT") or 22441) + 60
        ports: dict[str, Any] = {"ssh_port": first, "http_port": first + 10, "underlay_port": first + 12}
        self.settings = dataclasses.replace(
            found, kind="container", nodes=2, run=found.run.with_name(f"{found.run.name}-bench"), **ports
        )
        self.node, self.other = Node(self.settings, 1, folder), Node(self.settings, 2, folder)

    def up(self) -> None:
        """Start the nodes, and put on them what the bench needs."""
        cluster = Cluster(self.settings)
        cluster.up()
        ports = cluster.ports()
        self.node.prepare(ports[self.node.name], libvirt=True)
        self.other.prepare(ports[self.other.name], libvirt=False)

    def down(self) -> None:
        """Remove them, and whatever runs on them."""
        Cluster(self.settings).down()


class Node:
    """One node of it.

    :ivar inventory: Of this node alone, for ansible-playbook.
    """

    def __init__(self, settings: Settings, index: int, folder: Path) -> None:
        self.settings, self.index, self.name = settings, index, node_name(index)
        self.inventory = folder / f"inventory-{index}.json"
        self._enter: list[str] = []

    def prepare(self, port: int, libvirt: bool) -> None:
        """Put on it what the bench needs, once it runs.

        :param port: Where its SSH is, on 127.0.0.1.
        """
        containers = Containers(self.settings)
        self._enter = ["nsenter", f"--target={containers.first_process(self.name)}"]
        variables = {
            "ansible_host": "127.0.0.1",
            "ansible_port": port,
            "ansible_user": "root",
            "ansible_pipelining": True,
            "ansible_ssh_common_args": f"-F {self.settings.run}/ssh_config",
            "ansible_python_interpreter": "/usr/bin/python3",
            "compute_underlay_address": underlay_address(self.index),
            **containers.variables(),
        }
        self.inventory.write_text(json.dumps({"compute_nodes": {"hosts": {self.name: variables}}}, indent=2))
        if libvirt and not self.sh("command -v virt-install || true"):
            self._install()
        self.put({BIOS: HALT.rjust(256 * 1024, b"\xf4")})
        self.sh(
            f"test -e {IMAGE} || {{ mkdir -p {PLACE} && qemu-img create -q -f qcow2 {IMAGE} 1M && chmod -R a+rX"
            f" {PLACE}; }}"
        )

    def sh(self, script: str, network: bool = True) -> str:
        """Run a script on it, which must succeed, and give what it prints.

        :param network: Whether in its own network; else in this machine's, which has a mirror.
        """
        spaces = ["--mount", "--uts", "--ipc", "--pid", "--cgroup", *(["--net"] if network else [])]
        environment = [
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL=C.UTF-8",
            "DEBIAN_FRONTEND=noninteractive",
            "HOME=/root",
        ]
        done = subprocess.run(
            [*self._enter, *spaces, *environment, "sh", "-eu"],
            input=script,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, (
            f"{script[-600:]}\nfailed with {done.returncode}: {done.stdout[-1500:]} {done.stderr[-3000:]}"
        )
        return done.stdout

    def seconds(self, script: str) -> float:
        """Run a script on it, and give how long that took."""
        began = time.monotonic()
        self.sh(script)
        return time.monotonic() - began

    def put(self, files: dict[str, bytes]) -> None:
        """Write files on it, by their absolute paths."""
        bundle = io.BytesIO()
        with tarfile.open(fileobj=bundle, mode="w") as archive:
            for path, content in files.items():
                entry = tarfile.TarInfo(path.lstrip("/"))
                entry.size, entry.mode = len(content), 0o644
                archive.addfile(entry, io.BytesIO(content))
        subprocess.run([*self._enter, "--mount", "tar", "-x", "-C", "/"], input=bundle.getvalue(), check=True)

    def qemus(self) -> int:
        """Count the QEMUs that run on it."""
        return int(self.sh("pgrep -c qemu-system || true"))

    def libvirt_version(self) -> str:
        return self.sh("virsh --version").strip()

    def _install(self) -> None:
        """Install from this machine's own mirror, over this machine's network, into the node's own files."""
        sources = "".join(f"{line}\n" for line in apt.distribution_sources(self.settings.distribution))
        settings = "".join(f"{line}\n" for line in apt.settings())
        self.put(
            {
                "/etc/apt/sources.list": sources.encode(),
                "/etc/apt/apt.conf.d/99bench": settings.encode(),
                "/etc/resolv.conf": Path("/etc/resolv.conf").read_bytes(),
                "/etc/hosts": Path("/etc/hosts").read_bytes() + f"127.0.1.1\t{self.name}\n".encode(),
            }
        )
        self.sh(
            f"apt-get update -q && apt-get install -q -y --no-install-recommends {' '.join(PACKAGES)}", network=False
        )
        # A container's devices are made from outside, and its groups are not libvirt's to make.
        self.sh("printf '%s\\n' 'namespaces = []' 'cgroup_controllers = []' >>/etc/libvirt/qemu.conf")
        # Nor is its daemon's start, which ends after two idle minutes otherwise.
        self.sh("echo LIBVIRTD_ARGS= >/etc/default/libvirtd && systemctl restart libvirtd")
        # libvirt's look at what QEMU can do, some seconds at its first use, is not of what is measured.
        self.sh("virsh domcapabilities --virttype qemu >/dev/null")


def environment(venv: Path, folder: Path, **more: Any) -> dict[str, str]:
    """Give the environment of an ansible-playbook, the same for all that are compared: nobody's own settings, compiled
    modules kept.
    """
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHON", "IKCLOUD_"))
    }
    settings = folder / "ansible.cfg"
    settings.touch()
    path = f"{venv / 'bin'}:{kept['PATH']}"
    return {
        **kept,
        "PATH": path,
        "PYTHONPYCACHEPREFIX": str(folder / "pycache"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_CONFIG": str(settings),
        **more,
    }
