# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What instances a node has: read from their folders, the kernel and systemd, once for all of them."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..._cloudinit.seed.seeds import pending_seed
from ..._core.commands import side_by_side
from ..._core.errors import ComputeError
from ..._core.layout import Layout, instance_id, misplaced
from ..._core.names import MAX_NAME, fits, mark
from ..._core.untrusted import read_text
from ..._qemu.argv import describe, from_argv, parse_options, phrases
from ..._qemu.machine import Machine, diff
from ..._qemu.running import RunningState, effective, query
from ..._qemu.start_script import parse_script
from ..._storage.qcow2 import is_locked
from ..._system import systemd
from ..._system.process import command_line, locked_by, taps_held
from . import service

States = dict[str, dict[str, str]]
# A folder without `start` that holds one of these, or nothing, is what an interrupted run left of an instance.
_OURS = {"start", "stop", "qmp", "qmp.sock", "vnc.sock", "console.sock", "console.log", "console.log.end", "agent.sock"}


_GONE = "start is not there, and systemd runs it all the same."
_LOST_START = "start is not there."
_UNMARKED = "start does not bear our mark."
_UNMARKED_RUNS = "start does not bear our mark, and systemd runs it all the same."


@dataclass
class Instance:
    """One folder below run/instances.

    :ivar name: As root wrote it down, else from the header of ``start`` where the id fits it; ``compute-<id>`` where
        nothing credible says it.
    :ivar owned: Whether ``start`` carries our mark, only remains of ours are there, or systemd runs it.
    :ivar trouble: What is wrong with what QEMU's user can write, a phrase; "" for nothing. It is then read from what
        root has.
    :ivar files: Text and mode of ``start``, ``stop``, the unit's drop-in and the name that root wrote down, as far as
        they are there.
    :ivar drop_in_left: Whether of the unit's drop-in only its folder is there, empty: an interrupted run left it.
    :ivar misplaced: Which of its files something stands in the place of that they can't replace, such as a folder.
    :ivar written: The machine as ``start`` has it; empty where nobody can tell.
    :ivar pid: Of the QEMU that runs, else 0.
    :ivar running: The machine as it runs, with all that was plugged in and out since; None when it doesn't, or
        can't be seen.
    :ivar runs_as: The user whose process it is; "" where that can't be seen.
    :ivar state: What it said over QMP, where it was asked and has answered.
    :ivar qmp_unresponsive: Why it has not answered as QEMU does, a sentence, where it was asked and runs; "" when it
        has.
    :ivar replaced: Which of its disks were replaced since it has them open, a phrase each; looked at where QEMU was
        asked.
    :ivar stale_seed: Why it has to boot to take up its seed, or empty; likewise.
    :ivar lost: Taps of its cards that were deleted since it has them open; likewise.
    :ivar unit: What systemd says (ActiveState…); empty where systemd does not run.
    :ivar owner: The user whom the folder belongs to, whom QEMU runs as.
    """

    name: str
    id: str
    folder: str
    owned: bool = True
    trouble: str = ""
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    drop_in_left: bool = False
    misplaced: list[str] = field(default_factory=list)
    labels: dict[str, Any] = field(default_factory=dict)
    written: Machine = field(default_factory=Machine)
    pid: int = 0
    running: Machine | None = None
    runs_as: str = ""
    state: RunningState | None = None
    qmp_unresponsive: str = ""
    replaced: list[str] = field(default_factory=list)
    stale_seed: str = ""
    lost: frozenset[str] = frozenset()
    unit: dict[str, str] = field(default_factory=dict)
    enabled: bool = False
    owner: str = ""

    @property
    def power(self) -> str:
        """``running``, also while systemd is about to start it; ``stopped``, or ``stopping`` while systemd waits for
        its end.
        """
        state = self.unit.get("ActiveState")
        if state == "deactivating":
            return "stopping"
        return "running" if self.pid or state in ("active", "activating") else "stopped"

    @property
    def awaited(self) -> bool:
        """Whether systemd is about to start it again after its QEMU has died, or it dies each time: it runs only when
        it was seen to.
        """
        return not self.pid and self.unit.get("ActiveState") == "activating"

    @property
    def managed(self) -> bool:
        """Whether systemd looks after the QEMU that runs."""
        return self.unit.get("ActiveState") in ("active", "activating", "deactivating", "reloading")

    @property
    def by_systemd(self) -> bool:
        """Whether systemd runs it, starts it at boot, or tried to: what it does under our template is ours, whatever a
        file says.
        """
        return (
            self.enabled
            or self.unit.get("ActiveState", "inactive") != "inactive"
            or service.drop_in_path(self.id) in self.files
        )

    @property
    def outdated(self) -> bool:
        """Whether systemd has its unit otherwise than the files have it by now.

        Of a drop-in in a new folder systemd 252 does not say so itself.
        """
        path, read = service.drop_in_path(self.id), self.unit.get("DropInPaths")
        return systemd.is_outdated(self.unit, self.enabled) or (
            read is not None and (path in self.files) != (path in read.split())
        )

    @property
    def daemon(self) -> bool:
        """Whether ``start`` is written for a machine without systemd."""
        return self.written.daemon


