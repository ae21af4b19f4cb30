# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live changes, against a model of what QEMU does with the commands: it refuses what QEMU refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._core.changes import Item
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu import running
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.argv import phrases
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.declared import (
    fill_maximums,
    from_item,
    new_disk,
    serial,
    tap_backend,
)
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.hotplug import (
    HotplugPlan,
    HotplugPlanner,
    QmpCommand,
    blockdev_arguments,
    device_arguments,
    netdev_arguments,
)
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.machine import (
    Backend,
    Disk,
    Machine,
    Nic,
    diff,
    placed,
)
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.qmp.answers import Answer
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.qmp.script import qmp_script
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.running import (
    CpuSlot,
    RunningState,
    effective,
    startup_ids,
)
from ansible_collections.ikcloud.compute.tests.unit.plugins.modules.instance_samples import LAYOUT, item
from hypothesis import given, settings
from hypothesis import strategies as st

MIB = 1 << 20


def machine_of(whole: Item) -> Machine:
    return from_item(whole, LAYOUT, "tcg")


class Qemu:
    """A QEMU that was started as some machine."""

    def __init__(self, started: Machine) -> None:
        self.started = replace(started, memory=started.max_memory)
        self.written = started
        self.type = "pc-i440fx-7.2"
        assert started.cpus is not None and started.max_cpus is not None
        assert started.memory is not None and started.max_memory is not None
        self.cpus, self.max_cpus = started.cpus, started.max_cpus
        self.reclaimed = (started.max_memory - started.memory) * MIB
        self.devices: dict[str, dict[str, Any]] = {"balloon": {"driver": "virtio-balloon-pci"}}
        self.devices.update(
            {name: device_arguments(device) for device in started.devices.values() for name in [device.id]}
        )
        self.netdevs = {nic.netdev: netdev_arguments(nic) for nic in started.nics}
        self.nodes = {disk.node: blockdev_arguments(disk) for disk in started.disks if not disk.fixed}

    def do(self, step: QmpCommand) -> None:
        given = dict(step.arguments)
        name = given.get("id", "")
        if step.command == "balloon":
            self.reclaimed = (self.started.max_memory or 0) * MIB - given["value"]
        elif step.command == "netdev_add":
            assert name not in self.netdevs
            assert given.get("ifname") not in [netdev.get("ifname", "-") for netdev in self.netdevs.values()]
            self.netdevs[name] = given
        elif step.command == "blockdev-add":
            assert given["node-name"] not in self.nodes
            self.nodes[given["node-name"]] = given
        elif step.command == "device_add":
            if given["driver"].endswith("-cpu"):
                assert self.cpus < self.max_cpus
                self.cpus += 1
            else:
                assert given.get("netdev") in self.netdevs or given.get("drive") in self.nodes
                assert given.get("addr") not in [device.get("addr", "-") for device in self.devices.values()]
            assert name not in self.devices
            self.devices[name] = given
        elif step.command == "device_del":
            del self.devices[name]
        elif step.command == "netdev_del":
            assert name not in [device.get("netdev") for device in self.devices.values()]
            del self.netdevs[name]
        elif step.command == "blockdev-del":
            assert given["node-name"] not in [device.get("drive") for device in self.devices.values()]
            del self.nodes[given["node-name"]]

    def state(self) -> RunningState:
        known = startup_ids(self.started)
        later = {name: device for name, device in self.devices.items() if name not in known}
        return RunningState(
            self.type,
            self.cpus,
            tuple(CpuSlot("max-x86_64-cpu", {"core-id": number}) for number in range(self.cpus, self.max_cpus)),
            self.max_cpus,
            self.reclaimed,
            None,
            {name: device["driver"] for name, device in self.devices.items()},
            {name: self._nic(device) for name, device in later.items() if "netdev" in device},
            {name: self._backend(netdev) for name, netdev in self.netdevs.items()},
            {name: self._disk(device) for name, device in later.items() if "drive" in device},
            tuple(sorted(self.nodes)),
            0,
            known,
        )

    def _nic(self, device: dict[str, Any]) -> Nic:
        slot = int(device["addr"], 16) if "addr" in device else 5
        mtu, rom = device.get("host_mtu"), "romfile" not in device
        return Nic(device["mac"], mtu=mtu, boot_rom=rom, id=device["id"], netdev=device["netdev"], slot=slot)

    def _backend(self, netdev: dict[str, Any]) -> Backend:
        return tap_backend(netdev["ifname"]) if netdev["type"] == "tap" else Backend(netdev["type"])

    def _disk(self, device: dict[str, Any]) -> Disk:
        node, slot = self.nodes[device["drive"]], int(device["addr"], 16)
        disk = new_disk(node["file"]["filename"], node["driver"], device.get("serial", ""))
        return replace(disk, id=device["id"], node=device["drive"], slot=slot)

    def now(self) -> Machine:
        return effective(self.started, self.state(), self.written)

    def want(self, whole: Item) -> Machine:
        now = self.now()
        return placed(from_item(fill_maximums(whole, now), LAYOUT, "tcg", now.type), now, True)

    def plan(self, whole: Item) -> HotplugPlan:
        return HotplugPlanner(self.now(), self.want(whole), self.state(), ("qmp",), "qmp.sock").plan()


