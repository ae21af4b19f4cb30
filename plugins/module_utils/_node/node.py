# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node is and has, read from its files and one call of ``ip``; nothing here fails for what is missing."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import socket
import stat
from typing import Any

from .._compute.instance import service
from .._compute.instance.instances import Instance, read_instances
from .._core.commands import PACKAGES, find_tool, missing_tools, run, run_json
from .._core.errors import ComputeError
from .._core.layout import DEFAULT_USER, Layout, folder_drift, instance_id, owner_or_none
from .._core.marks import MARK, read_mark
from .._core.names import LABELS, OWNER, name_problem
from .._network.firewall.nft import cidr_of
from .._qemu.program import PROGRAM
from .._storage import qcow2
from .._storage.made import read_made
from .._system import reach
from .._system.memory import meminfo, memory_limit
from .._system.process import processes_of, units_of

Facts = dict[str, Any]
_MIB = 1 << 20
# rtnetlink(7), RTF_UP | RTF_GATEWAY in /proc/net/route.
_ROUTE_UP = 0x1


def read_node(layout: Layout) -> Facts:
    """Read everything that the plan and the role prepare want to know of this node."""
    missing = missing_tools(tuple(PACKAGES))
    folders = folders_due(layout)
    memory = meminfo()
    disk = _disk(layout.root)
    links = _links()
    found = read_instances(layout)
    instances = {name: instance_facts(instance, layout) for name, instance in sorted(found.items()) if instance.owned}
    boot_files = [name for name in _names(layout.networks) if name[0].isdigit()]
    labels = _network_labels(layout, boot_files)
    ours = {link["ifname"] for link in links if str(link.get("ifalias") or "").startswith(f"{OWNER}/")}
    return {
        "hostname": socket.gethostname(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mb": memory.get("MemTotal"),
        "memory_available_mb": memory.get("MemAvailable"),
        "root": layout.root,
        "disk_total_mb": disk[0],
        "disk_free_mb": disk[1],
        "kernel": os.uname().release,
        "geneve": _driver("geneve"),
        "vxlan": _driver("vxlan"),
        "memory_limit_mb": memory_limit(),
        "kvm": os.path.exists("/dev/kvm"),
        "qemu": None if "qemu-system-x86_64" in missing else _qemu_version(),
        "missing_tools": missing,
        "missing_packages": sorted({PACKAGES[tool] for tool in missing}),
        "user_ready": user_ready(),
        "user_group_due": user_group_due(),
        "user_error": user_error(),
        "user_processes": user_processes({instance.pid for instance in found.values() if instance.owned}),
        "folders_ready": not folders,
        "folders_due": folders,
        "uplink": default_uplink(),
        "routes": reach.routes(ours),
        "name_servers": reach.name_servers(),
        "client": reach.session_client(),
        "machine": reach.machine(),
        **_sort_links(links),
        "images": _images(layout),
        "instances": instances,
        **_volumes(layout),
        "boot_files": boot_files,
        "protected": {
            "instances": [name for name, instance in instances.items() if instance["labels"].get("protect")],
            "networks": [name for name, labels in labels.items() if labels.get("protect")],
        },
        "recorded": _recorded(layout, boot_files, labels),
    }


def instance_facts(instance: Instance, layout: Layout) -> Facts:
    """Give what the plan wants to know of an instance."""
    machine = instance.written
    return {
        "id": instance.id,
        "labels": instance.labels,
        "cpu": machine.cpus,
        "memory": machine.memory,
        "memory_max": machine.max_memory,
        "volumes": [name for disk in machine.disks for name in [_data_volume(disk.path, layout)] if name],
        "running": instance.power != "stopped",
        "enabled": instance.enabled,
        "supervisor": "none" if machine.daemon else "systemd",
        **({"error": instance.trouble} if instance.trouble else {}),
    }


def _data_volume(path: str, layout: Layout) -> str:
    """Give the name of the volume at a path; "" for an instance's own disk, for its seed, and for what is elsewhere."""
    folder, file = os.path.split(path)
    name = file[: -len(".img")]
    return (
        name
        if folder == layout.volumes and file.endswith(".img") and not name.endswith("-seed") and not instance_id(name)
        else ""
    )


def _disk(folder: str) -> tuple[int | None, int | None]:
    while not os.path.isdir(folder) and folder != "/":
        folder = os.path.dirname(folder)
    try:
        state = os.statvfs(folder)
    except OSError:
        return None, None
    return state.f_blocks * state.f_frsize // _MIB, state.f_bavail * state.f_frsize // _MIB


def _driver(name: str) -> bool | None:
    """Tell whether the kernel has a driver: loaded, built in, or as a module on the disk; None where it has no list of
    modules (a container).
    """
    if os.path.isdir(f"/sys/module/{name}"):
        return True
    folder = f"/lib/modules/{os.uname().release}"
    known: bool | None = None
    for file in ("modules.dep", "modules.builtin"):
        try:
            with open(f"{folder}/{file}", encoding="utf-8", errors="replace") as stream:
                if f"/{name}.ko" in stream.read():
                    return True
            known = False
        except OSError:
            continue
    return known


def _qemu_version() -> str | None:
    """Give QEMU's version as dpkg knows it, else as QEMU says itself (which takes a process)."""
    try:
        with open("/var/lib/dpkg/status", encoding="utf-8", errors="replace") as stream:
            entry = re.search(
                r"^Package: qemu-system-x86\n(?:.+\n)*?Version: (?:\d+:)?([0-9.]+)", stream.read(), re.MULTILINE
            )
        if entry:
            return entry.group(1)
    except OSError:
        pass
    try:
        said = re.search(
            r"version ([0-9.]+)",
            run([find_tool(PROGRAM) or PROGRAM, "--version"], timeout=30, check=False).stdout,
        )
    except ComputeError:
        return None
    return said.group(1) if said else None


def user_error(user: str = DEFAULT_USER) -> str | None:
    """Return why somebody else's account stands in the way of QEMU's user, and what to do; None where none does."""
    try:
        comment = pwd.getpwnam(user).pw_gecos
    except KeyError:
        comment = None
    if comment == OWNER:
        return None
    try:
        grp.getgrnam(user)
        group = f"groupmod --new-name OTHER {user}"
    except KeyError:
        group = ""
    if comment is None:
        # A group has no mark of its own: ours comes and goes with the user.
        found = (
            f"There is a group {user} without a user of that name, which ikcloud.compute did not make and leaves alone."
        )
        return f"{found} Rename it (`{group}`), or remove it (`groupdel {user}`)." if group else None
    rename = "; ".join(filter(None, [f"usermod --login OTHER {user}", group]))
    return (
        f"There is a user {user} that ikcloud.compute did not make and leaves alone: its comment is {comment!r}, not"
        f" {OWNER!r}. Rename it (`{rename}`). Or, if it is meant for ikcloud.compute, mark it: `usermod --comment"
        f" {OWNER} {user}`; teardown removes it then."
    )


def user_ready(user: str = DEFAULT_USER) -> bool:
    """Tell whether QEMU's user is there, with its own group, and in the group kvm where there is one."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return False
    if user_group_due(user) is not None:
        return False
    try:
        return grp.getgrnam("kvm").gr_gid in os.getgrouplist(user, entry.pw_gid)
    except KeyError:
        return True


def user_group_due(user: str = DEFAULT_USER) -> int | None:
    """Return the id of the group that QEMU's user has and that is not there; None where nothing lacks.

    useradd(8) writes the users before the groups: a run that was killed in between has left the group out.
    """
    try:
        group = pwd.getpwnam(user).pw_gid
    except KeyError:
        return None
    try:
        grp.getgrgid(group)
    except KeyError:
        return group
    return None


def user_processes(known: set[int], user: str = DEFAULT_USER) -> list[Facts]:
    """Return what runs as QEMU's user outside of the instances, where that user is ours: as long as it does, the user
    can't be removed.

    :param known: The instances' QEMUs, which may run outside of a unit.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return []
    if entry.pw_gecos != OWNER:
        return []
    running = {
        pid: name
        for pid, name in processes_of(entry.pw_uid).items()
        if pid not in known and not any(map(service.is_ours, units_of(pid)))
    }
    return [{"pid": pid, "name": name} for pid, name in sorted(running.items())]


def folders_due(layout: Layout) -> Facts:
    """Return which folders are to be made or put right, by their paths below the root, and why."""
    due: Facts = {}
    for folder in layout.folders:
        name = os.path.relpath(folder, layout.root)
        if not os.path.isdir(folder):
            # Those above are made with these.
            if folder in (layout.images, layout.volumes, layout.instances, layout.networks):
                due[name] = "it is not there"
        elif folder != layout.root or _written_by_others(folder):
            # It may be a link to where there is more room.
            reason = folder_drift(os.path.realpath(folder), 0o755, owner_or_none("root"))
            due.update({name: reason} if reason else {})
    return due


def _written_by_others(folder: str) -> bool:
    # The root may be an administrator's folder, with a mode of its own, as long as nobody else can replace what is in
    # it.
    entry = os.stat(folder)
    return bool(entry.st_mode & (stat.S_IWGRP | stat.S_IWOTH)) or entry.st_uid != os.geteuid()


def default_uplink() -> str | None:
    """Give the link of the default route, IPv4 before IPv6, the lowest metric first (proc(5), net/route)."""
    routes: list[tuple[int, str]] = []
    for line in _lines("/proc/net/route")[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[1] == "00000000" and fields[7] == "00000000" and int(fields[3], 16) & _ROUTE_UP:
            routes.append((int(fields[6]), fields[0]))
    if not routes:
        for line in _lines("/proc/net/ipv6_route"):
            fields = line.split()
            if len(fields) > 9 and fields[0] == "0" * 32 and fields[1] == "00" and fields[9] != "lo":
                routes.append((int(fields[5], 16), fields[9]))
    return min(routes)[1] if routes else None


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return stream.read().splitlines()
    except OSError:
        return []


def _links() -> list[Facts]:
    try:
        found = run_json(["ip", "-json", "-details", "address", "show"], timeout=60)
    except ComputeError:
        return []
    return [link for link in found if isinstance(link, dict) and "ifname" in link]


def _sort_links(links: list[Facts]) -> Facts:
    underlay: list[str] = []
    networks: dict[str, Facts] = {}
    taps: dict[str, Facts] = {}
    tunnels: list[str] = []
    for link in links:
        name, alias = link["ifname"], str(link.get("ifalias") or "").split("/")
        addresses = [
            f"{entry['local']}/{entry['prefixlen']}"
            for entry in link.get("addr_info", [])
            if entry.get("scope") == "global" and "local" in entry
        ]
        if len(alias) != 3 or alias[0] != OWNER:
            underlay += addresses
            continue
        about: Facts = {"mtu": link.get("mtu"), "up": "UP" in link.get("flags", [])}
        network = (
            networks.setdefault(alias[2], {"bridge": None, "tunnels": {}}) if alias[1] in ("network", "tunnel") else {}
        )
        if alias[1] == "network":
            network.update(bridge=name, addresses=addresses, **about)
        elif alias[1] == "tunnel":
            data = link.get("linkinfo", {}).get("info_data", {})
            kind = link.get("linkinfo", {}).get("info_kind")
            network["tunnels"][name] = {
                **about,
                "kind": kind,
                "vni": data.get("id"),
                "remote": data.get("remote") or data.get("remote6"),
            }
            tunnels.append(name)
        elif alias[1] == "instance":
            taps[name] = {**about, "instance": alias[2], "bridge": link.get("master")}
    return {"underlay_addresses": sorted(underlay), "networks": networks, "tunnels": sorted(tunnels), "taps": taps}


def _images(layout: Layout) -> dict[str, Facts]:
    found: dict[str, Facts] = {}
    for name in _disks(layout.images):
        path = layout.image(name)
        ours = read_mark(path, MARK) == f"image/{name}"
        try:
            header = qcow2.read_header(path)
            found[name] = {
                "format": header.format,
                "virtual_size": header.virtual_size,
                "size": os.stat(path).st_size,
                "ours": ours,
            }
        except (OSError, ComputeError):
            found[name] = {"format": None, "virtual_size": None, "size": None, "ours": ours}
    return found


def _names(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return []


def _disks(folder: str) -> list[str]:
    return [name[: -len(".img")] for name in _names(folder) if name.endswith(".img")]


def _volumes(layout: Layout) -> Facts:
    """Give our volumes with their sizes and the images that they stand on, the seeds, and the images that volumes which
    were kept aside stand on.
    """
    volumes: dict[str, Facts] = {}
    names = _disks(layout.volumes)
    for name in names:
        if not name.endswith("-seed") and read_mark(layout.volume(name), MARK) == f"volume/{name}":
            header = _header(layout.volume(name))
            size = _size(layout.volume(name), header)
            volumes[name] = {
                "base": _base(layout, header),
                "virtual_size": size,
                "allocated": _allocated(layout.volume(name)),
            }
    return {
        "volumes": volumes,
        "seeds": [
            name[: -len("-seed")] for name in names if name.endswith("-seed") and instance_id(name[: -len("-seed")])
        ],
        "kept_bases": sorted(
            {
                base
                for name in _disks(layout.kept)
                for base in [_base(layout, _header(f"{layout.kept}/{name}.img"))]
                if base
            }
        ),
    }


def _size(path: str, header: qcow2.Header | None) -> int | None:
    """Return a volume's bytes: what it was made with where its header, which is QEMU's user's to write, claims more."""
    if header is None or header.format != "qcow2":
        return None
    made = read_made(path)
    return min(made.size, header.virtual_size) if made else header.virtual_size


def _allocated(path: str) -> int | None:
    """Read the bytes that a file takes (stat(2): st_blocks counts 512 of them)."""
    try:
        return os.stat(path, follow_symlinks=False).st_blocks * 512
    except OSError:
        return None


def _header(path: str) -> qcow2.Header | None:
    """Read what a disk says of itself, None when that can't be read."""
    try:
        return qcow2.read_header(path)
    except (OSError, ComputeError):
        return None


def _base(layout: Layout, header: qcow2.Header | None) -> str | None:
    """Give the name of the image that a disk stands on, None when it stands on none of ours."""
    folder, file = os.path.split(header.backing_file if header else "")
    name = file[: -len(".img")]
    return name if folder == layout.images and file.endswith(".img") and not name_problem("", name) else None


def _network_labels(layout: Layout, boot_files: list[str]) -> dict[str, Facts]:
    """Give the labels of the networks' bridges, of those that have some."""
    found: dict[str, Facts] = {}
    for file in boot_files:
        if not file.startswith("10-"):
            continue
        lines = _lines(layout.network(file))[:2]
        network = (
            re.search(r" of the network ([a-z0-9-]+)", lines[0])
            if len(lines) == 2 and lines[1].startswith(LABELS)
            else None
        )
        try:
            labels = json.loads(lines[1][len(LABELS) :]) if network else {}
        except ValueError:
            continue
        if network and isinstance(labels, dict):
            found[network.group(1)] = labels
    return found


def _recorded(layout: Layout, boot_files: list[str], labels: dict[str, Facts]) -> dict[str, Facts]:
    """Give what the networks' files say that they were declared with last, whatever the kernel has."""
    found: dict[str, Facts] = {name: {"vni": label["vni"]} for name, label in labels.items() if "vni" in label}
    for file in boot_files:
        if file.startswith("50-nat-") and file.endswith(".nft"):
            cidr = cidr_of(_lines(layout.network(file)))
            if cidr:
                found.setdefault(file[len("50-nat-") : -len(".nft")], {})["cidr"] = cidr
    return found