def gone_instance(name: str) -> Instance:
    """Return an instance that is not there: only its name is known."""
    return Instance(name, "", "")


def read_instances(
    layout: Layout,
    also: list[str] | None = None,
    units: bool = True,
    stale: bool = False,
    talk: bool = False,
    loaded: States | None = None,
) -> dict[str, Instance]:
    """Read all instances below a root, by name.

    :param also: Ids whose units and drop-ins to look for even if there is no folder.
    :param units: Whether to ask systemd, which takes one process.
    :param stale: Whether to ask it also whether it has to read a unit again, which takes a millisecond for each.
    :param loaded: What :func:`service.loaded` has given, where it was asked already.
    :param talk: Whether to ask each QEMU over QMP, a few milliseconds side by side.
    """
    found: list[Instance] = []
    units = units and service.serves(layout)
    enabled = service.enabled_ids() if units else set()
    try:
        names = sorted(os.listdir(layout.instances))
    except OSError:
        names = []
    known: States = {}
    if units:
        known = service.loaded() if loaded is None else loaded
    folders = {name for name in names if instance_id(name)}
    folders |= {
        name[: -len(".name")] for name in names if name.endswith(".name") and instance_id(name[: -len(".name")])
    }
    folders |= {f"compute-{identifier}" for identifier in [*(also or []), *enabled, *service.running_ids(known)]}
    for name in sorted(folders):
        instance = _read(layout, name)
        instance.enabled = instance.id in enabled
        found.append(instance)
    states: States = {}
    asked = [instance for instance in found if talk and instance.owned and instance.running is not None]
    questions: list[Callable[[], None]] = []
    if units and found:
        names = [service.unit(instance.id) for instance in found if instance.pid or service.unit(instance.id) in known]
        questions.append(lambda: states.update(systemd.states(names) if stale else known))
    questions += [partial(_talk, instance, layout) for instance in asked]
    side_by_side(lambda question: question(), questions, workers=16)
    by_name: dict[str, Instance] = {}
    # What it has not in its memory does not run.
    unknown = {"ActiveState": "inactive", "SubState": "dead"} if units and systemd.is_running() else {}
    for instance in found:
        instance.unit = states.get(service.unit(instance.id), unknown)
        if not instance.files and not os.path.isdir(instance.folder) and not instance.enabled and not instance.managed:
            continue
        if units and not instance.owned and instance.by_systemd:
            instance.owned, instance.trouble = (
                True,
                instance.trouble or (_UNMARKED_RUNS if instance.managed else _UNMARKED),
            )
        if units and instance.managed and layout.instance(f"compute-{instance.id}").start not in instance.files:
            instance.trouble = instance.trouble or _GONE
        if instance.trouble and instance.name == f"compute-{instance.id}":
            instance.name = _named_by_links(instance.id) or instance.name
        if instance.name in by_name:
            instance.name = f"compute-{instance.id}"
        by_name[instance.name] = instance
    return by_name


def _named_by_links(identifier: str) -> str:
    """Give the name of an instance whose files don't say it, as its links do: their aliases are root's."""
    begin = mark("instance", "")
    for link in os.listdir("/sys/class/net"):
        try:
            with open(f"/sys/class/net/{link}/ifalias", encoding="utf-8", errors="replace") as stream:
                alias = stream.read().strip()
        except OSError:
            continue
        if alias.startswith(begin) and fits(alias[len(begin) :], identifier):
            return alias[len(begin) :]
    return ""


def _talk(instance: Instance, layout: Layout) -> None:
    started = instance.running or Machine()
    where = layout.instance(f"compute-{instance.id}")
    try:
        instance.state = query(where.qmp, started)
    except ComputeError as error:
        # It may have ended between two looks.
        instance.qmp_unresponsive = error.message if locked_by(where.pid) == instance.pid else ""
    else:
        instance.running = effective(started, instance.state, instance.written)
    # Of what it has now: a disk that was detached is nobody's to lock. Of one that is silent only its own disk is sure
    # to be still there.
    instance.replaced = _replaced(instance, layout)
    instance.stale_seed = pending_seed(layout, f"compute-{instance.id}")
    instance.lost = _lost(instance)


