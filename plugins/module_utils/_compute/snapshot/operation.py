# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of instances, for the module ``snapshot``.

A snapshot is there when the instance's own disk holds it. That disk comes last when one is made and first when one is
deleted, so what a killed run leaves on other disks is known for what it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..._core.changes import Change, Observed
from ..._core.commands import as_owner
from ..._core.errors import ComputeError
from ..._core.steps import Stage, Step
from ..._qemu.qmp.jobs import Abort, Dismiss, Job
from ..._storage.qcow2 import Header, is_locked
from ..backup.steps import end_copy
from ..disks import Disk, Disks, OnDisk, disk_owner, read_disks, sound_header
from ..instance.instances import Instance
from ..instance_operation import InstanceOperation, chosen_spec, missing_name
from ..volumes import Instances
from .snapshots import Snapshot, elsewhere, own_snapshots, read_snapshots, tag_of

JOB = "ikcloud-snapshot"
# What QEMU says once all disks are at the snapshot (load_snapshot in its migration/savevm.c). Before that, it may have
# reverted some of them.
AFTER_DISKS = ("while loading VM state", "Could not open VM state file")
RELOAD = (
    "Its disks stand at the snapshot, its guest is held. Restart it to have it boot from them:"
    " ikcloud.compute.instance_power with state=restarted, grace=0."
)
AGAIN = (
    "Its guest is held, and its disks may be of different times now. Power it off (ikcloud.compute.instance_power with"
    " state=stopped, grace=0) and revert once more: while it is off, that takes the disks alone."
)


@dataclass(frozen=True)
class State:
    """What there is of an instance.

    :ivar held: By tag what its own disk holds; ``parts`` the paths of all its disks that hold the snapshot in question.
    :ivar gone: That snapshot in volumes that were detached since, by path; looked for only where it matters.
    :ivar stuck: Why it can't be deleted there, by path.
    :ivar sound: The disks that qemu-img is to work on as they were found, with the user and the group by whose rights.
    """

    disks: Disks
    held: dict[str, Snapshot]
    parts: frozenset[str]
    gone: dict[str, Snapshot]
    stuck: dict[str, str] = field(default_factory=dict)
    sound: dict[str, tuple[Header, tuple[int, int]]] = field(default_factory=dict)


