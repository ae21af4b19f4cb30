# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual machine as one value, whether it was declared, is written in a ``start``, or is what a running QEMU has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Union

Pairs = tuple[tuple[str, str], ...]
# Slots of the PCI bus (0 to 31) for further disks, and for what is plugged in: QEMU gives the others to what has no
# place of its own, from the lowest on.
FIRST_SLOT, LAST_SLOT = 16, 31
MAX_DISKS = LAST_SLOT - FIRST_SLOT + 1
# Of the same options that QEMU's sandbox, VGA and display take, others say it all.
_IMPLIED = ("-sandbox", "-vga", "-display")


@dataclass(frozen=True)
class Option:
    """An option of QEMU's command line that is not part of the model, as it stands there."""

    name: str
    value: str = ""


@dataclass(frozen=True)
class Backend:
    """What stands behind a NIC (``-netdev``).

    :ivar type: Such as ``tap``.
    :ivar options: Its further options in their order; a name may come more than once.
    """

    type: str = ""
    options: Pairs = ()

    def get(self, name: str) -> str:
        """Return an option's first value; "" for none."""
        return next((value for key, value in self.options if key == name), "")


@dataclass(frozen=True)
class Nic:
    """A network card.

    :ivar mtu: What the guest is told (virtio's ``host_mtu``); None for nothing.
    :ivar boot_rom: Whether it has the ROM for network boot.
    :ivar more: Options of the device beside these.
    :ivar id: Of the device, ``netdev`` of what stands behind it: they may differ between two that are the same.
    :ivar slot: On the PCI bus; None where QEMU chooses.
    """

    mac: str
    backend: Backend = Backend()
    mtu: int | None = None
    boot_rom: bool = True
    driver: str = "virtio-net-pci"
    more: Pairs = ()
    id: str = field(default="", compare=False)
    netdev: str = field(default="", compare=False)
    slot: int | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """What tells it from the others of its machine."""
        return f"card {self.mac}"


@dataclass(frozen=True)
class Disk:
    """A disk.

    :ivar fixed: Whether it is one that can't be plugged in or out (``-drive``): the machine's own, and the seed.
    :ivar more: Options beside these, of what stands behind it; ``device_more`` those of the device.
    :ivar serial: By which the guest knows it; "" for none.
    :ivar id: Of the device, ``node`` of what stands behind it: they may differ between two that are the same.
    :ivar slot: On the PCI bus; None where QEMU chooses.
    """

    path: str
    format: str
    readonly: bool = False
    fixed: bool = False
    serial: str = ""
    driver: str = "virtio-blk-pci"
    more: Pairs = ()
    device_more: Pairs = ()
    id: str = field(default="", compare=False)
    node: str = field(default="", compare=False)
    slot: int | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """What tells it from the others of its machine."""
        return f"disk {self.path}"


HotplugDevice = Union[Nic, Disk]


@dataclass(frozen=True)
class Machine:
    """A virtual machine. Numbers are None where what was read does not say them.

    :ivar type: QEMU's machine type, with its version where that is known: ``pc`` is another machine in each QEMU.
    :ivar cpus: Processors; ``max_cpus``, how many can be plugged in.
    :ivar memory: MiB that the guest is asked to do with; ``max_memory``, what it has in all (virtio-balloon).
    :ivar vnc: Where its screen is; "" for nowhere.
    :ivar boot: The value of ``-boot``.
    :ivar daemon: Whether QEMU goes to the background by itself.
    :ivar others: All else that the command line says.
    """

    name: str = ""
    type: str = ""
    cpus: int | None = None
    max_cpus: int | None = None
    memory: int | None = None
    max_memory: int | None = None
    accel: str = "tcg"
    cpu_model: str = ""
    vnc: str = ""
    boot: str = ""
    daemon: bool = False
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    others: tuple[Option, ...] = ()

    @property
    def devices(self) -> dict[str, HotplugDevice]:
        """What can be plugged in and out, by key."""
        found: dict[str, HotplugDevice] = {}
        devices: list[HotplugDevice] = [*(disk for disk in self.disks if not disk.fixed), *self.nics]
        for device in devices:
            found.setdefault(device.key, device)
        return found

    @property
    def taps(self) -> set[str]:
        """The taps of its NICs."""
        return {tap for nic in self.nics for tap in [nic.backend.get("ifname")] if tap}


