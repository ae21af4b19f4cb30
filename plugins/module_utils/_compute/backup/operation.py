# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of instances' disks to files and back, for the module ``backup``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..._core.changes import Change, Item, Observed
from ..._core.commands import as_owner
from ..._core.errors import ComputeError
from ..._core.layout import DEFAULT_USER, owner_or_none
from ..._core.marks import MARK, read_mark, sidecar
from ..._core.names import name_problem
from ..._core.steps import MakeFolder, Remove, Run, Stage, Step
from ..._qemu.qmp.jobs import Dismiss
from ..._storage import qcow2
from ..._storage.disk_files import Build, begin_file, finish_step, hand_over, mark_step, mark_volume, unfinished
from ..._storage.free_space import Copy, copy_size, existing, lacking_room
from ..disks import Disk, Disks, OnDisk, base_of, declared_disks, disk_owner, read_disks, read_work, sound_header
from ..instance.checks import path_problem
from ..instance.instances import Instance, gone_instance
from ..instance_operation import Chosen, InstanceOperation, chosen_spec, missing_name
from ..snapshot.snapshots import Snapshot, own_snapshots, read_snapshots
from . import steps as backup_steps
from .steps import JOB, NODE, CopyDisk, TakeOver, begin_target, check_step, end_copy

# What the module ``volume`` gives a volume.
VOLUME_MODE = 0o640
NONE = Disks(Disk("", ""))


@dataclass(frozen=True)
class State:
    """What there is of an instance and of the backup in question.

    :ivar disks: Where there is to be one more backup, what QEMU has if it runs; to restore one, what ``start`` names;
        else none.
    :ivar header: What the instance's own disk says of itself, where it is to be backed up.
    :ivar owner: The user and the group that it belongs to then, as numbers.
    :ivar base: The image that the restored disk is to stand on, and its format; both "" for none. ``doubt`` says why
        the present disk does not tell it.
    :ivar jobs: As :class:`Disks` has them, with ``nodes``.
    :ivar there: Whether a file is at ``path``; ``ours`` whether it bears our mark.
    :ivar left: What interrupted runs have left.
    :ivar alone: Whether nothing else is in its folder.
    """

    path: str
    there: bool
    ours: bool
    left: tuple[str, ...]
    alone: bool
    disks: Disks = NONE
    header: qcow2.Header = field(default_factory=lambda: qcow2.Header("raw", 0))
    owner: tuple[int, int] = (0, 0)
    base: tuple[str, str] = ("", "")
    doubt: str = ""
    jobs: frozenset[str] = field(default_factory=frozenset)
    nodes: frozenset[str] = field(default_factory=frozenset)


