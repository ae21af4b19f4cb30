# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An instance as QEMU's command: from the declaration to the text of ``start``, and back from a text or a running process."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

from ansible_collections.ikcloud.compute.plugins.module_utils.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils.layout import InstancePaths, Layout
from ansible_collections.ikcloud.compute.plugins.module_utils.names import OWNER, mac_address, short_id
from ansible_collections.ikcloud.compute.plugins.module_utils.process import MAX_WORDS
from ansible_collections.ikcloud.compute.plugins.module_utils.untrusted import parse_json

Item = dict[str, Any]
Options = list[tuple[str, str]]
PROGRAM = "qemu-system-x86_64"
DEFAULT_GRACE = 60
# What a tunnel of 50 bytes leaves of an underlay of 1500 (RFC 8926 section 3).
DEFAULT_MTU = 1450
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
# -daemonize forks after the filter stands: what denies that kills QEMU (measured on 7.2: SIGSYS, or exit status 1 for elevateprivileges).
SANDBOX_DAEMON = "on,obsolete=deny,resourcecontrol=deny"

# Not an option of QEMU's: the MiB that the guest is asked to do with, where they are fewer than -m (virtio-balloon).
MEMORY = "(memory)"
# QEMU's machine type pc takes 255 processors without an interrupt remapper.
MAX_CPUS = 255
# Further disks have the upper half of the PCI bus, which has slots 0 to 31.
FIRST_SLOT, MAX_DISKS = 16, 16
# Virtual I/O Device 1.1 section 5.2.6: VIRTIO_BLK_T_GET_ID.
MAX_SERIAL = 20
_BALLOON = re.compile(r'\{"value": ([0-9]+)\}')
_HEADER = re.compile(rf"#!/bin/sh\n# {re.escape(OWNER)} instance ([a-z0-9-]+)\n# labels: (.*)\n")
# A command in which no character has a meaning to a shell.
_PLAIN = re.compile(r"[A-Za-z0-9@%+=:,./_\- \n]*")
_WORDS = {"-name": "name", "-machine": "machine", "-cpu": "cpu_model", "-vnc": "vnc", "-boot": "boot order"}


def identifier(item: Item) -> str:
    """Give an instance's 8 hex digits: declared, or derived from its name."""
    return str(item.get("id") or short_id("instance", item["name"]))


def paths(item: Item, layout: Layout) -> InstancePaths:
    """Give where an instance's files stand."""
    return layout.instance(f"compute-{identifier(item)}")


def volume(item: Item, layout: Layout) -> str:
    """Give the path of an instance's disk."""
    return str(item.get("volume") or layout.volume(f"compute-{identifier(item)}"))


def seed(item: Item, layout: Layout) -> str:
    """Give the path of an instance's seed, or "" where it has none."""
    return layout.seed(f"compute-{identifier(item)}") if item.get("seed", True) else ""


def disks(item: Item, layout: Layout) -> list[Item]:
    """Give the disks beside an instance's own: ``path``, ``format``, and the ``serial`` by which the guest knows it ("" for none)."""
    return [
        {"path": disk.get("path") or layout.volume(disk["name"]), "format": disk["format"], "serial": serial(disk["name"]) if disk.get("name") else ""}
        for disk in item["volumes"]
    ]


def serial(name: str) -> str:
    """Give a volume's serial number: its name, or of a long one the beginning and 8 hex digits (virtio-blk's has 20 bytes)."""
    return name if len(name) <= MAX_SERIAL else f"{name[: MAX_SERIAL - 9]}-{short_id('serial', name)}"


def disk_clash(disks: list[Item]) -> tuple[int, int, str] | None:
    """Return which two of an instance's disks get one name, and which; None for none. One disk given twice is not meant."""
    first: dict[str, int] = {}
    for index, disk in enumerate(disks):
        for name in (f"QEMU id disk-{short_id('disk', disk['path'])}", f"serial number {disk['serial']}" if disk["serial"] else ""):
            other = first.setdefault(name, index) if name else index
            if disks[other]["path"] != disk["path"]:
                return other, index, name
    return None


