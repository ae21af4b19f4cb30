# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps that bring a running QEMU to its declaration without a restart, as far as that goes. Planning is pure: it asks nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.ikcloud.compute.plugins.module_utils import qemu
from ansible_collections.ikcloud.compute.plugins.module_utils.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils.live import Truth, idle_cpus
from ansible_collections.ikcloud.compute.plugins.module_utils.qmp import TIMEOUT, Qmp
from ansible_collections.ikcloud.compute.plugins.module_utils.qmp_script import typed
from ansible_collections.ikcloud.compute.plugins.module_utils.steps import Step

# A guest takes well under a second to let go of a device; emulated on an emulated node some seconds.
UNPLUG_LIMIT = 30.0
RELEASE_LIMIT = 10.0
# A guest that starts a processor that is plugged in does so within a second.
TAKE_UP_LIMIT = 2.0
# With what is started: after whatever had the disk or the tap until now has given it up.
COMING = 4
DISK = "disk "  # what qemu.pluggable's names of disks begin with
# What can be read back of a running QEMU, and so can be plugged in: a tap, and QEMU's own NAT without forwards.
_PLAIN = re.compile(r"tap,.*|user,id=[^,]*")


@dataclass(frozen=True)
class Ask(Step):
    """Have a running QEMU do one command.

    :ivar script: The instance's ``qmp``, after what it takes to be its user, for a person to type.
    :ivar socket: Where QEMU listens.
    :ivar vain: Whether it may fail: a restart follows, which does the same.
    """

    script: tuple[str, ...]
    socket: str
    command: str
    arguments: dict[str, Any]
    stage: int = 3
    vain: bool = False

    @property
    def text(self) -> str:
        return " ".join((*self.script[:-1], typed(self.script[-1], self.command, self.arguments)))

    def run(self) -> None:
        try:
            self.ask()
        except ComputeError:
            if not self.vain:
                raise

    def ask(self) -> None:
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
                    # A disk's node is free only some moments after its device is gone, and its file when the QEMU that had it so far has ended.
                    waits = {"blockdev-del": "in use", "blockdev-add": '" lock'}.get(self.command)
                    if waits is None or waits not in str(error) or time.monotonic() >= until:
                        raise
                time.sleep(0.05)


@dataclass(frozen=True)
class Unplug(Ask):
    """Have QEMU ask the guest to let go of a device, and wait until it has."""

    key: str = ""

    def ask(self) -> None:
        """Have it done.

        :raises ComputeError: When the guest keeps it.
        """
        until, pause = time.monotonic() + UNPLUG_LIMIT, 0.02
        refused = ""
        with Qmp(self.socket, limit=UNPLUG_LIMIT + TIMEOUT) as qmp:
            while any(entry.get("name").word() == self.arguments["id"] for entry in qmp.ask("qom-list", {"path": "/machine/peripheral"}).entries()):
                if pause == 0.02 or pause >= 2:  # a guest that is still booting misses it
                    try:
                        qmp.execute(self.command, self.arguments)
                    except ComputeError as error:  # "already in the process of unplug", or gone by now
                        refused = f" {error}"
                if time.monotonic() >= until:
                    raise ComputeError(
                        f"The guest did not let go of {self.key} within {UNPLUG_LIMIT:g} s (a guest without ACPI hotplug never does).{refused}",
                        "It is gone with the instance's next start: set its power to stopped and then to running again.",
                    )
                time.sleep(pause)
                pause = min(2.0, pause * 1.5)


@dataclass(frozen=True)
class PlugProcessor(Ask):
    """Plug in a processor, and give the guest a moment to start it, so that this run can say whether it did.

    :ivar new: The ids to wait for; none to go on at once.
    """

    new: frozenset[str] = frozenset()

    def ask(self) -> None:
        """Have it done.

        :raises ComputeError: When QEMU refuses.
        """
        super().ask()
        until = time.monotonic() + TAKE_UP_LIMIT
        with suppress(ComputeError), Qmp(self.socket, limit=TAKE_UP_LIMIT + TIMEOUT) as qmp:
            while self.new and idle_cpus(qmp, {f"/machine/peripheral/{name}" for name in self.new}) and time.monotonic() < until:
                time.sleep(0.1)


