# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The full picture of a node: links, firewall, files, units, processes, as plain data in which two runs to one state
must agree.

Left out is what differs by nature: numbers of links and processes, times, counters, addresses of cards that the kernel
makes up, and logs.
"""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import re
import stat
import subprocess
import time
from typing import Any

Picture = dict[str, Any]
FOLDERS = ("/etc/systemd/system", "/etc/sysctl.d", "/run/netns")
SYSCTLS = ("net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding")
UNITS = ("ActiveState", "SubState", "Result", "UnitFileState", "NeedDaemonReload", "FragmentPath", "DropInPaths")
# Of a link (ip-link(8), ip -d -j) what the kernel or the moment decides.
MADE_UP = {
    "ifindex",
    "link_index",
    "address",
    "txqlen",
    "group",
    "num_tx_queues",
    "num_rx_queues",
    "master_index",
    "hwaddr",
    "stats",
    "stats64",
    "parentbus",
    "fdb_n_learned",
}
TIMERS = re.compile(
    r".*_timer$|.*_(time|port)$|bridge_id|root_id|designated_.*|topology_.*|valid_life_time|preferred_life_time|hash_.*|"
    r"port_(id|no)|no$|id$"
)
# What of the files' content is not the run's: logs, what guests write to, when an image was copied.
LOGS = re.compile(r"/console\.log(\.end)?$|\.pid$")
# Processes of the node's own system come and go.
OURS = re.compile(r"qemu|^ip |^nft |bridge |genisoimage|xorriso|systemctl|compute|/bin/sh|^sh ")
# A module that Ansible started over SSH: it goes on for a while when ansible-playbook is killed.
MODULE = re.compile(r"/bin/sh -c .*python3 && sleep 0$")
TIMER = "compute-console.timer"
SETTLED = ("active", "inactive", "failed")


def take(options: dict[str, Any]) -> Picture:
    """Take the picture, of a node that has come to rest: once more if the timer, which cuts the logs each minute, has
    gone off meanwhile.
    """
    while True:
        before = _last_time()
        picture = _take(options["root"])
        if _last_time() == before:
            return picture


def _last_time() -> str:
    return _run("systemctl", "show", "--property=LastTriggerUSec", "--value", TIMER)


def _take(root: str) -> Picture:
    units = _at_rest()
    return {
        "links": _links(),
        "neighbours": _forwarding(),
        "rules": _rules(),
        "routes": sorted(line.strip() for line in _run("ip", "route", "show", "table", "all").splitlines()),
        "sysctl": {name: _sysctl(name) for name in SYSCTLS},
        "files": _files([root, *FOLDERS]),
        "units": units,
        "processes": _processes(),
        "namespaces": len({os.readlink(f"/proc/{pid}/ns/net") for pid in _pids() if _alive(pid)}),
        "user": _user("compute-service"),
    }


def _run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _sysctl(name: str) -> str:
    """Read a setting as sysctl(8) does."""
    with open(f"/proc/sys/{name.replace('.', '/')}", encoding="ascii") as stream:
        return stream.read().strip()


def _at_rest() -> dict[str, dict[str, str]]:
    """Give our units' states, once none is on its way any more, and no module at work."""
    until = time.monotonic() + 20
    while True:
        listed = json.loads(_run("systemctl", "list-units", "--all", "--output=json", "compute-*") or "[]")
        settled = all(
            unit["active"] in SETTLED and (unit["unit"], unit["sub"]) != (TIMER, "running") for unit in listed
        )
        if (settled and not any(map(MODULE.match, _processes()))) or time.monotonic() > until:
            break
        time.sleep(0.05)
    names = sorted({unit["unit"] for unit in listed})
    found: dict[str, dict[str, str]] = {}
    # An empty line stands between two units, in the order in which they were asked for (systemctl(1)).
    for name, text in zip(
        names, _run("systemctl", "show", f"--property={','.join(UNITS)}", "--", *names).split("\n\n") if names else []
    ):
        shown = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        # systemd keeps units in memory that nothing is left of until it collects them.
        if shown.get("FragmentPath") or shown.get("ActiveState") != "inactive":
            found[name] = shown
    # The service behind the timer runs for an instant each minute.
    found.pop("compute-console.service", None)
    return found


def _links() -> dict[str, Any]:
    found = {}
    for link in json.loads(_run("ip", "-d", "-j", "address", "show")):
        found[link["ifname"]] = _plain(link)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _plain(entry)
            for key, entry in sorted(value.items())
            if key not in MADE_UP and (not TIMERS.fullmatch(key) or key == "id")
        }
    if isinstance(value, list):
        # A tap's carrier, and so the addresses that the kernel makes up by its card's, depend on its QEMU.
        return [_plain(entry) for entry in value if not (isinstance(entry, dict) and entry.get("scope") == "link")]
    return value


def _forwarding() -> list[str]:
    entries = json.loads(_run("bridge", "-j", "fdb", "show") or "[]")
    # Not what tunnels have learnt from passing frames.
    return sorted(
        f"{entry['ifname']} {entry['dst']}"
        for entry in entries
        if "dst" in entry and entry["mac"] == "00:00:00:00:00:00"
    )


def _rules() -> list[Any]:
    rules = []
    for entry in json.loads(_run("nft", "-j", "list", "ruleset"))["nftables"]:
        if "metainfo" not in entry:
            rules.append(re.sub(r'"(handle|packets|bytes)": \d+(, )?', "", json.dumps(entry, sort_keys=True)))
    return rules


def _files(folders: list[str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for folder in folders:
        for place, below, names in os.walk(folder):
            for name in ["", *names] if place == folder else names:
                _add(found, os.path.join(place, name) if name else place)
            for name in below:
                _add(found, os.path.join(place, name))
    return dict(sorted(found.items()))


def _add(found: dict[str, list[Any]], path: str) -> None:
    try:
        entry = os.lstat(path)
    except FileNotFoundError:
        return  # a log's that is cut at this moment
    mode = entry.st_mode
    if stat.S_ISSOCK(mode) or LOGS.search(path):
        return
    about: list[Any] = [oct(mode), entry.st_uid, entry.st_gid]
    if stat.S_ISLNK(mode):
        about.append(os.readlink(path))
    elif stat.S_ISREG(mode):
        marks = {name: os.getxattr(path, name).decode() for name in os.listxattr(path) if name.startswith("user.")}
        about += [_content(path), {name: re.sub(r'"mtime_ns": \d+', "", text) for name, text in marks.items()}]
    found[re.sub(r"\d{8}T\d{6}Z", "TIME", path)] = about


def _content(path: str) -> str:
    with open(path, "rb") as stream:
        content = stream.read()
    if path.endswith("-seed.img"):
        # ISO 9660 (ECMA-119) has the time in many places: 17 digits in the descriptors, 7 bytes in each folder's entry.
        content = b"".join(
            sorted(part for part in content.split(b"\0") if len(part) > 40 and not re.search(rb"\d{16}", part))
        )
    return hashlib.sha256(content).hexdigest()[:16]


def _pids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def _alive(pid: str) -> bool:
    try:
        os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return False
    return True


def _processes() -> list[str]:
    found = []
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                words = stream.read().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if OURS.search(words):
            found.append(words)
    return sorted(found)


def _user(name: str) -> list[Any]:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return []
    return [
        entry.pw_dir,
        entry.pw_shell,
        entry.pw_gecos,
        sorted(group.gr_name for group in grp.getgrall() if name in group.gr_mem),
    ]
