# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Instances as a kind of resource, for the module ``instance``: what differs, and the steps between."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from ..._core.changes import Change, Item, Observed, PendingSteps
from ..._core.errors import ComputeError
from ..._core.layout import DEFAULT_USER, Layout, folder_drift, root_problem
from ..._core.names import fits
from ..._core.reconcile import Resource
from ..._core.steps import MakeFolder, Remove, Run, Stage, Step, Write, read_plain
from ..._qemu import declared
from ..._qemu.argv import describe, phrase, phrases
from ..._qemu.guest_agent import guest_of
from ..._qemu.hotplug import Attach, HotplugPlanner
from ..._qemu.machine import Machine, diff, has_version, placed
from ..._qemu.program import newest_machine_type
from ..._qemu.qmp.script import qmp_script
from ..._qemu.start_script import start_script
from ..._system import systemd
from ..._system.kvm import kvm_works
from . import service
from .checks import cross_problems, item_problems, obstacles
from .instances import Instance, outdated, properties, read_instances
from .options import SUBOPTIONS
from .steps import (
    ForgetUnit,
    RestartInstance,
    Roll,
    StartInstance,
    Starts,
    StopInstance,
    StopUnit,
    WriteStart,
    power_off,
)
from .stop_script import stop_script

SHARED = service.TEMPLATE


@dataclass(frozen=True)
class _Wanted:
    """The machine that an instance is to be.

    :ivar machine: As far as can be told without a look at the node.
    :ivar accel: Its accelerator; "" where that has to be tried on the node.
    :ivar unversioned: Whether only the node's QEMU knows the version of its machine type, and it is to run.
    :ivar resolve: Give it with what the node tells.
    """

    machine: Machine
    accel: str
    unversioned: bool
    resolve: Callable[[], Machine]


