# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused of a list of instances before anything is changed.

No value is ever mended; all that is wrong is said at once.
"""

from __future__ import annotations

import ipaddress
import json
import os
import pwd
import re
from typing import Any

from ..._core.errors import ComputeError
from ..._core.layout import Layout, instance_id
from ..._core.names import link_problem, mac_problem, name_problem
from ..._core.untrusted import parse_json
from ..._qemu import declared
from ..._qemu.machine import MAX_DISKS
from ..._storage import qcow2
from ..._system import systemd
from ..._system.kvm import kvm_works
from ..._system.memory import memory_limit, node_memory
from . import service

Item = dict[str, Any]
# QEMU splits values at "," and systemd expands "%": a path with these, or with what /bin/sh reads, is refused.
_PATH = re.compile(r"(?:/[A-Za-z0-9._+@:-]+)+")
_ID = re.compile(r"[0-9a-f]{8}")
_CPU_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:,[+-]?[A-Za-z0-9][A-Za-z0-9._-]*(?:=[A-Za-z0-9._-]+)?)*")
# useradd(8): what Debian takes without a question.
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_FORWARD = re.compile(r"(tcp|udp):([0-9.]+):([0-9]+):([0-9]+)")
_END = re.compile(r"([0-9.]+):([0-9]+)")
# QEMU's machine type pc takes 255 processors; SeaBIOS needs some memory; an IPv4 host must take 576 bytes (RFC 791),
# and virtio 65535.
MAX_CPUS, MIN_MEMORY, MIN_MTU, MAX_MTU, MAX_GRACE, MAX_DISPLAY = 255, 16, 576, 65535, 86400, 999


def path_problem(what: str, path: object) -> str | None:
    """Say what is wrong with the path of a disk, or None: absolute, plain characters, no ``..``."""
    if isinstance(path, str) and _PATH.fullmatch(path) and os.path.normpath(path) == path:
        return None
    return (
        f"{what}: {path!r} is not usable; give an absolute path of letters, digits and any of . _ + @ : -, without"
        " '..'."
    )


def _range(what: str, value: int | None, least: int, most: int) -> list[str]:
    if value is None or least <= value <= most:
        return []
    return [f"{what}: {value} is out of range; {least} to {most} is possible."]


def item_problems(where: str, item: Item, layout: Layout, as_root: bool) -> list[str]:
    """Say all that is wrong with one instance.

    :param where: Its place, such as ``instances[3]``.
    :param as_root: Whether the module runs as root.
    """
    found = [name_problem(f"{where}.name", item["name"])]
    if item["id"] is not None and not _ID.fullmatch(item["id"]):
        found.append(f"{where}.id: {item['id']!r} is not an id; give 8 hex digits in lower case, or leave it out.")
    found += _range(f"{where}.cpu", item["cpu"], 1, MAX_CPUS)
    found += _range(f"{where}.memory", item["memory"], MIN_MEMORY, 1 << 30)
    found += _range(f"{where}.cpu_max", item["cpu_max"], item["cpu"], MAX_CPUS)
    found += _range(f"{where}.memory_max", item["memory_max"], item["memory"], 1 << 30)
    try:
        parse_json(json.dumps(item.get("labels") or {}), f"{where}.labels")
    except ComputeError as error:
        found.append(f"{error.message} They could not be read back from the node; declare less.")
    found += _range(f"{where}.grace", item["grace"], 0, MAX_GRACE)
    if len(item["volumes"]) > MAX_DISKS:
        found.append(
            f"{where}.volumes: {len(item['volumes'])} disks are too many; {MAX_DISKS} fit beside the instance's own."
        )
    disks = {} if item["volume"] is None else {f"{where}.volume": item["volume"]}
    for number, disk in enumerate(item["volumes"]):
        found += _volume_problems(f"{where}.volumes[{number}]", disk)
        disks.update({f"{where}.volumes[{number}].path": disk["path"]} if disk["path"] is not None else {})
    clash = None if any(found) else declared.disk_clash(declared.disks(item, layout))
    if clash:
        found.append(
            f"{where}.volumes[{clash[1]}]: its {clash[2]} (made from the name or path) is that of"
            f" {where}.volumes[{clash[0]}] too; rename one."
        )
    for what, path in disks.items():
        problem = path_problem(what, path)
        if not problem and item["supervisor"] == "systemd" and service.hidden_path(path, layout):
            problem = (
                f"{what}: {path} lies where services don't see it (home folders, /tmp); put it elsewhere, such as into"
                f" {layout.volumes}."
            )
        found.append(problem)
    if item["cpu_model"] is not None and not _CPU_MODEL.fullmatch(item["cpu_model"]):
        found.append(
            f"{where}.cpu_model: {item['cpu_model']!r} is not a CPU model; `qemu-system-x86_64 -cpu help` lists them."
        )
    if not _USER.fullmatch(item["user"]):
        found.append(f"{where}.user: {item['user']!r} is not the name of a user.")
    if item["vnc"] == "loopback" and item["vnc_display"] is None:
        found.append(f"{where}.vnc_display: missing; vnc=loopback needs a display of its own, 0 for TCP port 5900.")
    found += _range(f"{where}.vnc_display", item["vnc_display"], 0, MAX_DISPLAY)
    if item["supervisor"] == "systemd" and not as_root:
        found.append(f"{where}.supervisor: systemd needs root; run with become=true, or set supervisor to none.")
    for number, nic in enumerate(item["nics"]):
        found += _nic_problems(f"{where}.nics[{number}]", nic)
    return [problem for problem in found if problem]


def _volume_problems(where: str, disk: Item) -> list[str | None]:
    name = disk["name"]
    if (name is None) == (disk["path"] is None):
        return [f"{where}: give just one of name (a volume of ikcloud.compute.volume) and path."]
    if name is not None and (instance_id(name) or name.endswith("-seed")):
        return [f"{where}.name: {name!r} is an instance's own disk or seed, which no other can have."]
    return [] if name is None else [name_problem(f"{where}.name", name)]


def _nic_problems(where: str, nic: Item) -> list[str | None]:
    kind = nic["type"]
    fits = {"tap": ("tap",), "user": ("hostfwd",), "socket": ("local", "remote", "mcast")}
    found: list[str | None] = [
        f"{where}.{option}: only for type={other}; this one is {kind}."
        for other, names in fits.items()
        if other != kind
        for option in names
        if nic[option]
    ]
    if nic["tap"] is not None:
        found.append(link_problem(f"{where}.tap", nic["tap"]))
    if nic["mac"] is not None:
        found.append(mac_problem(f"{where}.mac", nic["mac"]))
    found += _range(f"{where}.mtu", nic["mtu"], MIN_MTU, MAX_MTU)
    found += [_forward_problem(f"{where}.hostfwd[{number}]", rule) for number, rule in enumerate(nic["hostfwd"] or [])]
    if kind == "socket" and nic["mcast"] is not None:
        found.append(_end_problem(f"{where}.mcast", nic["mcast"], multicast=True))
        if nic["remote"] is not None:
            found.append(f"{where}.remote: can't be given together with mcast.")
        if nic["local"] is not None and not _address(nic["local"]):
            found.append(
                f"{where}.local: {nic['local']!r} is not an IPv4 address; with mcast it is the address to send from,"
                " without a port."
            )
    elif kind == "socket":
        if nic["local"] is None or nic["remote"] is None:
            found.append(f"{where}: type=socket needs local and remote, or mcast.")
        found += [
            _end_problem(f"{where}.{option}", nic[option]) for option in ("local", "remote") if nic[option] is not None
        ]
    return found


def _address(text: str) -> ipaddress.IPv4Address | None:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        return None


def _end_problem(what: str, text: str, multicast: bool = False) -> str | None:
    match = _END.fullmatch(text)
    address = _address(match.group(1)) if match else None
    if match and address and address.is_multicast == multicast and 1 <= int(match.group(2)) <= 65535:
        return None
    return (
        f"{what}: {text!r} is not {'a multicast group' if multicast else 'an address'} and a port, such as"
        f" {'230.0.0.1' if multicast else '127.0.0.1'}:23100."
    )


def _forward_problem(what: str, text: str) -> str | None:
    match = _FORWARD.fullmatch(text)
    if match and _address(match.group(2)) and all(1 <= int(match.group(number)) <= 65535 for number in (3, 4)):
        return None
    return f"{what}: {text!r} is not protocol, address, port and the guest's port, such as tcp:127.0.0.1:22101:22."


def cross_problems(items: list[Item], layout: Layout) -> list[str]:
    """Say what two instances of the list take from each other, naming both places, and whether all fit in the node's
    memory.
    """
    found: list[str] = []
    first: dict[tuple[str, object], str] = {}
    for index, item in enumerate(items):
        for what, value, place in _claims(item, f"instances[{index}]", layout):
            other = first.setdefault((what, value), place)
            if other != place:
                found.append(f"{place}: the {what} {value} is taken already by {other}; each may be used once.")
    total = node_memory()
    needed = sum(item["memory"] for item in items if item["power"] == "running")
    if total is not None and needed > total:
        index, item = max(enumerate(items), key=lambda entry: entry[1]["memory"])
        found.append(
            f"instances: together they need {needed} MiB of memory, and this node has {total} MiB (instances[{index}],"
            f" {item['name']}, takes most, {item['memory']} MiB). Declare less, or place some on another node."
        )
    return found


def _claims(item: Item, where: str, layout: Layout) -> list[tuple[str, object, str]]:
    claims: list[tuple[str, object, str]] = [
        ("id", declared.identifier(item), f"{where}.id" if item["id"] else f"{where} ({item['name']})")
    ]
    claims.append(("disk", declared.volume(item, layout), f"{where}.volume"))
    if item["seed"]:
        claims.append(("disk", declared.seed(item, layout), f"{where}.seed"))
    keys = ["name" if disk.get("name") else "path" for disk in item["volumes"]]
    claims += [
        ("disk", disk.path, f"{where}.volumes[{number}].{keys[number]}")
        for number, disk in enumerate(declared.disks(item, layout))
    ]
    if item["vnc"] == "loopback":
        claims.append(("display", item["vnc_display"], f"{where}.vnc_display"))
    for index, nic in enumerate(item["nics"]):
        place = f"{where}.nics[{index}]"
        claims.append(("MAC address", declared.mac(item, index), f"{place}.mac"))
        if nic["type"] == "tap":
            claims.append(("link", declared.tap(item, index), f"{place}.tap"))
        claims += [
            ("port", rule.rsplit(":", 1)[0], f"{place}.hostfwd[{number}]")
            for number, rule in enumerate(nic["hostfwd"] or [])
        ]
        if nic["type"] == "socket" and nic["local"] and not nic["mcast"]:
            claims.append(("port", f"udp:{nic['local']}", f"{place}.local"))
    return claims


def obstacles(items: list[Item], starting: set[str], plugging: set[str], layout: Layout, as_root: bool) -> list[str]:
    """Say what other modules have to make before these instances can be made and started, each once with who makes it.

    :param items: Those that are made or started.
    :param starting: The names of those that are started.
    :param plugging: The names of those that get something as they run.
    """
    limit = memory_limit()
    found: dict[str, None] = {}
    for item in items:
        of = f"instance {item['name']}"
        if item["supervisor"] == "systemd" and not systemd.is_running():
            found["This machine is not run by systemd; set the instances' supervisor to none."] = None
        elif item["supervisor"] == "systemd" and not service.serves(layout):
            template = f"{systemd.UNIT_FOLDER}/{service.TEMPLATE}"
            found[
                f"{template} serves another root than {layout.root}; a node has one. Remove that one's instances first,"
                " or use its root."
            ] = None
        if as_root and item["user"] != "root":
            _user_obstacles(item["user"], layout, found)
        if item["name"] not in starting | plugging:
            continue
        starts = item["name"] in starting
        if starts and limit is not None and declared.max_memory(item) > limit:
            found[
                f"{of}: QEMU can't be started with {declared.max_memory(item)} MiB (memory_max, or memory) on this"
                f" node, whose memory and swap are {limit} MiB. Declare less."
            ] = None
        works, why = kvm_works(item["user"] if as_root else "") if starts and item["accel"] == "kvm" else (True, "")
        if not works:
            found[
                f"{of}: accel is kvm, and KVM does not work on this node ({why}). Declare accel: auto or tcg, or have"
                " KVM made to work."
            ] = None
        for path in [declared.volume(item, layout), *(disk.path for disk in declared.disks(item, layout))]:
            if not os.path.exists(path):
                found[f"{of}: its disk {path} is not there; the module ikcloud.compute.volume makes it."] = None
        own = declared.new_disk(declared.volume(item, layout), item["volume_format"])
        for disk in [own, *declared.disks(item, layout)]:
            trouble = _disk_trouble(disk.path) if disk.format == "qcow2" else ""
            if trouble:
                found[f"{of}: {trouble}"] = None
        if item["seed"] and not os.path.exists(declared.seed(item, layout)):
            found[
                f"{of}: its seed {declared.seed(item, layout)} is not there; the module ikcloud.compute.seed makes it,"
                " or set seed to false."
            ] = None
        for index, nic in enumerate(item["nics"]):
            if nic["type"] == "tap" and not os.path.exists(f"/sys/class/net/{declared.tap(item, index)}"):
                found[
                    f"{of}: the link {declared.tap(item, index)} is not there; the module ikcloud.compute.tap makes it."
                ] = None
    return list(found)


def _disk_trouble(path: str) -> str:
    try:
        return qcow2.read_header(path).trouble(path) if os.path.isfile(path) else ""
    except (OSError, ComputeError) as error:
        return str(error)


def _user_obstacles(user: str, layout: Layout, found: dict[str, None]) -> None:
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        found[f"There is no user {user} on this node; the role ikcloud.compute.prepare makes it."] = None
        return
    folder = layout.root
    groups = set(os.getgrouplist(user, entry.pw_gid))
    while folder != "/":
        folder = os.path.dirname(folder)
        try:
            state = os.stat(folder)
        except OSError:
            continue
        shift = 6 if state.st_uid == entry.pw_uid else 3 if state.st_gid in groups else 0
        if not state.st_mode >> shift & 1:
            found[
                f"The user {user}, who QEMU runs as, can't enter {folder}; allow it with `chmod o+x {folder}`, or take"
                " another root."
            ] = None
