# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that runs one node of the kind container, for as long as the node lives and over its reboots."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from pathlib import Path

from . import cgroup, pidfile, wires
from .host import end_with_parent, environment

# systemd-nspawn(1), --keep-unit: what it exits with when the container asks for a reboot.
_REBOOT = 133


def command(machine: str, directory: Path, tree: Path, kvm: bool) -> list[str]:
    """Mount the node's root in a mount namespace that ends with the container, and boot it.

    It is in the node's network namespace already, which is why nspawn is told to leave the network alone.
    """
    root = directory / "root"
    layers = f"lowerdir={tree},upperdir={directory / 'upper'},workdir={directory / 'work'}"
    mount = ["mount", "-t", "overlay", "overlay", "-o", layers, str(root)]
    devices = ["/dev/net/tun", *(["/dev/kvm"] if kvm else [])]
    nspawn = [
        "systemd-nspawn",
        "--quiet",
        "--boot",
        "--register=no",
        "--keep-unit",
        f"--directory={root}",
        f"--machine={machine}",
        "--console=pipe",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
        "--capability=CAP_NET_ADMIN",
        *(f"--bind={device}" for device in devices),
    ]
    return [
        *cgroup.prefix(machine),
        "nsenter",
        f"--net={wires.path(machine)}",
        "unshare",
        "--mount",
        "--propagation",
        "slave",
        "sh",
        "-c",
        f"{shlex.join(mount)} && exec {shlex.join(nspawn)}",
    ]


def machine_name(prefix: str, index: int) -> str:
    """What a node is called outside of its folder: its network namespace, its control group, nspawn's machine."""
    return f"{prefix}-{index:02d}"


def contain(prefix: str, index: int, directory: Path, tree: Path, pid: Path, kvm: bool) -> int:
    """The process itself: `python3 -m lab contain`, started by `up`."""
    machine = machine_name(prefix, index)
    held = pidfile.take(pid)
    # SIGTERM is for the container (an orderly end); this one ends with it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def begin() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        end_with_parent()
        cgroup.enter(machine)

    # Of /proc/sys only the network's part is the container's own.
    variables = environment({"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"})
    try:
        while True:
            wires.connect(prefix, machine, index)
            status = subprocess.run(
                command(machine, directory, tree, kvm), env=variables, preexec_fn=begin, check=False
            ).returncode
            if status != _REBOOT:
                return status
    finally:
        os.close(held)