class InstanceResource(Resource):
    """Virtual machines.

    Stages: 0 files, 2 enable, daemon-reload, disable, 3 stop or change live, 4 start, 5 remove files, 6 remove what all
    share.
    """

    noun = "instance"
    option = "instances"
    suboptions = SUBOPTIONS
    options: Item = {
        "restart": {"type": "str", "choices": ["never", "when_required"], "default": "never"},
        "remove_protected": {"type": "bool", "default": False},
        "restart_serial": {"type": "int", "default": 1},
        "restart_reasons": {"type": "dict", "default": {}},
    }
    workers = 8

    def __init__(self, params: Item) -> None:
        super().__init__(params)
        self.as_root = os.geteuid() == 0
        self.items: dict[str, Item] = {item["name"]: item for item in params["instances"]}
        self.absent = params.get("state") == "absent"
        items = [] if self.absent else list(self.items.values())
        systemd_used = any(item["supervisor"] == "systemd" for item in items)
        self.tools = (("qemu-system-x86_64",) if items else ()) + (("systemctl",) if systemd_used else ())
        self.shared: dict[str, tuple[str, int]] = {}  # what all share, as it is
        self.timer = False  # whether it is enabled
        self.states: dict[str, dict[str, str]] = {}  # what systemd says of the units among these
        self.loaded: set[str] = set()  # which of our units it has in its memory
        self.drift: dict[str, str] = {}  # what is wrong with an instance's folder, by name
        self.reasons: dict[str, str] = params.get("restart_reasons") or {}  # by compute-<id>
        self.seeds_changed: set[str] = (
            set()
        )  # compute-<id> of those whose seed this run changes: of these the reasons say it all
        self.machine_type = ""  # QEMU's newest, once it was asked
        self.roll = Roll(max(0, params.get("restart_serial") or 0))
        self.starts = Starts()

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    def validate_item(self, index: int, item: Item) -> list[str]:
        root = root_problem(self.root)
        return [root] if root else item_problems(f"instances[{index}]", item, self.layout, self.as_root)

    def validate_list(self, items: list[Item]) -> list[str]:
        serial = self.params.get("restart_serial") or 0
        wrong = (
            [f"restart_serial: {serial} is not a number of instances; give 1 or more, or 0 for all at once."]
            if serial < 0
            else []
        )
        return wrong + cross_problems(items, self.layout)

    def conflict_message(self, name: str, found: Observed) -> str:
        other: Instance = found.native
        if other.name in (name, f"compute-{other.id}"):
            return super().conflict_message(name, found)
        return (
            f"instance {name}: its id {other.id} is that of {other.name}, and an instance is not renamed, for its"
            f" files, links and addresses are made from the name. Declare it as {other.name} again; or declare {name}"
            f" with another id, give it the data volumes of {other.name}, and remove that."
        )

    def before_stage(self, work: list[PendingSteps]) -> list[PendingSteps]:
        self.starts.begin([step for _name, steps in work for step in steps])
        return self.roll.begin(work)

    def workers_for(self, steps: list[Step]) -> int:
        restarts = sum(isinstance(step, RestartInstance) for step in steps)
        return max(self.workers, min(restarts, self.params.get("restart_serial") or restarts))

    def after_apply(self) -> None:
        self.reasons, self.seeds_changed = {}, set()  # those have been restarted, or are seen to wait

    def missing_prerequisites(self, changes: list[Change], check_mode: bool) -> list[str]:
        if check_mode or self.absent:
            return []
        starting = {change.name for change in changes if any(isinstance(step, StartInstance) for step in change.steps)}
        plugging = {change.name for change in changes if any(isinstance(step, Attach) for step in change.steps)}
        making = {change.name for change in changes if change.action == "create"}
        return obstacles(
            [item for name, item in self.items.items() if name in starting | plugging | making],
            starting,
            plugging,
            self.layout,
            self.as_root,
        )

    def observe(self, items: list[Item]) -> dict[str, Observed]:
        layout = self.layout
        ids = {declared.identifier(item): item["name"] for item in items}
        loaded = service.loaded()  # before units are asked about, for which systemd loads them
        # What is enabled it has as soon as it reads its units again, as another kind may have it do before.
        self.loaded = {*loaded, *map(service.unit, service.enabled_ids())}
        found: dict[str, Observed] = {}
        for instance in read_instances(layout, list(ids), stale=True, talk=not self.absent, loaded=loaded).values():
            name = ids.get(instance.id, instance.name)
            complete = layout.instance(f"compute-{instance.id}").start in instance.files
            if not complete and not instance.owned:
                continue  # a seed's files, or somebody else's folder
            if complete and instance.owned and instance.name not in (name, f"compute-{instance.id}"):
                found[name] = Observed({"id": instance.id, "name": instance.name}, owned=False, native=instance)
                name = instance.name
            found[name] = Observed(properties(instance), owned=instance.owned, native=instance)
        for item in items:
            if not self.absent:
                self.drift[item["name"]] = folder_drift(declared.paths(item, layout).folder, 0o750, self._owner(item))
        self.shared = {path: read for path in service.shared_files(layout) for read in [read_plain(path)] if read}
        self.timer = service.timer_enabled()
        self.states = systemd.states([service.CONSOLE, service.TIMER])
        return found

    observe_without_tools = observe  # reading needs no tool

    def change(self, item: Item, have: Observed | None) -> Change:
        layout, name = self.layout, item["name"]
        where = declared.paths(item, layout)
        now: Instance = have.native if have else Instance(name, declared.identifier(item), where.folder)
        if now.id != declared.identifier(item):
            raise ComputeError(
                f"instance {name} is there with the id {now.id}, and {declared.identifier(item)} is declared.",
                "An id can't be changed; remove the instance first.",
            )
        creating = where.start not in now.files and not now.trouble
        stays = item["power"] == "running" and now.power == "running" and now.running is not None
        item = declared.fill_maximums(item, now.running if stays else None)
        wanted = self._wanted(item, now, creating, stays)
        change = Change(
            name,
            "create" if creating else "update",
            have.attributes if have and not creating else None,
            extra_results={"id": now.id, "folder": where.folder},
        )
        change.after = {"id": now.id, **describe(wanted.machine), "labels": item["labels"], "power": item["power"]}
        if not wanted.accel:
            change.after.update(accel="auto", cpu_model=item["cpu_model"] or "auto")
        self._write_files(change, item, now, wanted)
        if not creating:
            running = diff(now.running or Machine(), wanted.machine) if stays and not now.qmp_unresponsive else None
            written = diff(now.written, wanted.machine) if not now.trouble else []
            # What was edited in the script alone is not so in the guest.
            change.reasons += [
                phrase(one) if running is None or one in running else f"start says: {phrase(one)}" for one in written
            ]
        if now.trouble:
            change.reasons.append(now.trouble.rstrip("."))
            change.warnings.append(
                f"instance {name} (compute-{now.id}): {now.trouble} Its files are written anew. Who did that, QEMU's"
                " user or a person? If it was not you, its guest may have broken out of its QEMU: stop it, and look at"
                f" what it did (journalctl -u {service.unit(now.id)})."
            )
        elif not creating and now.labels != item["labels"]:
            differing = {
                key for key in {*now.labels, *item["labels"]} if now.labels.get(key) != item["labels"].get(key)
            }
            change.reasons.append(f"labels differ: {', '.join(sorted(differing))}")
        waiting = self._adjust(change, item, now, wanted.machine) if stays else self._unsupervised(item, now)
        self._set_power(change, item, now, waiting)
        if not creating and change.steps and not change.reasons:
            change.reasons.append("its files differ")
        return change

    def _wanted(self, item: Item, now: Instance, creating: bool, stays: bool) -> _Wanted:
        """Return the machine that an instance is to be; what only a look at the node can tell is a forecast."""
        accel = item["accel"] if item["accel"] != "auto" else ""
        if not accel and not creating:
            # `auto` keeps what was found when the instance was made.
            known = now.written if now.written != Machine() else now.running
            accel = known.accel if known else ""
        types = [machine.type for machine in (now.running if stays else None, now.written) if machine]
        machine_type = next(filter(has_version, types), "")
        have = now.running if stays else None if creating else now.written

        def build(accel: str, machine_type: str) -> Machine:
            return placed(declared.from_item(item, self.layout, accel, machine_type), have, stays)

        forecast = build(accel or "tcg", machine_type or declared.DEFAULT_TYPE)
        unversioned = not machine_type and item["power"] == "running"
        return _Wanted(
            forecast,
            accel,
            unversioned,
            lambda: build(accel or self._probe(item), machine_type or self._newest_type()),
        )

    def remove(self, name: str, have: Observed) -> Change:
        now: Instance = have.native
        if now.labels.get("protect") and not self.params.get("remove_protected"):
            raise ComputeError(
                f"instance {name} is protected, its label protect says.",
                "To remove it, declare it without that label first (cloud_instances: protect: false, then run site), or"
                " set remove_protected (for the playbook teardown: teardown_protected).",
            )
        grace = self.items.get(name, {}).get("grace") if self.absent else None
        change = Change(name, "delete", have.attributes, None, extra_results={"id": now.id, "folder": now.folder})
        if now.power != "stopped" and (not now.managed or grace is not None):
            change.steps.append(self._stop(now, grace))
        if now.managed:
            change.steps.append(
                StopUnit(("systemctl", "stop", service.unit(now.id)), id=now.id, grace=grace, stage=Stage.CHANGE)
            )
        if now.managed or now.unit.get("ActiveState") == "failed":
            change.steps.append(ForgetUnit(("systemctl", "reset-failed", service.unit(now.id)), stage=Stage.CHANGE))
        if service.drop_in_path(now.id) in now.files or now.drop_in_left:
            change.steps += self._without_drop_in(now, stage=Stage.REMOVE)
        # Last of all: by its folder an interrupted removal is found again, and by its name who it was.
        change.steps.append(Remove(now.folder, tree=True, stage=Stage.REMOVE))
        record = self.layout.instance(f"compute-{now.id}").record
        change.steps += [Remove(record, stage=Stage.REMOVE)] if record in now.files else []
        return change

    def shared_changes(self, changes: list[Change], have: dict[str, Observed]) -> list[Change]:
        removed = {change.name for change in changes if change.action == "delete"}
        supervised = [] if self.absent else [item for item in self.items.values() if item["supervisor"] == "systemd"]
        left = [
            found
            for name, found in have.items()
            if name not in removed and found.owned and name not in self.items and not found.native.daemon
        ]
        disable = {found.native.id for name, found in have.items() if name in removed and found.native.enabled}
        enable: set[str] = set()
        for item in self.items.values() if not self.absent else []:
            found = have.get(item["name"])
            enabled = bool(found and found.native.enabled)
            wanted = item["power"] == "running" and item["supervisor"] == "systemd"
            if enabled != wanted:
                (enable if wanted else disable).add(declared.identifier(item))
        change = Change(SHARED, "update")
        # Not only in a purge: one that was killed may have left them over.
        last = (
            not supervised
            and not left
            and not self.params.get("spare")
            and (self.absent or self.params["purge"] or not self.items)
        )
        if supervised:
            self._share(change)
        gone = (
            [path for path in service.shared_files(self.layout) if path in self.shared]
            if last and self._template_is_ours()
            else []
        )
        if supervised and not self.timer:
            # Started first, so that one that is enabled was started, even if this run is killed in between.
            change.steps.append(Run(("systemctl", "start", service.TIMER), stage=Stage.CREATE))
        change.reasons += [f"{len(enable)} more to start at boot"] if enable else []
        change.reasons += [f"{len(disable)} no more to start at boot"] if disable else []
        links = service.enable_steps(sorted(enable), bool(supervised and not self.timer), stage=Stage.CREATE)
        change.steps += links
        if self._outdated(changes, change, have, {os.path.basename(step.path) for step in links}):
            change.steps.append(Run(("systemctl", "daemon-reload"), stage=Stage.CREATE))
            change.reasons = change.reasons or ["systemd has units otherwise than their files"]
        if disable:
            change.steps.append(Run(("systemctl", "disable", *map(service.unit, sorted(disable))), stage=Stage.CREATE))
        if gone:
            change.action = "delete"
            there = self.timer or f"{systemd.UNIT_FOLDER}/{service.TIMER}" in self.shared
            change.steps += [Run(("systemctl", "disable", "--now", service.TIMER), stage=Stage.FINISH)] if there else []
            change.steps += [Remove(path, stage=Stage.FINISH) for path in gone]
        if gone or any(_of_systemd(step, stage=Stage.REMOVE) for one in changes for step in one.steps):
            change.steps.append(Run(("systemctl", "daemon-reload"), stage=Stage.FINISH))
        return [change] if change.steps else []

    def _outdated(self, changes: list[Change], shared: Change, have: dict[str, Observed], linked: set[str]) -> bool:
        """Tell whether systemd has to read its units again: what it does not have in its memory it finds by itself at
        the start.

        :param linked: The units that are enabled now.
        """
        touched = {
            service.unit(one.extra_results["id"])
            for one in changes
            for step in one.steps
            if _of_systemd(step, stage=Stage.FILES)
        }
        files = [step.path for step in shared.steps if isinstance(step, Write) and _of_systemd(step, stage=Stage.FILES)]
        stale = any(
            systemd.is_outdated(state, unit == service.TIMER and self.timer) for unit, state in self.states.items()
        )
        stale = stale or any(found.native.outdated for found in have.values())
        return (
            stale or bool((touched | linked) & self.loaded) or any(self.loaded or path in self.shared for path in files)
        )

    def _share(self, change: Change) -> None:
        for path, (text, mode) in service.shared_files(self.layout).items():
            if self.shared.get(path) != (text, mode):
                change.steps.append(Write(path, text, mode, stage=Stage.FILES))
                change.reasons.append(f"{path} {'differs' if path in self.shared else 'is not there'}")

    def _template_is_ours(self) -> bool:
        text = self.shared.get(f"{systemd.UNIT_FOLDER}/{service.TEMPLATE}", ("", 0))[0]
        return not text or service.serves(self.layout)

    def _owner(self, item: Item) -> str:
        return item["user"] if self.as_root else ""

    def _adjust(self, change: Change, item: Item, now: Instance, want: Machine) -> list[str]:
        """Add the steps that change the running QEMU as it runs, and give what is left, which takes a restart."""
        where = declared.paths(item, self.layout)
        told = self.reasons.get(f"compute-{now.id}", "")
        # In check mode the seed that is there is not yet the one that it will have to boot for, or have open already.
        seed = "" if f"compute-{now.id}" in self.seeds_changed else now.stale_seed
        outside = self._unsupervised(item, now) + outdated(now, want) + [phrase for phrase in (seed, told) if phrase]
        outside = list(dict.fromkeys(outside))
        if self.as_root and now.runs_as not in ("", item["user"]):
            outside.append(f"user is {now.runs_as}, declared {item['user']}")
        if now.qmp_unresponsive:
            change.warnings.append(
                f"instance {item['name']}: QEMU does not answer at {where.qmp}, so whether it runs as declared can't be"
                " seen."
            )
            return outside
        running = now.running or Machine()
        if now.state is None:
            return phrases(diff(running, want)) + outside
        script = (*self._as_user(self._user_of(now)), where.qmp_script)
        known = (
            (lambda path: path.startswith((f"{self.layout.volumes}/", f"{where.folder}/")))
            if now.managed
            else (lambda path: True)
        )
        planner = HotplugPlanner(running, want, now.state, script, where.qmp, known)
        plan = planner.plan()
        left = phrases(diff(plan.after, want)) + outside
        actual = now.state.balloon_actual >> 20 if now.state.balloon_actual is not None else 0
        if actual > item["memory"] and running.memory == item["memory"]:
            change.warnings.append(
                f"instance {item['name']}: its guest still has {actual} MiB of memory, not the {item['memory']} that it"
                " was asked to do with; it has no balloon driver, or has not come so far yet."
            )
        if now.state.idle_cpus:
            change.seen.append(
                f"instance {item['name']}: its guest uses {now.state.cpus - now.state.idle_cpus} of its"
                f" {now.state.cpus} processors. Linux shows a new one in /sys/devices/system/cpu, where `echo 1"
                " >cpuN/online` starts it; a kernel that does not show it (Debian 13's, without KVM) has it after a"
                " restart of the instance."
            )
        if not left or not self._may_restart(item):
            change.steps += plan.steps
        else:
            # The restart takes them away too, but it may come after the turn of those who get them.
            others = [other for other in self.items.values() if other["name"] != item["name"]]
            change.steps += planner.release(
                {disk.path for other in others for disk in declared.disks(other, self.layout)}
            )
        change.reasons += [reason for reason in phrases(plan.closed) if reason not in change.reasons]
        return left

    def _may_restart(self, item: Item) -> bool:
        return bool((item["restart"] or self.params["restart"]) == "when_required")

    def _write_files(self, change: Change, item: Item, now: Instance, wanted: _Wanted) -> None:
        layout, where = self.layout, declared.paths(item, self.layout)
        creating = where.start not in now.files
        drift = self.drift.get(item["name"], "")
        if creating or drift:
            change.steps.append(MakeFolder(where.folder, 0o750, self._owner(item)))
            change.reasons += [drift] if drift and not creating else []
        change.steps += [Remove(path, tree=True) for path in now.misplaced]
        change.reasons += [f"{path} is not a file of ours" for path in now.misplaced]
        record = "" if fits(item["name"], now.id) else f"{item['name']}\n"
        if record and now.files.get(where.record) != (record, 0o644):
            change.steps.append(Write(where.record, record))
            change.reasons += [] if creating else [f"{where.record} differs"]
        start = start_script(wanted.machine, item["labels"], where)
        if wanted.unversioned or now.files.get(where.start) != (start, 0o755):
            change.steps.append(
                WriteStart(
                    where.start, start, 0o755, resolve=lambda: start_script(wanted.resolve(), item["labels"], where)
                )
            )
        for name, file, text in (
            ("stop", where.stop, stop_script(item, layout)),
            ("qmp", where.qmp_script, qmp_script(item, layout)),
        ):
            if now.files.get(file) != (text, 0o755):
                change.steps.append(Write(file, text, 0o755))
                change.reasons += [] if creating else [f"the {name} script differs"]
        path = service.drop_in_path(now.id)
        drop_in = service.drop_in(item, layout) if item["supervisor"] == "systemd" else ""
        if drop_in and now.files.get(path) != (drop_in, 0o644):
            change.steps.append(Write(path, drop_in))
            change.reasons += [] if creating else [f"{path} differs"]
        elif not drop_in and (path in now.files or now.drop_in_left):
            change.steps += self._without_drop_in(now, stage=Stage.FILES)
            change.reasons.append(f"{path} is there, not needed")

    @staticmethod
    def _without_drop_in(now: Instance, stage: Stage) -> list[Step]:
        """Remove our drop-in, and its folder unless an administrator has one there too."""
        path = service.drop_in_path(now.id)
        return [
            *([Remove(path, stage=stage)] if path in now.files else []),
            Run(("rmdir", "--ignore-fail-on-non-empty", os.path.dirname(path)), stage=stage),
        ]

    def _probe(self, item: Item) -> str:
        works, why = kvm_works(self._owner(item))
        if not works:
            warning = (
                f"KVM does not work on this node ({why}); instances with accel=auto are emulated (tcg), which is slow."
            )
            if warning not in self.warnings:
                self.warnings.append(warning)
        return "kvm" if works else "tcg"

    def _newest_type(self) -> str:
        self.machine_type = self.machine_type or newest_machine_type()
        return self.machine_type

    def _unsupervised(self, item: Item, now: Instance) -> list[str]:
        if (
            item["supervisor"] == "systemd"
            and now.pid
            and now.unit
            and not now.managed
            and not (now.running and now.running.daemon)
        ):
            return ["it runs outside its systemd unit"]
        return []

    def _set_power(self, change: Change, item: Item, now: Instance, waiting: list[str]) -> None:
        if item["power"] == "stopped":
            if now.power != "stopped":
                change.reasons.append(f"is {now.power}, declared stopped")
                change.steps.append(self._halt(now))
            return
        if now.power != "running" or now.awaited:
            change.reasons += (
                [f"is {'not up' if now.awaited else now.power}, declared running"] if change.before else []
            )
            if now.unit.get("ActiveState") == "failed":
                change.steps.append(Run(("systemctl", "reset-failed", service.unit(now.id)), stage=Stage.CHANGE))
            change.steps.append(self._start(item))
        elif waiting and self._may_restart(item):
            change.effect = "restart"
            change.reasons += [f"restart: {phrase}" for phrase in waiting if phrase not in change.reasons]
            change.steps.append(self._restart(item, now))
        elif waiting:
            change.restart_reason = "; ".join(waiting)
            change.warnings.append(
                f"instance {item['name']}: a restart is pending ({change.restart_reason}). Set restart=when_required,"
                " or power it off and run again."
            )

    def _restart(self, item: Item, now: Instance) -> Step:
        managed = now.managed and item["supervisor"] == "systemd"
        start = self._start(item, "restart" if managed else "start")
        has = {disk.path for disk in now.running.disks} if now.running else set()
        wants = {disk.path for disk in declared.disks(item, self.layout)}
        # Of one that is silent nobody knows what it has.
        coming, going = (tuple(sorted(paths)) if now.state else () for paths in (wants - has, has - wants))
        halt = None if managed else self._halt(now)
        return RestartInstance(
            start.argv, unit=start.unit, pidfile=start.pidfile, qmp=start.qmp, memory=start.memory, stage=start.stage,
            name=item["name"], guest=guest_of(item, self.layout), roll=self.roll, halt=halt, coming=coming, going=going,
        )  # fmt: skip

    def _start(self, item: Item, verb: str = "start") -> StartInstance:
        where, unit = declared.paths(item, self.layout), service.unit(declared.identifier(item))
        by_systemd = item["supervisor"] == "systemd"
        memory = item["memory"] if item["memory"] != declared.max_memory(item) else 0
        argv = ("systemctl", verb, unit) if by_systemd else (*self._as_user(item["user"]), where.start)
        return StartInstance(
            argv,
            unit=unit if by_systemd else "",
            pidfile=where.pid,
            qmp=where.qmp,
            memory=memory,
            starts=self.starts,
            stage=Stage.START,
        )

    def _halt(self, now: Instance) -> Run:
        return (
            StopUnit(("systemctl", "stop", service.unit(now.id)), id=now.id, stage=Stage.CHANGE)
            if now.managed
            else self._stop(now, None)
        )

    def _stop(self, now: Instance, grace: int | None) -> StopInstance:
        return power_off(
            now, self.layout.instance(f"compute-{now.id}"), self._as_user(self._user_of(now)), grace, stage=Stage.CHANGE
        )

    def _user_of(self, now: Instance) -> str:
        return now.owner or str(self.items.get(now.name, {}).get("user") or DEFAULT_USER)

    def _as_user(self, user: str) -> tuple[str, ...]:
        # The folder is QEMU's to write in, so nothing in it is run as root.
        return ("runuser", "-u", user, "--") if self.as_root and user != "root" else ()


def _of_systemd(step: Step, stage: Stage) -> bool:
    """Tell whether a step writes or removes, at this stage, a file that systemd reads."""
    return isinstance(step, (Write, Remove)) and step.stage == stage and step.path.startswith(systemd.UNIT_FOLDER)
