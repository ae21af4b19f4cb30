# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules share that act on instances which are there: finding these by name or id, and asking and stopping their QEMU."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ansible_collections.ikcloud.compute.plugins.module_utils import qmp, systemd
from ansible_collections.ikcloud.compute.plugins.module_utils.commands import side_by_side
from ansible_collections.ikcloud.compute.plugins.module_utils.engine import DEFAULT_ROOT, Found, Item, Kind
from ansible_collections.ikcloud.compute.plugins.module_utils.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils.instance_steps import StartInstance, StopUnit, power_off
from ansible_collections.ikcloud.compute.plugins.module_utils.instances import Instance, read_instances
from ansible_collections.ikcloud.compute.plugins.module_utils.layout import DEFAULT_USER, InstancePaths, Layout
from ansible_collections.ikcloud.compute.plugins.module_utils.live_steps import Ask
from ansible_collections.ikcloud.compute.plugins.module_utils.names import name_problem
from ansible_collections.ikcloud.compute.plugins.module_utils.steps import Remove, Run, Step

_ASKED_AT_ONCE = 16
STAGE_STOP, STAGE_WORK, STAGE_START = 3, 4, 5


def chosen_spec(states: list[str], **options: Item) -> Item:
    """Give the argument spec of a module that acts on instances which are there."""
    return {
        "instances": {"type": "list", "elements": "str", "required": True},
        "state": {"type": "str", "choices": states, "required": True},
        "root": {"type": "path", "default": DEFAULT_ROOT},
        **options,
    }


