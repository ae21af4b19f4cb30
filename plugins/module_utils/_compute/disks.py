# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disks that a guest writes to, as its QEMU has them or would have them, and the jobs that QEMU is at."""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass, field

from .._core.commands import typed_as_owner
from .._core.errors import ComputeError
from .._core.layout import Layout
from .._qemu.qmp.qmp import Qmp
from .._storage import qcow2
from .._storage.disk_files import Build
from .instance.instances import Instance


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


def declared_disks(instance: Instance) -> Disks:
    """Give an instance's disks as its ``start`` has them.

    :raises ComputeError: When that names none.
    """
    listed = [Disk(disk.path, disk.format) for disk in instance.written.disks if not disk.readonly]
    if not listed:
        raise ComputeError(
            f"instance {instance.name}: its start script names no disk.",
            "Run ikcloud.compute.site, which writes it anew.",
        )
    return Disks(listed[0], tuple(listed[1:]))


def read_disks(instance: Instance, socket: str) -> Disks:
    """Read an instance's disks: of its QEMU if that runs, else of its ``start``.

    :param socket: Where QEMU listens.
    :raises ComputeError: When it runs and can't be asked, and when ``start`` names no disk.
    """
    declared = declared_disks(instance)
    if not instance.pid:
        return declared
    own = declared.own
    with Qmp(socket) as qmp:
        (blocks,) = qmp.ask_all([("query-block", {})])
        jobs, nodes = work_of(qmp)
    inserted = [media for block in blocks.entries() for media in [block.find("inserted")] if media]
    attached = {media.get("file").word() for media in inserted if not media.get("ro").flag()}
    # Not query-block's own nodes: while a job copies a disk, that names the job's filter.
    running = {node.path: node for node in nodes if node.path in attached and node.format in ("qcow2", "raw")}
    if own.path not in running:
        raise ComputeError(f"instance {instance.name}: its QEMU runs without its disk {own.path}.", "Restart it first.")
    others = tuple(disk for path, disk in running.items() if path != own.path)
    return Disks(running[own.path], others, jobs, frozenset(node.node for node in nodes))


def work_of(qmp: Qmp) -> tuple[frozenset[str], list[Disk]]:
    """Read the ids of a QEMU's jobs, and its block nodes.

    :raises ComputeError: When it can't be asked, or does not answer as QEMU does.
    """
    jobs, nodes = qmp.ask_all([("query-jobs", {}), ("query-named-block-nodes", {"flat": True})])
    return frozenset(job.get("id").word() for job in jobs.entries()), [
        Disk(node.get("file").word(), node.get("drv").word(), node.get("node-name").word()) for node in nodes.entries()
    ]


def read_work(instance: Instance, socket: str) -> tuple[frozenset[str], frozenset[str]]:
    """Read the ids of an instance's QEMU's jobs, and the names of its block nodes; none where it does not run or does
    not answer.
    """
    with contextlib.suppress(ComputeError):
        if instance.pid:
            with Qmp(socket) as qmp:
                jobs, nodes = work_of(qmp)
            return jobs, frozenset(node.node for node in nodes)
    return frozenset(), frozenset()


def sound_header(disk: Disk, layout: Layout, folder: str) -> qcow2.Header:
    """Read what a disk says of itself, and refuse one with which qemu-img would open anything but it and its image.

    Both the disk and the script that names it are QEMU's user's to write, who may do so again at any time: so qemu-img
    runs as its owner, and this says beforehand what is wrong.

    :param folder: The instance's. A disk belongs to who owns that, or lies directly in our own folder of volumes.
    :raises ComputeError: When it can't be read, is no plain file, or refers to another one than an image of ours.
    """
    path = disk.path
    try:
        with qcow2.plain_file(path, layout.root) as (stream, entry):
            if os.path.dirname(path) != layout.volumes and entry.st_uid != os.lstat(folder).st_uid:
                raise OSError(
                    errno.EPERM, f"it does not belong to the owner of {folder}, nor is it a volume in {layout.volumes}"
                )
            # A raw one's beginning is whatever a guest has written there.
            header = qcow2.read_stream(stream, path) if disk.format == "qcow2" else qcow2.Header("raw", entry.st_size)
    except OSError as error:
        raise ComputeError(f"{path} can't be read: {error.strerror}.") from None
    if header.format != disk.format:
        raise ComputeError(
            f"{path} is {header.format}, and its instance has it as {disk.format}.", "See what has become of it."
        )
    if trouble := header.trouble(path):
        raise ComputeError(trouble)
    base = base_of(path, header)
    if base and os.path.dirname(base) != layout.images:
        info = typed_as_owner(path, "qemu-img", "info", "-f", "qcow2", path)
        raise ComputeError(
            f"{path} stands on {base}, which is no image in {layout.images}; it was not touched.",
            f"See what `{info}` says of it.",
        )
    return header


def disk_owner(path: str, layout: Layout, folder: str) -> tuple[int, int]:
    """Return the user and the group by whose rights a disk is worked on, as numbers.

    Nobody but root renames anything in our folder of volumes, so the owner of a file there counts. Elsewhere a file may
    be exchanged at any time: there the owner of the instance's folder counts, who stays the same.

    :raises ComputeError: When it is not there.
    """
    place = path if os.path.dirname(path) == layout.volumes else folder
    try:
        entry = os.lstat(place)
    except OSError as error:
        raise ComputeError(f"{place} can't be read: {error.strerror}.") from None
    return entry.st_uid, entry.st_gid


def base_of(path: str, header: qcow2.Header) -> str:
    """Give the path of the image that a disk stands on, "" for none."""
    return qcow2.backing_path(path, header.backing_file) if header.backing_file else ""


@dataclass(frozen=True)
class OnDisk(Build):
    """Run qemu-img on a disk, if that still refers to what it referred to when it was found sound.

    :ivar folder: The instance's.
    :ivar found: What it said of itself then.
    """

    disk: Disk = field(default_factory=lambda: Disk("", ""))
    layout: Layout = field(default_factory=Layout)
    folder: str = ""
    found: qcow2.Header = field(default_factory=lambda: qcow2.Header("raw", 0))

    def run(self) -> None:
        header = sound_header(self.disk, self.layout, self.folder)
        if (header.backing_file, header.backing_format) != (self.found.backing_file, self.found.backing_format):
            raise ComputeError(
                f"{self.disk.path} has changed meanwhile; it was not touched.", "Something else writes into it."
            )
        super().run()
