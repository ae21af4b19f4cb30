# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a running QEMU has at this moment, which its command line no longer says once something was plugged in or out:
asked over QMP.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from .._core.untrusted import readable
from .argv import parse_keyvals
from .declared import new_disk, tap_backend
from .machine import Backend, Disk, Machine, Nic, Option, has_version
from .qmp.answers import LONGEST_WORD, Answer
from .qmp.qmp import Qmp

# A QEMU that is busy under emulation is given this long; then its command line has to do.
TIMEOUT = 5.0
NIC, DISK = "virtio-net-pci", "virtio-blk-pci"
_CHILD = re.compile(r"child<(.+)>")
_CPU = re.compile(r".*-x86_64-cpu")
# What begins with these in QEMU was named by us.
_BACKEND = re.compile(r"^(?: \\ )?(network[0-9]+): index=[0-9]+,(.*?)\r?$", re.MULTILINE)
# Where a processor stands after its reset (Intel SDM volume 3, table 10-1); the startup interrupt, for which all but
# the first wait, sends it elsewhere.
_RESET = re.compile(r"IP=0*fff0 .*^CS =f000 0*ffff0000 ", re.DOTALL | re.MULTILINE)
_WORD = re.compile(r": 0x([0-9a-f]{8})")
# QEMU has the device's own registers of virtio 1 in region 4, from byte 0x2000 on (hw/virtio/virtio-pci.c). Those of
# the legacy interface move when the guest takes MSI-X into use (Virtual I/O Device 1.1 section 4.1.4.10), which a
# balloon has since QEMU 10.
# Section 5.5.4: the balloon's first is num_pages, the number of 4096-byte pages that the guest is asked to give back.
_REGION, _CONFIG, _PAGE = 4, 0x2000, 4096


@dataclass(frozen=True)
class CpuSlot:
    """Where a processor is, or can be plugged in.

    :ivar type: QEMU's type of it.
    :ivar place: Numbers that say where, such as ``socket-id``.
    """

    type: str
    place: dict[str, int]
    taken: bool = False


@dataclass(frozen=True)
class RunningState:
    """What a QEMU answered.

    :ivar type: Its machine type, with the version; "" where it does not say.
    :ivar cpus: How many processors are plugged in.
    :ivar free_cpu_slots: Where more can be, in order.
    :ivar max_cpus: How many there can be in all.
    :ivar balloon_reclaimed: Bytes that the guest is asked to give back; None while nobody can tell (before the BIOS has
        set up the balloon).
    :ivar balloon_actual: Bytes that the guest has at this moment.
    :ivar devices: Type by id of all that has an id.
    :ivar nics: NICs that were plugged in later, by id, without what stands behind them.
    :ivar backends: What stands behind NICs, by id.
    :ivar disks: Disks that were plugged in later, by id.
    :ivar block_nodes: Names of block nodes of ours, whether in use or not.
    :ivar idle_cpus: How many of the processors that were plugged in the guest has never started.
    :ivar startup_ids: Ids on the command line. What was plugged in later must not have one of them, or it would be
        taken for what had it first.
    """

    type: str = ""
    cpus: int = 1
    free_cpu_slots: tuple[CpuSlot, ...] = ()
    max_cpus: int = 1
    balloon_reclaimed: int | None = None
    balloon_actual: int | None = None
    devices: dict[str, str] = field(default_factory=dict)
    nics: dict[str, Nic] = field(default_factory=dict)
    backends: dict[str, Backend] = field(default_factory=dict)
    disks: dict[str, Disk] = field(default_factory=dict)
    block_nodes: tuple[str, ...] = ()
    idle_cpus: int = 0
    startup_ids: frozenset[str] = frozenset()


def query(path: str, started: Machine) -> RunningState:
    """Ask a QEMU what it has.

    :param path: Its QMP socket.
    :param started: The machine on its command line.
    :raises ComputeError: When it has ended, or does not answer as QEMU does.
    """
    with Qmp(path, TIMEOUT) as qmp:
        return _query(qmp, startup_ids(started))


def startup_ids(started: Machine) -> frozenset[str]:
    """Return the ids on a command line, of devices and of what stands behind them."""
    found = {name for nic in started.nics for name in (nic.id, nic.netdev)}
    found |= {name for disk in started.disks for name in (disk.id, disk.node)}
    for option in started.others:
        if option.name in ("-device", "-netdev", "-blockdev"):
            found |= {value for name, value in parse_keyvals(option.value) if name in ("id", "node-name")}
    return frozenset(found - {""})


