# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps that bring a running QEMU to its declaration without a restart, as far as that goes.

Planning is pure: it asks nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from .._core.errors import ComputeError
from .._core.steps import Stage, Step
from .argv import file_driver
from .declared import MAX_CPUS
from .machine import Backend, Difference, Disk, HotplugDevice, Machine, Nic, diff
from .qmp.qmp import TIMEOUT, Qmp
from .qmp.script import typed
from .running import RunningState, idle_cpus

# A guest takes well under a second to let go of a device; emulated on an emulated node some seconds.
UNPLUG_LIMIT = 30.0
RELEASE_LIMIT = 10.0
# A guest that starts a processor that is plugged in does so within a second.
TAKE_UP_LIMIT = 2.0
# With what is started: after whatever had the disk or the tap until now has given it up.
ATTACH = Stage.START


@dataclass(frozen=True)
class QmpCommand(Step):
    """Have a running QEMU do one command.

    :ivar script: The instance's ``qmp``, after what it takes to be its user, for a person to type.
    :ivar socket: Where QEMU listens.
    :ivar best_effort: Whether it may fail: a restart follows, which does the same.
    """

    script: tuple[str, ...]
    socket: str
    command: str
    arguments: dict[str, Any]
    stage: Stage = Stage.CHANGE
    best_effort: bool = False

    @property
    def text(self) -> str:
        return " ".join((*self.script[:-1], typed(self.script[-1], self.command, self.arguments)))

    def run(self) -> None:
        try:
            self.execute()
        except ComputeError:
            if not self.best_effort:
                raise

    def execute(self) -> None:
        """Have it done.

        :raises ComputeError: When QEMU refuses.
        """
        with Qmp(self.socket, limit=RELEASE_LIMIT + TIMEOUT) as qmp:
            until = time.monotonic() + RELEASE_LIMIT
            while True:
                try:
                    qmp.execute(self.command, self.arguments)
                    return
                except ComputeError as error:
                    # A disk's node is free only some moments after its device is gone, and its file when the QEMU that
                    # had it so far has ended.
                    waits = {"blockdev-del": "in use", "blockdev-add": '" lock'}.get(self.command)
                    if waits is None or waits not in str(error) or time.monotonic() >= until:
                        raise
                time.sleep(0.05)


@dataclass(frozen=True)
class DeviceUnplug(QmpCommand):
    """Have QEMU ask the guest to let go of a device, and wait until it has."""

    key: str = ""

    def execute(self) -> None:
        """Have it done.

        :raises ComputeError: When the guest keeps it.
        """
        until, pause = time.monotonic() + UNPLUG_LIMIT, 0.02
        refused = ""
        with Qmp(self.socket, limit=UNPLUG_LIMIT + TIMEOUT) as qmp:
            while any(
                entry.get("name").word() == self.arguments["id"]
                for entry in qmp.ask("qom-list", {"path": "/machine/peripheral"}).entries()
            ):
                if pause == 0.02 or pause >= 2:  # a guest that is still booting misses it
                    try:
                        qmp.execute(self.command, self.arguments)
                    except ComputeError as error:  # "already in the process of unplug", or gone by now
                        refused = f" {error}"
                if time.monotonic() >= until:
                    raise ComputeError(
                        f"The guest did not let go of {self.key} within {UNPLUG_LIMIT:g} s (a guest without ACPI"
                        f" hotplug never does).{refused}",
                        "It is gone with the instance's next start: set its power to stopped and then to running"
                        " again.",
                    )
                time.sleep(pause)
                pause = min(2.0, pause * 1.5)


@dataclass(frozen=True)
class PlugProcessor(QmpCommand):
    """Plug in a processor, and give the guest a moment to start it, so that this run can say whether it did.

    :ivar new: The ids to wait for; none to go on at once.
    """

    new: frozenset[str] = frozenset()

    def execute(self) -> None:
        """Have it done.

        :raises ComputeError: When QEMU refuses.
        """
        super().execute()
        until = time.monotonic() + TAKE_UP_LIMIT
        with suppress(ComputeError), Qmp(self.socket, limit=TAKE_UP_LIMIT + TIMEOUT) as qmp:
            while (
                self.new
                and idle_cpus(qmp, {f"/machine/peripheral/{name}" for name in self.new})
                and time.monotonic() < until
            ):
                time.sleep(0.1)


