# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disks that a guest writes to, as its QEMU has them or would have them, and the jobs that QEMU is at."""

from __future__ import annotations

from dataclasses import dataclass, field

from ansible_collections.ikcloud.compute.plugins.module_utils import qemu
from ansible_collections.ikcloud.compute.plugins.module_utils.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils.instances import Instance
from ansible_collections.ikcloud.compute.plugins.module_utils.qmp import Qmp


@dataclass(frozen=True)
class Disk:
    """One disk.

    :ivar node: QEMU's name for it, "" while that does not run.
    """

    path: str
    format: str
    node: str = ""


@dataclass(frozen=True)
class Disks:
    """An instance's disks.

    :ivar own: The one that bears its system.
    :ivar others: Those that it has besides, data volumes, and writes to.
    :ivar jobs: Ids of QEMU's jobs, with ``nodes``, the names of its block nodes. Empty while it does not run.
    """

    own: Disk
    others: tuple[Disk, ...] = ()
    jobs: frozenset[str] = field(default_factory=frozenset)
    nodes: frozenset[str] = field(default_factory=frozenset)


def read_disks(instance: Instance, socket: str) -> Disks:
    """Read an instance's disks: of its QEMU if that runs, else of its ``start``.

    :param socket: Where QEMU listens.
    :raises ComputeError: When it runs and can't be asked, and when ``start`` names no disk.
    """
    listed = [Disk(disk["path"], disk["format"]) for disk in qemu.describe(instance.options)["disks"] if not disk["readonly"]]
    if not listed:
        raise ComputeError(f"instance {instance.name}: its start script names no disk.", "Run ikcloud.compute.site, which writes it anew.")
    own = listed[0]
    if not instance.pid:
        return Disks(own, tuple(listed[1:]))
    with Qmp(socket) as qmp:
        blocks, jobs, nodes = qmp.execute_all([("query-block", {}), ("query-jobs", {}), ("query-named-block-nodes", {"flat": True})])
    attached = {block["inserted"]["file"] for block in blocks if block.get("inserted") and not block["inserted"]["ro"]}
    # Not query-block's own nodes: while a job copies a disk, that names the job's filter.
    running = {
        node["file"]: Disk(node["file"], node["drv"], node["node-name"]) for node in nodes if node["file"] in attached and node["drv"] in ("qcow2", "raw")
    }
    if own.path not in running:
        raise ComputeError(f"instance {instance.name}: its QEMU runs without its disk {own.path}.", "Restart it first.")
    others = tuple(disk for path, disk in running.items() if path != own.path)
    return Disks(running[own.path], others, frozenset(job["id"] for job in jobs), frozenset(node["node-name"] for node in nodes))
