# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The volumes of a node as they are on its disk."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from ansible_collections.ikcloud.compute.plugins.module_utils import qcow2, qemu
from ansible_collections.ikcloud.compute.plugins.module_utils.backup_steps import end_copy
from ansible_collections.ikcloud.compute.plugins.module_utils.chosen import as_user
from ansible_collections.ikcloud.compute.plugins.module_utils.commands import as_owner, run
from ansible_collections.ikcloud.compute.plugins.module_utils.disks import work_of
from ansible_collections.ikcloud.compute.plugins.module_utils.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils.files import access_of, finished_name
from ansible_collections.ikcloud.compute.plugins.module_utils.instances import read_instances
from ansible_collections.ikcloud.compute.plugins.module_utils.layout import Layout, instance_id
from ansible_collections.ikcloud.compute.plugins.module_utils.live_steps import Ask
from ansible_collections.ikcloud.compute.plugins.module_utils.made import Made, read_made, record_growth
from ansible_collections.ikcloud.compute.plugins.module_utils.marks import MARK, forget_marks, read_mark, sidecar
from ansible_collections.ikcloud.compute.plugins.module_utils.process import has_open, locked_by
from ansible_collections.ikcloud.compute.plugins.module_utils.qmp import Qmp
from ansible_collections.ikcloud.compute.plugins.module_utils.sizes import read_disk_size
from ansible_collections.ikcloud.compute.plugins.module_utils.steps import Do, Step, remove_file

# What is kept aside has the time in its name.
_KEPT = re.compile(r"(.+)-[0-9]{8}T[0-9]{6}Z\.img")


@dataclass(frozen=True)
class Node:
    """Where a running QEMU can be asked to grow a volume: its QMP socket and the volume's block node there.

    :ivar script: What a person types before a command to that QEMU.
    :ivar ending: What ends a copy of it first that an interrupted backup has left there: a disk does not grow while it is copied.
    """

    script: tuple[str, ...]
    socket: str
    name: str
    ending: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Volume:
    """A volume as it is on the disk.

    :ivar header: None for one that was never finished, and for what is no volume at all.
    :ivar owned: Whether we made it (see the documentation of the module ``volume``).
    :ivar marked: Whether it carries our mark.
    :ivar locked: Whether a QEMU has it open; looked at only where that matters.
    :ivar node: Where it can be grown while its guest runs, if anywhere.
    :ivar leftover: Whether an unfinished file is beside it.
    :ivar spoilt: What QEMU's user, whose file it is, has done to it so that nothing can be done with it; "" for nothing.
    :ivar unmarked: Whether that is only that it has lost its mark.
    :ivar made: What it was made as, of one whose header its owner, QEMU's user, may have written; None where nobody knows.
    """

    header: qcow2.Header | None
    access: tuple[int, int, int] = (0o640, 0, 0)
    owned: bool = True
    marked: bool = True
    locked: bool = False
    node: Node | None = None
    leftover: bool = False
    spoilt: str = ""
    unmarked: bool = False
    made: Made | None = None


@dataclass(frozen=True)
class Kept:
    """What is in the folder of the volumes that were kept aside.

    :ivar ours: Paths of what we have put there.
    :ivar others: Names of what we have not, or what does not bear our mark any more.
    """

    ours: tuple[str, ...]
    others: tuple[str, ...]


def read_kept(layout: Layout) -> Kept | None:
    """Read the folder of the volumes that were kept aside; None where there is none.

    :raises ComputeError: When it can't be read.
    """
    try:
        entries = {entry.name: entry for entry in os.scandir(layout.kept)}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ComputeError(f"{layout.kept} can't be read: {error.strerror}.") from None
    beside = {os.path.basename(sidecar(name)) for name in entries}
    ours = {name for name, entry in entries.items() if entry.is_file(follow_symlinks=False) and _is_kept(entry.path)}
    others = sorted(name for name in entries if name not in ours and name not in beside)
    return Kept(tuple(entries[name].path for name in sorted(ours)), tuple(others))


