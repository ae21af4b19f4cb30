# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks, as the module volume takes them."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from ..._core.changes import Change, Item, Observed
from ..._core.errors import ComputeError
from ..._core.layout import DEFAULT_USER, Layout, instance_id, owner_or_none
from ..._core.marks import MARK, mark_command, write_mark
from ..._core.names import name_problem
from ..._core.reconcile import Resource
from ..._core.steps import Do, Remove, Step, user_ids
from ..._core.untrusted import readable
from .. import qcow2
from ..disk_files import (
    Blanks,
    Build,
    CreateImage,
    access_steps,
    begin_file,
    finish_step,
    hand_over,
    keep_aside,
    mark_volume,
    remove_unused,
    unfinished,
)
from ..free_space import Copy, copy_size, lacking_room
from ..sizes import format_size, read_disk_size
from .users import VolumeUsers
from .volumes import (
    Kept,
    Volume,
    offline_growth,
    read_bases,
    read_kept,
    read_volumes,
    remove_kept,
)

MODE = 0o640
REBUILD = (
    "Or make the disk anew, without its data: the playbook ikcloud.compute.rebuild does that with instances, the"
    " module's option rebuild with volumes."
)
THEIRS = "It belongs to QEMU's user, so its guest may have broken out and done that."


class VolumeResource(Resource):
    """qcow2 files in ``lib/volumes``."""

    noun = "volume"
    option = "volumes"
    suboptions = {
        "name": {"type": "str", "required": True},
        "image": {"type": "str"},
        "image_format": {"type": "str", "choices": ["qcow2", "raw"], "default": "qcow2"},
        "size": {"type": "str"},
        "copy": {"type": "bool", "default": False},
    }
    options = {
        "owner": {"type": "str", "default": DEFAULT_USER},
        "aside": {"type": "bool", "default": False},
        "aside_names": {"type": "dict", "default": {}},
        "remove_kept": {"type": "bool", "default": False},
        "rebuild": {"type": "list", "elements": "str", "default": []},
    }
    tools = ("qemu-img",)
    workers = 8  # half of the time they wait for the disk

    def __init__(self, params: Item, users: VolumeUsers) -> None:
        super().__init__(params)
        self.users = users
        self.layout = Layout(self.root)
        self.owner = owner_or_none(params.get("owner") or "")
        self.bases: dict[str, qcow2.Header] = {}
        self.kept: Kept | None = None
        self.rebuild = frozenset(params.get("rebuild") or ())
        self.blanks = Blanks()
        self.deleted: dict[
            str, tuple[str, str]
        ] = {}  # volumes that are missing, while a running instance has their former file open
        self.used_by: dict[str, str] = {}  # which instance has a volume, of those that are in use and may have to go
        self.ending: frozenset[str] = (
            frozenset()
        )  # instances that check mode finds running, and that the run removes before

    def validate_item(self, index: int, item: Item) -> list[str]:
        where = f"volumes[{index}]"
        name, image, size = item["name"], item.get("image"), item.get("size")
        found = [name_problem(f"{where}.name", name)]
        if isinstance(name, str) and name.endswith("-seed"):
            found.append(
                f"{where}.name: {name!r} ends in '-seed', as the instances' seeds in the same folder do; choose"
                " another."
            )
        if image is not None:
            found.append(name_problem(f"{where}.image", image))
        if image is None and item.get("copy"):
            found.append(f"{where}.copy: there is no image to copy; give one.")
        if image is None and size is None:
            found.append(f"{where}.size: an empty volume needs a size; give one, or an image.")
        if size is not None:
            try:
                read_disk_size(size)
            except ValueError as error:
                found.append(f"{where}.size: {error}")
        return [problem for problem in found if problem]

    def validate_list(self, items: list[Item]) -> list[str]:
        names = self.params.get("aside_names") or {}
        return [
            problem for key, name in names.items() for problem in [name_problem(f"aside_names.{key}", name)] if problem
        ]

    def after_apply(self) -> None:
        self.rebuild = frozenset()

    def observe(self, items: list[Item]) -> dict[str, Observed]:
        self.bases = read_bases(self.layout, {str(item["image"]) for item in items if item.get("image")})
        absent = self.params["state"] == "absent"
        sizes = {
            item["name"]: None if absent or item.get("size") is None else read_disk_size(item["size"]) for item in items
        }
        self.kept = read_kept(self.layout) if self.params.get("remove_kept") else None
        found: dict[str, Observed] = {}
        volumes = read_volumes(self.layout, sizes, self.users, removing=absent, rebuilding=self.rebuild)
        for name, volume in volumes.items():
            header = volume.header
            path = self.layout.volume(name)
            props = (
                self._attributes(path, header.virtual_size, header.backing_file, f"{volume.access[0]:04o}")
                if header
                else {"path": path, "unfinished": True}
            )
            found[name] = Observed(props, volume.owned, volume)
        self.deleted = self.users.deleted(
            [] if absent else [name for name in sizes if not (name in volumes and volumes[name].header)]
        )
        self.used_by = self.users.users(
            [name for name, volume in volumes.items() if volume.locked and (absent or name not in sizes)]
        )
        return found

    observe_without_tools = observe  # reading needs no tool

    def _attributes(self, path: str, size: int | None, base: str, mode: str = f"{MODE:04o}") -> Item:
        return {"path": path, "size": "unknown" if size is None else format_size(size), "base": base, "mode": mode}

    def refusal(self, name: str, found: Observed) -> str:
        volume: Volume = found.native
        if not volume.spoilt:
            return ""
        mark = mark_command(self.layout.volume(name), f"volume/{name}")
        remedy = (
            f"If the file is right as it is: `{mark}`; else remove it,"
            if volume.unmarked
            else "If it can't be mended, remove it,"
        )
        return f"volume {name}: {volume.spoilt} {THEIRS} {remedy} and restore a backup or have it made anew."

    def change(self, item: Item, have: Observed | None) -> Change:
        if have is None or have.native.header is None:
            self._check_deleted(item["name"])
            return self._create(item)
        if item["name"] in self.rebuild:
            return self._rebuild(item, have, have.native)
        return self._update(item, have, have.native, have.native.header)

    def _check_deleted(self, name: str) -> None:
        """Refuse to put an empty volume in the place of one whose data only a running QEMU has.

        :raises ComputeError: With the ways out.
        """
        if name in self.deleted:
            (instance, file), path = self.deleted[name], self.layout.volume(name)
            raise ComputeError(
                f"volume {name}: its file {path} was deleted while the instance {instance}, which runs, has it open;"
                " its data would end with that.",
                f"To keep them: pause {instance} (the playbook ikcloud.compute.pause), `cp --preserve=all {file}"
                f" {path}`, then stop it at once (the playbook ikcloud.compute.stop with -e grace=0). To give them up:"
                " stop it. Then run this again.",
            )

    def _create(self, item: Item) -> Change:
        name, image, size = item["name"], item.get("image"), item.get("size")
        path, base_path = self.layout.volume(name), self.layout.image(image) if image else ""
        hidden = unfinished(path)
        base = self.bases.get(image) if image else None
        if base:
            self._check_base(item, base, base_path)
        steps: list[Step] = [begin_file(path, MODE)]
        size = (
            None if size is None else format_size(read_disk_size(size))
        )  # qemu-img does not take all that people write
        sized = (size,) if size is not None else ()
        if image and item["copy"]:
            steps.append(
                Build(
                    ("qemu-img", "convert", "-q", "-f", item["image_format"], "-O", "qcow2", base_path, hidden),
                    made=hidden,
                )
            )
            if (
                size is not None
            ):  # also where it is the image's own: in check mode the image may not be there yet to tell
                steps.append(Build(("qemu-img", "resize", "-q", "-f", "qcow2", hidden, size), made=hidden))
        elif image:
            argv = (
                "qemu-img",
                "create",
                "-q",
                "-f",
                "qcow2",
                "-F",
                item["image_format"],
                "-b",
                base_path,
                hidden,
                *sized,
            )
            steps.append(CreateImage(argv, made=hidden, blanks=self.blanks))
        else:
            steps.append(
                CreateImage(
                    ("qemu-img", "create", "-q", "-f", "qcow2", hidden, *sized), made=hidden, blanks=self.blanks
                )
            )
        steps += [mark_volume(path, name), *hand_over(path, self.owner), finish_step(path)]
        expected = read_disk_size(size) if size is not None else base.virtual_size if base else None
        after = self._attributes(path, expected, "" if item["copy"] else base_path)
        return Change(name, "create", None, after, steps, extra_results={"path": path, "size": expected})

    def _rebuild(self, item: Item, have: Observed, volume: Volume) -> Change:
        """List what puts a new volume in the place of one that is there, which a running QEMU goes on with until it is
        restarted.
        """
        change = self._create(item)
        path, name = self.layout.volume(item["name"]), item["name"]
        aside = bool(self.params.get("aside"))
        change.steps[-1:] = [
            *(self._keep_aside(name, in_use=True) if aside else []),
            finish_step(path, replace=not aside),
        ]
        change.action, change.effect, change.before = "update", "rebuild", have.attributes
        change.reasons = [
            f"it is made anew, as asked for; its former file is {f'kept in {self.layout.kept}' if aside else 'removed'}"
        ]
        change.restart_reason = f"its disk {path} was made anew" if volume.locked else ""
        return change

    def _keep_aside(self, name: str, in_use: bool = False) -> list[Step]:
        stem = "-".join([str(part) for part in [(self.params.get("aside_names") or {}).get(name)] if part] + [name])
        return keep_aside(self.layout.volume(name), self.layout, stem, self.warnings, in_use)

    def _check_base(self, item: Item, base: qcow2.Header, path: str) -> None:
        """Refuse what can't stand on its image, before anything is made.

        :raises ComputeError: When the image has another format than declared, stands on another one itself, or is
            larger.
        """
        name, size = item["name"], item.get("size")
        if base.format != item["image_format"]:
            raise ComputeError(
                f"volume {name}: the image {path} is {base.format}, declared is image_format {item['image_format']}.",
                f"Declare {base.format}.",
            )
        if base.backing_file or base.data_file:
            raise ComputeError(
                f"volume {name}: the image {path} does not hold all of its data itself.",
                "Make it with ikcloud.compute.image, which refuses such a one.",
            )
        if size is not None and read_disk_size(size) < base.virtual_size:
            raise ComputeError(
                f"volume {name}: size {size} is smaller than its image {item['image']}, which has"
                f" {format_size(base.virtual_size)}.",
                f"Declare {format_size(base.virtual_size)} or more.",
            )

    def _update(self, item: Item, have: Observed, volume: Volume, header: qcow2.Header) -> Change:
        name, path = item["name"], self.layout.volume(item["name"])
        trouble = header.trouble(path)
        if trouble:
            raise ComputeError(f"volume {name}: {trouble}")
        try:
            self._check_declared(item, header)
        except ComputeError:
            # What differs from what root made of it, too, is declared otherwise now: the user's mistake. What only the
            # header says is its owner's doing.
            self._check_declared(item, self._as_made(volume, header))
            return Change(name, refusal=self._disbelief(name, volume, header))
        size = read_disk_size(item["size"]) if item.get("size") is not None else header.virtual_size
        steps, reasons = access_steps(path, volume.access, MODE, self.owner)
        restart, after = "", size
        if not volume.marked:
            steps.append(Do(mark_command(path, f"volume/{name}"), lambda: write_mark(path, MARK, f"volume/{name}")))
            reasons.append("it has lost its mark")
        if size > header.virtual_size:
            growth = f"size is {format_size(header.virtual_size)}, declared {item['size']}"
            reasons.append(growth)
            if not volume.locked:
                steps.append(offline_growth(path, format_size(size), header, self._owner_ids(volume)))
            elif volume.resize:
                steps += [*volume.resize.before, volume.resize.step(size, path)]
                reasons += ["an interrupted backup has left its job in QEMU"] if volume.resize.before else []
            else:
                restart = (
                    f"{growth}: its QEMU has no QMP socket below {self.layout.instances} to grow it by; stop the"
                    " instance and run this again"
                )
                after = header.virtual_size
        if volume.leftover:
            steps.append(Remove(unfinished(path)))
            reasons.append("an unfinished one was left over")
        return Change(
            name,
            "update" if steps else "none",
            have.attributes,
            self._attributes(path, after, header.backing_file),
            steps,
            reasons,
            restart,
            extra_results={"path": path, "size": after},
        )

    def _owner_ids(self, volume: Volume) -> tuple[int, int]:
        """Give whose an existing volume is once it has the owner that it is to have."""
        with contextlib.suppress(ComputeError):  # no such user as yet: the step before says so
            return user_ids(self.owner) if self.owner else volume.access[1:]
        return volume.access[1:]

    def _as_made(self, volume: Volume, header: qcow2.Header) -> qcow2.Header:
        """Return a header with what root made of the volume in the place of what it says, as far as that is known."""
        made = volume.made
        if made is None:
            return header
        # It is smaller than it was made after a revert to a snapshot from before it grew.
        size = min(made.size, header.virtual_size)
        return replace(header, virtual_size=size, backing_file=made.base, backing_format=made.base_format)

    def _disbelief(self, name: str, volume: Volume, header: qcow2.Header) -> str:
        """Return what a header claims that root did not make, and what to do about it."""
        made, path = self._as_made(volume, header), self.layout.volume(name)
        size, base = format_size(header.virtual_size), readable(header.backing_file) or "no image"
        claims = []
        if header.virtual_size != made.virtual_size:
            claims.append(f"it has {size}, and it was made with {format_size(made.virtual_size)}")
        if header.backing_file != made.backing_file:
            claims.append(f"it stands on {base}, and it was made on {made.backing_file or 'no image'}")
        elif header.backing_format != made.backing_format:
            claims.append(
                f"its base is {readable(header.backing_format) or 'of no format'}, and it was made on one that is"
                f" {made.backing_format}"
            )
        grown = f" If you have grown it by hand, declare {size}." if header.virtual_size > made.virtual_size else ""
        return (
            f"volume {name}: {path} says that {'; that '.join(claims)}, so what it says can't be believed. {THEIRS}"
            f" Restore a backup or have it made anew.{grown}"
        )

    def _check_declared(self, item: Item, header: qcow2.Header) -> None:
        """Refuse to make another volume of one that is there.

        :raises ComputeError: When another base is declared, or a size that is less.
        """
        self._check_same_base(item, header)
        if item.get("size") is not None and read_disk_size(item["size"]) < header.virtual_size:
            there = format_size(header.virtual_size)
            raise ComputeError(
                f"volume {item['name']} has {there}, declared is {item['size']}: a volume never shrinks, its guest"
                " would lose data.",
                f"Declare {there} or more. {REBUILD}",
            )

    def _check_same_base(self, item: Item, header: qcow2.Header) -> None:
        name = item["name"]
        rebuild = f"Declare what is there. {REBUILD}"
        wanted = self.layout.image(item["image"]) if item.get("image") and not item["copy"] else ""
        if header.backing_file != wanted:
            declared = wanted or (f"a copy of {item['image']}" if item.get("image") else "an empty volume")
            raise ComputeError(
                f"volume {name} stands on {header.backing_file or 'no image'}, declared is {declared}.", rebuild
            )
        if wanted and header.backing_format != item["image_format"]:
            taken = header.backing_format or "whatever QEMU guesses"
            raise ComputeError(
                f"volume {name} takes its base for {taken}, declared is image_format {item['image_format']}.", rebuild
            )

    def remove(self, name: str, have: Observed) -> Change:
        path, volume = self.layout.volume(name), have.native
        steps: list[Step] = []
        aside = bool(volume.header and self.params.get("aside"))
        if aside:
            steps = self._keep_aside(name)
        elif volume.header:
            steps = [remove_unused(path, self.layout.volumes)]
        if volume.leftover:
            steps.append(Remove(unfinished(path)))
        reasons = [f"it is not declared; its file is kept in {self.layout.kept}"] if aside else []
        return Change(name, "delete", have.attributes, None, steps, reasons)

    def shared_changes(self, changes: list[Change], have: dict[str, Observed]) -> list[Change]:
        if self.kept is None:
            return []
        steps, names = remove_kept(self.layout, self.kept), ", ".join(map(readable, self.kept.others))
        left = (
            f"{names} in {self.layout.kept} stays, for it does not bear our mark. Remove it by hand when nobody needs"
            " it any more."
        )
        return [Change("kept", "delete" if steps else "none", steps=steps, warnings=[left] if names else [])]

    def _used(self, name: str, check_mode: bool) -> str:
        user = f"the instance {self.used_by[name]}" if self.used_by[name] else "a running QEMU"
        by = f"volume {name} is in use by {user}"
        if check_mode:
            return f"{by} now; it is removed only once that has ended, or given it up."
        if instance_id(name):
            return f"{by}; nothing was removed. Stop or remove the instance first."
        return (
            f"{by}; nothing was removed. Unmount it in the guest and detach it first: take it out of the instance's"
            " volumes."
        )

    def _lacking_room(self, items: list[dict[str, Any]]) -> list[str]:
        sizes = {
            name: copy_size(self.layout.image(name), self.bases[name].format)
            for name in {item["image"] for item in items}
        }
        copies = [
            Copy(
                f"volume {item['name']}, a full copy of its image {item['image']},",
                self.layout.volumes,
                sizes[item["image"]],
            )
            for item in items
        ]
        return lacking_room(copies, ", or leave out copy")

    def missing_prerequisites(self, changes: list[Change], check_mode: bool) -> list[str]:
        leaving = [change.name for change in changes if change.action == "delete"]
        used = [
            self._used(name, check_mode)
            for name in leaving
            if name in self.used_by and self.used_by[name] not in self.ending
        ]
        if self.params["state"] == "absent":
            return used
        creating = {change.name for change in changes if change.action == "create" or change.effect == "rebuild"}
        items: list[dict[str, Any]] = [item for item in self.params["volumes"] if item["name"] in creating]
        used += self._lacking_room([item for item in items if item["copy"] and item["image"] in self.bases])
        if check_mode:
            return used
        if creating and self.owner:
            user_ids(self.owner)  # else a volume would be made that can't be handed over
        return used + [
            f"volume {item['name']}: its image {self.layout.image(item['image'])} is not there; put it there first with"
            " ikcloud.compute.image."
            for item in items
            if item.get("image") and item["image"] not in self.bases
        ]
