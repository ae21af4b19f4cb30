# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of instances, for the module ``snapshot``.

A snapshot is there when the instance's own disk holds it. That disk comes last when one is made and first when one is deleted, so what a killed
run leaves on other disks is known for what it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.ikcloud.compute.plugins.module_utils.backup_steps import end_copy
from ansible_collections.ikcloud.compute.plugins.module_utils.chosen import STAGE_STOP, STAGE_WORK, ChosenKind, chosen_spec, missing_name
from ansible_collections.ikcloud.compute.plugins.module_utils.commands import as_owner
from ansible_collections.ikcloud.compute.plugins.module_utils.disks import Disk, Disks, OnDisk, disk_owner, read_disks, sound_header
from ansible_collections.ikcloud.compute.plugins.module_utils.engine import Change, Found, Item
from ansible_collections.ikcloud.compute.plugins.module_utils.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils.instances import Instance
from ansible_collections.ikcloud.compute.plugins.module_utils.jobs import Abort, Dismiss, Job
from ansible_collections.ikcloud.compute.plugins.module_utils.qcow2 import Header, is_locked
from ansible_collections.ikcloud.compute.plugins.module_utils.snapshots import Snapshot, elsewhere, own_snapshots, read_snapshots, tag_of
from ansible_collections.ikcloud.compute.plugins.module_utils.steps import Step
from ansible_collections.ikcloud.compute.plugins.module_utils.volumes import users_of_volumes

JOB = "ikcloud-snapshot"
# What QEMU says once all disks are at the snapshot (load_snapshot in its migration/savevm.c). Before that, it may have reverted some of them.
AFTER_DISKS = ("while loading VM state", "Could not open VM state file")
RELOAD = (
    "Its disks stand at the snapshot, its guest is held. Restart it to have it boot from them: ikcloud.compute.instance_power with state=restarted, grace=0."
)
AGAIN = (
    "Its guest is held, and its disks may be of different times now. Power it off (ikcloud.compute.instance_power with state=stopped, grace=0) and revert "
    "once more: while it is off, that takes the disks alone."
)


@dataclass(frozen=True)
class State:
    """What there is of an instance.

    :ivar held: By tag what its own disk holds; ``parts`` the paths of all its disks that hold the snapshot in question.
    :ivar gone: That snapshot in volumes that were detached since, by path; looked for only where it matters.
    :ivar stuck: Why it can't be deleted there, by path.
    """

    disks: Disks
    held: dict[str, Snapshot]
    parts: frozenset[str]
    gone: dict[str, Snapshot]
    stuck: dict[str, str] = field(default_factory=dict)