def in_order(made: HotplugPlan) -> list[Any]:
    """Give the steps as the loop runs them."""
    return sorted(made.steps, key=lambda step: step.stage)


NICS = [
    {"mac": f"02:00:5e:10:00:0{number}", **more}
    for number, more in enumerate(({}, {}, {"type": "user"}, {"mtu": 1400}))
]
DISKS = [{"path": f"/srv/{number}.img", "format": form} for number, form in enumerate(("qcow2", "raw"))] + [
    {"name": "data-1"}
]
DECLARED = st.builds(
    lambda cpu, room, memory, more, nics, disks: item(
        cpu=cpu,
        cpu_max=room and max(room, cpu),
        memory=memory,
        memory_max=more and max(more, memory),
        accel="tcg",
        nics=nics,
        volumes=disks,
    ),
    st.integers(1, 6),
    st.sampled_from([None, 4, 8]),
    st.sampled_from([64, 128, 256]),
    st.sampled_from([None, 256]),
    st.lists(st.sampled_from(NICS), unique_by=str),
    st.lists(st.sampled_from(DISKS), unique_by=str),
)


@settings(max_examples=60)
@given(DECLARED, st.lists(DECLARED, min_size=1, max_size=3), st.data())
def test_any_change_arrives_or_is_pending(first: Item, others: list[Item], data: st.DataObject) -> None:
    """What is planned is what QEMU then has; a plan that was cut off anywhere is brought to its end by the next one;
    what is left is pending.
    """
    machine = Qemu(machine_of(first))
    assert machine.plan(first).steps == []
    for want in others:
        steps = in_order(machine.plan(want))
        for step in steps[: data.draw(st.integers(0, len(steps)))]:
            assert isinstance(step, QmpCommand)
            machine.do(step)
        made = machine.plan(want)
        for step in in_order(made):
            assert isinstance(step, QmpCommand)
            assert step.text.startswith("qmp ")
            machine.do(step)
        assert diff(machine.now(), made.after) == []
        assert machine.plan(want).steps == []
        used = {device.get("netdev") or device.get("drive") for device in machine.devices.values()} - {None}
        assert used == {*machine.netdevs, *machine.nodes}
        left = [difference.subject for difference in diff(machine.now(), machine.want(want))]
        if want["cpu"] >= machine.cpus and want["cpu"] <= machine.max_cpus and not want["cpu_max"]:
            assert not {"cpus", "max_cpus"} & set(left)
        if want["memory"] <= (machine.started.max_memory or 0) and not want["memory_max"]:
            assert not {"memory", "max_memory"} & set(left)
        # A restart brings everything back in the place that it has.
        slots = {key: device.slot for key, device in machine.now().devices.items()}
        for key, device in machine.want(want).devices.items():
            assert slots.get(key) in (None, 5, device.slot)


def test_what_live_cannot_do_is_left() -> None:
    first = item(accel="tcg", nics=NICS[:1], volumes=DISKS[:1], cpu=2)
    machine = Qemu(machine_of(first))
    for change in (
        {"cpu": 1},
        {"cpu": 5},
        {"cpu_max": 8},
        {"memory": 2048},
        {"memory_max": 2048},
        {"nics": [{**NICS[0], "mtu": 1400}]},
        {"nics": [NICS[0], {"type": "socket", "mcast": "230.0.0.1:23100"}]},
        {"volumes": [{**DISKS[0], "format": "raw"}]},
        {"vnc": "none"},
    ):
        want = item(**{"accel": "tcg", "nics": NICS[:1], "volumes": DISKS[:1], "cpu": 2, **change})
        made = machine.plan(want)
        assert (made.steps, made.closed) == ([], []), change
        assert diff(made.after, machine.want(want)), change


