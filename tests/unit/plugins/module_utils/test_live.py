# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live changes, against a model of what QEMU does with the commands: it refuses what QEMU refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils import live, qemu
from ansible_collections.ikcloud.compute.plugins.module_utils.answers import Answer
from ansible_collections.ikcloud.compute.plugins.module_utils.engine import Item
from ansible_collections.ikcloud.compute.plugins.module_utils.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils.live_steps import Ask, Plan, Planner
from ansible_collections.ikcloud.compute.plugins.module_utils.qmp_script import qmp_script
from ansible_collections.ikcloud.compute.tests.unit.plugins.modules.instance_samples import LAYOUT, item
from hypothesis import given, settings
from hypothesis import strategies as st

MIB = 1 << 20


def options(declared: Item) -> qemu.Options:
    return qemu.options(declared, LAYOUT, "tcg")


class Qemu:
    """A QEMU that was started with some options."""

    def __init__(self, started: qemu.Options) -> None:
        self.started = [entry for entry in started if entry[0] != qemu.MEMORY]
        count, most = qemu.processors(dict(started)["-smp"])
        assert count is not None
        assert most is not None
        self.cpus, self.room = count, most
        memory = qemu.describe(started)
        self.given_back = (memory["memory_max"] - memory["memory"]) * MIB
        named = [qemu.suboptions(value) for option, value in started if option == "-device"]
        self.devices = {parts["id"]: parts for parts in named if "id" in parts}
        self.netdevs = {qemu.suboptions(value)["id"]: value for option, value in started if option == "-netdev"}
        self.nodes = {qemu.suboptions(value)["node-name"]: value for option, value in started if option == "-blockdev"}
        self.known = set(self.devices)

    def do(self, step: Ask) -> None:
        given = dict(step.arguments)
        name = given.get("id", "")
        if step.command == "balloon":
            self.given_back = (qemu.number(dict(self.started)["-m"]) or 0) * MIB - given["value"]
        elif step.command == "netdev_add":
            assert name not in self.netdevs
            assert given.get("ifname") not in [qemu.suboptions(text).get("ifname", "-") for text in self.netdevs.values()]
            self.netdevs[name] = qemu.tap_backend(name, given["ifname"]) if given["type"] == "tap" else f"user,id={name}"
        elif step.command == "blockdev-add":
            assert given["node-name"] not in self.nodes
            self.nodes[given["node-name"]] = qemu.blockdev(given["node-name"], given["file"]["filename"], given["driver"])
        elif step.command == "device_add" and given["driver"].endswith("-cpu"):
            assert self.cpus < self.room
            self.cpus += 1
            self._come(name, {given["driver"]: "", "id": name})
        elif step.command == "device_add":
            assert given.get("netdev") in self.netdevs or given.get("drive") in self.nodes
            self._come(name, {given.pop("driver"): "", **{key: str(value) for key, value in given.items()}})
        elif step.command == "device_del":
            del self.devices[name]
        elif step.command == "netdev_del":
            assert name not in [parts.get("netdev") for parts in self.devices.values()]
            del self.netdevs[name]
        elif step.command == "blockdev-del":
            assert given["node-name"] not in [parts.get("drive") for parts in self.devices.values()]
            del self.nodes[given["node-name"]]

    def _come(self, name: str, parts: dict[str, str]) -> None:
        assert name not in self.devices
        self.devices[name] = parts

    def truth(self) -> live.Truth:
        later = {name: parts for name, parts in self.devices.items() if name not in self.known}
        cards = {
            name: qemu.card_device(parts["netdev"], name, parts["mac"], int(parts.get("host_mtu", 0)), "romfile" in parts)
            for name, parts in later.items()
            if "netdev" in parts
        }
        slots = tuple(live.Slot("max-x86_64-cpu", {"core-id": number}) for number in range(self.cpus, self.room))
        kinds = {name: next(iter(parts)) for name, parts in self.devices.items()}
        disks = {name: self.nodes[parts["drive"]] for name, parts in later.items() if "drive" in parts}
        serials = {name: parts["serial"] for name, parts in later.items() if "serial" in parts}
        return live.Truth(
            self.cpus, slots, self.room, self.given_back, None, kinds, cards, dict(self.netdevs), disks, serials,
            tuple(sorted(self.nodes)), live.former(self.started),
        )  # fmt: skip

    def now(self) -> qemu.Options:
        return live.corrected(self.started, self.truth(), self.started)

    def plan(self, declared: Item) -> Plan:
        return Planner(self.now(), options(qemu.reserve(declared, self.now())), self.truth(), ("qmp",), "qmp.sock").plan()