def tap(item: Item, index: int) -> str:
    """Give the tap of an instance's NIC: declared, ``vnet-<id>`` for the first, ``vnet-<short_id>`` for others."""
    declared = item["nics"][index].get("tap")
    return str(declared or f"vnet-{identifier(item) if index == 0 else short_id('port', item['name'] + '/' + str(index))}")


def mac(item: Item, index: int) -> str:
    """Give the MAC address of an instance's NIC: declared, or derived from its name."""
    return str(item["nics"][index].get("mac") or mac_address(f"{item['name']}/{index}"))


def cpu_max(item: Item) -> int:
    """Give how many processors an instance has room for: declared, or twice what it has, at least 4."""
    return int(item.get("cpu_max") or min(MAX_CPUS, max(4, 2 * item["cpu"])))


def memory_max(item: Item) -> int:
    """Give up to how many MiB an instance's memory can grow without a restart: declared, or what it has."""
    return int(item.get("memory_max") or item["memory"])


def reserve(item: Item, running: Options | None) -> Item:
    """Give the declaration with its room for more filled in: what is not declared is what the QEMU that runs has, if that is enough."""
    named = dict(running or [])
    cpus, memory = processors(named.get("-smp"))[1] or 0, number(named.get("-m")) or 0
    kept = {"cpu_max": cpus if cpus >= item["cpu"] else None, "memory_max": memory if memory >= item["memory"] else None}
    return {**item, **{key: item.get(key) or value for key, value in kept.items()}}


def options(item: Item, layout: Layout, accel: str) -> Options:
    """Give QEMU's options for an instance, in the talk's order.

    :param item: The declaration, with all defaults filled in and found valid.
    :param accel: ``kvm`` or ``tcg``.
    """
    where = paths(item, layout)
    daemon = item["supervisor"] == "none"
    made: Options = [("-name", item["name"]), ("-nodefaults", ""), ("-no-user-config", ""), ("-machine", "pc")]
    made += [("-smp", processors_text(item["cpu"], cpu_max(item))), ("-m", str(memory_max(item)))]
    made += [("-drive", f"file={volume(item, layout)},format={item['volume_format']},if=virtio,discard=unmap")]
    if item["seed"]:
        made += [("-drive", f"file={seed(item, layout)},format=raw,if=virtio,readonly=on")]
    for index, disk in enumerate(disks(item, layout)):
        name = short_id("disk", disk["path"])
        made += [("-blockdev", blockdev(f"volume-{name}", disk["path"], disk["format"]))]
        # QEMU places what -drive makes after all of -device: without a place of its own the guest would find this disk before its first.
        made += [("-device", f"{disk_device(f'volume-{name}', f'disk-{name}', disk['serial'])},addr={FIRST_SLOT + index:#x}")]
    made += [("-boot", "order=nc,menu=off" if item["boot_network"] else "order=c,menu=off")]
    made += [("-enable-kvm", "")] if accel == "kvm" else [("-accel", "tcg")]
    made += [("-cpu", item["cpu_model"] or ("host" if accel == "kvm" else "max"))]
    for index in range(len(item["nics"])):
        made += _nic(item, index)
    made += [("-chardev", f"socket,id=console,path={where.console},server=on,wait=off,logfile={where.console_log},logappend=on")]
    made += [("-serial", "chardev:console"), ("-device", "virtio-serial-pci")]
    made += [("-chardev", f"socket,id=agent,path={where.agent},server=on,wait=off")]
    made += [("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"), ("-device", "virtio-rng-pci")]
    made += [("-device", "virtio-balloon-pci,id=balloon")]
    made += [("-qmp", f"unix:{where.qmp},server=on,wait=off"), ("-pidfile", where.pid)]
    made += [("-sandbox", SANDBOX_DAEMON if daemon else SANDBOX)]
    made += [("-daemonize", "")] if daemon else []
    if item["vnc"] == "none":
        made += [("-display", "none")]
    else:
        made += [("-vga", "std"), ("-vnc", f"unix:{where.vnc}" if item["vnc"] == "socket" else f"127.0.0.1:{item['vnc_display']}")]
    return made if item["memory"] == memory_max(item) else [*made, (MEMORY, str(item["memory"]))]