@dataclass
class Plan:
    """What can be done to a running QEMU.

    :ivar after: The options that it then has; what still differs from the declaration takes a restart.
    :ivar reasons: What differs and is closed, a phrase each.
    """

    steps: list[Step] = field(default_factory=list)
    after: qemu.Options = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Planner:
    """Plans the steps for one instance.

    :ivar have: The options that the running QEMU has, as :func:`live.corrected` gives them; ``want`` the declared ones.
    :ivar reachable: Whether the running QEMU may open a disk's path (a unit's sandbox stands from its start on).
    """

    have: qemu.Options
    want: qemu.Options
    truth: Truth
    script: tuple[str, ...]
    socket: str
    reachable: Callable[[str], bool] = lambda path: True

    def plan(self) -> Plan:
        """Give the steps: those that can't fail for a guest's unwillingness, then what is to go, then what is to come."""
        made = Plan(after=list(self.have))
        self._processors(made)
        self._memory(made)
        self._parts(made)
        closed = qemu.differences(self.have, self.want)
        left = qemu.differences(made.after, self.want)
        made.reasons += [phrase for phrase in closed if phrase not in left]
        return made

    def release(self, paths: Container[str]) -> list[Step]:
        """Give the steps that take these disks away, and no others: before a restart that does the rest, for those who are to have them next."""
        made = Plan()
        self._let_go(made, {key: part for key, part in self._going().items() if key.startswith(DISK) and key[len(DISK) :] in paths})
        # A guest that keeps one is restarted all the same.
        return [replace(step, vain=True) if isinstance(step, Ask) else step for step in made.steps]

    def _ask(self, made: Plan, command: str, stage: int = Ask.stage, **arguments: Any) -> None:
        made.steps.append(Ask(self.script, self.socket, command, arguments, stage))

    def _processors(self, made: Plan) -> None:
        (count, most), (wanted, _declared) = (qemu.processors(dict(options).get("-smp")) for options in (self.have, self.want))
        if count is None or most is None or wanted is None or not count < wanted <= min(most, count + len(self.truth.slots)):
            return
        names = [name for number in range(1, 2 * qemu.MAX_CPUS) for name in [f"cpu{number}"] if name not in self.truth.devices][: wanted - count]
        for slot, name in zip(self.truth.slots, names):
            # One wait for all of them.
            new = frozenset(names) if name == names[-1] else frozenset()
            made.steps.append(PlugProcessor(self.script, self.socket, "device_add", {"driver": slot.type, "id": name, **slot.place}, new=new))
        made.after = _replaced(made.after, "-smp", qemu.processors_text(wanted, most))

    def _memory(self, made: Plan) -> None:
        was, wanted = (qemu.describe(options)["memory"] for options in (self.have, self.want))
        most = qemu.number(dict(self.have).get("-m"))
        if was is None or most is None or wanted is None or wanted == was or wanted > most or "balloon" not in self.truth.devices:
            return
        self._ask(made, "balloon", value=wanted << 20)
        made.after = [entry for entry in made.after if entry[0] != qemu.MEMORY] + ([(qemu.MEMORY, str(wanted))] if wanted != most else [])

    def _parts(self, made: Plan) -> None:
        had, wanted = qemu.pluggable(self.have)[1], qemu.pluggable(self.want)[1]
        gone = self._going()
        self._let_go(made, gone)
        kept = {key: part for key, part in had.items() if key not in gone}
        names = {*self.truth.devices, *self.truth.backends, *self.truth.nodes, *self.truth.former}
        for key, part in wanted.items():
            if key not in had and self._can_come(part, kept):
                self._plug(made, part, names)

    def _going(self) -> dict[str, qemu.Part]:
        wanted = qemu.pluggable(self.want)[1]
        return {key: part for key, part in qemu.pluggable(self.have)[1].items() if key not in wanted and part.id in self.truth.devices}

    def _let_go(self, made: Plan, gone: dict[str, qemu.Part]) -> None:
        for key, part in gone.items():
            made.steps.append(Unplug(self.script, self.socket, "device_del", {"id": part.id}, key=key))
            self._release(made, key.startswith("card"), part.backend_id)
            made.after = [entry for entry in made.after if entry[1] not in (part.device, part.backend)]
        used = {part.backend_id for part in qemu.pluggable(self.have)[1].values()}
        # A run that was killed in between left these.
        for name in sorted(set(self.truth.backends) - used):
            self._release(made, True, name)
        for name in sorted(set(self.truth.nodes) - used):
            self._release(made, False, name)

    def _release(self, made: Plan, card: bool, name: str) -> None:
        if card:
            self._ask(made, "netdev_del", id=name)
        elif name in self.truth.nodes:
            self._ask(made, "blockdev-del", Ask.stage, **{"node-name": name})

    def _can_come(self, part: qemu.Part, kept: dict[str, qemu.Part]) -> bool:
        backend = qemu.suboptions(part.backend)
        if "driver" in backend:
            return self.reachable(backend.get("file.filename", ""))
        links = {qemu.suboptions(other.backend).get("ifname") for other in kept.values()} - {None}
        return bool(_PLAIN.fullmatch(part.backend)) and backend.get("ifname") not in links

    def _plug(self, made: Plan, part: qemu.Part, names: set[str]) -> None:
        device, backend = qemu.suboptions(part.device), qemu.suboptions(part.backend)
        kind = next(iter(device))
        link = "netdev" if "netdev" in device else "drive"
        device.pop("addr", None)  # QEMU takes a free one
        device["id"], device[link] = _free(device["id"], names), _free(device[link], names)
        arguments: dict[str, Any] = {"driver": kind, **{key: int(value) if key == "host_mtu" else value for key, value in device.items() if key != kind}}
        if link == "netdev":
            given: dict[str, Any] = {"type": next(iter(backend)), **dict(list(backend.items())[1:]), "id": device[link]}
            if "vhost" in given:
                given["vhost"] = given["vhost"] == "on"
            self._ask(made, "netdev_add", COMING, **given)
        else:
            self._ask(made, "blockdev-add", COMING, **_nested({**backend, "node-name": device[link]}))
        self._ask(made, "device_add", COMING, **arguments)
        behind = _with(part.backend, "id" if link == "netdev" else "node-name", device[link])
        made.after += [("-device", _with(_with(part.device, "id", device["id"]), link, device[link])), ("-netdev" if link == "netdev" else "-blockdev", behind)]


def _with(text: str, key: str, value: str) -> str:
    return re.sub(rf",{key}=[^,]*", f",{key}={value}", text)


def _replaced(options: qemu.Options, option: str, value: str) -> qemu.Options:
    return [(name, value if name == option else old) for name, old in options]


def _free(name: str, taken: set[str]) -> str:
    """Give the name, or where it is taken one with another number at its end; and take it."""
    stem, number = (name.rstrip("0123456789") if name.startswith(("card", "network")) else f"{name}-"), 0
    free = name
    while free in taken:
        number += 1
        free = f"{stem}{number}"
    taken.add(free)
    return free


def _nested(flat: dict[str, str]) -> dict[str, Any]:
    """Make ``{"file.driver": "file"}`` ``{"file": {"driver": "file"}}``, as QMP takes it."""
    made: dict[str, Any] = {}
    for key, value in flat.items():
        into = made
        *outer, last = key.split(".")
        for part in outer:
            into = into.setdefault(part, {})
        into[last] = value == "on" if last == "read-only" else value
    return made