def remove_kept(layout: Layout, kept: Kept) -> list[Step]:
    """List what removes the volumes that were kept aside, after the others, and their folder where nothing else is in it."""
    folder = layout.kept
    typed = [shlex.join(("rm", "-f", *kept.ours))] if kept.ours else []
    typed += [] if kept.others or os.path.islink(folder) else [shlex.join(("rmdir", folder))]

    def remove() -> None:
        there = read_kept(layout)
        try:
            for path in there.ours if there else ():
                remove_file(path)
                forget_marks(path)
            if there and not there.others and not os.path.islink(folder):
                os.rmdir(folder)
        except OSError as error:
            raise ComputeError(f"{error.filename} can't be removed: {error.strerror}.") from None

    return [Do("; ".join(typed), remove, stage=1)] if typed else []


def _is_kept(path: str) -> bool:
    """Tell whether a file in the folder of those kept aside is one that we have put there, by its mark, which says its name, too."""
    named = _KEPT.fullmatch(os.path.basename(path))
    kind, _slash, name = read_mark(path, MARK).partition("/")
    if not named or not name:
        return False
    stem = named.group(1)
    return stem == name if kind == "kept" else kind == "volume" and f"-{stem}".endswith(f"-{name}")


def read_bases(layout: Layout, images: Iterable[str]) -> dict[str, qcow2.Header]:
    """Read the headers of these images; those that are not there are left out.

    :raises ComputeError: When one of them is broken.
    """
    bases: dict[str, qcow2.Header] = {}
    for image in images:
        try:
            bases[image] = qcow2.read_header(layout.image(image))
        except OSError:
            continue  # not there as yet: an error only when it comes to using it
    return bases