def in_order(made: Plan) -> list[Any]:
    """Give the steps as the engine runs them."""
    return sorted(made.steps, key=lambda step: getattr(step, "stage", 0))


NICS = [{"mac": f"02:00:5e:10:00:0{number}", **more} for number, more in enumerate(({}, {}, {"type": "user"}, {"mtu": 1400}))]
DISKS = [{"path": f"/srv/{number}.img", "format": form} for number, form in enumerate(("qcow2", "raw"))] + [{"name": "data-1"}]
DECLARED = st.builds(
    lambda cpu, room, memory, more, nics, disks: item(
        cpu=cpu, cpu_max=room and max(room, cpu), memory=memory, memory_max=more and max(more, memory), accel="tcg", nics=nics, volumes=disks
    ),
    st.integers(1, 6), st.sampled_from([None, 4, 8]), st.sampled_from([64, 128, 256]), st.sampled_from([None, 256]),
    st.lists(st.sampled_from(NICS), unique_by=str), st.lists(st.sampled_from(DISKS), unique_by=str),
)  # fmt: skip


@settings(max_examples=60)
@given(DECLARED, st.lists(DECLARED, min_size=1, max_size=3), st.data())
def test_any_change_arrives_or_is_pending(first: Item, others: list[Item], data: st.DataObject) -> None:
    """What is planned is what QEMU then has; a plan that was cut off anywhere is brought to its end by the next one; what is left is pending."""
    machine = Qemu(options(first))
    assert machine.plan(first).steps == []
    for want in others:
        steps = in_order(machine.plan(want))
        for step in steps[: data.draw(st.integers(0, len(steps)))]:
            assert isinstance(step, Ask)
            machine.do(step)
        made = machine.plan(want)
        for step in in_order(made):
            assert isinstance(step, Ask)
            assert step.text.startswith("qmp ")
            machine.do(step)
        assert qemu.differences(machine.now(), made.after) == []
        assert machine.plan(want).steps == []
        used = {parts.get("netdev") or parts.get("drive") for parts in machine.devices.values()} - {None}
        assert used == {*machine.netdevs, *machine.nodes}
        left = qemu.differences(machine.now(), options(qemu.reserve(want, machine.now())))
        if want["cpu"] >= machine.cpus and want["cpu"] <= machine.room and not want["cpu_max"]:
            assert not [phrase for phrase in left if phrase.startswith("cpu")]
        if want["memory"] <= (qemu.number(dict(machine.started)["-m"]) or 0) and not want["memory_max"]:
            assert not [phrase for phrase in left if phrase.startswith("memory")]


def test_what_live_cannot_do_is_left() -> None:
    first = item(accel="tcg", nics=NICS[:1], volumes=DISKS[:1], cpu=2)
    machine = Qemu(options(first))
    for change in (
        {"cpu": 1}, {"cpu": 5}, {"cpu_max": 8}, {"memory": 2048}, {"memory_max": 2048}, {"nics": [{**NICS[0], "mtu": 1400}]},
        {"nics": [NICS[0], {"type": "socket", "mcast": "230.0.0.1:23100"}]}, {"volumes": [{**DISKS[0], "format": "raw"}]}, {"vnc": "none"},
    ):  # fmt: skip
        want = item(**{"accel": "tcg", "nics": NICS[:1], "volumes": DISKS[:1], "cpu": 2, **change})
        made = machine.plan(want)
        assert (made.steps, made.reasons) == ([], []), change
        assert qemu.differences(made.after, options(qemu.reserve(want, machine.now()))), change


