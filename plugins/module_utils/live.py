# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a running QEMU has at this moment, which its command line no longer says once something was plugged in or out: asked over QMP."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.ikcloud.compute.plugins.module_utils import qemu
from ansible_collections.ikcloud.compute.plugins.module_utils.answers import LONGEST_WORD, Answer, readable
from ansible_collections.ikcloud.compute.plugins.module_utils.qmp import Qmp

# A QEMU that is busy under emulation is given this long; then its command line has to do.
TIMEOUT = 5.0
CARD, DISK = "virtio-net-pci", "virtio-blk-pci"
_CHILD = re.compile(r"child<(.+)>")
_CPU = re.compile(r".*-x86_64-cpu")
# What begins with these in QEMU was named by us.
_BACKEND = re.compile(r"^(?: \\ )?(network[0-9]+): index=[0-9]+,(.*?)\r?$", re.MULTILINE)
# Where a processor stands after its reset (Intel SDM volume 3, table 10-1); the startup interrupt, for which all but the first wait, sends it elsewhere.
_RESET = re.compile(r"IP=0*fff0 .*^CS =f000 0*ffff0000 ", re.DOTALL | re.MULTILINE)
_WORD = re.compile(r": 0x([0-9a-f]{8})")
# QEMU has the device's own registers of virtio 1 in region 4, from byte 0x2000 on (hw/virtio/virtio-pci.c). Those of the legacy interface move
# when the guest takes MSI-X into use (Virtual I/O Device 1.1 section 4.1.4.10), which a balloon has since QEMU 10.
# Section 5.5.4: the balloon's first is num_pages, the number of 4096-byte pages that the guest is asked to give back.
_REGION, _CONFIG, _PAGE = 4, 0x2000, 4096


@dataclass(frozen=True)
class Slot:
    """Where a processor is, or can be plugged in.

    :ivar type: QEMU's type of it.
    :ivar place: Numbers that say where, such as ``socket-id``.
    """

    type: str
    place: dict[str, int]
    taken: bool = False


@dataclass(frozen=True)
class Truth:
    """QEMU's answers.

    :ivar cpus: How many processors are plugged in.
    :ivar slots: Where more can be, in order.
    :ivar room: How many there can be in all.
    :ivar given_back: Bytes that the guest is asked to give back; None while nobody can tell (before the BIOS has set up the balloon).
    :ivar kept: Bytes that the guest has at this moment.
    :ivar devices: Type by id of all that has an id.
    :ivar cards: ``-device`` options of network cards that were plugged in later, by id.
    :ivar backends: ``-netdev`` options, by id.
    :ivar disks: ``-blockdev`` options of disks that were plugged in later, by the id of their device.
    :ivar serials: Their serial numbers, likewise; only of those that have one.
    :ivar nodes: Names of block nodes of ours, whether in use or not.
    :ivar idle_cpus: How many of the processors that were plugged in the guest has never started.
    :ivar former: Ids on the command line. What was plugged in later must not have one of them, or it would be taken for what had it first.
    """

    cpus: int = 1
    slots: tuple[Slot, ...] = ()
    room: int = 1
    given_back: int | None = None
    kept: int | None = None
    devices: dict[str, str] = field(default_factory=dict)
    cards: dict[str, str] = field(default_factory=dict)
    backends: dict[str, str] = field(default_factory=dict)
    disks: dict[str, str] = field(default_factory=dict)
    serials: dict[str, str] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()
    former: frozenset[str] = frozenset()
    idle_cpus: int = 0


def ask(path: str, started: qemu.Options) -> Truth:
    """Ask a QEMU what it has.

    :param path: Its QMP socket.
    :param started: The options on its command line.
    :raises ComputeError: When it has ended, or does not answer as QEMU does.
    """
    with Qmp(path, TIMEOUT) as qmp:
        return _ask(qmp, former(started))


def former(started: qemu.Options) -> frozenset[str]:
    """Give the ids on a command line, of devices and of what stands behind them."""
    named = [qemu.suboptions(value) for option, value in started if option in ("-device", "-netdev", "-blockdev")]
    return frozenset(parts[key] for parts in named for key in ("id", "node-name") if key in parts)


def _ask(qmp: Qmp, known: frozenset[str]) -> Truth:
    listed, room, network, named, pci = qmp.ask_all(
        [
            ("qom-list", {"path": "/machine/peripheral"}), ("query-hotpluggable-cpus", {}), ("human-monitor-command", {"command-line": "info network"}),
            ("query-named-block-nodes", {"flat": True}), ("query-pci", {}),
        ]
    )  # fmt: skip
    devices = {entry.get("name").word(): child.group(1) for entry in listed.entries() for child in [_CHILD.fullmatch(entry.get("type").word())] if child}
    slots = [Slot(slot.get("type").word(), slot.get("props").numbers(), slot.find("qom-path") is not None) for slot in room.entries()]
    free = sorted((slot for slot in slots if not slot.taken), key=lambda slot: sorted(slot.place.items(), reverse=True))
    cards = {name: _card(qmp, name) for name, kind in devices.items() if kind == CARD and name not in known}
    later = {f"/machine/peripheral/{name}": name for name, kind in devices.items() if kind == DISK and name not in known}
    disks = {}
    for entry in qmp.ask("query-block").entries() if later else []:
        device, inserted = entry.find("qdev"), entry.find("inserted")
        place = device.word() if device else ""
        name = later.get(place.rpartition("/virtio-backend")[0] or place)
        if name and inserted:
            node, path, form = (inserted.get(key).word() for key in ("node-name", "file", "drv"))
            disks[name] = qemu.blockdev(node, path, form, inserted.get("ro").flag())
    serials = {name: _property(qmp, name, "serial") for name in disks}
    kept, given_back = _memory_of(qmp, pci) if "balloon" in devices else (None, 0)
    plugged = {f"/machine/peripheral/{name}" for name, kind in devices.items() if _CPU.fullmatch(kind)}
    return Truth(
        cpus=sum(slot.taken for slot in slots), slots=tuple(free), room=len(slots), devices=devices, cards=cards, disks=disks, former=known,
        serials={name: serial for name, serial in serials.items() if serial},
        given_back=given_back, kept=kept, idle_cpus=idle_cpus(qmp, plugged) if plugged else 0,
        backends={name: _netdev(name, readable(rest, LONGEST_WORD)) for name, rest in _BACKEND.findall(network.text())},
        nodes=tuple(sorted(name for node in named.entries() for name in [node.get("node-name").word()] if name.startswith("volume-"))),
    )  # fmt: skip