def processors_text(count: int, most: int) -> str:
    """Give the value of ``-smp``: how many processors, and how many there may be."""
    return f"{count},maxcpus={most}"


def processors(text: str | None) -> tuple[int | None, int | None]:
    """Read the value of ``-smp`` back."""
    parts = suboptions(text or "")
    count = number((text or "").split(",")[0])
    return count, number(parts.get("maxcpus")) or count


def blockdev(node: str, path: str, form: str, readonly: bool = False) -> str:
    """Give the value of ``-blockdev`` for a disk of an image file or a block device."""
    driver = "host_device" if path.startswith("/dev/") else "file"
    return f"driver={form},node-name={node},discard=unmap,file.driver={driver},file.filename={path}" + (",read-only=on" if readonly else "")


def disk_device(node: str, name: str, serial: str = "") -> str:
    """Give the value of ``-device`` for a disk."""
    return f"virtio-blk-pci,drive={node},id={name}" + (f",serial={serial}" if serial else "")


def card_device(netdev: str, name: str, address: str, mtu: int | None, quiet: bool) -> str:
    """Give the value of ``-device`` for a network card; ``quiet`` is without a boot ROM."""
    # The boot ROM polls without a pause until it gives up; under emulation that takes a processor.
    return f"virtio-net-pci,netdev={netdev},id={name},mac={address}" + (f",host_mtu={mtu}" if mtu else "") + (",romfile=" if quiet else "")


def tap_backend(name: str, link: str) -> str:
    """Give the value of ``-netdev`` for a tap."""
    return f"tap,id={name},ifname={link},script=no,downscript=no,vhost=off"


def _nic(item: Item, index: int) -> Options:
    nic = item["nics"][index]
    name = f"network{index}"
    mtu = nic.get("mtu") or (DEFAULT_MTU if nic["type"] == "tap" else None)
    device = card_device(name, f"card{index}", mac(item, index), mtu, not item["boot_network"])
    if nic["type"] == "tap":
        backend = tap_backend(name, tap(item, index))
    elif nic["type"] == "user":
        backend = f"user,id={name}" + "".join(f",hostfwd={_forward(rule)}" for rule in nic.get("hostfwd") or [])
    elif nic.get("mcast"):
        backend = f"socket,id={name},mcast={nic['mcast']},localaddr={nic.get('local') or '127.0.0.1'}"
    else:
        backend = f"socket,id={name},udp={nic['remote']},localaddr={nic['local']}"
    return [("-device", device), ("-netdev", backend)]


def _forward(rule: str) -> str:
    protocol, address, port, guest = rule.split(":")
    return f"{protocol}:{address}:{port}-:{guest}"


def start_script(item: Item, layout: Layout, accel: str) -> str:
    """Give the text of an instance's ``start``: its name, its labels, and QEMU's command with an option a line."""
    lines = ["#!/bin/sh", f"# {OWNER} instance {item['name']}", f"# labels: {json.dumps(item.get('labels') or {}, sort_keys=True)}"]
    given = options(item, layout, accel)
    if dict(given).get(MEMORY):
        lines.append(f"# The guest is asked to do with {item['memory']} of its {memory_max(item)} MiB as soon as QEMU answers (virtio-balloon).")
        lines.append(f"{paths(item, layout).qmp_script} --wait balloon '{{\"value\": {item['memory'] << 20}}}' >/dev/null 2>&1 &")
    words = [f"exec {PROGRAM}"] + [" ".join([name, shlex.quote(value)] if value else [name]) for name, value in given if name != MEMORY]
    return "\n".join(lines) + "\n" + " \\\n  ".join(words) + "\n"


