# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine that an item of the module ``instance`` declares, and the names and paths that follow from it."""

from __future__ import annotations

from typing import Any

from .._core.layout import InstancePaths, Layout
from .._core.names import mac_address, short_id
from .machine import Backend, Disk, Machine, Nic, Option

Item = dict[str, Any]
DEFAULT_GRACE = 60
# QEMU's own newest: what it is called with its version, only that QEMU knows.
DEFAULT_TYPE = "pc"
# What a tunnel of 50 bytes leaves of an underlay of 1500 (RFC 8926 section 3).
DEFAULT_MTU = 1450
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
# -daemonize forks after the filter stands: what denies that kills QEMU (measured on 7.2: SIGSYS, or exit status 1 for
# elevateprivileges).
SANDBOX_DAEMON = "on,obsolete=deny,resourcecontrol=deny"
# QEMU's machine type pc takes 255 processors without an interrupt remapper.
MAX_CPUS = 255
# Virtual I/O Device 1.1 section 5.2.6: VIRTIO_BLK_T_GET_ID.
MAX_SERIAL = 20
_DISCARD = ("discard", "unmap")


def identifier(item: Item) -> str:
    """Return an instance's 8 hex digits: declared, or derived from its name."""
    return str(item.get("id") or short_id("instance", item["name"]))


def paths(item: Item, layout: Layout) -> InstancePaths:
    """Return where an instance's files stand."""
    return layout.instance(f"compute-{identifier(item)}")


def volume(item: Item, layout: Layout) -> str:
    """Return the path of an instance's disk."""
    return str(item.get("volume") or layout.volume(f"compute-{identifier(item)}"))


def seed(item: Item, layout: Layout) -> str:
    """Return the path of an instance's seed, or "" where it has none."""
    return layout.seed(f"compute-{identifier(item)}") if item.get("seed", True) else ""


def disks(item: Item, layout: Layout) -> list[Disk]:
    """Return the disks beside an instance's own."""
    return [
        new_disk(disk.get("path") or layout.volume(disk["name"]), disk["format"], serial(disk.get("name") or ""))
        for disk in item["volumes"]
    ]


def new_disk(path: str, disk_format: str, disk_serial: str = "") -> Disk:
    """Return a disk with the ids that follow from its path."""
    name = short_id("disk", path)
    return Disk(path, disk_format, serial=disk_serial, more=(_DISCARD,), id=f"disk-{name}", node=f"volume-{name}")


def serial(name: str) -> str:
    """Return a volume's serial number: its name, or of a long one the beginning and 8 hex digits (virtio-blk has 20
    bytes for it).
    """
    return name if len(name) <= MAX_SERIAL else f"{name[: MAX_SERIAL - 9]}-{short_id('serial', name)}"


def disk_clash(declared: list[Disk]) -> tuple[int, int, str] | None:
    """Return which two of an instance's disks get one name, and which; None for none. One disk given twice is not
    meant.
    """
    first: dict[str, int] = {}
    for index, disk in enumerate(declared):
        for name in (f"QEMU id {disk.id}", f"serial number {disk.serial}" if disk.serial else ""):
            other = first.setdefault(name, index) if name else index
            if declared[other].path != disk.path:
                return other, index, name
    return None


def tap(item: Item, index: int) -> str:
    """Return the tap of an instance's NIC: declared, ``vnet-<id>`` for the first, ``vnet-<short_id>`` for others."""
    own = identifier(item) if index == 0 else short_id("port", f"{item['name']}/{index}")
    return str(item["nics"][index].get("tap") or f"vnet-{own}")


def mac(item: Item, index: int) -> str:
    """Return the MAC address of an instance's NIC: declared, or derived from its name."""
    return str(item["nics"][index].get("mac") or mac_address(f"{item['name']}/{index}"))


def max_cpus(item: Item) -> int:
    """Return how many processors an instance has room for: declared, or twice what it has, at least 4."""
    return int(item.get("cpu_max") or min(MAX_CPUS, max(4, 2 * item["cpu"])))


def max_memory(item: Item) -> int:
    """Return up to how many MiB an instance's memory can grow without a restart: declared, or what it has."""
    return int(item.get("memory_max") or item["memory"])


