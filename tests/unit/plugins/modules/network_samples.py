# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel of links in a dictionary, and the declarations that the network modules' unit tests share."""

from __future__ import annotations

import os
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from ansible_collections.ikcloud.compute.plugins.module_utils._core.changes import Change, Item, Observed
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._core.names import is_marked
from ansible_collections.ikcloud.compute.plugins.module_utils._core.steps import Ip, Remove, Run, Write
from ansible_collections.ikcloud.compute.plugins.module_utils._network.links import ADDRGEN_NONE, Link, LinkResource
from ansible_collections.ikcloud.compute.plugins.module_utils._network.persistence import Boot

ROOT = "/var/lib/compute-service"
GOLDEN = Path(__file__).parents[2] / "golden" / "network"
BRIDGE: Item = {"name": "br-gnv-fc814e42", "network": "blue", "mtu": 1450, "addresses": ["192.168.88.1/24"]}
TUNNEL: Item = {
    "name": "gnv-0d5e8a1c",
    "network": "blue",
    "vni": 88,
    "remote": ["10.10.20.102"],
    "bridge": BRIDGE["name"],
    "mtu": 1450,
    "encapsulation": "geneve",
    "port": None,
}
VXLAN: Item = {**TUNNEL, "encapsulation": "vxlan", "remote": ["10.10.20.102", "10.10.20.103"]}
TAP: Item = {
    "name": "vnet-af95e879",
    "bridge": BRIDGE["name"],
    "mtu": 1450,
    "owner": "compute-service",
    "instance": "web-1",
}


def golden(name: str, text: str) -> None:
    """Compare with a golden file. To accept a change: UPDATE_GOLDEN=1, then read the diff."""
    file = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


class Kernel:
    """Links as the kernel keeps them, changed by the lines that ``ip`` and ``bridge`` take."""

    def __init__(self, links: dict[str, Link] | None = None) -> None:
        self.links = dict(links or {})
        self.remotes: dict[str, list[str]] = {}

    def ip(self, line: str) -> None:
        words = line.split()
        if words[0] in ("link", "tuntap") and words[1] == "add":
            assert words[3] not in self.links, f"File exists: {line}"
            self.links[words[3]] = self.made(words[3], words[4:])
        elif words[:2] == ["link", "delete"]:
            del self.links[words[3]]
            self.remotes.pop(words[3], None)
        elif words[:2] == ["link", "set"]:
            link = self.links[words[3]]
            self.links[link.name] = replace(link, **self.set(link, words[4:]))
        elif words[0] == "address":
            link = self.links[words[4]]
            rest = tuple(address for address in link.addresses if address != words[2])
            net = ip_interface(words[2]).network
            same = [address for address in link.addresses if ip_interface(address).network == net]
            assert words[1] == "replace" or words[2] in link.addresses, f"Cannot assign requested address: {line}"
            if words[1] == "delete" and net.version == 4 and same[0] == words[2]:
                rest = tuple(
                    address for address in rest if address not in same
                )  # the first one of a subnet takes the others along
            self.links[link.name] = replace(link, addresses=(*rest, words[2]) if words[1] == "replace" else rest)
        else:
            raise AssertionError(line)

    def made(self, name: str, words: list[str]) -> Link:
        options = dict(zip(words[::2], words[1::2]))
        if "mode" in options:
            return Link(name, "tap", addrgen=0, info={"type": "tap", "user": options["user"]})
        if options["type"] == "bridge":
            return Link(
                name, "bridge", mac=options.get("address", "3a:00:00:00:00:01"), addrgen=0, info={"stp_state": 0}
            )
        key = "remote6" if ":" in options["remote"] else "remote"
        self.remotes[name] = [options["remote"]]
        return Link(
            name,
            options["type"],
            addrgen=0,
            info={"id": int(options["id"]), "port": int(options["dstport"]), key: options["remote"]},
        )

    def set(self, link: Link, words: list[str]) -> dict[str, Any]:
        verb, value = words[0], words[-1]
        if verb in ("up", "down"):
            return {"up": verb == "up"}
        if words[:2] == ["type", "bridge"]:
            return {"info": {**link.info, "stp_state": int(value)}}
        if words[:3] == ["type", "bridge_slave", "isolated"]:
            assert link.master, "only a port has this flag"
            return {"isolated": value == "on"}
        if verb == "master":
            assert link.kind == "tap" or not link.up, "a tunnel joins a bridge only while it is down"
            return {"master": value, "isolated": False}
        if verb == "addrgenmode":
            return {"addrgen": ADDRGEN_NONE}
        return {{"alias": "alias", "mtu": "mtu", "address": "mac"}[verb]: int(value) if verb == "mtu" else value}

    def bridge(self, words: list[str]) -> None:
        remotes = self.remotes.setdefault(words[4], [])
        info = self.links[words[4]].info
        assert (":" in words[6]) == ("remote6" in info), "Address family not supported"
        (remotes.append if words[1] == "append" else remotes.remove)(words[6])

    def run(self, changes: list[Change], files: dict[str, str]) -> None:
        """Do what the changes list, stage by stage."""
        steps = [step for change in changes for step in change.steps]
        for step in sorted(steps, key=lambda step: step.stage):
            if isinstance(step, Write):
                files[os.path.basename(step.path)] = step.content
            elif isinstance(step, Remove):
                files.pop(os.path.basename(step.path), None)
            elif isinstance(step, Ip):
                self.ip(step.line)
            elif isinstance(step, Run) and step.argv[:2] == ("bridge", "-batch"):
                for line in files[os.path.basename(step.argv[2])].splitlines():
                    if not line.startswith("#"):
                        self.bridge(line.split())
            elif isinstance(step, Run) and step.argv[0] == "bridge":
                self.bridge(list(step.argv[1:]))
            else:
                assert isinstance(step, Run) and step.argv[0] in ("nft", "sysctl", "systemctl"), step


def on(
    kind: type[LinkResource], kernel: Kernel, files: dict[str, str], items: list[Item], **params: Any
) -> tuple[LinkResource, dict[str, Observed]]:
    """Give the module's kind as if it had observed this kernel and these files."""
    made = kind({"root": ROOT, kind.option: items, "state": "present", "purge": False, **params})
    made.boot = Boot(Layout(ROOT), files=dict(files), up_runs=True)
    made.links = dict(kernel.links)
    if hasattr(made, "remotes"):
        made.remotes = {name: list(remotes) for name, remotes in kernel.remotes.items()}
    if hasattr(made, "uids"):
        made.uids = {"compute-service": 999, "root": 0}
    names = set(made.boot.names(made.boot_files.prefix)) | {
        name for name, link in kernel.links.items() if link.kind in made.kinds
    }
    have = {}
    for name in names:
        link = kernel.links.get(name)
        have[name] = Observed(
            made.attributes(link) if link else {},
            link is None
            or is_marked(link.alias)
            or (not link.alias and name in made.boot.names(made.boot_files.prefix)),
            link,
        )
    return made, have


def commands(changes: list[Change]) -> list[str]:
    """Give the commands of changes in the order in which they are run."""
    steps = [step for change in changes for step in change.steps]
    return [step.text for step in sorted(steps, key=lambda step: step.stage)]