class BackupOperation(InstanceOperation):
    """One backup, by its name, of each of some instances. All is one stage."""

    spec = chosen_spec(
        ["present", "created", "absent", "restored"],
        name={"type": "str", "required": True},
        folder={"type": "path"},
        compress={"type": "bool", "default": False},
        aside={"type": "bool", "default": True},
    )
    tools = ("qemu-img",)
    warns_of_refusals = (
        True  # the playbooks look at all nodes first, and what is wrong with one instance stops no other
    )

    def __init__(self, params: Item) -> None:
        super().__init__(params)
        self.folder: str = params["folder"] or self.layout.backups

    def validate(self) -> list[str]:
        return [
            problem
            for problem in (missing_name("backup", self.params["name"]), path_problem("folder", self.folder))
            if problem
        ]

    def observe(self, names: list[str], earlier: Mapping[str, Observed]) -> dict[str, Observed]:
        removing = self.params["state"] == "absent"  # of an instance that is gone, too
        found = self.choose(names, earlier, needed=not removing)
        for name in [name for name in names if name not in found]:
            if problem := name_problem("instances", name):
                raise ComputeError(problem)
            found[name] = Observed({"id": "", "power": "absent"}, True, Chosen(gone_instance(name)))
        self.examine(found, self._look)
        return found

    def _look(self, _called: str, have: Observed) -> State:
        """Read an instance's disk and its backups.

        :raises ComputeError: When its QEMU can't be asked, or its disk is not as it should be.
        """
        state = self._read(have.native.instance)
        have.attributes["backups"] = backup_steps.names_in(os.path.dirname(state.path))
        return state

    def _read(self, now: Instance) -> State:
        path = backup_steps.backup_path(self.folder, now.name, self.params["name"])
        target = backup_steps.target_path(self.layout, now.id)
        left = [
            *([target] if now.id and os.path.lexists(target) else []),
            *backup_steps.left_behind(os.path.dirname(path)),
        ]
        ours = read_mark(path, MARK) == self._mark(now)
        alone = backup_steps.nothing_but(os.path.dirname(path), [path, sidecar(path), *left])
        state = State(path, os.path.lexists(path), ours, tuple(left), alone)
        # A disk or a QEMU that is not as it should be is in the way of nothing but a new backup.
        if self.params["state"] == "restored":
            disks = declared_disks(now)
            base, base_format, doubt = ("", "", "") if now.pid else self._base(now, disks.own)
            return replace(state, disks=disks, base=(base, base_format), doubt=doubt)
        if self.params["state"] == "absent" or state.there:
            jobs, nodes = read_work(now, self.where(now).qmp)
            return replace(state, jobs=jobs, nodes=nodes)
        disks = read_disks(now, self.where(now).qmp)
        header, owner = (
            sound_header(disks.own, self.layout, now.folder),
            disk_owner(disks.own.path, self.layout, now.folder),
        )
        return replace(state, disks=disks, header=header, owner=owner, jobs=disks.jobs, nodes=disks.nodes)

    def _base(self, now: Instance, own: Disk) -> tuple[str, str, str]:
        """Return the image that a restored disk is to be backed by, its format, and why that is not the present disk's.

        It is that of the disk that is there, else what the instance was declared with.
        """
        said = ""
        try:
            base = base_of(own.path, sound_header(own, self.layout, now.folder))
        except ComputeError as error:
            image = now.labels.get("image")  # the start script is QEMU's user's to write
            stands = (
                own.format == "qcow2"
                and isinstance(image, str)
                and not now.labels.get("copy")
                and not name_problem("image", image)
            )
            base = self.layout.image(str(image)) if stands else ""
            said = str(error)
        try:
            base_format = qcow2.read_header(base).format if base else ""
        except (OSError, ComputeError):
            base, base_format, said = "", "", said or f"its image {base} can't be read."
        return base, base_format, said

    def plan(self, called: str, have: Observed) -> Change:
        name, wanted = self.params["name"], self.params["state"]
        now: Instance = have.native.instance
        state: State = have.native.state
        change = Change(
            called,
            "update",
            have.attributes,
            dict(have.attributes),
            extra_results={"id": now.id, "backup": name, "path": state.path},
            native=have.native,
        )
        if wanted == "restored":
            self._restore(change, now, state, have)
        elif state.there and not state.ours:
            raise ComputeError(
                f"{state.path} is there and ikcloud.compute did not make it; it was not touched.",
                "Take another name or another folder.",
            )
        elif wanted == "absent":
            beside = sidecar(state.path)
            change.reasons += (
                ["the backup is there"]
                if state.there
                else ["an unfinished one was left over"]
                if state.left or state.alone
                else []
            )
            found = [*([state.path] if state.there else []), *([beside] if os.path.lexists(beside) else [])]
            change.steps = [*self._clear(now, state), *(Remove(path) for path in found)]
            if state.alone:  # so that nothing of it is left
                folders = (os.path.dirname(state.path), *([self.folder] if self.folder == self.layout.backups else []))
                change.steps.append(Run(("rmdir", "--ignore-fail-on-non-empty", *folders)))
            change.after = {
                **have.attributes,
                "backups": [other for other in have.attributes["backups"] if other != name],
            }
        elif not state.there:
            if blocked := backup_steps.in_the_way(os.path.dirname(state.path)):
                raise ComputeError(
                    f"instance {called}: its backup can't be made, {blocked} is no folder; nothing was changed.",
                    "Give another folder (to the playbook with -e backup_folder=PATH), or move that away.",
                )
            change.reasons.append("the backup is not there")
            change.after = {**have.attributes, "backups": sorted([*have.attributes["backups"], name])}
            change.steps = self._create(now, state)
            others = [disk.path for disk in state.disks.others]
            if others:
                change.warnings.append(
                    f"instance {called}: its further disks are not in the backup: {', '.join(others)}."
                )
        elif wanted == "created":
            raise ComputeError(
                f"instance {called} has a backup {name} already, {state.path}; nothing was changed.",
                "Take another name, or delete it first (state=absent).",
            )
        if not change.steps and wanted != "restored":
            change.steps = self._clear(now, state)
            change.reasons += ["an unfinished one was left over"] if change.steps else []
        change.action = "update" if change.steps else "none"
        return change

    def _create(self, now: Instance, state: State) -> list[Step]:
        steps: list[Step] = [MakeFolder(os.path.dirname(state.path), mode=0o700), *self._clear(now, state)]
        return steps + (self._copy_running(now, state) if now.pid else self._copy(now, state))

    def _clear(self, now: Instance, state: State) -> list[Step]:
        """List what clears away what interrupted runs have left, in QEMU first: it may still be writing."""
        ending = end_copy(self.script(now), self.where(now).qmp, state.jobs, state.nodes, stage=Stage.FILES)
        return [*ending, *(Remove(path) for path in state.left)]

    def _copy(self, now: Instance, state: State) -> list[Step]:
        """Copy a disk that no QEMU has open, into one file that stands on no image.

        Its owner may write to it at any time, so the copy is made by that user's rights, where that user can write.
        """
        target = backup_steps.target_path(self.layout, now.id)
        compressed = ("-c",) if self.params["compress"] else ()
        convert = (
            *as_owner(*state.owner),
            "qemu-img",
            "convert",
            "-q",
            *compressed,
            "-f",
            state.disks.own.format,
            "-O",
            "qcow2",
            state.disks.own.path,
            target,
        )
        return [
            *begin_target(target, state.owner),
            OnDisk(
                convert, made=target, disk=state.disks.own, layout=self.layout, folder=now.folder, found=state.header
            ),
            *self._keep(now, state, target),
        ]

    def _copy_running(self, now: Instance, state: State) -> list[Step]:
        """Have QEMU copy a disk while its guest writes to it: what is copied is the disk at the moment of the
        beginning.
        """
        target = backup_steps.target_path(self.layout, now.id)
        script, socket = self.script(now), self.where(now).qmp
        job = {
            "job-id": JOB,
            "device": state.disks.own.node,
            "target": NODE,
            "sync": "full",
            "compress": self.params["compress"],
            "auto-dismiss": False,
        }
        steps: list[Step] = [
            *begin_target(target, state.owner),
            Build(
                (
                    *as_owner(*state.owner),
                    "qemu-img",
                    "create",
                    "-q",
                    "-f",
                    "qcow2",
                    target,
                    str(state.header.virtual_size),
                ),
                made=target,
            ),
            self.ask(
                now,
                "blockdev-add",
                {"driver": "qcow2", "node-name": NODE, "file": {"driver": "file", "filename": target}},
                stage=Stage.FILES,
            ),
            CopyDisk(script, socket, "blockdev-backup", job, stage=Stage.FILES, made=target),
            Dismiss(script, socket, "job-dismiss", {"id": JOB}, stage=Stage.FILES),
            self.ask(now, "blockdev-del", {"node-name": NODE}, stage=Stage.FILES),
        ]
        return [*steps, *self._keep(now, state, target)]

    def _keep(self, now: Instance, state: State, target: str) -> list[Step]:
        """List what makes a backup of a copy that the disk's owner has written."""
        hidden = unfinished(state.path)
        return [
            TakeOver(target, hidden),
            check_step(hidden),
            mark_step(state.path, self._mark(now)),
            finish_step(state.path),
        ]

    def _restore(self, change: Change, now: Instance, state: State, have: Observed) -> None:
        called, name, own = change.name, self.params["name"], state.disks.own
        if now.pid or have.attributes["power"] != "stopped":
            raise ComputeError(
                f"instance {called} is {have.attributes['power']}; a backup is restored only while it is off;"
                " nothing was changed.",
                "Power it off first: ikcloud.compute.instance_power with state=stopped, or the playbook"
                " ikcloud.compute.stop.",
            )
        if own.path != self.layout.volume(f"compute-{now.id}"):
            raise ComputeError(
                f"instance {called}: its disk {own.path} was declared with a path of its own.",
                f"Restore it by hand: `qemu-img convert -O FORMAT {state.path} NEW`, where only root may write; then"
                " move NEW to where you declared the disk.",
            )
        self._check_backup(called, state, have)
        if state.doubt:
            stands = f"on the image {state.base[0]}" if state.base[0] else "on no image"
            change.warnings.append(f"instance {now.name}: {state.doubt} Its disk is restored all the same, {stands}.")
        hidden, owner = unfinished(own.path), owner_or_none(now.owner or DEFAULT_USER)
        base, base_format = state.base
        backing = ("-B", base, "-F", base_format) if base else ()
        aside = self.params["aside"] and os.path.lexists(own.path)
        change.reasons.append(f"asked to be as in the backup {name}")
        change.steps = [
            *self._clear(now, state),
            begin_file(own.path, VOLUME_MODE),
            Build(
                ("qemu-img", "convert", "-q", "-f", "qcow2", "-O", own.format, *backing, state.path, hidden),
                made=hidden,
            ),
            *([check_step(hidden, base)] if own.format == "qcow2" else []),
            mark_volume(own.path, f"compute-{now.id}"),
            *(
                backup_steps.keep_former(own.path, self.layout, f"{now.name}-compute-{now.id}", self.warnings)
                if aside
                else []
            ),
            *hand_over(own.path, owner),
            finish_step(own.path, replace=True, unused=True),
        ]
        lost: dict[str, Snapshot] = {}
        with contextlib.suppress(ComputeError):  # a broken disk
            lost = own_snapshots(now.id, read_snapshots(own.path, self.root))
        if lost:
            where = "go with the disk that is kept aside" if aside else "are lost"
            change.warnings.append(f"instance {called}: its snapshots {', '.join(lost)} {where}.")

    def missing_prerequisites(self, changes: list[Change], check_mode: bool) -> list[str]:
        wanted = self.params["state"]
        if wanted == "absent":
            return []
        copies = [copy for change in changes for copy in self._copies(change.name, change.native)]
        return lacking_room(
            copies, "" if wanted == "restored" else ", or take another folder (folder; of the playbook backup_folder)"
        )

    def _copies(self, name: str, chosen: Chosen) -> list[Copy]:
        """List the copies that are to be made; of a compressed one nobody can tell its size."""
        state: State = chosen.state
        now = chosen.instance
        if self.params["state"] == "restored":
            return [Copy(f"instance {name}: its disk", self.layout.volumes, copy_size(state.path, "qcow2"))]
        if state.there or self.params["compress"]:
            return []
        own = state.disks.own
        size = copy_size(own.path, own.format, as_owner(*state.owner), in_use=bool(now.pid))
        # It is made beside the volumes, and stays one where the backups are on the same filesystem.
        folders = {
            os.stat(existing(folder)).st_dev: folder for folder in (self.layout.volumes, os.path.dirname(state.path))
        }
        return [Copy(f"instance {name}: its backup", folder, size) for folder in folders.values()]

    def _check_backup(self, called: str, state: State, have: Observed) -> None:
        """Refuse to restore what is no whole disk: what a backup refers to would be read with our rights."""
        known = ", ".join(have.attributes["backups"])
        if not state.there:
            raise ComputeError(
                f"instance {called} has no backup {state.path}; nothing was changed.",
                f"There is: {known}." if known else "There is none there.",
            )
        try:
            header = qcow2.read_header(state.path)
        except OSError as error:
            raise ComputeError(f"{state.path} can't be read: {error.strerror}.") from None
        entry = os.stat(state.path)
        if os.geteuid() == 0 and (entry.st_uid != 0 or entry.st_mode & (0o002 if entry.st_gid == 0 else 0o022)):
            raise ComputeError(
                f"{state.path} can be changed by others than root while it is restored; nothing was changed.",
                f"`chown root:root {state.path}; chmod 600 {state.path}`, if you trust what it holds by now.",
            )
        if not header.whole:
            raise ComputeError(
                f"{state.path} is not a whole qcow2 image that holds all of its data itself; nothing was changed.",
                "Take another backup.",
            )

    def unmet(self, change: Change, before: Observed, now: Observed | None) -> str:
        name, wanted = self.params["name"], self.params["state"]
        if now is None:
            return f"{change.name} is not there any more"
        state: State = now.native.state
        # That a backup was restored nothing shows.
        if wanted == "absent":
            return f"{state.path} is still there" if state.there else ""
        if wanted in ("present", "created") and not (state.there and state.ours):
            return f"there is no backup {name}"
        return f"{state.left[0]} is still there" if state.left else ""

    def _mark(self, now: Instance) -> str:
        return f"backup/{now.name}/{self.params['name']}"