def _query(qmp: Qmp, known: frozenset[str]) -> RunningState:
    listed, cpu_slots, network, named, pci, machine = qmp.ask_all(
        [
            ("qom-list", {"path": "/machine/peripheral"}),
            ("query-hotpluggable-cpus", {}),
            ("human-monitor-command", {"command-line": "info network"}),
            ("query-named-block-nodes", {"flat": True}),
            ("query-pci", {}),
            ("qom-get", {"path": "/machine", "property": "type"}),
        ]
    )
    devices = {
        entry.get("name").word(): child.group(1)
        for entry in listed.entries()
        for child in [_CHILD.fullmatch(entry.get("type").word())]
        if child
    }
    later = {name: kind for name, kind in devices.items() if name not in known}
    slots = [
        CpuSlot(slot.get("type").word(), slot.get("props").numbers(), slot.find("qom-path") is not None)
        for slot in cpu_slots.entries()
    ]
    free = sorted((slot for slot in slots if not slot.taken), key=lambda slot: sorted(slot.place.items(), reverse=True))
    actual, reclaimed = _memory_of(qmp, pci) if "balloon" in devices else (None, 0)
    plugged = {f"/machine/peripheral/{name}" for name, kind in devices.items() if _CPU.fullmatch(kind)}
    places = _places(pci) if later else {}
    disks = [name for name, kind in later.items() if kind == DISK]
    return RunningState(
        type=_machine_type(machine),
        cpus=sum(slot.taken for slot in slots),
        free_cpu_slots=tuple(free),
        max_cpus=len(slots),
        devices=devices,
        nics={name: _nic(qmp, name, places.get(name)) for name, kind in later.items() if kind == NIC},
        disks=_disks(qmp, disks, places) if disks else {},
        startup_ids=known,
        balloon_reclaimed=reclaimed,
        balloon_actual=actual,
        idle_cpus=idle_cpus(qmp, plugged) if plugged else 0,
        backends={name: _backend(readable(rest, LONGEST_WORD)) for name, rest in _BACKEND.findall(network.text())},
        block_nodes=tuple(
            sorted(
                name
                for node in named.entries()
                for name in [node.get("node-name").word()]
                if name.startswith("volume-")
            )
        ),
    )


def _machine_type(said: Answer) -> str:
    """Return the machine type of what ``/machine`` is, such as ``pc-i440fx-7.2-machine``; "" for any other word."""
    name = _word_or_none(said)
    name = name[: -len("-machine")] if name.endswith("-machine") else ""
    return name if has_version(name) else ""


def _places(pci: Answer) -> dict[str, int]:
    """Return the slots of the devices that have an id."""
    devices = [device for bus in pci.entries() for device in bus.get("devices").entries()]
    return {device.get("qdev_id").word(): device.get("slot").number() for device in devices if device.find("qdev_id")}


def _disks(qmp: Qmp, names: list[str], places: dict[str, int]) -> dict[str, Disk]:
    """Return disks that were plugged in, by id."""
    wanted = {f"/machine/peripheral/{name}": name for name in names}
    found = {}
    for entry in qmp.ask("query-block").entries():
        device, inserted = entry.find("qdev"), entry.find("inserted")
        place = device.word() if device else ""
        name = wanted.get(place.rpartition("/virtio-backend")[0] or place)
        if name and inserted:
            node, path, form = (inserted.get(key).word() for key in ("node-name", "file", "drv"))
            disk = new_disk(path, form, _property(qmp, name, "serial"))
            found[name] = replace(disk, readonly=inserted.get("ro").flag(), id=name, node=node, slot=places.get(name))
    return found


def idle_cpus(qmp: Qmp, plugged: set[str]) -> int:
    """Return how many of some processors, by their paths, stand where they were when they were plugged in."""
    processors = qmp.ask("query-cpus-fast").entries()
    indexes = [cpu.get("cpu-index").number() for cpu in processors if cpu.get("qom-path").word() in plugged]
    asked: list[tuple[str, dict[str, Any]]] = [
        ("human-monitor-command", {"command-line": "info registers", "cpu-index": index}) for index in indexes
    ]
    return sum(bool(_RESET.search(said.text())) for said in qmp.ask_all(asked))


