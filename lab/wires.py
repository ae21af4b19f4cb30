# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network of the kind container: a namespace for each node, and one between them with two bridges.

The bridges are the underlay, and `outside`, where the lab is 10.0.2.2 as user networking has it for virtual machines.
There is no way out of these namespaces.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from .host import LabError, run
from .settings import underlay_address

OUTSIDE, GATEWAY = "10.0.2", "10.0.2.2"
BRIDGES = ("outside", "underlay")


def path(namespace: str) -> Path:
    return Path("/run/netns") / namespace


def outside_address(index: int) -> str:
    return f"{OUTSIDE}.{100 + index}"


def between() -> list[str]:
    """The `ip -batch` lines of the namespace between the nodes."""
    lines = ["link set lo up"]
    for bridge in BRIDGES:
        lines += [f"link add {bridge} type bridge", f"link set {bridge} up"]
    # Last of all: by it a whole one is told.
    return [*lines, f"addr add {GATEWAY}/24 dev outside"]


def cables(index: int, namespace: str) -> list[str]:
    """The lines, there as well, of a node's cables: eth0 to the outside, eth1 to the underlay."""
    lines = []
    for number, bridge in enumerate(BRIDGES):
        end = f"{bridge}-{index:02d}"
        # Always the same address, or its neighbours would go on sending to the former one after a reboot.
        card = f"eth{number} address 02:1b:c1:0c:{number:02x}:{index:02x} netns {namespace}"
        lines += [f"link add {end} type veth peer name {card}", f"link set {end} master {bridge} up"]
    return lines


def addresses(index: int) -> list[str]:
    """The lines of a node's own namespace."""
    lines = ["link set lo up"]
    for number, address in enumerate((outside_address(index), underlay_address(index))):
        lines += [f"addr add {address}/24 dev eth{number}", f"link set eth{number} up"]
    return [*lines, f"route add default via {GATEWAY}"]


def make(namespace: str) -> None:
    """Make the one between the nodes."""
    run(["ip", "netns", "add", namespace])
    _batch(namespace, between())


def whole(namespace: str) -> bool:
    """Whether the one between the nodes is there; one that is half deleted keeps its file."""
    try:
        links = json.loads(run(["ip", "-n", namespace, "-j", "addr"]) or "[]")
    except LabError:
        return False
    return any(entry.get("local") == GATEWAY for link in links for entry in link.get("addr_info", []))


def connect(namespace: str, machine: str, index: int) -> None:
    """Make a node's namespace afresh, and its cables. At each boot: a reboot leaves no link of the time before."""
    delete(machine)
    for bridge in BRIDGES:
        # The kernel takes its time with the cables of a namespace that is gone.
        with contextlib.suppress(LabError):
            run(["ip", "-n", namespace, "link", "del", f"{bridge}-{index:02d}"])
    run(["ip", "netns", "add", machine])
    _batch(namespace, cables(index, machine))
    _batch(machine, addresses(index))


def delete(namespace: str) -> None:
    if path(namespace).exists():
        run(["ip", "netns", "del", namespace])


def supports(namespace: str, tunnel: str) -> bool:
    """Whether this machine's kernel has a kind of tunnel, by making one."""
    probe = ["ip", "-n", namespace, "link"]
    try:
        run([*probe, "add", "probe", "type", tunnel, "id", "1", "remote", "192.0.2.1"])
    except LabError:
        return False
    run([*probe, "del", "probe"])
    return True


def _batch(namespace: str, lines: list[str]) -> None:
    run(["ip", "-n", namespace, "-batch", "-"], stdin="".join(f"{line}\n" for line in lines))