def test_a_disk_goes_from_one_to_the_other() -> None:
    """Whoever has it gives it up before the other one takes it, whatever the order in the list."""
    other, one = (
        Qemu(machine_of(item(name=name, accel="tcg", volumes=disks)))
        for name, disks in (("b", []), ("a", [{"name": "data-1"}]))
    )
    comes, goes = (
        other.plan(item(name="b", accel="tcg", volumes=[{"name": "data-1"}])),
        one.plan(item(name="a", accel="tcg")),
    )
    stages = [[step.stage for step in made.steps if isinstance(step, QmpCommand)] for made in (goes, comes)]
    assert max(stages[0]) < min(stages[1])
    assert phrases(comes.closed) == [f"disk {LAYOUT.volume('data-1')} is declared, not there"]


@given(st.lists(st.from_regex(r"[a-z0-9][a-z0-9-]{0,40}[a-z0-9]", fullmatch=True), min_size=2, max_size=2, unique=True))
def test_serials_tell_volumes_apart(names: list[str]) -> None:
    serials = [serial(name) for name in names]
    assert serials[0] != serials[1] and all(1 <= len(serial) <= 20 for serial in serials)
    assert all(serial == name for serial, name in zip(serials, names) if len(name) <= 20)


def test_a_sandbox_stands() -> None:
    """A disk that the unit's sandbox hides waits for the next start."""
    first, want = item(accel="tcg"), item(accel="tcg", volumes=DISKS[:1])
    machine = Qemu(machine_of(first))

    def visible(path: str) -> bool:
        return path.startswith("/var/")

    made = HotplugPlanner(machine.now(), machine.want(want), machine.state(), ("qmp",), "", visible).plan()
    assert made.steps == []


class Monitor:
    """What a QEMU says of a balloon of 64 MiB that is asked to give 16 back."""

    def ask_all(self, commands: list[tuple[str, dict[str, Any]]]) -> list[Answer]:
        said = {"query-balloon": {"actual": 64 * MIB}, "xp /1wx 0xfebfa000": "00000000febfa000: 0x00001000\r\n"}
        return [Answer(said[arguments.get("command-line", name)], name) for name, arguments in commands]


IO, MSIX, MODERN = (
    {"bar": 0, "address": 49152, "type": "io"},
    {"bar": 1, "address": 4273991680},
    {"bar": 4, "address": 0xFEBF8000},
)
UNSET = {"bar": 4, "address": -1}


@pytest.mark.parametrize(
    ("regions", "given_back"),
    [([IO, MODERN], 16 * MIB), ([IO, MSIX, MODERN], 16 * MIB), ([IO, MSIX, UNSET], None), ([], None)],
    ids=["QEMU 7.2", "QEMU 10", "before the BIOS", "no regions"],
)
def test_what_the_balloon_is_asked_for(regions: list[dict[str, Any]], given_back: int | None) -> None:
    monitor: Any = Monitor()
    pci = Answer(
        [{"devices": [{"qdev_id": "other", "regions": []}, {"qdev_id": "balloon", "regions": regions}]}], "query-pci"
    )
    assert running._memory_of(monitor, pci) == (64 * MIB, given_back)


def test_memory_that_cannot_be_read_yet() -> None:
    """Until the BIOS has set up the balloon, what start asks for counts; of another start, what QEMU has."""
    started = machine_of(item(accel="tcg", memory=64, memory_max=128))
    state = replace(Qemu(started).state(), balloon_reclaimed=None)
    assert effective(replace(started, memory=128), state, started).memory == 64
    other = machine_of(item(accel="tcg", memory=64, memory_max=256))
    assert effective(replace(started, memory=128), state, other).memory == 128


def test_foreign_device_is_seen() -> None:
    started = machine_of(item(accel="tcg"))
    state = Qemu(started).state()
    state.devices["usb"] = "qemu-xhci"
    now = effective(started, state, started)
    assert phrases(diff(now, started)) == ["`-device qemu-xhci,id=usb` is there, not declared"]


def test_a_device_that_is_gone_is_seen() -> None:
    started = machine_of(item(accel="tcg"))
    state = Qemu(started).state()
    del state.devices["balloon"]
    now = effective(started, state, started)
    assert phrases(diff(now, started)) == ["`-device virtio-balloon-pci,id=balloon` is declared, not there"]


def test_silent_qemu_is_an_error(tmp_path: Any) -> None:
    with pytest.raises(ComputeError, match="does not answer"):
        running.query(str(tmp_path / "none"), Machine())


def test_step_names_what_is_typed() -> None:
    step = QmpCommand(("runuser", "-u", "compute-service", "--", "/srv/qmp"), "/none", "balloon", {"value": 1})
    assert step.text == """runuser -u compute-service -- /srv/qmp balloon '{"value": 1}'"""
    with pytest.raises(ComputeError, match="does not answer"):
        step.run()
    compile(qmp_script(item(), LAYOUT), "qmp", "exec")