@dataclass(frozen=True)
class Difference:
    """One thing in which a machine differs from another.

    :ivar subject: What it is: a field of :class:`Machine`, the key of a device, ``option`` or ``order``.
    :ivar have: What there is, None for nothing; ``want`` likewise what is declared.
    """

    subject: str
    have: Any = None
    want: Any = None


def diff(have: Machine, want: Machine) -> list[Difference]:
    """Compare what there is with what is declared. Ids and places don't count, nor a version that nobody knows."""
    if have == want:
        return []
    found = [
        Difference(name, getattr(have, name), getattr(want, name))
        for name in (
            "accel",
            "cpus",
            "max_cpus",
            "memory",
            "max_memory",
            "name",
            "type",
            "cpu_model",
            "vnc",
            "boot",
            "daemon",
        )
        if getattr(have, name) != getattr(want, name) and not (name == "type" and same_type(have.type, want.type))
    ]
    there, declared = have.devices, want.devices
    for key in [*there, *(key for key in declared if key not in there)]:
        if there.get(key) != declared.get(key):
            found.append(Difference(key, there.get(key), declared.get(key)))
    rest, wanted = ([*(disk for disk in one.disks if disk.fixed), *one.others] for one in (have, want))
    found += [Difference("option", have=entry) for entry in _without(rest, wanted) if not _implied(entry)]
    found += [Difference("option", want=entry) for entry in _without(wanted, rest) if not _implied(entry)]
    return found or ([Difference("order")] if rest != wanted else [])


def same_type(one: str, other: str) -> bool:
    """Tell whether two machine types may be one: ``pc`` is that of its QEMU, whatever its version."""
    return one == other or ("pc" in (one, other) and all(name == "pc" or has_version(name) for name in (one, other)))


def has_version(machine_type: str) -> bool:
    """Tell whether a machine type names its version, so that it is the same in each QEMU."""
    stem, _dash, version = machine_type.rpartition("-")
    return stem == "pc-i440fx" and version.replace(".", "").isdigit()


def _implied(entry: Option | Disk) -> bool:
    return isinstance(entry, Option) and entry.name in _IMPLIED


def _without(these: list[Any], those: Iterable[Any]) -> list[Any]:
    rest, left = list(those), []
    for entry in these:
        if entry in rest:
            rest.remove(entry)
        else:
            left.append(entry)
    return left


def placed(want: Machine, have: Machine | None, runs: bool) -> Machine:
    """Give a declared machine's devices their slots: what there is keeps its own, to come back in the same place.

    :param have: What there is, running or written down; None for nothing.
    :param runs: Whether it runs, so that a new NIC is plugged in.
    """
    there = have.devices if have else {}
    kept = {
        key: device.slot
        for key, device in there.items()
        if device.slot is not None and FIRST_SLOT <= device.slot <= LAST_SLOT
    }
    # Also of what goes: its slot is free only once the guest has let go of it.
    taken: set[int | None] = set(kept.values())
    disks = []
    for disk in want.disks:
        slot = disk.slot if disk.fixed else kept.get(disk.key) or _free_slot(taken, range(FIRST_SLOT, LAST_SLOT + 1))
        taken.add(slot)
        disks.append(replace(disk, slot=slot))
    nics = []
    for nic in want.nics:
        # One that came with the machine's start has whatever place QEMU gave it.
        new = runs and nic.key not in there
        slot = kept.get(nic.key) or (_free_slot(taken, range(LAST_SLOT, FIRST_SLOT - 1, -1)) if new else None)
        taken.add(slot)
        nics.append(replace(nic, slot=slot))
    return replace(want, disks=tuple(disks), nics=tuple(nics))


def _free_slot(taken: set[int | None], slots: range) -> int | None:
    return next((slot for slot in slots if slot not in taken), None)