def parse_script(text: str, problems: list[str] | None = None) -> tuple[str, dict[str, Any], Options] | None:
    """Read a ``start`` of ours back.

    :param problems: Where is noted what is beyond reading.
    :returns: Name, labels and options; None when it does not carry our mark. What is beyond reading is empty.
    """
    problems = [] if problems is None else problems
    header = _HEADER.match(text)
    if not header:
        return None
    try:
        labels = parse_json(header.group(2), "the line of the labels in start")
    except ComputeError as error:
        labels = {}
        problems.append(error.message)
    words = _words(text[header.end() :].replace("\\\n", " "))
    if len(words) > MAX_WORDS:
        problems.append(f"the command in start has more than {MAX_WORDS} words.")
        words = []
    balloon = _BALLOON.fullmatch(words[3]) if words[1:3] == ["--wait", "balloon"] and words[6:8] == ["&", "exec"] else None
    words = words[7:] if balloon else words
    given = parse_options(words[2:] if words[:1] == ["exec"] else [])
    given += [(MEMORY, str(int(balloon.group(1)) >> 20))] if balloon else []
    return header.group(1), labels if isinstance(labels, dict) else {}, given


def _words(text: str) -> list[str]:
    """Split a command as a shell does; what a person edited beyond reading is no words."""
    if _PLAIN.fullmatch(text):
        return text.split()  # a hundred times as fast
    try:
        return shlex.split(text, comments=True)
    except ValueError:
        return []


def parse_options(words: list[str]) -> Options:
    """Pair QEMU's arguments (without the program) as options and values."""
    made: Options = []
    for word in words:
        if word.startswith("-") or not made or made[-1][1]:
            made.append((word, ""))
        else:
            made[-1] = (made[-1][0], word)
    return made


def accel_of(given: Options) -> str:
    """Give ``kvm`` or ``tcg``, as a command says."""
    named = dict(given)
    return "kvm" if "-enable-kvm" in named else named.get("-accel", "tcg").split(",")[0]


def suboptions(value: str) -> dict[str, str]:
    """Take ``tap,id=network0,ifname=…`` apart; a word without ``=`` maps to "" (of several of one name the first counts)."""
    parts: dict[str, str] = {}
    for part in value.split(","):
        name, _equals, rest = part.partition("=")
        parts.setdefault(name, rest)
    return parts


def describe(given: Options) -> Item:
    """Give an instance's properties as QEMU's command says them, in the declaration's words."""
    named = dict(given)
    disks = [_disk(suboptions(value)) for option, value in given if option in ("-drive", "-blockdev")]
    netdevs = {parts.get("id", ""): (value, parts) for option, value in given if option == "-netdev" for parts in [suboptions(value)]}
    nics: list[Item] = []
    for option, value in given:
        parts = suboptions(value)
        if option == "-device" and "netdev" in parts:
            text, backend = netdevs.get(parts["netdev"], ("", {}))
            nic: Item = {"type": text.split(",")[0], "mac": parts.get("mac", ""), "mtu": number(parts.get("host_mtu"))}
            nics.append({**nic, **{key: backend[word] for key, word in _BACKEND.items() if word in backend}, **_forwards(text)})
    return {
        "cpu": processors(named.get("-smp"))[0],
        "cpu_max": processors(named.get("-smp"))[1],
        "memory": number(named.get(MEMORY, named.get("-m"))),
        "memory_max": number(named.get("-m")),
        "accel": accel_of(given),
        "cpu_model": named.get("-cpu", ""),
        "disks": disks,
        "nics": nics,
        "vnc": named.get("-vnc", "none"),
        "supervisor": "none" if "-daemonize" in named else "systemd",
    }


def _disk(parts: dict[str, str]) -> Item:
    if "driver" in parts:
        return {"path": parts.get("file.filename", ""), "format": parts["driver"], "readonly": parts.get("read-only") == "on"}
    return {"path": parts.get("file", ""), "format": parts.get("format", ""), "readonly": parts.get("readonly") == "on"}


_BACKEND = {"tap": "ifname", "local": "localaddr", "remote": "udp", "mcast": "mcast"}


def _forwards(backend: str) -> Item:
    rules = [part[len("hostfwd=") :].replace("-:", ":") for part in backend.split(",") if part.startswith("hostfwd=")]
    return {"hostfwd": rules} if rules else {}


def number(text: str | None) -> int | None:
    """Read a whole number of at most 18 digits; None for anything else."""
    return int(text) if text and len(text) <= 18 and text.isascii() and text.isdigit() else None