@dataclass(frozen=True)
class Attach(QmpCommand):
    """Have QEMU make what stands behind a device that is plugged in next: it opens a disk or a tap."""


@dataclass
class HotplugPlan:
    """What can be done to a running QEMU.

    :ivar after: The machine that it then is; what still differs from the declaration takes a restart.
    :ivar closed: What differs, and is closed.
    """

    after: Machine
    steps: list[Step] = field(default_factory=list)
    closed: list[Difference] = field(default_factory=list)


@dataclass(frozen=True)
class HotplugPlanner:
    """Plans the steps for one instance.

    :ivar have: The running machine, as :func:`running.effective` gives it; ``want`` the declared one, with its slots.
    :ivar reachable: Whether the running QEMU may open a disk's path (a unit's sandbox stands from its start on).
    """

    have: Machine
    want: Machine
    state: RunningState
    script: tuple[str, ...]
    socket: str
    reachable: Callable[[str], bool] = lambda path: True

    def plan(self) -> HotplugPlan:
        """List the steps: those that no unwilling guest can fail, then what is to go, then what is to come."""
        made = HotplugPlan(self.have)
        self._processors(made)
        self._memory(made)
        self._devices(made)
        left = diff(made.after, self.want)
        made.closed += [difference for difference in diff(self.have, self.want) if difference not in left]
        return made

    def release(self, paths: Container[str]) -> list[Step]:
        """List the steps that take these disks away, and no others: before a restart that does the rest, for those who
        are to have them next.
        """
        made = HotplugPlan(self.have)
        self._detach(
            made, [device for device in self._to_detach() if isinstance(device, Disk) and device.path in paths]
        )
        # A guest that keeps one is restarted all the same.
        return [replace(step, best_effort=True) if isinstance(step, QmpCommand) else step for step in made.steps]

    def _command(self, made: HotplugPlan, command: str, stage: Stage = QmpCommand.stage, **arguments: Any) -> None:
        made.steps.append(QmpCommand(self.script, self.socket, command, arguments, stage))

    def _processors(self, made: HotplugPlan) -> None:
        count, most, wanted = self.have.cpus, self.have.max_cpus, self.want.cpus
        slots = self.state.free_cpu_slots
        if count is None or most is None or wanted is None or not count < wanted <= min(most, count + len(slots)):
            return
        free = (f"cpu{number}" for number in range(1, 2 * MAX_CPUS) if f"cpu{number}" not in self.state.devices)
        names = [name for _count, name in zip(range(wanted - count), free)]
        for slot, name in zip(slots, names):
            # One wait for all of them.
            new = frozenset(names) if name == names[-1] else frozenset()
            arguments = {"driver": slot.type, "id": name, **slot.place}
            made.steps.append(PlugProcessor(self.script, self.socket, "device_add", arguments, new=new))
        made.after = replace(made.after, cpus=wanted)

    def _memory(self, made: HotplugPlan) -> None:
        was, most, wanted = self.have.memory, self.have.max_memory, self.want.memory
        if was is None or most is None or wanted is None or wanted == was or wanted > most:
            return
        if "balloon" in self.state.devices:
            self._command(made, "balloon", value=wanted << 20)
            made.after = replace(made.after, memory=wanted)

    def _devices(self, made: HotplugPlan) -> None:
        gone = self._to_detach()
        self._detach(made, gone)
        there = self.have.devices
        kept = [device for device in there.values() if device not in gone]
        names = {*self.state.devices, *self.state.backends, *self.state.block_nodes, *self.state.startup_ids}
        for key, device in self.want.devices.items():
            if key not in there and self._can_attach(device, kept):
                self._attach(made, device, names)

    def _to_detach(self) -> list[HotplugDevice]:
        wanted = self.want.devices
        return [
            device for key, device in self.have.devices.items() if key not in wanted and device.id in self.state.devices
        ]

    def _detach(self, made: HotplugPlan, gone: list[HotplugDevice]) -> None:
        for device in gone:
            made.steps.append(DeviceUnplug(self.script, self.socket, "device_del", {"id": device.id}, key=device.key))
            if isinstance(device, Nic):
                self._release_netdev(made, device.netdev)
            else:
                self._release_node(made, device.node)
        made.after = replace(
            made.after,
            nics=tuple(nic for nic in made.after.nics if nic not in gone),
            disks=tuple(disk for disk in made.after.disks if disk not in gone),
        )
        # A run that was killed in between left these.
        for name in sorted(set(self.state.backends) - {nic.netdev for nic in self.have.nics}):
            self._release_netdev(made, name)
        for name in sorted(set(self.state.block_nodes) - {disk.node for disk in self.have.disks}):
            self._release_node(made, name)

    def _release_netdev(self, made: HotplugPlan, name: str) -> None:
        self._command(made, "netdev_del", id=name)

    def _release_node(self, made: HotplugPlan, name: str) -> None:
        if name in self.state.block_nodes:
            arguments = {"node-name": name}
            made.steps.append(QmpCommand(self.script, self.socket, "blockdev-del", arguments))

    def _can_attach(self, device: HotplugDevice, kept: list[HotplugDevice]) -> bool:
        if isinstance(device, Disk):
            return self.reachable(device.path)
        taps = {nic.backend.get("ifname") for nic in kept if isinstance(nic, Nic)} - {""}
        # What can be read back of a running QEMU, and so can be plugged in: a tap, and QEMU's own NAT without forwards.
        plain = device.backend.type == "tap" or device.backend == Backend("user")
        return plain and device.backend.get("ifname") not in taps

    def _attach(self, made: HotplugPlan, device: HotplugDevice, names: set[str]) -> None:
        if isinstance(device, Nic):
            device = replace(device, id=_free(device.id, names), netdev=_free(device.netdev, names))
            backend, arguments = "netdev_add", netdev_arguments(device)
            made.after = replace(made.after, nics=(*made.after.nics, device))
        else:
            device = replace(device, id=_free(device.id, names), node=_free(device.node, names))
            backend, arguments = "blockdev-add", blockdev_arguments(device)
            made.after = replace(made.after, disks=(*made.after.disks, device))
        made.steps.append(Attach(self.script, self.socket, backend, arguments, ATTACH))
        self._command(made, "device_add", ATTACH, **device_arguments(device))