class SnapshotOperation(InstanceOperation):
    """One snapshot, by its name, of each of some instances."""

    spec = chosen_spec(
        ["present", "created", "absent", "reverted"],
        name={"type": "str", "required": True},
        restart={"type": "str", "choices": ["never", "when_required"], "default": "never"},
    )
    tools = ("qemu-img",)
    warns_of_refusals = (
        True  # the playbooks look at all nodes first, and what is wrong with one instance stops no other
    )

    def validate(self) -> list[str]:
        return [problem for problem in (missing_name("snapshot", self.params["name"]),) if problem]

    def observe(self, names: list[str], earlier: Mapping[str, Observed]) -> dict[str, Observed]:
        found = self.choose(names, earlier)
        self.examine(found, self._read)
        return found

    def _read(self, _called: str, have: Observed) -> State:
        """Read an instance's disks and the snapshots in them.

        :raises ComputeError: When its QEMU can't be asked, or one of its disks is not as it should be.
        """
        name, wanted = self.params["name"], self.params["state"]
        now: Instance = have.native.instance
        disks = read_disks(now, self.where(now).qmp)
        every = (disks.own, *disks.others)
        at_rest = [
            disk for disk in every if disk.format == "qcow2" and (not now.pid or self.params["restart"] != "never")
        ]
        sound = {disk.path: self._sound(disk, now) for disk in at_rest}
        held = {disk.path: read_snapshots(disk.path, self.root) for disk in every}
        parts = frozenset(path for path, tags in held.items() if tag_of(now.id, name) in tags)
        gone = elsewhere(self.layout, tag_of(now.id, name), held) if wanted in ("reverted", "absent") else {}
        stuck: dict[str, str] = {}
        if wanted == "absent":
            stuck, freed = self._detached(now, gone)
            sound.update(freed)
        own = held[disks.own.path]
        have.attributes["snapshots"] = list(own_snapshots(now.id, own))
        return State(disks, own, parts, gone, stuck, sound)

    def _sound(self, disk: Disk, now: Instance) -> tuple[Header, tuple[int, int]]:
        return sound_header(disk, self.layout, now.folder), disk_owner(disk.path, self.layout, now.folder)

    def _detached(
        self, now: Instance, gone: Iterable[str]
    ) -> tuple[dict[str, str], dict[str, tuple[Header, tuple[int, int]]]]:
        """Return from which detached volumes the snapshot can't be deleted, and why; and what the others are."""
        names = {path: os.path.basename(path)[: -len(".img")] for path in gone if is_locked(path)}
        users = Instances(self.layout).users(names.values())
        by = {path: f"the instance {users[name]}" if users[name] else "a running QEMU" for path, name in names.items()}
        stuck = {
            path: f"it is in use by {user}. Delete the snapshot once more when that has ended."
            for path, user in by.items()
        }
        sound = {}
        for path in gone:
            try:
                sound[path] = self._sound(Disk(path, "qcow2"), now)
            except ComputeError as error:
                stuck[path] = str(error)
        return stuck, sound

    def plan(self, called: str, have: Observed) -> Change:
        name, wanted = self.params["name"], self.params["state"]
        now: Instance = have.native.instance
        state: State = have.native.state
        there = state.disks.own.path in state.parts
        change = Change(
            called, "update", have.attributes, dict(have.attributes), extra_results={"id": now.id, "snapshot": name}
        )
        if wanted == "reverted":
            self._revert(change, have, state, there)
        elif wanted == "absent":
            if state.parts:
                change.reasons.append(f"the snapshot {name} is there")
                change.after = {
                    **have.attributes,
                    "snapshots": [other for other in have.attributes["snapshots"] if other != name],
                }
                change.steps = self._delete(now, state)
            # What only a detached volume has takes its space, and no list of an instance's snapshots shows it.
            left = [path for path in state.gone if path not in state.stuck]
            change.reasons += [f"{path}, which was detached since, has the snapshot {name}" for path in left]
            change.steps += [self._qemu_img("-d", now, state, Disk(path, "qcow2")) for path in left]
            change.warnings += [
                f"instance {called}: its snapshot {name} stays in {path}, which was detached since: {why}"
                for path, why in state.stuck.items()
            ]
        elif not there:
            change.reasons.append(f"there is no snapshot {name}")
            change.after = {**have.attributes, "snapshots": [*have.attributes["snapshots"], name]}
            change.steps = [*(self._delete(now, state) if state.parts else []), *self._create(called, now, state)]
        elif wanted == "created":
            taken = own_snapshots(now.id, state.held)[name].facts(name)["created"]
            raise ComputeError(
                f"instance {called} has a snapshot {name} already, of {taken}; nothing was changed.",
                "Take another name, or delete it first (state=absent).",
            )
        if any(isinstance(step, Job) for step in change.steps):
            # A disk that a backup copies can't be reverted, and QEMU notices only after it has reverted those before
            # it.
            ending = end_copy(self.script(now), self.where(now).qmp, state.disks.jobs, state.disks.nodes, Stage.CHANGE)
            change.reasons += ["an interrupted backup has left its job in QEMU"] if ending else []
            change.steps = [*ending, *change.steps]
        if JOB in state.disks.jobs:
            change.reasons.append("an interrupted run has left its job in QEMU")
            change.steps.insert(0, Abort(self.script(now), self.where(now).qmp, JOB, stage=Stage.CHANGE))
        change.action = "update" if change.steps else "none"
        return change

    def _create(self, called: str, now: Instance, state: State) -> list[Step]:
        disks = [*state.disks.others, state.disks.own]
        raw = [disk.path for disk in disks if disk.format != "qcow2"]
        if raw:
            raise ComputeError(
                f"instance {called}: its disk {', '.join(raw)} is raw, which holds no snapshots; nothing was changed.",
                "Detach it first, or make a backup instead (ikcloud.compute.backup).",
            )
        if now.pid:
            return self._job(now, "snapshot-save", disks, {"vmstate": state.disks.own.node})
        return [self._qemu_img("-c", now, state, disk) for disk in disks]

    def _delete(self, now: Instance, state: State) -> list[Step]:
        disks = [disk for disk in (state.disks.own, *state.disks.others) if disk.path in state.parts]
        if now.pid:
            return self._job(now, "snapshot-delete", disks)
        return [self._qemu_img("-d", now, state, disk) for disk in disks]

    def _revert(self, change: Change, have: Observed, state: State, there: bool) -> None:
        called, name = change.name, self.params["name"]
        now: Instance = have.native.instance
        if not there:
            known = ", ".join(have.attributes["snapshots"]) or "none"
            raise ComputeError(
                f"instance {called} has no snapshot {name}; there is {known}.",
                "" if known == "none" else "Take one of these.",
            )
        later = [disk.path for disk in state.disks.others if disk.path not in state.parts]
        if later:
            raise ComputeError(
                f"instance {called}: the snapshot {name} does not have its disk {', '.join(later)}; nothing was"
                " changed.",
                "Detach that first, or the guest would find disks of different times.",
            )
        disks = [*state.disks.others, state.disks.own]
        taken = own_snapshots(now.id, state.held)[name]
        memory = taken.memory > 0
        # QEMU gives all disks the same time when it takes one with the memory; what differs is left of another one.
        gone = ", ".join(path for path, entry in state.gone.items() if memory and entry.seconds == taken.seconds)
        change.reasons.append(f"asked to be as in the snapshot {name}")
        if now.pid and gone:
            raise ComputeError(
                f"instance {called}: the memory in its snapshot {name} has the disk {gone}, which was detached since;"
                " nothing was changed.",
                "Attach it again, or power the instance off first (ikcloud.compute.instance_power with state=stopped):"
                " then its disks alone are reverted.",
            )
        if now.pid and memory:
            change.steps = self._job(now, "snapshot-load", disks, {"vmstate": state.disks.own.node}, hint_of)
        elif now.pid:
            if self.params["restart"] != "when_required":
                raise ComputeError(
                    f"instance {called} runs, and its snapshot {name}, taken while it was off, can be reverted to only"
                    " while it is off; nothing was changed.",
                    "Power it off first (ikcloud.compute.instance_power with state=stopped), or set"
                    " restart=when_required.",
                )
            change.effect = "restart"
            # What it is at is thrown away, so there is no need to wait for its guest.
            change.steps = [
                *self.halt(now, 0),
                *(self._qemu_img("-a", now, state, disk) for disk in disks),
                *self.start(now),
            ]
        else:
            change.steps = [self._qemu_img("-a", now, state, disk) for disk in disks]
            if memory:
                change.warnings.append(
                    f"instance {called} is off, so it is reverted without the memory in its snapshot {name} and will"
                    " boot. To have that, revert while it runs."
                )
            if gone:
                change.warnings.append(
                    f"instance {called}: {gone} was detached since the snapshot {name}, and stays as it is."
                )

    def _job(
        self,
        now: Instance,
        command: str,
        disks: list[Disk],
        more: dict[str, Any] | None = None,
        hint: Callable[[str], str] = lambda _failed: "",
    ) -> list[Step]:
        script, socket = self.script(now), self.where(now).qmp
        arguments = {
            "job-id": JOB,
            "tag": tag_of(now.id, self.params["name"]),
            **(more or {}),
            "devices": [disk.node for disk in disks],
        }
        return [
            Job(script, socket, command, arguments, stage=Stage.WORK, hint=hint),
            Dismiss(script, socket, "job-dismiss", {"id": JOB}, stage=Stage.WORK),
        ]

    def _qemu_img(self, action: str, now: Instance, state: State, disk: Disk) -> Step:
        header, owner = state.sound[disk.path]
        argv = (
            *as_owner(*owner),
            "qemu-img",
            "snapshot",
            "-q",
            action,
            tag_of(now.id, self.params["name"]),
            disk.path,
        )
        return OnDisk(argv, stage=Stage.WORK, disk=disk, layout=self.layout, folder=now.folder, found=header)

    def unmet(self, change: Change, before: Observed, now: Observed | None) -> str:
        name, wanted = self.params["name"], self.params["state"]
        if now is None:
            return f"{change.name} is not there any more"
        state: State = now.native.state
        # That it was reverted nothing shows.
        if wanted == "absent" and (state.parts or set(state.gone) - set(state.stuck)):
            return f"the snapshot {name} is still there"
        if wanted in ("present", "created") and state.disks.own.path not in state.parts:
            return f"there is no snapshot {name}"
        return f"the job {JOB} is still there" if JOB in state.disks.jobs else ""


def hint_of(failed: str) -> str:
    """Say what to do when QEMU could not load a snapshot, given its words."""
    return RELOAD if any(words in failed for words in AFTER_DISKS) else AGAIN