def fill_maximums(item: Item, running: Machine | None) -> Item:
    """Return the declaration with its maximums: by default what the QEMU that runs has, if that is enough."""
    cpus, memory = (running.max_cpus or 0, running.max_memory or 0) if running else (0, 0)
    kept = {
        "cpu_max": cpus if cpus >= item["cpu"] else None,
        "memory_max": memory if memory >= item["memory"] else None,
    }
    return {**item, **{key: item.get(key) or value for key, value in kept.items()}}


def from_item(item: Item, layout: Layout, accel: str, machine_type: str = DEFAULT_TYPE) -> Machine:
    """Return the machine that an item declares.

    :param item: With all defaults filled in, and found valid.
    :param accel: ``kvm`` or ``tcg``.
    """
    where = paths(item, layout)
    daemon = item["supervisor"] == "none"
    interface = ("if", "virtio")
    fixed = [Disk(volume(item, layout), item["volume_format"], fixed=True, more=(interface, _DISCARD))]
    fixed += [Disk(seed(item, layout), "raw", readonly=True, fixed=True, more=(interface,))] if item["seed"] else []
    others = [("-nodefaults", ""), ("-no-user-config", "")]
    others += [_socket("console", f"path={where.console},server=on,wait=off,logfile={where.console_log},logappend=on")]
    others += [("-serial", "chardev:console"), ("-device", "virtio-serial-pci")]
    others += [_socket("agent", f"path={where.agent},server=on,wait=off")]
    others += [("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"), ("-device", "virtio-rng-pci")]
    others += [("-device", "virtio-balloon-pci,id=balloon")]
    others += [("-qmp", f"unix:{where.qmp},server=on,wait=off"), ("-pidfile", where.pid)]
    others += [("-sandbox", SANDBOX_DAEMON if daemon else SANDBOX)]
    others += [("-display", "none")] if item["vnc"] == "none" else [("-vga", "std")]
    return Machine(
        name=item["name"],
        type=machine_type,
        cpus=item["cpu"],
        max_cpus=max_cpus(item),
        memory=item["memory"],
        max_memory=max_memory(item),
        accel=accel,
        cpu_model=item["cpu_model"] or ("host" if accel == "kvm" else "max"),
        vnc=_screen(item, where),
        boot="order=nc,menu=off" if item["boot_network"] else "order=c,menu=off",
        daemon=daemon,
        disks=(*fixed, *disks(item, layout)),
        nics=tuple(_nic(item, index) for index in range(len(item["nics"]))),
        others=tuple(Option(*option) for option in others),
    )


def _socket(name: str, options: str) -> tuple[str, str]:
    return "-chardev", f"socket,id={name},{options}"


def _screen(item: Item, where: InstancePaths) -> str:
    if item["vnc"] == "none":
        return ""
    return f"unix:{where.vnc}" if item["vnc"] == "socket" else f"127.0.0.1:{item['vnc_display']}"


def _nic(item: Item, index: int) -> Nic:
    nic = item["nics"][index]
    return Nic(
        mac=mac(item, index),
        backend=_backend(item, index),
        mtu=nic.get("mtu") or (DEFAULT_MTU if nic["type"] == "tap" else None),
        # The boot ROM polls without a pause until it gives up; under emulation that takes a processor.
        boot_rom=item["boot_network"],
        id=f"card{index}",
        netdev=f"network{index}",
    )


def _backend(item: Item, index: int) -> Backend:
    nic = item["nics"][index]
    if nic["type"] == "tap":
        return tap_backend(tap(item, index))
    if nic["type"] == "user":
        return Backend("user", tuple(("hostfwd", _forward(rule)) for rule in nic.get("hostfwd") or []))
    if nic.get("mcast"):
        return Backend("socket", (("mcast", nic["mcast"]), ("localaddr", nic.get("local") or "127.0.0.1")))
    return Backend("socket", (("udp", nic["remote"]), ("localaddr", nic["local"])))


def tap_backend(link: str) -> Backend:
    """Return what stands behind a NIC on a tap."""
    return Backend("tap", (("ifname", link), ("script", "no"), ("downscript", "no"), ("vhost", "off")))


def _forward(rule: str) -> str:
    protocol, address, port, guest = rule.split(":")
    return f"{protocol}:{address}:{port}-:{guest}"