def idle_cpus(qmp: Qmp, plugged: set[str]) -> int:
    """Return how many of some processors, by their paths, stand where they were when they were plugged in."""
    processors = qmp.ask("query-cpus-fast").entries()
    indexes = [cpu.get("cpu-index").number() for cpu in processors if cpu.get("qom-path").word() in plugged]
    asked: list[tuple[str, dict[str, Any]]] = [("human-monitor-command", {"command-line": "info registers", "cpu-index": index}) for index in indexes]
    return sum(bool(_RESET.search(said.text())) for said in qmp.ask_all(asked))


def _netdev(name: str, said: str) -> str:
    """Give a backend of ``info network`` as the option that made it, as far as such can be made later (tap and plain user)."""
    parts = qemu.suboptions(said)
    kind = parts.get("type", "")
    if kind == "tap":
        return qemu.tap_backend(name, parts.get("ifname", ""))
    return f"{kind},id={name}"


def _card(qmp: Qmp, name: str) -> str:
    keys = ("netdev", "mac", "host_mtu", "romfile")
    netdev, mac, mtu, rom = qmp.ask_all([("qom-get", {"path": f"/machine/peripheral/{name}", "property": key}) for key in keys])
    return qemu.card_device(netdev.word(), name, mac.word(), mtu.number(), not _word_or_none(rom))


def _property(qmp: Qmp, name: str, key: str) -> str:
    return _word_or_none(qmp.ask("qom-get", {"path": f"/machine/peripheral/{name}", "property": key}))


def _word_or_none(found: Answer) -> str:
    return found.word() if found.value is not None else ""


def _memory_of(qmp: Qmp, pci: Answer) -> tuple[int, int | None]:
    """Give what the guest has of its memory, and what it is asked to give back, both in bytes.

    The latter stands in the balloon's register: ``query-balloon`` only says how far the guest has come. It is None before the BIOS has given
    the register its place.
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


def corrected(started: qemu.Options, truth: Truth, forecast: qemu.Options) -> qemu.Options:
    """Give the options that a QEMU would have to be started with to be as this one is now.

    :param started: The options on its command line.
    :param forecast: Those in ``start``, which tell the memory where QEMU can't yet.
    """
    gone = [qemu.suboptions(value) for option, value in started if option == "-device" and not _there(value, truth)]
    behind = {parts[key] for parts in gone for key in ("netdev", "drive") if key in parts}
    made: qemu.Options = []
    for option, value in started:
        parts = qemu.suboptions(value)
        if option == "-smp" and truth.room > 1:
            made.append((option, qemu.processors_text(truth.cpus, truth.room)))
        elif option == "-device" and not _there(value, truth):
            continue
        elif not (option in ("-netdev", "-blockdev") and parts.get("id", parts.get("node-name")) in behind) and option != qemu.MEMORY:
            made.append((option, value))
    for _name, text in sorted(truth.cards.items()):
        made += [("-device", text), ("-netdev", truth.backends.get(qemu.suboptions(text)["netdev"], ""))]
    for name, text in sorted(truth.disks.items()):
        made += [("-blockdev", text), ("-device", qemu.disk_device(qemu.suboptions(text)["node-name"], name, truth.serials.get(name, "")))]
    known = {qemu.suboptions(value).get("id") for option, value in started if option == "-device"} | {*truth.cards, *truth.disks}
    made += [("-device", f"{kind},id={name}") for name, kind in sorted(truth.devices.items()) if name not in known and not _CPU.fullmatch(kind)]
    most = qemu.number(dict(started).get("-m"))
    if most is not None:
        asked = _memory(most, truth, started, forecast)
        made += [(qemu.MEMORY, str(asked))] if asked != most else []
    return made


def _there(device: str, truth: Truth) -> bool:
    name = qemu.suboptions(device).get("id")
    return name is None or name in truth.devices


def _memory(most: int, truth: Truth, started: qemu.Options, forecast: qemu.Options) -> int:
    if truth.given_back is not None:
        return most - (truth.given_back + (1 << 20) - 1) // (1 << 20)
    told = dict(forecast)
    asked = qemu.number(told.get(qemu.MEMORY))
    return asked if asked is not None and told.get("-m") == dict(started).get("-m") else most
