# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules share that act on instances which are there: finding these by name or id, and asking and stopping
their QEMU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .._core.changes import Item, Observed
from .._core.commands import side_by_side
from .._core.errors import ComputeError
from .._core.layout import DEFAULT_ROOT, DEFAULT_USER, InstancePaths, Layout
from .._core.names import name_problem
from .._core.operation import Operation
from .._core.steps import Remove, Run, Stage, Step
from .._qemu.hotplug import QmpCommand
from .._qemu.qmp import qmp
from .instance import service
from .instance.instances import Instance, read_instances
from .instance.steps import StartInstance, StopUnit, power_off

_ASKED_AT_ONCE = 16


def chosen_spec(states: list[str], **options: Item) -> Item:
    """Give the argument spec of a module that acts on instances which are there."""
    return {
        "instances": {"type": "list", "elements": "str", "required": True},
        "state": {"type": "str", "choices": states, "required": True},
        "root": {"type": "path", "default": DEFAULT_ROOT},
        **options,
    }


@dataclass(frozen=True)
class Chosen:
    """An instance that an operation is about.

    :ivar run_state: What its QEMU says of its guest (QAPI RunState); None where it does not run or does not answer.
    :ivar state: What the operation itself has read of it.
    :ivar trouble: What could not be read of it, a sentence.
    """

    instance: Instance
    run_state: str | None = None
    state: Any = None
    trouble: str = ""


