# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The volumes that instances have: the resource volume with what only a running QEMU can tell and do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .._core.changes import Item
from .._core.errors import ComputeError
from .._core.layout import DEFAULT_ROOT, Layout, instance_id
from .._core.steps import Stage, Step
from .._qemu.hotplug import QmpCommand
from .._qemu.qmp.qmp import Qmp
from .._storage.made import record_growth
from .._storage.volume.resource import VolumeResource
from .._system.process import has_open, locked_by
from .backup.steps import end_copy
from .disks import work_of
from .instance.instances import read_instances
from .instance_operation import as_user


@dataclass(frozen=True)
class Grow(QmpCommand):
    """Have a running QEMU grow a volume.

    :ivar path: The volume's.
    """

    path: str = ""

    def run(self) -> None:
        super().run()
        record_growth(self.path, self.arguments["size"])


@dataclass(frozen=True)
class BlockNode:
    """Where a running QEMU can be asked to grow a volume: its QMP socket and the volume's block node there.

    :ivar script: What a person types before a command to that QEMU.
    :ivar before: What ends a copy of it first that an interrupted backup has left there: a disk does not grow while it
        is copied.
    """

    script: tuple[str, ...]
    socket: str
    name: str
    before: Sequence[Step] = ()

    def step(self, size: int, path: str) -> Step:
        """Return the step that grows it under its running guest, which sees the new size at once (QMP block_resize).

        :param size: Bytes.
        :param path: The volume's.
        """
        return Grow(
            self.script,
            self.socket,
            "block_resize",
            {"node-name": self.name, "size": size},
            stage=Stage.FILES,
            path=path,
        )


@dataclass(frozen=True)
class Instances:
    """The instances of a node, as users of volumes."""

    layout: Layout

    def users(self, names: Iterable[str]) -> dict[str, str]:
        """Return which running instance has a volume open, by volume; "" where that can't be told."""
        paths = {self.layout.volume(name): name for name in names}
        found = dict.fromkeys(paths.values(), "")
        for instance in read_instances(self.layout, units=False).values() if paths else ():
            if instance.pid:
                # What was attached while it runs stands in `start` alone, what was detached in the process alone.
                for disk in (*instance.written.disks, *(instance.running.disks if instance.running else ())):
                    if disk.path in paths:
                        found[paths[disk.path]] = instance.name
        return found

    def deleted(self, names: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Find volumes whose files were deleted while a running instance has them open, so that their data are lost
        with
        its QEMU.

        :returns: By volume, the instance, and where the data can be read still (proc(5), fd).
        """
        paths = {f"{self.layout.volume(name)} (deleted)": name for name in names}
        found: dict[str, tuple[str, str]] = {}
        for instance in read_instances(self.layout, units=False).values() if paths else ():
            folder = f"/proc/{instance.pid}/fd"
            try:
                files = (
                    [f"{folder}/{number}" for number in sorted(os.listdir(folder), key=int)] if instance.pid > 0 else []
                )
            except OSError:
                continue  # it has ended, or is not ours to see
            for file in files:
                try:
                    path = os.readlink(file)
                except OSError:
                    continue
                if path in paths:
                    found.setdefault(paths[path], (instance.name, file))
        return found

    def online_resize(self, name: str, path: str) -> BlockNode | None:
        """Find the running QEMU that has a volume: its own instance's, or any for a data volume."""
        folders = (
            [name]
            if instance_id(name)
            else sorted(os.listdir(self.layout.instances))
            if os.path.isdir(self.layout.instances)
            else []
        )
        # A QEMU may say that it has a disk that is another one's: those of which the kernel says so are asked first,
        # those of which it denies it never.
        held = {
            folder: has_open(locked_by(self.layout.instance(folder).pid), path)
            for folder in folders
            if os.path.exists(self.layout.instance(folder).qmp)
        }
        for folder in sorted(
            (folder for folder, has in held.items() if has is not False), key=lambda folder: not held[folder]
        ):
            socket = self.layout.instance(folder).qmp
            try:
                with Qmp(socket) as qmp:
                    inserted = [
                        media
                        for block in qmp.ask("query-block").entries()
                        for media in [block.find("inserted")]
                        if media
                    ]
                    node = next((media for media in inserted if media.get("file").word() == path), None)
                    if node:
                        script = self._script(folder)
                        name, form = node.get("node-name").word(), node.get("drv").word()
                        return BlockNode(script, socket, name) if form == "qcow2" else _copied_node(script, path, qmp)
            except ComputeError:
                continue  # stopped, or busy with another client: then it can't be asked to grow either
        return None

    def _script(self, folder: str) -> tuple[str, ...]:
        """Give what a person types before a command to the QEMU of the instance in a folder."""
        instance = next(
            (found for found in read_instances(self.layout, units=False).values() if f"compute-{found.id}" == folder),
            None,
        )
        return (*(as_user(instance) if instance else ()), self.layout.instance(folder).qmp_script)


def _copied_node(script: tuple[str, ...], path: str, qmp: Qmp) -> BlockNode | None:
    """Find the node of a volume that QEMU copies: query-block names the job's filter."""
    jobs, nodes = work_of(qmp)
    ending = end_copy(script, qmp.path, jobs, [node.node for node in nodes], stage=Stage.FILES)
    names = [node.node for node in nodes if node.path == path and node.format == "qcow2"]
    return BlockNode(script, qmp.path, names[0], tuple(ending)) if names else None


class InstanceVolumeResource(VolumeResource):
    """Volumes, of which instances have some."""

    def __init__(self, params: Item) -> None:
        super().__init__(params, Instances(Layout(params.get("root") or DEFAULT_ROOT)))