class SnapshotKind(ChosenKind):
    """One snapshot, by its name, of each of some instances."""

    spec = chosen_spec(
        ["present", "created", "absent", "reverted"],
        name={"type": "str", "required": True},
        restart={"type": "str", "choices": ["never", "when_required"], "default": "never"},
    )
    # `absent` is not the engine's: the item is the instance, which stays.
    tools = ("qemu-img",)
    warns_of_refusals = True  # the playbooks look at all nodes first, and what is wrong with one instance stops no other

    def __init__(self, params: Item) -> None:
        super().__init__({**params, "state": {"absent": "deleted"}.get(params["state"], params["state"])})
        self.state: dict[str, State] = {}
        self.headers: dict[str, Header] = {}  # of disks that qemu-img is to work on, as they were found sound
        self.owners: dict[str, tuple[int, int]] = {}  # of these, by whose rights
        self.before: set[str] = set()  # instances that had the snapshot at the first look

    def list_problems(self, items: list[Item]) -> list[str]:
        return [problem for problem in (missing_name("snapshot", self.params["name"]),) if problem]

    def observe(self, items: list[Item]) -> dict[str, Found]:
        found = self.choose(items)
        self.examine(found, self._read)
        return found

    def _read(self, item: str, have: Found) -> None:
        """Read an instance's disks and the snapshots in them.

        :raises ComputeError: When its QEMU can't be asked, or one of its disks is not as it should be.
        """
        name, now = self.params["name"], have.raw
        disks = read_disks(now, self.where(now).qmp)
        every = (disks.own, *disks.others)
        at_rest = [disk for disk in every if disk.format == "qcow2" and (not now.pid or self.params["restart"] != "never")]
        for disk in at_rest:
            self._check_sound(disk, now)
        held = {disk.path: read_snapshots(disk.path, self.root) for disk in every}
        parts = frozenset(path for path, tags in held.items() if tag_of(now.id, name) in tags)
        gone = elsewhere(self.layout, tag_of(now.id, name), held) if self.params["state"] in ("reverted", "deleted") else {}
        stuck = self._stuck(now, gone) if self.params["state"] == "deleted" else {}
        self.state[item] = State(disks, held[disks.own.path], parts, gone, stuck)
        if self.looks == 1 and disks.own.path in parts:
            self.before.add(item)
        have.props["snapshots"] = list(own_snapshots(now.id, self.state[item].held))

    def _check_sound(self, disk: Disk, now: Instance) -> None:
        self.headers[disk.path] = sound_header(disk, self.layout, now.folder)
        self.owners[disk.path] = disk_owner(disk.path, self.layout, now.folder)

    def _stuck(self, now: Instance, gone: Iterable[str]) -> dict[str, str]:
        """Say from which volumes the snapshot can't be deleted, and why; note what the others say of themselves."""
        names = {path: os.path.basename(path)[: -len(".img")] for path in gone if is_locked(path)}
        users = users_of_volumes(self.layout, names.values())
        by = {path: f"the instance {users[name]}" if users[name] else "a running QEMU" for path, name in names.items()}
        stuck = {path: f"it is in use by {user}. Delete the snapshot once more when that has ended." for path, user in by.items()}
        for path in gone:
            try:
                self._check_sound(Disk(path, "qcow2"), now)
            except ComputeError as error:
                stuck[path] = str(error)
        return stuck

    def change(self, item: Item, have: Found | None) -> Change:
        called, name, wanted = item["name"], self.params["name"], self.params["state"]
        if have is None:
            raise ComputeError(f"instance {called} is not there.")
        now: Instance = have.raw
        state = self.state[called]
        there = state.disks.own.path in state.parts
        change = Change(called, "update", have.props, dict(have.props), facts={"id": now.id, "snapshot": name})
        if wanted == "reverted":
            self._revert(change, have, state, there)
        elif wanted == "deleted":
            if state.parts:
                change.reasons.append(f"the snapshot {name} is there")
                change.after = {**have.props, "snapshots": [other for other in have.props["snapshots"] if other != name]}
                change.steps = self._delete(now, state)
            # What only a detached volume has takes its space, and no list of an instance's snapshots shows it.
            left = [path for path in state.gone if path not in state.stuck]
            change.reasons += [f"{path}, which was detached since, has the snapshot {name}" for path in left]
            change.steps += [self._qemu_img("-d", now, Disk(path, "qcow2")) for path in left]
            change.warnings += [f"instance {called}: its snapshot {name} stays in {path}, which was detached since: {why}" for path, why in state.stuck.items()]
        elif not there:
            change.reasons.append(f"there is no snapshot {name}")
            change.after = {**have.props, "snapshots": [*have.props["snapshots"], name]}
            change.steps = [*(self._delete(now, state) if state.parts else []), *self._create(called, now, state)]
        elif wanted == "created" and called in self.before:
            taken = own_snapshots(now.id, state.held)[name].facts(name)["created"]
            raise ComputeError(
                f"instance {called} has a snapshot {name} already, of {taken}; nothing was changed.",
                "Take another name, or delete it first (state=absent).",
            )
        if any(isinstance(step, Job) for step in change.steps):
            # A disk that a backup copies can't be reverted, and QEMU notices only after it has reverted those before it.
            ending = end_copy(self.script(now), self.where(now).qmp, state.disks.jobs, state.disks.nodes, STAGE_STOP)
            change.reasons += ["an interrupted backup has left its job in QEMU"] if ending else []
            change.steps = [*ending, *change.steps]
        if JOB in state.disks.jobs:
            change.reasons.append("an interrupted run has left its job in QEMU")
            change.steps.insert(0, Abort(self.script(now), self.where(now).qmp, JOB, stage=STAGE_STOP))
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
        return [self._qemu_img("-c", now, disk) for disk in disks]

    def _delete(self, now: Instance, state: State) -> list[Step]:
        disks = [disk for disk in (state.disks.own, *state.disks.others) if disk.path in state.parts]
        if now.pid:
            return self._job(now, "snapshot-delete", disks)
        return [self._qemu_img("-d", now, disk) for disk in disks]

    def _revert(self, change: Change, have: Found, state: State, there: bool) -> None:
        called, name, now = change.name, self.params["name"], have.raw
        if self.looks > 1:
            return  # it was done, and nothing else shows that
        if not there:
            known = ", ".join(have.props["snapshots"]) or "none"
            raise ComputeError(f"instance {called} has no snapshot {name}; there is {known}.", "" if known == "none" else "Take one of these.")
        later = [disk.path for disk in state.disks.others if disk.path not in state.parts]
        if later:
            raise ComputeError(
                f"instance {called}: the snapshot {name} does not have its disk {', '.join(later)}; nothing was changed.",
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
                f"instance {called}: the memory in its snapshot {name} has the disk {gone}, which was detached since; nothing was changed.",
                "Attach it again, or power the instance off first (ikcloud.compute.instance_power with state=stopped): then its disks alone are reverted.",
            )
        if now.pid and memory:
            change.steps = self._job(now, "snapshot-load", disks, {"vmstate": state.disks.own.node}, hint_of)
        elif now.pid:
            if self.params["restart"] != "when_required":
                raise ComputeError(
                    f"instance {called} runs, and its snapshot {name}, taken while it was off, can be reverted to only while it is off; nothing was changed.",
                    "Power it off first (ikcloud.compute.instance_power with state=stopped), or set restart=when_required.",
                )
            change.effect = "restart"
            # What it is at is thrown away, so there is no need to wait for its guest.
            change.steps = [*self.halt(have, 0), *(self._qemu_img("-a", now, disk) for disk in disks), *self.start(now)]
        else:
            change.steps = [self._qemu_img("-a", now, disk) for disk in disks]
            if memory:
                change.warnings.append(
                    f"instance {called} is off, so it is reverted without the memory in its snapshot {name} and will boot. To have that, revert while it runs."
                )
            if gone:
                change.warnings.append(f"instance {called}: {gone} was detached since the snapshot {name}, and stays as it is.")

    def _job(
        self, now: Instance, command: str, disks: list[Disk], more: dict[str, Any] | None = None, hint: Callable[[str], str] = lambda _failed: ""
    ) -> list[Step]:
        script, socket = self.script(now), self.where(now).qmp
        arguments = {"job-id": JOB, "tag": tag_of(now.id, self.params["name"]), **(more or {}), "devices": [disk.node for disk in disks]}
        return [
            Job(script, socket, command, arguments, stage=STAGE_WORK, hint=hint),
            Dismiss(script, socket, "job-dismiss", {"id": JOB}, stage=STAGE_WORK),
        ]

    def _qemu_img(self, action: str, now: Instance, disk: Disk) -> Step:
        argv = (*as_owner(*self.owners[disk.path]), "qemu-img", "snapshot", "-q", action, tag_of(now.id, self.params["name"]), disk.path)
        return OnDisk(argv, stage=STAGE_WORK, disk=disk, layout=self.layout, folder=now.folder, found=self.headers[disk.path])


def hint_of(failed: str) -> str:
    """Say what to do when QEMU could not load a snapshot, given its words."""
    return RELOAD if any(words in failed for words in AFTER_DISKS) else AGAIN