def test_a_disk_goes_from_one_to_the_other() -> None:
    """Whoever has it gives it up before the other one takes it, whatever the order in the list."""
    other, one = (Qemu(options(item(name=name, accel="tcg", volumes=disks))) for name, disks in (("b", []), ("a", [{"name": "data-1"}])))
    comes, goes = other.plan(item(name="b", accel="tcg", volumes=[{"name": "data-1"}])), one.plan(item(name="a", accel="tcg"))
    stages = [[step.stage for step in made.steps if isinstance(step, Ask)] for made in (goes, comes)]
    assert max(stages[0]) < min(stages[1])
    assert comes.reasons == [f"disk {LAYOUT.volume('data-1')} is declared, not there"]


@given(st.lists(st.from_regex(r"[a-z0-9][a-z0-9-]{0,40}[a-z0-9]", fullmatch=True), min_size=2, max_size=2, unique=True))
def test_serials_tell_volumes_apart(names: list[str]) -> None:
    serials = [qemu.serial(name) for name in names]
    assert serials[0] != serials[1] and all(1 <= len(serial) <= 20 for serial in serials)
    assert all(serial == name for serial, name in zip(serials, names) if len(name) <= 20)


def test_a_sandbox_stands() -> None:
    """A disk that the unit's sandbox hides waits for the next start."""
    first, want = item(accel="tcg"), item(accel="tcg", volumes=DISKS[:1])
    machine = Qemu(options(first))
    made = Planner(machine.now(), options(want), machine.truth(), ("qmp",), "", lambda path: path.startswith("/var/")).plan()
    assert made.steps == []


class Monitor:
    """What a QEMU says of a balloon of 64 MiB that is asked to give 16 back."""

    def ask_all(self, commands: list[tuple[str, dict[str, Any]]]) -> list[Answer]:
        said = {"query-balloon": {"actual": 64 * MIB}, "xp /1wx 0xfebfa000": "00000000febfa000: 0x00001000\r\n"}
        return [Answer(said[arguments.get("command-line", name)], name) for name, arguments in commands]


IO, MSIX, MODERN = {"bar": 0, "address": 49152, "type": "io"}, {"bar": 1, "address": 4273991680}, {"bar": 4, "address": 0xFEBF8000}
UNSET = {"bar": 4, "address": -1}


@pytest.mark.parametrize(
    ("regions", "given_back"),
    [([IO, MODERN], 16 * MIB), ([IO, MSIX, MODERN], 16 * MIB), ([IO, MSIX, UNSET], None), ([], None)],
    ids=["QEMU 7.2", "QEMU 10", "before the BIOS", "no regions"],
)
def test_what_the_balloon_is_asked_for(regions: list[dict[str, Any]], given_back: int | None) -> None:
    monitor: Any = Monitor()
    pci = Answer([{"devices": [{"qdev_id": "other", "regions": []}, {"qdev_id": "balloon", "regions": regions}]}], "query-pci")
    assert live._memory_of(monitor, pci) == (64 * MIB, given_back)


def test_memory_that_cannot_be_read_yet() -> None:
    """Until the BIOS has set up the balloon, what start asks for counts; of another start, what QEMU has."""
    started = options(item(accel="tcg", memory=64, memory_max=128))
    asked = live.corrected([entry for entry in started if entry[0] != qemu.MEMORY], replace(Qemu(started).truth(), given_back=None), started)
    assert qemu.describe(asked)["memory"] == 64
    other = options(item(accel="tcg", memory=64, memory_max=256))
    assert qemu.describe(live.corrected(started[:-1], replace(Qemu(started).truth(), given_back=None), other))["memory"] == 128


def test_foreign_device_is_seen() -> None:
    started = options(item(accel="tcg"))
    truth = Qemu(started).truth()
    truth.devices["usb"] = "qemu-xhci"
    assert qemu.differences(live.corrected(started, truth, started), started) == ["`-device qemu-xhci,id=usb` is there, not declared"]


def test_silent_qemu_is_an_error(tmp_path: Any) -> None:
    with pytest.raises(ComputeError, match="does not answer"):
        live.ask(str(tmp_path / "none"), [])


def test_step_names_what_is_typed() -> None:
    step = Ask(("runuser", "-u", "compute-service", "--", "/srv/qmp"), "/none", "balloon", {"value": 1})
    assert step.text == """runuser -u compute-service -- /srv/qmp balloon '{"value": 1}'"""
    with pytest.raises(ComputeError, match="does not answer"):
        step.run()
    compile(qmp_script(item(), LAYOUT), "qmp", "exec")
