# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tunnels between nodes, as the module geneve_tunnel takes them."""

from __future__ import annotations

from typing import Any

from .._core.changes import Change, Item, Observed
from .._core.errors import ComputeError
from .._core.names import OWNER, is_marked, link_problem, name_problem
from .._core.steps import Ip, Run, Stage
from .links import Link, LinkResource, Repair, required_problems
from .persistence import BootFiles
from .tunnels import (
    ANY_MAC,
    MAX_VNI,
    Key,
    encapsulation_problem,
    family_remote,
    key_of_link,
    keys_of_item,
    port_of,
    read_remotes,
    remote_problems,
    remotes_of,
)


class TunnelResource(LinkResource):
    """Tunnels of the compute service's networks."""

    noun = "tunnel"
    option = "tunnels"
    suboptions = {
        "name": {"type": "str", "required": True},
        "network": {"type": "str"},
        "vni": {"type": "int"},
        "remote": {"type": "list", "elements": "str"},
        "bridge": {"type": "str"},
        "mtu": {"type": "int", "default": 1450},
        "encapsulation": {"type": "str", "choices": ["geneve", "vxlan"], "default": "geneve"},
        "port": {"type": "int"},
    }
    boot_files = BootFiles("20-", (".ip", ".fdb"))
    kinds = ("geneve", "vxlan")
    mark_kind = "tunnel"

    def __init__(self, params: Item) -> None:
        super().__init__(params)
        self.remotes: dict[str, list[str]] = {}

    def validate_item(self, index: int, item: Item) -> list[str]:
        what = f"tunnels[{index}]"
        problems = super().validate_item(index, item) + required_problems(
            what, item, ["network", "vni", "remote", "bridge"]
        )
        named = [name_problem(f"{what}.network", item["network"]) if item["network"] else None]
        named += [link_problem(f"{what}.bridge", item["bridge"]) if item["bridge"] else None]
        problems += [problem for problem in named if problem]
        if item["vni"] is not None and not 0 <= item["vni"] <= MAX_VNI:
            problems.append(f"{what}.vni: {item['vni']} is not a VNI; give 0 to {MAX_VNI}.")
        if item["port"] is not None and not 1 <= item["port"] <= 65535:
            problems.append(f"{what}.port: {item['port']} is not a UDP port; give 1 to 65535.")
        return problems + remote_problems(f"{what}.remote", item["remote"] or [], item["encapsulation"])

    def validate_list(self, items: list[Item]) -> list[str]:
        problems = []
        first: dict[Key, int] = {}
        for index, item in enumerate(items):
            for key in keys_of_item(item):
                if key in first:
                    problems.append(f"tunnels[{index}]: {key} stands already at tunnels[{first[key]}]; {key.advice}")
                    break
                first[key] = index
        return problems

    def observe(self, items: list[Item]) -> dict[str, Observed]:
        have = super().observe(items)
        if any(found.owned and found.native and found.native.kind == "vxlan" for found in have.values()):
            self.remotes = read_remotes()
            for found in have.values():
                found.attributes = self.attributes(found.native) if found.native else found.attributes
        return have

    def mark_name(self, item: Item) -> str:
        return str(item["network"])

    def lines(self, item: Item) -> dict[str, str]:
        name, kind = item["name"], item["encapsulation"]
        lines = self.base_lines(
            item,
            f"link add dev {name} type {kind} id {item['vni']} remote {remotes_of(item)[0]} dstport {port_of(item)}",
        )
        lines["master"] = f"link set dev {name} master {item['bridge']}"
        lines["isolated"] = f"link set dev {name} type bridge_slave isolated on"
        lines["up"] = f"link set dev {name} up"
        return lines

    def more_files(self, item: Item) -> dict[str, tuple[str, Run]]:
        more = remotes_of(item)[1:]
        if not more:
            return {}
        file = f"{self.boot_files.prefix}{item['name']}.fdb"
        lines = "".join(f"fdb append {ANY_MAC} dev {item['name']} dst {remote}\n" for remote in more)
        text = f"# {OWNER}: further remotes of the tunnel {item['name']}; by hand: bridge -batch {file}\n{lines}"
        return {file: (text, Run(("bridge", "-batch", self.layout.network(file)), stage=Stage.CHANGE))}

    def repair(self, item: Item, link: Link, repair: Repair) -> None:
        want = keys_of_item(item)[0]
        have = key_of_link(link)
        if have.encapsulation != want.encapsulation:
            repair.remake.append(f"encapsulation is {have.encapsulation}, declared {want.encapsulation}")
        elif have != want:
            pairs: list[tuple[str, Any, Any]] = [
                ("VNI", have.vni, want.vni),
                ("port", have.port, want.port),
                ("remote", have.remote, want.remote),
            ]
            repair.remake += [
                f"{what} is {old or 'none'}, declared {new or 'none'}" for what, old, new in pairs if old != new
            ]
        elif (
            link.kind == "vxlan" and family_remote(link) and (":" in family_remote(link)) != (":" in item["remote"][0])
        ):
            repair.remake.append(f"remote is {family_remote(link)}, declared {item['remote'][0]}")
        elif link.kind == "vxlan":
            remotes, wanted = self.remotes.get(link.name, []), remotes_of(item)
            for verb, word, those in (
                ("append", "lacks", [remote for remote in wanted if remote not in remotes]),
                ("del", "has", [remote for remote in remotes if remote not in wanted]),
            ):
                repair.more += [
                    Run(("bridge", "fdb", verb, ANY_MAC, "dev", link.name, "dst", remote), stage=Stage.CHANGE)
                    for remote in those
                ]
                repair.reasons += [f"it {word} the remote {remote}" for remote in those]

    def change(self, item: Item, have: Observed | None) -> Change:
        change = super().change(item, have)
        wanted = set(keys_of_item(item))
        if not any(isinstance(step, Ip) and step.line.startswith("link add ") for step in change.steps):
            return change
        listed = {other["name"] for other in self.params["tunnels"]}
        for link in self.links.values():
            if link.name in listed or link.kind not in self.kinds or key_of_link(link) not in wanted:
                continue
            if not is_marked(link.alias):
                raise ComputeError(
                    f"tunnel {item['name']}: {key_of_link(link)} belongs to the link {link.name}, which ikcloud.compute"
                    " did not make.",
                    "Remove that link or declare another vni.",
                )
            if not self.params["purge"]:
                # The network was renamed: the tunnel's old name makes room for the new one, since the kernel has only
                # one of them.
                change.steps += self.remove(link.name, Observed({}, native=link)).steps
                change.reasons.append(f"{key_of_link(link)} was {link.name} so far, which is not declared")
        return change

    def attributes(self, link: Link) -> Item:
        key = key_of_link(link)
        remotes = self.remotes.get(link.name, []) if link.kind == "vxlan" else [key.remote]
        return {
            "network": link.alias.rpartition("/")[2],
            "encapsulation": key.encapsulation,
            "vni": key.vni,
            "remote": sorted(remotes),
            "port": key.port,
            "bridge": link.master,
            "isolated": link.isolated,
            "mtu": link.mtu,
            "up": link.up,
        }

    def wanted(self, item: Item) -> Item:
        more = {"remote": sorted(remotes_of(item)), "port": port_of(item), "isolated": True, "up": True}
        return {**{key: item[key] for key in ("network", "encapsulation", "vni", "bridge", "mtu")}, **more}

    def missing_prerequisites(self, changes: list[Change], check_mode: bool) -> list[str]:
        problems = super().missing_prerequisites(changes, check_mode)
        made = [
            change
            for change in changes
            if any(isinstance(step, Ip) and step.line.startswith("link add ") for step in change.steps)
        ]
        items = {item["name"]: item for item in self.params["tunnels"]}
        kinds = sorted({items[change.name]["encapsulation"] for change in made if change.name in items})
        return problems + (
            []
            if problems
            else [problem for kind in kinds for problem in encapsulation_problem(kind, attempt=not check_mode)]
        )
