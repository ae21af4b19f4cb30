# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU's command line: a machine as its options, and back. And what differs, in the words of a declaration."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from functools import lru_cache
from typing import Any

from .machine import Backend, Difference, Disk, Machine, Nic, Option, Pairs

Options = list[tuple[str, str]]
# Not an option of QEMU's: the MiB that the guest is asked to do with, where they are fewer than -m (virtio-balloon).
MEMORY = "(memory)"
# These stand before the machine itself.
_HEAD = ("-nodefaults", "-no-user-config")
_WORDS = {"cpus": "cpu", "max_cpus": "cpu_max", "max_memory": "memory_max", "type": "machine", "boot": "boot order"}
_BACKEND = {"tap": "ifname", "local": "localaddr", "remote": "udp", "mcast": "mcast"}


def number(text: str | None) -> int | None:
    """Read a whole number of at most 18 digits; None for anything else."""
    return int(text) if text and len(text) <= 18 and text.isascii() and text.isdigit() else None


def parse_keyvals(value: str) -> Pairs:
    """Take ``tap,id=network0,ifname=…`` apart; a word without ``=`` has the value ""."""
    return tuple([part.partition("=")[::2] for part in value.split(",")])


def keyvals(pairs: Iterable[tuple[str, str]]) -> str:
    """Put names and values together again, each with its ``=``."""
    return "".join(f",{name}={value}" for name, value in pairs)


def parse_options(words: Sequence[str]) -> Options:
    """Pair QEMU's arguments (without the program) as options and values."""
    made: Options = []
    for word in words:
        if word.startswith("-") or not made or made[-1][1]:
            made.append((word, ""))
        else:
            made[-1] = (made[-1][0], word)
    return made


def from_argv(given: Options) -> Machine:
    """Read a machine from QEMU's options, whatever they are."""
    return _from_argv(tuple(given))


# Of most instances `start` and the process say the same, one after the other.
@lru_cache(maxsize=4)
def _from_argv(given: Pairs) -> Machine:
    named = dict(given)
    cpus = parse_keyvals(named.get("-smp", ""))
    count = number(cpus[0][0])
    behind = {}
    for option, value in given:
        if option in ("-netdev", "-blockdev"):
            pairs = parse_keyvals(value)
            behind[_first(pairs, "id" if option == "-netdev" else "node-name")] = (option, value, pairs)
    nics: list[Nic] = []
    disks: list[Disk] = []
    others: list[Option] = []
    used: set[tuple[str, str]] = set()
    seen: set[str] = set()
    for option, value in given:
        if option in _READ:
            continue
        if option == "-drive":
            disks.append(_drive(value))
            continue
        pairs = parse_keyvals(value) if option == "-device" else ()
        backend = behind.get(_first(pairs, "netdev") or _first(pairs, "drive")) if pairs else None
        device = _device(pairs, backend) if backend else None
        if device and device.key not in seen and backend:
            seen.add(device.key)
            used.add(backend[:2])
            if isinstance(device, Nic):
                nics.append(device)
            else:
                disks.append(device)
        else:
            others.append(Option(option, value))
    most = number(named.get("-m"))
    accel = named.get("-accel", "tcg")
    others += [Option("-accel", accel)] if "," in accel else []
    return Machine(
        name=named.get("-name", ""),
        type=named.get("-machine", ""),
        cpus=count,
        max_cpus=number(_first(cpus, "maxcpus")) or count,
        memory=number(named[MEMORY]) if MEMORY in named else most,
        max_memory=most,
        accel="kvm" if "-enable-kvm" in named else accel.split(",")[0],
        cpu_model=named.get("-cpu", ""),
        vnc=named.get("-vnc", ""),
        boot=named.get("-boot", ""),
        daemon="-daemonize" in named,
        disks=tuple(disks),
        nics=tuple(nics),
        others=tuple(option for option in others if (option.name, option.value) not in used),
    )


_READ = {
    "-name", "-machine", "-smp", "-m", MEMORY, "-accel", "-enable-kvm", "-cpu", "-vnc", "-boot", "-daemonize",
}  # fmt: skip


def _first(pairs: Pairs, name: str) -> str:
    return next((value for key, value in pairs if key == name), "")