def _backend(said: str) -> Backend:
    """Return a backend of ``info network``, as far as such can be made later (tap and plain user)."""
    parts = dict(reversed(parse_keyvals(said)))
    kind = parts.get("type", "")
    return tap_backend(parts.get("ifname", "")) if kind == "tap" else Backend(kind)


def _nic(qmp: Qmp, name: str, slot: int | None) -> Nic:
    keys = ("netdev", "mac", "host_mtu", "romfile")
    netdev, mac, mtu, rom = qmp.ask_all(
        [("qom-get", {"path": f"/machine/peripheral/{name}", "property": key}) for key in keys]
    )
    return Nic(
        mac.word(),
        mtu=mtu.number() or None,
        boot_rom=bool(_word_or_none(rom)),
        id=name,
        netdev=netdev.word(),
        slot=slot,
    )


def _property(qmp: Qmp, name: str, key: str) -> str:
    return _word_or_none(qmp.ask("qom-get", {"path": f"/machine/peripheral/{name}", "property": key}))


def _word_or_none(found: Answer) -> str:
    return found.word() if found.value is not None else ""


def _memory_of(qmp: Qmp, pci: Answer) -> tuple[int, int | None]:
    """Give what the guest has of its memory, and what it is asked to give back, both in bytes.

    The latter stands in the balloon's register: ``query-balloon`` only says how far the guest has come. It is None
    before the BIOS has given the register its place.
    """
    questions: list[tuple[str, dict[str, Any]]] = [("query-balloon", {})]
    devices = [device for bus in pci.entries() for device in bus.get("devices").entries()]
    registers = next((_registers(device) for device in devices if device.get("qdev_id").word() == "balloon"), 0)
    if registers:
        questions.append(("human-monitor-command", {"command-line": f"xp /1wx {registers:#x}"}))
    balloon, *register = qmp.ask_all(questions)
    found = _WORD.search(register[0].text()) if register else None
    return balloon.get("actual").number(), int(found.group(1), 16) * _PAGE if found else None


def _registers(device: Answer) -> int:
    """Return the physical address of a virtio device's own registers, 0 while they have none."""
    regions = device.get("regions").entries()
    address = next((region.get("address").number() for region in regions if region.get("bar").number() == _REGION), 0)
    return address + _CONFIG if 0 < address < 1 << 52 else 0  # no processor has wider ones


def effective(started: Machine, state: RunningState, written: Machine) -> Machine:
    """Return the machine that a QEMU is now, which its command line no longer says once something was plugged in or
    out.

    :param started: The machine on its command line.
    :param written: That of ``start``, which tells the memory where QEMU can't yet.
    """
    nics = [nic for nic in started.nics if not nic.id or nic.id in state.devices]
    nics += [replace(nic, backend=state.backends.get(nic.netdev, Backend())) for _id, nic in sorted(state.nics.items())]
    disks = [disk for disk in started.disks if not disk.id or disk.id in state.devices]
    disks += [disk for _id, disk in sorted(state.disks.items())]
    named = {
        option: dict(parse_keyvals(option.value)).get("id") for option in started.others if option.name == "-device"
    }
    others = [option for option in started.others if named.get(option) is None or named[option] in state.devices]
    known = {
        *named.values(),
        *(nic.id for nic in (*started.nics, *nics)),
        *(disk.id for disk in (*started.disks, *disks)),
    }
    others += [
        Option("-device", f"{kind},id={name}")
        for name, kind in sorted(state.devices.items())
        if name not in known and not _CPU.fullmatch(kind)
    ]
    several = state.max_cpus > 1
    return replace(
        started,
        type=state.type or started.type,
        cpus=state.cpus if several else started.cpus,
        max_cpus=state.max_cpus if several else started.max_cpus,
        memory=_memory(state, started, written),
        nics=tuple(nics),
        disks=tuple(disks),
        others=tuple(others),
    )


def _memory(state: RunningState, started: Machine, written: Machine) -> int | None:
    if started.max_memory is None:
        return None
    if state.balloon_reclaimed is not None:
        return started.max_memory - (state.balloon_reclaimed + (1 << 20) - 1) // (1 << 20)
    asked = written.memory if written.max_memory == started.max_memory else None
    return started.max_memory if asked is None else asked