class ChosenKind(Kind):
    """Something done to instances that are there. Stages: 3 stop, 4 what is to be done, 5 start.

    :ivar states: What each instance's QEMU says of its guest (QAPI RunState), by id; None where it does not run or does not answer.
    :ivar looks: How often the node was read: what only a second look can tell (such as that a revert was made) is done by then.
    :ivar ids: The id of each instance that was found, by what it was called.
    :ivar troubles: What could not be read of an instance, by what it was called.
    """

    noun = "instance"
    option = "instances"
    workers = 4

    def __init__(self, params: Item) -> None:
        super().__init__({"purge": False, "spare": [], **params, "instances": [{"name": name} for name in params["instances"]]})
        self.layout = Layout(self.root)
        self.states: dict[str, str | None] = {}
        self.looks = 0
        self.troubles: dict[str, str] = {}
        self.ids: dict[str, str] = {}

    def choose(self, items: list[Item], needed: bool = True) -> dict[str, Found]:
        """Find the instances that were asked for.

        :param needed: Whether each has to be there; else those that are not are left out.
        :returns: By what they were called, name or id; ``props`` has ``id`` and ``power`` (``paused`` by an operator, or by QEMU after an error of its disk),
            ``raw`` is the :class:`Instance`.
        :raises ComputeError: When one is not there, with those that are; when one is named twice.
        """
        self.looks += 1
        # Of an instance without `start` there are only remains, unless systemd runs it.
        everything = read_instances(self.layout)
        there = {name: found for name, found in everything.items() if self.where(found).start in found.files or found.by_systemd}
        by_id = {word: found for found in there.values() for word in (found.id, f"compute-{found.id}")}
        # After a stop there may be nothing left that tells the name, or nothing but remains.
        again = {found.id: found for found in everything.values()}
        chosen = {name: there.get(name) or by_id.get(name) or again.get(self.ids.get(name, "")) for name in (item["name"] for item in items)}
        self.ids.update({name: instance.id for name, instance in chosen.items() if instance is not None})
        lost = [name for name, instance in chosen.items() if instance is None]
        if lost and needed:
            names = [name for name, instance in sorted(there.items()) if instance.owned]
            raise ComputeError(f"There is no instance {', '.join(lost)} on this node.", f"There are: {', '.join(names)}." if names else "There is none at all.")
        found: dict[str, Found] = {}
        first: dict[str, str] = {}
        named = [instance for instance in chosen.values() if instance is not None]
        # A QEMU that is silent takes all its time: they are asked side by side.
        states = side_by_side(lambda instance: qemu_state(instance, self.layout), named, workers=_ASKED_AT_ONCE)
        self.states = {instance.id: state for instance, state in zip(named, states)}
        for name, instance in chosen.items():
            if instance is None:
                continue
            if instance.id in first:
                raise ComputeError(f"instances: {first[instance.id]} and {name} are the same instance; name it once.")
            first[instance.id] = name
            state = self.states[instance.id]
            paused = instance.power == "running" and state not in (None, "running")
            found[name] = Found({"id": instance.id, "power": "paused" if paused else instance.power}, instance.owned, instance)
        return found

    def examine(self, found: dict[str, Found], read: Callable[[str, Found], None]) -> None:
        """Read more of the instances, side by side.

        What can't be read of one is that one's trouble: its QEMU may be hostile, or broken, and stops no other. It is not asked again then.

        :param read: Reads more of one, given what it was called. It may raise a :class:`ComputeError`.
        """

        def attempt(entry: tuple[str, Found]) -> None:
            try:
                read(*entry)
            except ComputeError as error:
                self.troubles[entry[0]] = str(error)

        sound = [(name, have) for name, have in found.items() if not self.refusal(name, have)]
        side_by_side(attempt, sound, workers=_ASKED_AT_ONCE)

    def refusal(self, name: str, found: Found) -> str:
        instance: Instance = found.raw
        if self.params["state"] == "stopped":
            return ""
        if not instance.trouble:
            return f"{self.troubles[name]} Nothing was done with this instance." if name in self.troubles else ""
        return (
            f"{instance.trouble} Who did that, QEMU's user or a person? Run site, which writes its files anew; if it was not you, stop it first, "
            f"and look at what it did (journalctl -u {systemd.unit(instance.id)})."
        )

    def where(self, instance: Instance) -> InstancePaths:
        """Give where an instance's files stand."""
        return self.layout.instance(f"compute-{instance.id}")

    def ask(self, instance: Instance, command: str, arguments: dict[str, Any] | None = None, stage: int = STAGE_WORK) -> Step:
        """Have the instance's QEMU do a command."""
        return Ask(self.script(instance), self.where(instance).qmp, command, arguments or {}, stage=stage)

    def script(self, instance: Instance) -> tuple[str, ...]:
        """Give what a person types before a command to QEMU."""
        return (*as_user(instance), self.where(instance).qmp_script)

    def halt(self, have: Found, grace: int | None) -> list[Step]:
        """List what powers an instance off: the power button first (``stop`` lets a guest that is paused go on to see it), then by force.

        :param grace: Seconds that the guest may take; None for the instance's own.
        """
        instance: Instance = have.raw
        steps: list[Step] = []
        if not instance.managed or grace is not None:
            steps.append(power_off(instance, self.where(instance), as_user(instance), grace, STAGE_STOP))
        if instance.managed:
            steps.append(StopUnit(("systemctl", "stop", systemd.unit(instance.id)), id=instance.id, grace=grace, stage=STAGE_STOP))
        return steps

    def start(self, instance: Instance) -> list[Step]:
        """List what starts an instance, by whoever looks after it."""
        unit = "" if instance.daemon else systemd.unit(instance.id)
        where = self.where(instance)
        # What QEMU's user has put in the place of its files would have QEMU fail, or wait for ever.
        steps: list[Step] = [Remove(path, tree=True, stage=STAGE_STOP) for path in instance.misplaced]
        if unit and instance.unit.get("ActiveState") == "failed":
            steps.append(Run(("systemctl", "reset-failed", unit), stage=STAGE_STOP))
        argv = ("systemctl", "start", unit) if unit else (*as_user(instance), where.start)
        return [*steps, StartInstance(argv, unit=unit, pidfile=where.pid, qmp=where.qmp, stage=STAGE_START)]


def missing_name(what: str, name: str) -> str | None:
    """Say what is wrong with the name of a snapshot or a backup, or None.

    :param what: ``snapshot`` or ``backup``, as the playbooks' variable is called.
    """
    return name_problem("name", name) if name else f"name: missing; say which {what}, to a playbook with -e {what}=NAME."


def as_user(instance: Instance) -> tuple[str, ...]:
    """Give what a command line begins with that is run as the instance's user: its folder is QEMU's to write in, so nothing there is run as root."""
    owner = instance.owner or DEFAULT_USER
    return ("runuser", "-u", owner, "--") if os.geteuid() == 0 and owner != "root" else ()


def qemu_state(instance: Instance, layout: Layout) -> str | None:
    """Ask an instance's QEMU for its run state; None when it does not run or does not answer."""
    if not instance.pid:
        return None
    try:
        return qmp.status(layout.instance(f"compute-{instance.id}").qmp, timeout=5)
    except ComputeError:
        return None