def differences(have: Options, want: Options) -> list[str]:
    """Say in what one command differs from the declared one, a phrase each, such as ``cpu is 2, declared 4``."""
    if have == want:
        return []
    phrases: list[str] = []
    if (before := accel_of(have)) != (after := accel_of(want)):
        phrases.append(f"accel is {before}, declared {after}")
    had, wanted = dict(have), dict(want)
    was, now = describe(have), describe(want)
    phrases += [f"{word} is {was[word]}, declared {now[word]}" for word in ("cpu", "cpu_max", "memory", "memory_max") if was[word] != now[word]]
    for option, word in _WORDS.items():
        if had.get(option, "none") != wanted.get(option, "none"):
            phrases.append(f"{word} is {had.get(option, 'none')}, declared {wanted.get(option, 'none')}")
    if ("-daemonize" in had) != ("-daemonize" in wanted):
        names = ("systemd", "none")
        phrases.append(f"supervisor is {names['-daemonize' in had]}, declared {names['-daemonize' in wanted]}")
    (rest, parts), (others, declared) = pluggable(have), pluggable(want)
    for key in [*parts, *(key for key in declared if key not in parts)]:
        if key not in parts or key not in declared:
            phrases.append(f"{key} is {'declared, not there' if key in declared else 'there, not declared'}")
        elif parts[key].text != declared[key].text:
            phrases.append(f"{key} is `{parts[key].text}`, declared `{declared[key].text}`")
    said = {*_WORDS, "-accel", "-enable-kvm", "-daemonize", "-sandbox", "-vga", "-display"}
    sized = ("-smp", "-m", MEMORY)
    rest, others = ([entry for entry in entries if entry[0] not in sized] for entries in (rest, others))
    left, added = _without(rest, others), _without(others, rest)
    phrases += [f"`{option} {value}`".replace(" `", "`") + " is there, not declared" for option, value in left if option not in said]
    phrases += [f"`{option} {value}`".replace(" `", "`") + " is declared, not there" for option, value in added if option not in said]
    if not phrases and rest != others:
        phrases.append("the QEMU command differs")
    return phrases


@dataclass(frozen=True)
class Part:
    """A network card or a further disk: what can be plugged in and out.

    :ivar device: The value of its ``-device``; ``backend`` that of its ``-netdev`` or ``-blockdev``.
    :ivar text: Both without ids and places, which may differ between what runs and what is declared.
    """

    device: str
    backend: str
    text: str

    @property
    def id(self) -> str:
        """The device's id; "" where it has none."""
        return suboptions(self.device).get("id", "")

    @property
    def backend_id(self) -> str:
        """The id of what stands behind the device."""
        parts = suboptions(self.device)
        return parts.get("netdev") or parts.get("drive") or ""


def pluggable(given: Options) -> tuple[Options, dict[str, Part]]:
    """Part the options into those of the machine and the cards and further disks, by ``card <MAC>`` and ``disk <path>``."""
    behind = {suboptions(value).get("id" if option == "-netdev" else "node-name", ""): (option, value) for option, value in given if option in _BEHIND}
    parts: dict[str, Part] = {}
    taken: list[tuple[str, str]] = []
    for option, value in given:
        names = suboptions(value)
        backend = behind.get(names.get("netdev") or names.get("drive") or "") if option == "-device" else None
        if backend is None:
            continue
        key = f"card {names.get('mac', '')}" if "netdev" in names else f"disk {suboptions(backend[1]).get('file.filename', '')}"
        if key not in parts:
            parts[key] = Part(value, backend[1], " ".join(_ID.sub("", text) for text in (value, backend[1])))
            taken += [(option, value), backend]
    return _without(given, taken), parts


_BEHIND = ("-netdev", "-blockdev")
# Ids and places: what is plugged in gets the next that is free.
_ID = re.compile(r",(?:id|netdev|drive|node-name|addr)=[^,]*")


def _without(these: Options, those: Options) -> Options:
    rest = list(those)
    left: Options = []
    for entry in these:
        if entry in rest:
            rest.remove(entry)
        else:
            left.append(entry)
    return left