def _replaced(instance: Instance, layout: Layout) -> list[str]:
    # Only in root's own folder: QEMU can write what it likes over its command line, and is not to choose what is
    # opened.
    disks = [
        disk
        for disk in (instance.running.disks if instance.running else ())
        if os.path.dirname(disk.path) == layout.volumes and not disk.readonly
    ]
    # Also one that is missing: the same run may be about to make it anew, and check mode is to say the same as that.
    own = layout.volume(f"compute-{instance.id}")
    disks = [disk for disk in disks if instance.state is not None or disk.path == own]
    return [
        f"its disk {disk.path} {'was made anew' if os.path.exists(disk.path) else 'is not there any more'}"
        for disk in disks
        if not _in_use(disk.path)
    ]


def _lost(instance: Instance) -> frozenset[str]:
    # A tap has a carrier as long as somebody has it open: most are settled by that.
    idle = {tap for tap in (instance.running.taps if instance.running else ()) if not _has_carrier(tap)}
    held = taps_held(instance.pid) if idle else None
    return frozenset(idle - held) if held is not None else frozenset()


def _has_carrier(link: str) -> bool:
    try:
        with open(f"/sys/class/net/{link}/carrier", encoding="ascii") as stream:
            return stream.read(1) == "1"
    except OSError:
        return False  # not there, or down


def outdated(instance: Instance, want: Machine) -> list[str]:
    """Say what a running QEMU has open that is not there any more, as far as it is to have it.

    :param want: The machine that it is to be.
    """
    lost = sorted(instance.lost & want.taps)
    return instance.replaced + [
        f"its link {tap} was deleted, and QEMU does not have the one that is there by now" for tap in lost
    ]


def _in_use(path: str) -> bool:
    try:
        return is_locked(path)
    except ComputeError:
        return True  # not ours to look at


def _read(layout: Layout, name: str) -> Instance:
    where = layout.instance(name)
    identifier = instance_id(name) or ""
    instance = Instance(name, identifier, where.folder)
    instance.owner = _owner(where.folder)
    problems: list[str] = []
    for path in (where.start, where.stop, where.qmp_script, where.record, service.drop_in_path(identifier)):
        try:
            read = read_text(path)
        except ComputeError as error:
            read = None
            problems += [error.message] if path == where.start else []
        if read:
            instance.files[path] = read
    instance.drop_in_left = service.left_over_drop_in(identifier)
    recorded = instance.files.get(where.record, ("", 0))[0].strip()
    claimed = []
    if where.start in instance.files:
        parsed = parse_script(instance.files[where.start][0], problems)
        instance.owned = parsed is not None
        if parsed:
            said, instance.labels, instance.written = parsed.name, parsed.labels, parsed.machine
            claimed.append(said)
            if said != recorded and not fits(said, identifier):
                problems.append(f"start says that it is {said[:MAX_NAME]}, whose id it does not have.")
    else:
        instance.owned = left_over(where.folder, name)
        # It is written before these, so no interrupted run leaves them without it.
        if {where.stop, where.qmp_script, service.drop_in_path(identifier)} & instance.files.keys():
            problems.append(_LOST_START)
    instance.pid = locked_by(where.pid)
    words = command_line(instance.pid) if instance.pid > 0 else None
    if words:
        instance.running = from_argv(parse_options(words[1:]))
        instance.runs_as = _owner(f"/proc/{instance.pid}")
        claimed.append(instance.running.name)
    instance.misplaced = misplaced(where.written, where.opened)
    instance.trouble = problems[0] if problems else ""
    instance.name = recorded or next((said for said in claimed if fits(said, identifier)), "") or name
    return instance


def _owner(folder: str) -> str:
    try:
        return pwd.getpwuid(os.lstat(folder).st_uid).pw_name
    except (OSError, KeyError):
        return ""


def left_over(folder: str, name: str) -> bool:
    """Tell whether a folder without ``start`` was an instance's all the same, not only a seed's or somebody else's."""
    # There may be any number of files: they are not listed.
    if any(os.path.lexists(f"{folder}/{file}") for file in (*sorted(_OURS), f"{name}.pid")):
        return True
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True
    except OSError:
        return False


def pending(instance: Instance, want: Machine) -> list[str]:
    """Say in what a running instance differs from its declaration, so that a restart is pending."""
    if not instance.pid or instance.running is None:
        return []
    return (
        phrases(diff(instance.running, want))
        + outdated(instance, want)
        + ([instance.stale_seed] if instance.stale_seed else [])
    )


def properties(instance: Instance) -> dict[str, Any]:
    """Give an instance's properties in the declaration's words."""
    return {"id": instance.id, **describe(instance.written), "labels": instance.labels, "power": instance.power}