def device_arguments(device: HotplugDevice) -> dict[str, Any]:
    """Return the arguments of ``device_add``."""
    if isinstance(device, Nic):
        found: dict[str, Any] = {"driver": device.driver, "netdev": device.netdev, "id": device.id, "mac": device.mac}
        found.update({"host_mtu": device.mtu} if device.mtu is not None else {})
        found.update({} if device.boot_rom else {"romfile": ""}, **dict(device.more))
    else:
        found = {"driver": device.driver, "drive": device.node, "id": device.id}
        found.update({"serial": device.serial} if device.serial else {}, **dict(device.device_more))
    return {**found, **({} if device.slot is None else {"addr": f"{device.slot:#x}"})}


def netdev_arguments(nic: Nic) -> dict[str, Any]:
    """Return the arguments of ``netdev_add``."""
    options = {key: value == "on" if key == "vhost" else value for key, value in nic.backend.options}
    return {"type": nic.backend.type, "id": nic.netdev, **options}


def blockdev_arguments(disk: Disk) -> dict[str, Any]:
    """Return the arguments of ``blockdev-add``."""
    file = {"driver": file_driver(disk.path), "filename": disk.path}
    made = {"driver": disk.format, "node-name": disk.node, **dict(disk.more), "file": file}
    return {**made, **({"read-only": True} if disk.readonly else {})}


def _free(name: str, taken: set[str]) -> str:
    """Return the name, or where it is taken one with another number at its end; and take it."""
    stem, number = (name.rstrip("0123456789") if name.startswith(("card", "network")) else f"{name}-"), 0
    free = name
    while free in taken:
        number += 1
        free = f"{stem}{number}"
    taken.add(free)
    return free