def _rest(pairs: Pairs, known: Container[str]) -> Pairs:
    return tuple([pair for pair in pairs if pair[0] not in known])


def _slot(text: str) -> int | None:
    digits = text[2:] if text.startswith("0x") else ""
    return int(digits, 16) if 0 < len(digits) <= 2 and all(digit in "0123456789abcdef" for digit in digits) else None


def _device(pairs: Pairs, backend: tuple[str, str, Pairs]) -> Nic | Disk | None:
    option, _value, behind = backend
    # Of several of one name the first counts.
    given = dict(reversed(pairs))
    if option == "-netdev" and given.get("netdev"):
        mtu = number(given.get("host_mtu"))
        silent = given.get("romfile") == ""
        known = {"netdev", "id", "mac", "addr", "host_mtu" if mtu is not None else "", "romfile" if silent else ""}
        return Nic(
            mac=given.get("mac", ""),
            backend=Backend(behind[0][0], _rest(behind[1:], {"id"})),
            mtu=mtu,
            boot_rom=not silent,
            driver=pairs[0][0],
            more=_rest(pairs[1:], known),
            id=given.get("id", ""),
            netdev=given["netdev"],
            slot=_slot(given.get("addr", "")),
        )
    if option == "-blockdev" and not given.get("netdev"):
        file = dict(reversed(behind))
        path = file.get("file.filename", "")
        usual = {"file.driver"} if file.get("file.driver") == file_driver(path) else set()
        return Disk(
            path=path,
            format=file.get("driver", ""),
            readonly=file.get("read-only") == "on",
            serial=given.get("serial", ""),
            driver=pairs[0][0],
            more=_rest(behind, {"driver", "node-name", "file.filename", "read-only", *usual}),
            device_more=_rest(pairs[1:], {"drive", "id", "serial", "addr"}),
            id=given.get("id", ""),
            node=given.get("drive", ""),
            slot=_slot(given.get("addr", "")),
        )
    return None


def _drive(value: str) -> Disk:
    pairs = parse_keyvals(value)
    given = dict(reversed(pairs))
    return Disk(
        path=given.get("file", ""),
        format=given.get("format", ""),
        readonly=given.get("readonly") == "on",
        fixed=True,
        more=_rest(pairs, {"file", "format", "readonly"}),
    )


def file_driver(path: str) -> str:
    """Return QEMU's driver of the file or the device behind a disk."""
    return "host_device" if path.startswith("/dev/") else "file"


def to_argv(machine: Machine) -> Options:
    """Return a machine as QEMU's options, in the talk's order."""
    made: Options = [("-name", machine.name)]
    made += [(option.name, option.value) for option in machine.others if option.name in _HEAD]
    made += [("-machine", machine.type), ("-smp", f"{machine.cpus},maxcpus={machine.max_cpus}")]
    made += [("-m", str(machine.max_memory))]
    for disk in machine.disks:
        made += [("-drive", _drive_text(disk))] if disk.fixed else _disk_options(disk)
    made += [("-boot", machine.boot)]
    made += [("-enable-kvm", "")] if machine.accel == "kvm" else [("-accel", machine.accel)]
    made += [("-cpu", machine.cpu_model)]
    for nic in machine.nics:
        made += [("-device", nic_text(nic)), ("-netdev", backend_text(nic.backend, nic.netdev))]
    for option in machine.others:
        if option.name not in _HEAD:
            made.append((option.name, option.value))
        if option.name == "-sandbox" and machine.daemon:
            made.append(("-daemonize", ""))
        if option.name == "-vga" and machine.vnc:
            made.append(("-vnc", machine.vnc))
    return made if machine.memory == machine.max_memory else [*made, (MEMORY, str(machine.memory))]


def _drive_text(disk: Disk) -> str:
    return f"file={disk.path},format={disk.format}{keyvals(disk.more)}" + (",readonly=on" if disk.readonly else "")


def _disk_options(disk: Disk) -> Options:
    # QEMU places what -drive makes after all of -device: without a place of its own the guest would find this disk
    # before its first.
    return [("-blockdev", blockdev_text(disk)), ("-device", disk_text(disk))]


def _place(slot: int | None) -> str:
    return "" if slot is None else f",addr={slot:#x}"