def read_volumes(layout: Layout, sizes: Mapping[str, int | None], removing: bool, rebuilding: Container[str] = ()) -> dict[str, Volume]:
    """Read every volume that is ours, and whatever else bears a listed name.

    :param sizes: The listed volumes and the sizes in bytes that are declared for them.
    :param removing: Whether the listed ones are to go.
    :param rebuilding: Those that are to be made anew.
    :raises ComputeError: When the folder can't be read.
    """
    try:
        files = {entry.name for entry in os.scandir(layout.volumes) if not entry.is_dir()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ComputeError(f"{layout.volumes} can't be read: {error.strerror}.") from None
    found: dict[str, Volume] = {}
    for file in sorted(files):
        whole = finished_name(file) or file
        name = whole[: -len(".img")]
        if not whole.endswith(".img") or name.endswith("-seed") or whole.startswith("."):
            continue
        if whole != file:
            if whole not in files:
                found[name] = Volume(None, leftover=True)
            continue
        volume = _read(layout, name, name in sizes, sizes.get(name), removing or name in rebuilding, f".{file}.new" in files)
        if volume:
            found[name] = volume
    return found


def _read(layout: Layout, name: str, listed: bool, size: int | None, leaving: bool, leftover: bool) -> Volume | None:
    """Read one volume; None for one that is neither ours nor listed."""
    path = layout.volume(name)
    marked = read_mark(path, MARK) == f"volume/{name}"
    if not marked and not listed:
        return None
    foreign = Volume(None, owned=False)
    leaving = leaving or not listed
    theirs = False
    try:
        access = access_of(path)
        # Nobody but root puts a file here. What is wrong with one that QEMU's user can write to may be that user's doing, and stops no other.
        theirs = not leaving and access[1] not in (0, os.geteuid())
        header = qcow2.read_header(path)
    except ComputeError as error:
        return Volume(None, spoilt=str(error)) if theirs else foreign
    except OSError:
        return foreign
    if os.path.islink(path) or header.format != "qcow2" or not (marked or instance_id(name)):
        what = "is no qcow2 image any more" if header.format != "qcow2" else "does not bear our mark"
        return Volume(None, spoilt=f"{path} {what}.", unmarked=header.format == "qcow2") if theirs and not os.path.islink(path) else foreign
    if theirs and (trouble := header.trouble(path)):
        return Volume(None, spoilt=trouble)
    locked = (leaving or (size is not None and size > header.virtual_size)) and qcow2.is_locked(path)
    node = _find_node(layout, name, path) if locked and not leaving else None
    return Volume(header, access, True, marked, locked, node, leftover, made=read_made(path) if theirs else None)


def _find_node(layout: Layout, name: str, path: str) -> Node | None:
    """Find the running QEMU that has a volume: its own instance's, or any for a data volume."""
    folders = [name] if instance_id(name) else sorted(os.listdir(layout.instances)) if os.path.isdir(layout.instances) else []
    # A QEMU may say that it has a disk that is another one's: those of which the kernel says so are asked first, those of which it denies it never.
    held = {folder: has_open(locked_by(layout.instance(folder).pid), path) for folder in folders if os.path.exists(layout.instance(folder).qmp)}
    for folder in sorted((folder for folder, has in held.items() if has is not False), key=lambda folder: not held[folder]):
        socket = layout.instance(folder).qmp
        try:
            with Qmp(socket) as qmp:
                inserted = [media for block in qmp.ask("query-block").entries() for media in [block.find("inserted")] if media]
                node = next((media for media in inserted if media.get("file").word() == path), None)
                if node:
                    script = _script(layout, folder)
                    name, form = node.get("node-name").word(), node.get("drv").word()
                    return Node(script, socket, name) if form == "qcow2" else _copied_node(script, path, qmp)
        except ComputeError:
            continue  # stopped, or busy with another client: then it can't be asked to grow either
    return None


def _script(layout: Layout, folder: str) -> tuple[str, ...]:
    """Give what a person types before a command to the QEMU of the instance in a folder."""
    instance = next((found for found in read_instances(layout, units=False).values() if f"compute-{found.id}" == folder), None)
    return (*(as_user(instance) if instance else ()), layout.instance(folder).qmp_script)


def _copied_node(script: tuple[str, ...], path: str, qmp: Qmp) -> Node | None:
    """Find the node of a volume that QEMU copies: query-block names the job's filter."""
    jobs, nodes = work_of(qmp)
    ending = end_copy(script, qmp.path, jobs, [node.node for node in nodes], stage=0)
    names = [node.node for node in nodes if node.path == path and node.format == "qcow2"]
    return Node(script, qmp.path, names[0], tuple(ending)) if names else None


def offline_growth(path: str, size: str, header: qcow2.Header, owner: tuple[int, int]) -> Step:
    """Grow a volume that nobody has open.

    :param header: As it was found.
    :param owner: Whose it is, as numbers: qemu-img opens what a header names, which the owner may rewrite at any time.
    """
    argv = (*as_owner(*owner), "qemu-img", "resize", "-q", "-f", "qcow2", path, size)

    def grow() -> None:
        if qcow2.read_header(path) != header:
            raise ComputeError(f"{path} has changed meanwhile; it was not touched.", "Something else writes into it.")
        run(argv)
        record_growth(path, read_disk_size(size))

    return Do(shlex.join(argv), grow)


def users_of_volumes(layout: Layout, names: Iterable[str]) -> dict[str, str]:
    """Return which running instance has a volume open, by volume; "" where that can't be told."""
    paths = {layout.volume(name): name for name in names}
    found = dict.fromkeys(paths.values(), "")
    for instance in read_instances(layout, units=False).values() if paths else ():
        if instance.pid:
            # What was attached while it runs stands in `start` alone, what was detached in the process alone.
            for disk in [*qemu.describe(instance.options)["disks"], *qemu.describe(instance.running or [])["disks"]]:
                if disk["path"] in paths:
                    found[paths[disk["path"]]] = instance.name
    return found


def deleted_volumes(layout: Layout, names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Find volumes whose files were deleted while a running instance has them open, so that their data are lost with its QEMU.

    :returns: By volume, the instance, and where the data can be read still (proc(5), fd).
    """
    paths = {f"{layout.volume(name)} (deleted)": name for name in names}
    found: dict[str, tuple[str, str]] = {}
    for instance in read_instances(layout, units=False).values() if paths else ():
        folder = f"/proc/{instance.pid}/fd"
        try:
            files = [f"{folder}/{number}" for number in sorted(os.listdir(folder), key=int)] if instance.pid > 0 else []
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


@dataclass(frozen=True)
class Grow(Ask):
    """Have a running QEMU grow a volume.

    :ivar path: The volume's.
    """

    path: str = ""

    def run(self) -> None:
        super().run()
        record_growth(self.path, self.arguments["size"])


def live_growth(node: Node, size: int, path: str) -> Step:
    """Grow a volume under its running guest, which sees the new size at once (QMP block_resize).

    :param size: Bytes.
    :param path: The volume's.
    """
    return Grow(node.script, node.socket, "block_resize", {"node-name": node.name, "size": size}, stage=0, path=path)
