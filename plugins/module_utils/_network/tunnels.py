# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What GENEVE and VXLAN links are keyed by, who their remotes are, and whether this kernel has them."""

from __future__ import annotations

import ipaddress
import os
import platform
from dataclasses import dataclass

from .._core.changes import Item
from .._core.commands import run, run_json
from .links import Link
from .persistence import read_text

# 24 bits: RFC 8926 section 3.4, RFC 7348 section 5.
MAX_VNI = 2**24 - 1
# The UDP ports that IANA has assigned: RFC 8926 section 3.3, RFC 7348 section 5.
PORTS = {"geneve": 6081, "vxlan": 4789}
# bridge(8), "fdb add": the entry of this address tells where a VXLAN link floods to.
ANY_MAC = "00:00:00:00:00:00"


@dataclass(frozen=True)
class Key:
    """What a kernel has one link of at most: for GENEVE with the remote, for VXLAN without."""

    encapsulation: str
    vni: int
    port: int
    remote: str = ""

    def __str__(self) -> str:
        return f"{self.encapsulation} VNI {self.vni} on port {self.port}" + (
            f" to {self.remote}" if self.remote else ""
        )

    @property
    def advice(self) -> str:
        """What to do when two items have one key."""
        if self.encapsulation == "vxlan":
            return "a kernel has one VXLAN link for each VNI and port: list all the remotes there."
        return "a kernel has one GENEVE link for each VNI, port and remote."


def port_of(item: Item) -> int:
    """Give an item's UDP port."""
    return int(item["port"] or PORTS[item["encapsulation"]])


def remotes_of(item: Item) -> list[str]:
    """Give an item's remotes as the kernel spells them."""
    return [str(ipaddress.ip_address(remote)) for remote in item["remote"]]


def keys_of_item(item: Item) -> list[Key]:
    """Give what an item takes: for GENEVE a key for each remote."""
    if item["encapsulation"] == "vxlan":
        return [Key("vxlan", item["vni"], port_of(item))]
    return [Key("geneve", item["vni"], port_of(item), remote) for remote in remotes_of(item)]


def key_of_link(link: Link) -> Key:
    """Give what a link has taken (``info_data`` of ip-link(8); a link of metadata mode has no VNI, here -1)."""
    remote = family_remote(link) if link.kind == "geneve" else ""
    return Key(link.kind, int(link.info.get("id", -1)), int(link.info.get("port", PORTS.get(link.kind, 0))), remote)


def family_remote(link: Link) -> str:
    """Give the remote that a link was made with; its family is the link's for ever. Empty when there was none."""
    return str(link.info.get("remote6") or link.info.get("remote") or "")


def remote_problems(what: str, remotes: list[str], encapsulation: str) -> list[str]:
    """Say what is wrong with a list of remotes."""
    problems = []
    seen: dict[str, int] = {}
    versions = set()
    for number, remote in enumerate(remotes):
        where = f"{what}[{number}]"
        try:
            address = ipaddress.ip_address(remote)
        except ValueError:
            problems.append(f"{where}: {remote!r} is not an IP address; give the other node's address in the underlay.")
            continue
        if "%" in remote or address.is_multicast or address.is_unspecified:
            problems.append(f"{where}: {remote!r} can't be the address of one node.")
            continue
        if str(address) in seen:
            problems.append(f"{where}: {remote} stands already at {what}[{seen[str(address)]}]; list a remote once.")
        seen.setdefault(str(address), number)
        versions.add(address.version)
    if len(versions) > 1:
        problems.append(f"{what}: it mixes IPv4 and IPv6; one link has remotes of one kind.")
    if encapsulation == "geneve" and len(remotes) > 1:
        problems.append(
            f"{what}: it has {len(remotes)} addresses; GENEVE links are point to point, make one tunnel for each"
            " remote."
        )
    return problems


def read_remotes() -> dict[str, list[str]]:
    """Read where each VXLAN link floods to, all of them in one go.

    :raises ComputeError: When ``bridge`` fails.
    """
    remotes: dict[str, list[str]] = {}
    for entry in run_json(["bridge", "-j", "fdb", "show"]):
        if entry.get("mac") == ANY_MAC and "dst" in entry:
            remotes.setdefault(entry["ifname"], []).append(entry["dst"])
    return remotes


def supports(encapsulation: str, attempt: bool) -> bool | None:
    """Tell whether this kernel has GENEVE or VXLAN links.

    :param attempt: Whether to make one, in a network namespace that is gone right after. That is the only sure answer
        (in a container the host has the modules), but it loads the module, which check mode and a mere look must not.
    :returns: None when it can't be known without the attempt.
    """
    if os.path.isdir(f"/sys/module/{encapsulation}"):
        return True
    if attempt:
        link = [
            "ip",
            "link",
            "add",
            "dev",
            "probe0",
            "type",
            encapsulation,
            "id",
            "1",
            "remote",
            "192.0.2.1",
            "dstport",
            str(PORTS[encapsulation]),
        ]
        done = run(["unshare", "--net", *link], check=False, timeout=30)
        if done.returncode == 0:
            return True
        return False if "nknown device type" in done.stderr or "not supported" in done.stderr else None
    # modules.builtin and modules.dep: modprobe(8), depmod(8).
    folder = f"/lib/modules/{platform.release()}"
    lists = [read_text(f"{folder}/{name}") for name in ("modules.builtin", "modules.dep")]
    if None in lists:
        return None
    return any(f"/{encapsulation}.ko" in text for text in lists if text)


def encapsulation_problem(encapsulation: str, attempt: bool) -> list[str]:
    """Say that this kernel lacks an encapsulation, when that is known, and what to do about it."""
    if supports(encapsulation, attempt) is not False:
        return []
    other = "vxlan" if encapsulation == "geneve" else "geneve"
    text = f"This kernel ({platform.release()}) has no {encapsulation}: "
    if supports(other, attempt) is False:
        return [
            f"{text}and no {other} either. Install the distribution's own kernel with all its modules"
            " (linux-modules-extra on Ubuntu)."
        ]
    return [
        f"{text}install the package with its module (linux-modules-extra on Ubuntu), or declare encapsulation: {other}"
        " on all nodes of the network."
    ]