def blockdev_text(disk: Disk) -> str:
    """Return the value of ``-blockdev`` for what stands behind a disk: an image file or a block device."""
    file = f",file.driver={file_driver(disk.path)},file.filename={disk.path}"
    text = f"driver={disk.format},node-name={disk.node}{keyvals(disk.more)}{file}"
    return text + (",read-only=on" if disk.readonly else "")


def disk_text(disk: Disk) -> str:
    """Return the value of ``-device`` for a disk."""
    serial = f",serial={disk.serial}" if disk.serial else ""
    return f"{disk.driver},drive={disk.node},id={disk.id}{serial}{keyvals(disk.device_more)}{_place(disk.slot)}"


def nic_text(nic: Nic) -> str:
    """Return the value of ``-device`` for a NIC."""
    mtu = "" if nic.mtu is None else f",host_mtu={nic.mtu}"
    rom = "" if nic.boot_rom else ",romfile="
    return f"{nic.driver},netdev={nic.netdev},id={nic.id},mac={nic.mac}{mtu}{rom}{keyvals(nic.more)}{_place(nic.slot)}"


def backend_text(backend: Backend, name: str) -> str:
    """Return the value of ``-netdev``."""
    return f"{backend.type},id={name}{keyvals(backend.options)}"


def phrase(difference: Difference) -> str:
    """Return a difference in words, such as ``cpu is 2, declared 4``."""
    subject, have, want = difference.subject, difference.have, difference.want
    if subject == "order":
        return "the QEMU command differs"
    if subject == "daemon":
        return f"supervisor is {_supervisor(have)}, declared {_supervisor(want)}"
    what = _option_text(have or want) if subject == "option" else subject
    if isinstance(have or want, (Nic, Disk, Option)):
        if want is None:
            return f"{what} is there, not declared"
        return (
            f"{what} is declared, not there" if have is None else f"{what} is `{_text(have)}`, declared `{_text(want)}`"
        )
    return f"{_WORDS.get(subject, subject)} is {_or_none(have)}, declared {_or_none(want)}"


def phrases(differences: Iterable[Difference]) -> list[str]:
    """Return differences in words."""
    return [phrase(difference) for difference in differences]


def _or_none(value: Any) -> str:
    return "none" if value == "" else str(value)


def _supervisor(daemon: bool) -> str:
    return "none" if daemon else "systemd"


def _option_text(entry: Option | Disk) -> str:
    option = Option("-drive", _drive_text(entry)) if isinstance(entry, Disk) else entry
    return f"`{option.name} {option.value}`".replace(" `", "`")


def _text(device: Nic | Disk) -> str:
    """Return a device without what may differ between two that are the same."""
    if isinstance(device, Nic):
        texts = (nic_text(device), backend_text(device.backend, ""))
    else:
        texts = (disk_text(device), blockdev_text(device))
    drop = ("id", "netdev", "drive", "node-name", "addr")
    return " ".join(
        ",".join(part for part in text.split(",") if part.partition("=")[0] not in drop or "=" not in part)
        for text in texts
    )


def describe(machine: Machine) -> dict[str, Any]:
    """Return a machine's properties in the declaration's words."""
    return {
        "cpu": machine.cpus,
        "cpu_max": machine.max_cpus,
        "memory": machine.memory,
        "memory_max": machine.max_memory,
        "accel": machine.accel,
        "cpu_model": machine.cpu_model,
        "disks": [{"path": disk.path, "format": disk.format, "readonly": disk.readonly} for disk in machine.disks],
        "nics": [_describe_nic(nic) for nic in machine.nics],
        "vnc": machine.vnc or "none",
        "supervisor": _supervisor(machine.daemon),
    }


def _describe_nic(nic: Nic) -> dict[str, Any]:
    backend = nic.backend
    found: dict[str, Any] = {"type": backend.type, "mac": nic.mac, "mtu": nic.mtu}
    options = dict(backend.options)
    found.update({key: backend.get(word) for key, word in _BACKEND.items() if word in options})
    rules = [value.replace("-:", ":") for name, value in backend.options if name == "hostfwd"]
    return {**found, **({"hostfwd": rules} if rules else {})}
