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

from ..._core.commands import as_owner, run
from ..._core.errors import ComputeError
from ..._core.layout import Layout, instance_id
from ..._core.marks import MARK, forget_marks, read_mark, sidecar
from ..._core.steps import Do, Stage, Step, remove_file
from .. import qcow2
from ..disk_files import access_of, finished_name
from ..made import Made, read_made, record_growth
from ..sizes import read_disk_size
from .users import OnlineResize, VolumeUsers

# What is kept aside has the time in its name.
_KEPT = re.compile(r"(.+)-[0-9]{8}T[0-9]{6}Z\.img")


@dataclass(frozen=True)
class Volume:
    """A volume as it is on the disk.

    :ivar header: None for one that was never finished, and for what is no volume at all.
    :ivar owned: Whether we made it (see the documentation of the module ``volume``).
    :ivar marked: Whether it carries our mark.
    :ivar locked: Whether a QEMU has it open; looked at only where that matters.
    :ivar resize: How it can be grown while its guest runs, if it can.
    :ivar leftover: Whether an unfinished file is beside it.
    :ivar spoilt: What QEMU's user, whose file it is, has done to it so that nothing can be done with it; "" for
        nothing.
    :ivar unmarked: Whether that is only that it has lost its mark.
    :ivar made: What it was made as, of one whose header its owner, QEMU's user, may have written; None where nobody
        knows.
    """

    header: qcow2.Header | None
    access: tuple[int, int, int] = (0o640, 0, 0)
    owned: bool = True
    marked: bool = True
    locked: bool = False
    resize: OnlineResize | None = None
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
    """List what removes the volumes that were kept aside, after the others, and their folder where nothing else is in
    it.
    """
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

    return [Do("; ".join(typed), remove, stage=Stage.REMOVE)] if typed else []


def _is_kept(path: str) -> bool:
    """Tell whether a file in the folder of those kept aside is one that we have put there, by its mark, which says its
    name, too.
    """
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


def read_volumes(
    layout: Layout,
    sizes: Mapping[str, int | None],
    users: VolumeUsers,
    removing: bool = False,
    rebuilding: Container[str] = (),
) -> dict[str, Volume]:
    """Read every volume that is ours, and whatever else bears a listed name.

    :param sizes: The listed volumes and the sizes in bytes that are declared for them.
    :param users: Those who may have one open.
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
        leaving = removing or name in rebuilding or name not in sizes
        volume = _read(layout, name, name in sizes, sizes.get(name), users, leaving, f".{file}.new" in files)
        if volume:
            found[name] = volume
    return found


def _read(
    layout: Layout, name: str, listed: bool, size: int | None, users: VolumeUsers, leaving: bool, leftover: bool
) -> Volume | None:
    """Read one volume; None for one that is neither ours nor listed."""
    path = layout.volume(name)
    marked = read_mark(path, MARK) == f"volume/{name}"
    if not marked and not listed:
        return None
    foreign = Volume(None, owned=False)
    theirs = False
    try:
        access = access_of(path)
        # Nobody but root puts a file here. What is wrong with one that QEMU's user can write to may be that user's
        # doing, and stops no other.
        theirs = not leaving and access[1] not in (0, os.geteuid())
        header = qcow2.read_header(path)
    except ComputeError as error:
        return Volume(None, spoilt=str(error)) if theirs else foreign
    except OSError:
        return foreign
    if os.path.islink(path) or header.format != "qcow2" or not (marked or instance_id(name)):
        what = "is no qcow2 image any more" if header.format != "qcow2" else "does not bear our mark"
        return (
            Volume(None, spoilt=f"{path} {what}.", unmarked=header.format == "qcow2")
            if theirs and not os.path.islink(path)
            else foreign
        )
    if theirs and (trouble := header.trouble(path)):
        return Volume(None, spoilt=trouble)
    locked = (leaving or (size is not None and size > header.virtual_size)) and qcow2.is_locked(path)
    resize = users.online_resize(name, path) if locked and not leaving else None
    return Volume(header, access, True, marked, locked, resize, leftover, made=read_made(path) if theirs else None)


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
