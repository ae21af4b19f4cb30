# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Instances as a kind of resource, for the module ``instance``: what differs, and the steps between."""

from __future__ import annotations

import os

from ansible_collections.ikcloud.compute.plugins.module_utils import qemu, systemd
from ansible_collections.ikcloud.compute.plugins.module_utils.engine import Change, Found, Item, Kind, Work
from ansible_collections.ikcloud.compute.plugins.module_utils.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils.guest import guest_of
from ansible_collections.ikcloud.compute.plugins.module_utils.instance_checks import cross_problems, item_problems, obstacles
from ansible_collections.ikcloud.compute.plugins.module_utils.instance_options import SUBOPTIONS
from ansible_collections.ikcloud.compute.plugins.module_utils.instance_steps import (
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
from ansible_collections.ikcloud.compute.plugins.module_utils.instances import Instance, outdated, properties, read_instances
from ansible_collections.ikcloud.compute.plugins.module_utils.kvm import kvm_works
from ansible_collections.ikcloud.compute.plugins.module_utils.layout import DEFAULT_USER, Layout, folder_drift, root_problem
from ansible_collections.ikcloud.compute.plugins.module_utils.live_steps import Ask, Planner
from ansible_collections.ikcloud.compute.plugins.module_utils.names import fits
from ansible_collections.ikcloud.compute.plugins.module_utils.qmp_script import qmp_script
from ansible_collections.ikcloud.compute.plugins.module_utils.steps import MakeFolder, Remove, Run, Step, Write, read_plain
from ansible_collections.ikcloud.compute.plugins.module_utils.stop_script import stop_script

SHARED = systemd.TEMPLATE


class InstanceKind(Kind):
    """Virtual machines. Stages: 0 files, 2 enable, daemon-reload, disable, 3 stop or change live, 4 start, 5 remove files, 6 remove what all share."""

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
        declared = [] if self.absent else list(self.items.values())
        systemd_used = any(item["supervisor"] == "systemd" for item in declared)
        self.tools = (("qemu-system-x86_64",) if declared else ()) + (("systemctl",) if systemd_used else ())
        self.shared: dict[str, tuple[str, int]] = {}  # what all share, as it is
        self.timer = False  # whether it is enabled
        self.states: dict[str, dict[str, str]] = {}  # what systemd says of the units among these
        self.loaded: set[str] = set()  # which of our units it has in its memory
        self.drift: dict[str, str] = {}  # what is wrong with an instance's folder, by name
        self.reasons: dict[str, str] = params.get("restart_reasons") or {}  # by compute-<id>
        self.seeds_changed: set[str] = set()  # compute-<id> of those whose seed this run changes: of these the reasons say it all
        self.roll = Roll(max(0, params.get("restart_serial") or 0))
        self.starts = Starts()

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    def problems(self, index: int, item: Item) -> list[str]:
        root = root_problem(self.root)
        return [root] if root else item_problems(f"instances[{index}]", item, self.layout, self.as_root)

    def list_problems(self, items: list[Item]) -> list[str]:
        serial = self.params.get("restart_serial") or 0
        wrong = [f"restart_serial: {serial} is not a number of instances; give 1 or more, or 0 for all at once."] if serial < 0 else []
        return wrong + cross_problems(items, self.layout)

    def in_the_way(self, name: str, found: Found) -> str:
        if found.raw.name in (name, f"compute-{found.raw.id}"):
            return super().in_the_way(name, found)
        return (
            f"instance {name}: its id {found.raw.id} is that of {found.raw.name}, and an instance is not renamed, for its files, links and addresses are made "
            f"from the name. Declare it as {found.raw.name} again; or declare {name} with another id, give it the data volumes of {found.raw.name}, and "
            "remove that."
        )

    def begin(self, work: list[Work]) -> list[Work]:
        self.starts.begin([step for _name, steps in work for step in steps])
        return self.roll.begin(work)

    def workers_for(self, steps: list[Step]) -> int:
        restarts = sum(isinstance(step, RestartInstance) for step in steps)
        return max(self.workers, min(restarts, self.params.get("restart_serial") or restarts))

    def settled(self) -> None:
        self.reasons, self.seeds_changed = {}, set()  # those have been restarted, or are seen to wait

    def lacking(self, changes: list[Change], check_mode: bool) -> list[str]:
        if check_mode or self.absent:
            return []
        starting = {change.name for change in changes if any(isinstance(step, StartInstance) for step in change.steps)}
        plugging = {change.name for change in changes if any(isinstance(step, Ask) and step.command in ("blockdev-add", "netdev_add") for step in change.steps)}
        making = {change.name for change in changes if change.action == "create"}
        return obstacles([item for name, item in self.items.items() if name in starting | plugging | making], starting, plugging, self.layout, self.as_root)

    def observe(self, items: list[Item]) -> dict[str, Found]:
        layout = self.layout
        ids = {qemu.identifier(item): item["name"] for item in items}
        loaded = systemd.loaded()  # before units are asked about, for which systemd loads them
        # What is enabled it has as soon as it reads its units again, as another kind may have it do before.
        self.loaded = {*loaded, *map(systemd.unit, systemd.enabled_ids())}
        found: dict[str, Found] = {}
        for instance in read_instances(layout, list(ids), stale=True, talk=not self.absent, loaded=loaded).values():
            name = ids.get(instance.id, instance.name)
            complete = layout.instance(f"compute-{instance.id}").start in instance.files
            if not complete and not instance.owned:
                continue  # a seed's files, or somebody else's folder
            if complete and instance.owned and instance.name not in (name, f"compute-{instance.id}"):
                found[name] = Found({"id": instance.id, "name": instance.name}, owned=False, raw=instance)
                name = instance.name
            found[name] = Found(properties(instance), owned=instance.owned, raw=instance)
        for item in items:
            if not self.absent:
                self.drift[item["name"]] = folder_drift(qemu.paths(item, layout).folder, 0o750, self._owner(item))
        self.shared = {path: read for path in systemd.shared_files(layout) for read in [read_plain(path)] if read}
        self.timer = systemd.timer_enabled()
        self.states = systemd.states([systemd.CONSOLE, systemd.TIMER])
        return found

    observe_bare = observe  # reading needs no tool

    def change(self, item: Item, have: Found | None) -> Change:
        layout, name = self.layout, item["name"]
        where = qemu.paths(item, layout)
        now: Instance = have.raw if have else Instance(name, qemu.identifier(item), where.folder)
        if now.id != qemu.identifier(item):
            raise ComputeError(
                f"instance {name} is there with the id {now.id}, and {qemu.identifier(item)} is declared.", "An id can't be changed; remove the instance first."
            )
        creating = where.start not in now.files and not now.trouble
        accel, settled = self._accel(item, now, creating)
        stays = item["power"] == "running" and now.power == "running" and now.running is not None
        item = qemu.reserve(item, now.running if stays else None)
        options = qemu.options(item, layout, accel)
        change = Change(name, "create" if creating else "update", have.props if have and not creating else None, facts={"id": now.id, "folder": where.folder})
        change.after = {"id": now.id, **qemu.describe(options), "labels": item["labels"], "power": item["power"]}
        if not settled:
            change.after.update(accel="auto", cpu_model=item["cpu_model"] or "auto")
        self._write_files(change, item, now, accel, settled)
        if not creating:
            running = qemu.differences(now.running or [], options) if stays and not now.silent else None
            written = qemu.differences(now.options, options) if not now.trouble else []
            # What was edited in the script alone is not so in the guest.
            change.reasons += [phrase if running is None or phrase in running else f"start says: {phrase}" for phrase in written]
        if now.trouble:
            change.reasons.append(now.trouble.rstrip("."))
            change.warnings.append(
                f"instance {name} (compute-{now.id}): {now.trouble} Its files are written anew. Who did that, QEMU's user or a person? If it was not "
                f"you, its guest may have broken out of its QEMU: stop it, and look at what it did (journalctl -u {systemd.unit(now.id)})."
            )
        elif not creating and now.labels != item["labels"]:
            differing = {key for key in {*now.labels, *item["labels"]} if now.labels.get(key) != item["labels"].get(key)}
            change.reasons.append(f"labels differ: {', '.join(sorted(differing))}")
        self._set_power(change, item, now, self._adjust(change, item, now, options) if stays else self._unsupervised(item, now))
        if not creating and change.steps and not change.reasons:
            change.reasons.append("its files differ")
        return change

    def remove(self, name: str, have: Found) -> Change:
        now: Instance = have.raw
        if now.labels.get("protect") and not self.params.get("remove_protected"):
            raise ComputeError(
                f"instance {name} is protected, its label protect says.",
                "To remove it, declare it without that label first (cloud_instances: protect: false, then run site), or set remove_protected (for the "
                "playbook teardown: teardown_protected).",
            )
        grace = self.items.get(name, {}).get("grace") if self.absent else None
        change = Change(name, "delete", have.props, None, facts={"id": now.id, "folder": now.folder})
        if now.power != "stopped" and (not now.managed or grace is not None):
            change.steps.append(self._stop(now, grace))
        if now.managed:
            change.steps.append(StopUnit(("systemctl", "stop", systemd.unit(now.id)), id=now.id, grace=grace, stage=3))
        if now.managed or now.unit.get("ActiveState") == "failed":
            change.steps.append(ForgetUnit(("systemctl", "reset-failed", systemd.unit(now.id)), stage=3))
        if systemd.drop_in_path(now.id) in now.files or now.drop_in_left:
            change.steps += self._without_drop_in(now, stage=5)
        # Last of all: by its folder an interrupted removal is found again, and by its name who it was.
        change.steps.append(Remove(now.folder, tree=True, stage=5))
        record = self.layout.instance(f"compute-{now.id}").record
        change.steps += [Remove(record, stage=5)] if record in now.files else []
        return change

    def common(self, changes: list[Change], have: dict[str, Found]) -> list[Change]:
        removed = {change.name for change in changes if change.action == "delete"}
        declared = [] if self.absent else [item for item in self.items.values() if item["supervisor"] == "systemd"]
        left = [found for name, found in have.items() if name not in removed and found.owned and name not in self.items and not found.raw.daemon]
        disable = {found.raw.id for name, found in have.items() if name in removed and found.raw.enabled}
        enable: set[str] = set()
        for item in self.items.values() if not self.absent else []:
            found = have.get(item["name"])
            enabled = bool(found and found.raw.enabled)
            wanted = item["power"] == "running" and item["supervisor"] == "systemd"
            if enabled != wanted:
                (enable if wanted else disable).add(qemu.identifier(item))
        change = Change(SHARED, "update")
        # Not only in a purge: one that was killed may have left them over.
        last = not declared and not left and not self.params.get("spare") and (self.absent or self.params["purge"] or not self.items)
        if declared:
            self._share(change)
        gone = [path for path in systemd.shared_files(self.layout) if path in self.shared] if last and self._template_is_ours() else []
        if declared and not self.timer:
            # Started first, so that one that is enabled was started, even if this run is killed in between.
            change.steps.append(Run(("systemctl", "start", systemd.TIMER), stage=2))
        change.reasons += [f"{len(enable)} more to start at boot"] if enable else []
        change.reasons += [f"{len(disable)} no more to start at boot"] if disable else []
        links = systemd.enable_steps(sorted(enable), bool(declared and not self.timer), stage=2)
        change.steps += links
        if self._outdated(changes, change, have, {os.path.basename(step.path) for step in links}):
            change.steps.append(Run(("systemctl", "daemon-reload"), stage=2))
            change.reasons = change.reasons or ["systemd has units otherwise than their files"]
        if disable:
            change.steps.append(Run(("systemctl", "disable", *map(systemd.unit, sorted(disable))), stage=2))
        if gone:
            change.action = "delete"
            there = self.timer or f"{systemd.UNIT_FOLDER}/{systemd.TIMER}" in self.shared
            change.steps += [Run(("systemctl", "disable", "--now", systemd.TIMER), stage=6)] if there else []
            change.steps += [Remove(path, stage=6) for path in gone]
        if gone or any(_of_systemd(step, stage=5) for one in changes for step in one.steps):
            change.steps.append(Run(("systemctl", "daemon-reload"), stage=6))
        return [change] if change.steps else []

    def _outdated(self, changes: list[Change], shared: Change, have: dict[str, Found], linked: set[str]) -> bool:
        """Tell whether systemd has to read its units again: what it does not have in its memory it finds by itself at the start.

        :param linked: The units that are enabled now.
        """
        touched = {systemd.unit(one.facts["id"]) for one in changes for step in one.steps if _of_systemd(step, stage=0)}
        files = [step.path for step in shared.steps if isinstance(step, Write) and _of_systemd(step, stage=0)]
        stale = any(systemd.is_outdated(state, unit == systemd.TIMER and self.timer) for unit, state in self.states.items())
        stale = stale or any(found.raw.outdated for found in have.values())
        return stale or bool((touched | linked) & self.loaded) or any(self.loaded or path in self.shared for path in files)

    def _share(self, change: Change) -> None:
        for path, (text, mode) in systemd.shared_files(self.layout).items():
            if self.shared.get(path) != (text, mode):
                change.steps.append(Write(path, text, mode, stage=0))
                change.reasons.append(f"{path} {'differs' if path in self.shared else 'is not there'}")

    def _template_is_ours(self) -> bool:
        text = self.shared.get(f"{systemd.UNIT_FOLDER}/{systemd.TEMPLATE}", ("", 0))[0]
        return not text or systemd.serves(self.layout)

    def _owner(self, item: Item) -> str:
        return item["user"] if self.as_root else ""

    def _accel(self, item: Item, now: Instance, creating: bool) -> tuple[str, bool]:
        """Give the accelerator, and whether it is settled: ``auto`` keeps what was found when the instance was made."""
        if item["accel"] != "auto":
            return item["accel"], True
        known = now.options or now.running
        if not creating and known:
            return qemu.accel_of(known), True
        return "tcg", False

    def _adjust(self, change: Change, item: Item, now: Instance, options: qemu.Options) -> list[str]:
        """Add the steps that change the running QEMU as it runs, and give what is left, which takes a restart."""
        where = qemu.paths(item, self.layout)
        told = self.reasons.get(f"compute-{now.id}", "")
        # In check mode the seed that is there is not yet the one that it will have to boot for, or have open already.
        seed = "" if f"compute-{now.id}" in self.seeds_changed else now.stale_seed
        outside = self._unsupervised(item, now) + outdated(now, options) + [phrase for phrase in (seed, told) if phrase]
        outside = list(dict.fromkeys(outside))
        if self.as_root and now.runs_as not in ("", item["user"]):
            outside.append(f"user is {now.runs_as}, declared {item['user']}")
        if now.silent:
            change.warnings.append(f"instance {item['name']}: QEMU does not answer at {where.qmp}, so whether it runs as declared can't be seen.")
            return outside
        if now.truth is None:
            return qemu.differences(now.running or [], options) + outside
        script = (*self._as_user(self._user_of(now)), where.qmp_script)
        known = (lambda path: path.startswith((f"{self.layout.volumes}/", f"{where.folder}/"))) if now.managed else (lambda path: True)
        planner = Planner(now.running or [], options, now.truth, script, where.qmp, known)
        plan = planner.plan()
        left = qemu.differences(plan.after, options) + outside
        kept = now.truth.kept >> 20 if now.truth.kept is not None else 0
        if kept > item["memory"] and qemu.describe(now.running or [])["memory"] == item["memory"]:
            change.warnings.append(
                f"instance {item['name']}: its guest still has {kept} MiB of memory, not the {item['memory']} that it was asked to do with; it has no balloon "
                "driver, or has not come so far yet."
            )
        if now.truth.idle_cpus:
            change.seen.append(
                f"instance {item['name']}: its guest uses {now.truth.cpus - now.truth.idle_cpus} of its {now.truth.cpus} processors. Linux shows a new one in "
                "/sys/devices/system/cpu, where `echo 1 >cpuN/online` starts it; a kernel that does not show it (Debian 13's, without KVM) has it "
                "after a restart of the instance."
            )
        if not left or not self._may_restart(item):
            change.steps += plan.steps
        else:
            # The restart takes them away too, but it may come after the turn of those who get them.
            others = [other for other in self.items.values() if other["name"] != item["name"]]
            change.steps += planner.release({disk["path"] for other in others for disk in qemu.disks(other, self.layout)})
        change.reasons += [phrase for phrase in plan.reasons if phrase not in change.reasons]
        return left

    def _may_restart(self, item: Item) -> bool:
        return bool((item["restart"] or self.params["restart"]) == "when_required")

    def _write_files(self, change: Change, item: Item, now: Instance, accel: str, settled: bool) -> None:
        layout, where = self.layout, qemu.paths(item, self.layout)
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
        start = qemu.start_script(item, layout, accel)
        if now.files.get(where.start) != (start, 0o755):
            settle = None if settled else (lambda: qemu.start_script(item, layout, self._probe(item)))
            change.steps.append(WriteStart(where.start, start, 0o755, settle=settle))
        for name, file, text in (("stop", where.stop, stop_script(item, layout)), ("qmp", where.qmp_script, qmp_script(item, layout))):
            if now.files.get(file) != (text, 0o755):
                change.steps.append(Write(file, text, 0o755))
                change.reasons += [] if creating else [f"the {name} script differs"]
        path = systemd.drop_in_path(now.id)
        drop_in = systemd.drop_in(item, layout) if item["supervisor"] == "systemd" else ""
        if drop_in and now.files.get(path) != (drop_in, 0o644):
            change.steps.append(Write(path, drop_in))
            change.reasons += [] if creating else [f"{path} differs"]
        elif not drop_in and (path in now.files or now.drop_in_left):
            change.steps += self._without_drop_in(now, stage=0)
            change.reasons.append(f"{path} is there, not needed")

    @staticmethod
    def _without_drop_in(now: Instance, stage: int) -> list[Step]:
        """Remove our drop-in, and its folder unless an administrator has one there too."""
        path = systemd.drop_in_path(now.id)
        return [*([Remove(path, stage=stage)] if path in now.files else []), Run(("rmdir", "--ignore-fail-on-non-empty", os.path.dirname(path)), stage=stage)]

    def _probe(self, item: Item) -> str:
        works, why = kvm_works(self._owner(item))
        if not works:
            warning = f"KVM does not work on this node ({why}); instances with accel=auto are emulated (tcg), which is slow."
            if warning not in self.warnings:
                self.warnings.append(warning)
        return "kvm" if works else "tcg"

    def _unsupervised(self, item: Item, now: Instance) -> list[str]:
        if item["supervisor"] == "systemd" and now.pid and now.unit and not now.managed and ("-daemonize", "") not in (now.running or []):
            return ["it runs outside its systemd unit"]
        return []

    def _set_power(self, change: Change, item: Item, now: Instance, waiting: list[str]) -> None:
        if item["power"] == "stopped":
            if now.power != "stopped":
                change.reasons.append(f"is {now.power}, declared stopped")
                change.steps.append(self._halt(now))
            return
        if now.power != "running" or now.awaited:
            change.reasons += [f"is {'not up' if now.awaited else now.power}, declared running"] if change.before else []
            if now.unit.get("ActiveState") == "failed":
                change.steps.append(Run(("systemctl", "reset-failed", systemd.unit(now.id)), stage=3))
            change.steps.append(self._start(item))
        elif waiting and self._may_restart(item):
            change.effect = "restart"
            change.reasons += [f"restart: {phrase}" for phrase in waiting if phrase not in change.reasons]
            change.steps.append(self._restart(item, now))
        elif waiting:
            change.restart_reason = "; ".join(waiting)
            change.warnings.append(
                f"instance {item['name']}: a restart is pending ({change.restart_reason}). Set restart=when_required, or power it off and run again."
            )

    def _restart(self, item: Item, now: Instance) -> Step:
        managed = now.managed and item["supervisor"] == "systemd"
        start = self._start(item, "restart" if managed else "start")
        has = {disk["path"] for disk in qemu.describe(now.running or [])["disks"]}
        wants = {disk["path"] for disk in qemu.disks(item, self.layout)}
        # Of one that is silent nobody knows what it has.
        coming, going = (tuple(sorted(paths)) if now.truth else () for paths in (wants - has, has - wants))
        halt = None if managed else self._halt(now)
        return RestartInstance(
            start.argv, unit=start.unit, pidfile=start.pidfile, qmp=start.qmp, memory=start.memory, stage=start.stage,
            name=item["name"], guest=guest_of(item, self.layout), roll=self.roll, halt=halt, coming=coming, going=going,
        )  # fmt: skip

    def _start(self, item: Item, verb: str = "start") -> StartInstance:
        where, unit = qemu.paths(item, self.layout), systemd.unit(qemu.identifier(item))
        by_systemd = item["supervisor"] == "systemd"
        memory = item["memory"] if item["memory"] != qemu.memory_max(item) else 0
        argv = ("systemctl", verb, unit) if by_systemd else (*self._as_user(item["user"]), where.start)
        return StartInstance(argv, unit=unit if by_systemd else "", pidfile=where.pid, qmp=where.qmp, memory=memory, starts=self.starts, stage=4)

    def _halt(self, now: Instance) -> Run:
        return StopUnit(("systemctl", "stop", systemd.unit(now.id)), id=now.id, stage=3) if now.managed else self._stop(now, None)

    def _stop(self, now: Instance, grace: int | None) -> StopInstance:
        return power_off(now, self.layout.instance(f"compute-{now.id}"), self._as_user(self._user_of(now)), grace, stage=3)

    def _user_of(self, now: Instance) -> str:
        return now.owner or str(self.items.get(now.name, {}).get("user") or DEFAULT_USER)

    def _as_user(self, user: str) -> tuple[str, ...]:
        # The folder is QEMU's to write in, so nothing in it is run as root.
        return ("runuser", "-u", user, "--") if self.as_root and user != "root" else ()


def _of_systemd(step: Step, stage: int) -> bool:
    """Tell whether a step writes or removes, at this stage, a file that systemd reads."""
    return isinstance(step, (Write, Remove)) and step.stage == stage and step.path.startswith(systemd.UNIT_FOLDER)