class InstanceOperation(Operation):
    """Something done to instances that are there. Of each, ``native`` is a :class:`Chosen`."""

    noun = "instance"
    option = "instances"
    workers = 4

    def __init__(self, params: Item) -> None:
        super().__init__(params)
        self.layout = Layout(self.root)

    def observe(self, names: list[str], earlier: Mapping[str, Observed]) -> dict[str, Observed]:
        return self.choose(names, earlier)

    def choose(self, names: list[str], earlier: Mapping[str, Observed], needed: bool = True) -> dict[str, Observed]:
        """Find the instances that were asked for.

        :param needed: Whether each has to be there; else those that are not are left out.
        :returns: By what they were called, name or id; ``attributes`` has ``id`` and ``power`` (``paused`` by an
            operator, or by QEMU after an error of its disk).
        :raises ComputeError: When one is not there, with those that are; when one is named twice.
        """
        # Of an instance without `start` there are only remains, unless systemd runs it.
        everything = read_instances(self.layout)
        there = {
            name: found
            for name, found in everything.items()
            if self.where(found).start in found.files or found.by_systemd
        }
        by_id = {word: found for found in there.values() for word in (found.id, f"compute-{found.id}")}
        # After a stop there may be nothing left that tells the name, or nothing but remains.
        again = {found.id: found for found in everything.values()}
        ids = {name: found.native.instance.id for name, found in earlier.items()}
        chosen = {name: there.get(name) or by_id.get(name) or again.get(ids.get(name, "")) for name in names}
        lost = [name for name, instance in chosen.items() if instance is None]
        if lost and needed:
            known = [name for name, instance in sorted(there.items()) if instance.owned]
            raise ComputeError(
                f"There is no instance {', '.join(lost)} on this node.",
                f"There are: {', '.join(known)}." if known else "There is none at all.",
            )
        first: dict[str, str] = {}
        named = {name: instance for name, instance in chosen.items() if instance is not None}
        for name, instance in named.items():
            if first.setdefault(instance.id, name) != name:
                raise ComputeError(f"instances: {first[instance.id]} and {name} are the same instance; name it once.")
        # A QEMU that is silent takes all its time: they are asked side by side.
        states = side_by_side(
            lambda instance: qemu_state(instance, self.layout), list(named.values()), workers=_ASKED_AT_ONCE
        )
        return {
            name: Observed(
                {"id": instance.id, "power": _power(instance, state)}, instance.owned, Chosen(instance, state)
            )
            for (name, instance), state in zip(named.items(), states)
        }

    def examine(self, found: dict[str, Observed], read: Callable[[str, Observed], Any]) -> None:
        """Read more of the instances, side by side, into their ``state``.

        What can't be read of one is that one's trouble: its QEMU may be hostile, or broken, and stops no other. It is
        not asked again then.

        :param read: Reads more of one, given what it was called. It may raise a :class:`ComputeError`.
        """

        def attempt(entry: tuple[str, Observed]) -> None:
            have = entry[1]
            try:
                have.native = replace(have.native, state=read(*entry))
            except ComputeError as error:
                have.native = replace(have.native, trouble=str(error))

        sound = [(name, have) for name, have in found.items() if not self.refusal(name, have)]
        side_by_side(attempt, sound, workers=_ASKED_AT_ONCE)

    def refusal(self, name: str, found: Observed) -> str:
        chosen: Chosen = found.native
        instance = chosen.instance
        if self.params["state"] == "stopped":
            return ""
        if not instance.trouble:
            return f"{chosen.trouble} Nothing was done with this instance." if chosen.trouble else ""
        return (
            f"{instance.trouble} Who did that, QEMU's user or a person? Run site, which writes its files anew; if it"
            f" was not you, stop it first, and look at what it did (journalctl -u {service.unit(instance.id)})."
        )

    def where(self, instance: Instance) -> InstancePaths:
        """Give where an instance's files stand."""
        return self.layout.instance(f"compute-{instance.id}")

    def ask(
        self, instance: Instance, command: str, arguments: dict[str, Any] | None = None, stage: Stage = Stage.WORK
    ) -> Step:
        """Have the instance's QEMU do a command."""
        return QmpCommand(self.script(instance), self.where(instance).qmp, command, arguments or {}, stage=stage)

    def script(self, instance: Instance) -> tuple[str, ...]:
        """Give what a person types before a command to QEMU."""
        return (*as_user(instance), self.where(instance).qmp_script)

    def halt(self, instance: Instance, grace: int | None) -> list[Step]:
        """List what powers an instance off: the power button first (``stop`` lets a guest that is paused go on to see
        it), then by force.

        :param grace: Seconds that the guest may take; None for the instance's own.
        """
        steps: list[Step] = []
        if not instance.managed or grace is not None:
            steps.append(power_off(instance, self.where(instance), as_user(instance), grace, Stage.CHANGE))
        if instance.managed:
            steps.append(
                StopUnit(
                    ("systemctl", "stop", service.unit(instance.id)), id=instance.id, grace=grace, stage=Stage.CHANGE
                )
            )
        return steps

    def start(self, instance: Instance) -> list[Step]:
        """List what starts an instance, by whoever looks after it."""
        unit = "" if instance.daemon else service.unit(instance.id)
        where = self.where(instance)
        # What QEMU's user has put in the place of its files would have QEMU fail, or wait for ever.
        steps: list[Step] = [Remove(path, tree=True, stage=Stage.CHANGE) for path in instance.misplaced]
        if unit and instance.unit.get("ActiveState") == "failed":
            steps.append(Run(("systemctl", "reset-failed", unit), stage=Stage.CHANGE))
        argv = ("systemctl", "start", unit) if unit else (*as_user(instance), where.start)
        return [*steps, StartInstance(argv, unit=unit, pidfile=where.pid, qmp=where.qmp, stage=Stage.START)]


def _power(instance: Instance, state: str | None) -> str:
    return "paused" if instance.power == "running" and state not in (None, "running") else instance.power


def missing_name(what: str, name: str) -> str | None:
    """Say what is wrong with the name of a snapshot or a backup, or None.

    :param what: ``snapshot`` or ``backup``, as the playbooks' variable is called.
    """
    return (
        name_problem("name", name) if name else f"name: missing; say which {what}, to a playbook with -e {what}=NAME."
    )


def as_user(instance: Instance) -> tuple[str, ...]:
    """Give what a command line begins with that is run as the instance's user: its folder is QEMU's to write in, so
    nothing there is run as root.
    """
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
