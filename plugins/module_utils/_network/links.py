# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network links: how they are read, and what bridges, tunnels and taps have in common."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .._core.changes import Change, Item, Observed
from .._core.commands import run_json
from .._core.layout import Layout
from .._core.names import OWNER, is_marked, link_problem, mark
from .._core.reconcile import Resource
from .._core.steps import Ip, Remove, Run, Stage, Step, Write
from .persistence import Boot, BootFiles, read_boot, read_text

# The smallest MTU that every IPv4 host takes (RFC 791), and the largest of a tap (drivers/net/tun.c, "max_mtu").
MIN_MTU, MAX_MTU = 576, 65521
# IN6_ADDR_GEN_MODE_NONE in linux/if_link.h: the link gets no IPv6 link-local address.
ADDRGEN_NONE = 1


@dataclass(frozen=True)
class Link:
    """A network link as ``ip -j -d addr show`` tells it (ip-link(8)).

    :ivar kind: ``bridge``, ``geneve``, ``vxlan``, ``tap``…; "" for a real card.
    :ivar carrier: For a tap: whether a guest has it open.
    :ivar addresses: With prefix length, IPv4 and IPv6, in the kernel's order.
    :ivar info: What is particular to its kind.
    :ivar addrgen: How IPv6 link-local addresses are made for it; None where there is no IPv6.
    """

    name: str
    kind: str = ""
    alias: str = ""
    mtu: int = 1500
    up: bool = False
    carrier: bool = False
    master: str = ""
    isolated: bool = False
    mac: str = ""
    addresses: tuple[str, ...] = ()
    info: Item = field(default_factory=dict)
    addrgen: int | None = None


@dataclass
class Repair:
    """What is to be done about a link that is there.

    :ivar lines: Arguments of ``ip``, in order.
    :ivar more: Steps that are no ``ip`` lines.
    :ivar reasons: What differs.
    :ivar remake: Why the link has to be deleted and made anew; then the lines don't matter.
    :ivar restart: Why that can't be done while an instance uses the link.
    """

    lines: list[str] = field(default_factory=list)
    more: list[Step] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    remake: list[str] = field(default_factory=list)
    restart: str = ""


def parse_links(entries: Iterable[Any]) -> dict[str, Link]:
    """Read what ``ip -j -d addr show`` printed."""
    links = {}
    for entry in entries:
        if not entry.get("ifname"):
            continue
        linkinfo = entry.get("linkinfo", {})
        info = linkinfo.get("info_data", {})
        kind = linkinfo.get("info_kind", "")
        flags = entry.get("flags", [])
        links[entry["ifname"]] = Link(
            name=entry["ifname"],
            kind="tap" if kind == "tun" and info.get("type") == "tap" else kind,
            alias=entry.get("ifalias", ""),
            mtu=entry.get("mtu", 0),
            up="UP" in flags,
            carrier="LOWER_UP" in flags,
            master=entry.get("master", ""),
            isolated=bool(linkinfo.get("info_slave_data", {}).get("isolated", False)),
            mac=entry.get("address", ""),
            addresses=tuple(
                f"{address['local']}/{address['prefixlen']}"
                for address in entry.get("addr_info", [])
                if "local" in address
            ),
            info=info,
        )
    return links


def read_links() -> dict[str, Link]:
    """Read all links of this node in one go.

    :raises ComputeError: When ``ip`` fails.
    """
    return parse_links(run_json(["ip", "-j", "-d", "addr", "show"]))


def read_addrgen(name: str) -> int | None:
    """Read how IPv6 link-local addresses are made for a link (``ip addr`` doesn't tell); None where IPv6 is off."""
    text = read_text(f"/proc/sys/net/ipv6/conf/{name}/addr_gen_mode")
    return int(text) if text else None


def mtu_problem(what: str, mtu: int) -> list[str]:
    """Say what is wrong with an MTU in bytes."""
    return (
        [] if MIN_MTU <= mtu <= MAX_MTU else [f"{what}: {mtu} is not a usable MTU; give {MIN_MTU} to {MAX_MTU} bytes."]
    )


def required_problems(what: str, item: Item, keys: Iterable[str]) -> list[str]:
    """Say which of the keys an item lacks."""
    return [f"{what}.{key}: it is required." for key in keys if item.get(key) in (None, "", [])]


class LinkResource(Resource):
    """What bridges, tunnels and taps have in common.

    :cvar boot_files: Its files in ``run/networks``.
    :cvar kinds: The kernel's names for the links.
    :cvar mark_kind: The middle of the mark in the ifalias.
    """

    tools = ("ip",)
    boot_files: BootFiles
    kinds: tuple[str, ...]
    mark_kind: str

    def __init__(self, params: Item) -> None:
        super().__init__(params)
        self.layout = Layout(self.root)
        self.boot = Boot(self.layout)
        self.links: dict[str, Link] = {}
        self.ipv6 = True

    # What the kinds supply

    def mark_name(self, item: Item) -> str:
        """Give the end of the mark: the network's or the instance's name."""
        raise NotImplementedError

    def lines(self, item: Item) -> dict[str, str]:
        """Give what makes the link: aspect to a line of ``ip -batch``, in order; the first one adds it."""
        raise NotImplementedError

    def more_files(self, item: Item) -> dict[str, tuple[str, Run]]:
        """Give further boot files: name to text and the step that replays it."""
        return {}

    def repair(self, item: Item, link: Link, repair: Repair) -> None:
        """Add what is particular to the kind and differs."""
        raise NotImplementedError

    def attributes(self, link: Link) -> Item:
        """Describe a link in the declaration's words."""
        raise NotImplementedError

    def wanted(self, item: Item) -> Item:
        """Describe an item as :meth:`props` will."""
        raise NotImplementedError

    # The loop's

    def validate_item(self, index: int, item: Item) -> list[str]:
        what = f"{self.option}[{index}]"
        problem = link_problem(f"{what}.name", item["name"])
        return ([problem] if problem else []) + mtu_problem(f"{what}.mtu", item["mtu"])

    def observe(self, items: list[Item]) -> dict[str, Observed]:
        self.links = read_links()
        return self.observe_without_tools(items)

    def observe_without_tools(self, items: list[Item]) -> dict[str, Observed]:
        self.boot = read_boot(self.layout)
        self.ipv6 = os.path.isdir("/proc/sys/net/ipv6")
        files = self.boot.names(self.boot_files.prefix)
        listed = {item["name"] for item in items}
        marked = {
            name
            for name, link in self.links.items()
            if link.kind in self.kinds and link.alias.startswith(f"{OWNER}/{self.mark_kind}/")
        }
        found = {}
        for name in sorted((listed & set(self.links)) | marked | set(files)):
            link = self.links.get(name)
            # A run that was killed between two lines left a link of ours without its mark; the file says so. A link
            # that somebody else made under the name of such a file is theirs: then only the file is ours to remove.
            owned = link is None or (
                link.kind in self.kinds and (is_marked(link.alias) or (not link.alias and name in files))
            )
            if link is not None and not owned and name not in listed:
                link, owned = None, True
            if link is not None and owned:
                link = self.complete(link)
            found[name] = Observed(self.attributes(link) if link else {}, owned, link)
        return found

    def complete(self, link: Link) -> Link:
        """Add to a link of ours what the one read doesn't tell."""
        return Link(**{**link.__dict__, "addrgen": read_addrgen(link.name)})

    def change(self, item: Item, have: Observed | None) -> Change:
        name, lines, link = item["name"], self.lines(item), have.native if have else None
        change = Change(name, after=self.wanted(item), before=have.attributes if have and link else None)
        repair = Repair()
        if link:
            self._repair_common(item, link, lines, repair)
            self.repair(item, link, repair)
        files = {self.file(name): self.text(item)}
        files.update({file: text for file, (text, _step) in self.more_files(item).items()})
        edited = [file for file, text in files.items() if self.boot.files.get(file) != text]
        stale = [file for file in self.boot.names(self.boot_files.prefix).get(name, []) if file not in files]
        change.steps += [Write(self.layout.network(file), files[file], stage=Stage.FILES) for file in edited]
        if link and not repair.remake:
            change.steps += [Ip(line, stage=Stage.CREATE) for line in repair.lines] + repair.more
        else:
            change.steps += [Ip(f"link delete dev {name}", stage=Stage.DELETE)] if link else []
            change.steps += [Ip(line, stage=Stage.CREATE) for line in lines.values()] + [
                step for _text, step in self.more_files(item).values()
            ]
        change.steps += [Remove(self.layout.network(file), stage=Stage.REMOVE) for file in stale]
        change.restart_reason = repair.restart
        if change.steps:
            change.action = "update" if link else "create"
            change.effect = "rebuild" if repair.remake else ""
            change.reasons = (
                [f"{', '.join(repair.remake)}, so it is deleted and made anew"] if repair.remake else repair.reasons
            )
            change.reasons += self._file_reasons(name, link, edited, stale) if not change.reasons else []
        return change

    def _repair_common(self, item: Item, link: Link, lines: dict[str, str], repair: Repair) -> None:
        def differs(aspect: str, reason: str) -> None:
            repair.lines.append(lines[aspect])
            repair.reasons.append(reason)

        if link.mtu != item["mtu"]:
            differs("mtu", f"mtu is {link.mtu}, declared {item['mtu']}")
        if link.alias != mark(self.mark_kind, self.mark_name(item)):
            differs("alias", f"alias is {link.alias or 'missing'}")
        if link.addrgen not in (None, ADDRGEN_NONE):
            differs("addrgenmode", "it makes itself an IPv6 link-local address")
        if "master" in lines and link.master != item["bridge"]:
            if "isolated" in lines and link.up:
                # A port that is isolated only after it forwards is a loop for that long.
                repair.lines.append(f"link set dev {link.name} down")
            differs("master", f"bridge is {link.master or 'none'}, declared {item['bridge']}")
            if "isolated" in lines:
                repair.lines += [lines["isolated"]] + ([lines["up"]] if link.up else [])
        elif "isolated" in lines and not link.isolated:
            differs("isolated", "it is not isolated")
        if not link.up:
            differs("up", "it is down")

    def _file_reasons(self, name: str, link: Link | None, edited: list[str], stale: list[str]) -> list[str]:
        if not link:
            return ["the link is missing"] if name in self.boot.names(self.boot_files.prefix) else []
        gone = [f"{file} is missing" for file in edited if file not in self.boot.files]
        return (
            gone
            + [f"{file} differs" for file in edited if file in self.boot.files]
            + [f"{file} is needed no more" for file in stale]
        )

    def remove(self, name: str, have: Observed) -> Change:
        steps: list[Step] = [Ip(f"link delete dev {name}", stage=Stage.DELETE)] if have.native else []
        steps += [
            Remove(self.layout.network(file), stage=Stage.REMOVE)
            for file in self.boot.names(self.boot_files.prefix).get(name, [])
        ]
        return Change(name, "delete", have.attributes, None, steps)

    def shared_changes(self, changes: list[Change], have: dict[str, Observed]) -> list[Change]:
        foreign = [name for name, link in self.links.items() if link.kind == "bridge" and not is_marked(link.alias)]
        return self.boot.other_changes(changes, self.boot_files.prefix, foreign)

    def missing_prerequisites(self, changes: list[Change], check_mode: bool) -> list[str]:
        if check_mode or not changes:
            return []
        if os.geteuid() != 0:
            return [f"{self.noun}: only root changes links. Use become: true."]
        items = {item["name"]: item for item in self.params[self.option]}
        problems = []
        for change in changes:
            bridge = items.get(change.name, {}).get("bridge")
            if not bridge or not any(
                isinstance(step, Ip) and step.line == f"link set dev {change.name} master {bridge}"
                for step in change.steps
            ):
                continue
            link = self.links.get(bridge)
            if link is None:
                problems.append(
                    f"{self.noun} {change.name}: the bridge {bridge} is not there. The module ikcloud.compute.bridge"
                    " makes it: run it first."
                )
            elif link.kind != "bridge":
                problems.append(
                    f"{self.noun} {change.name}: {bridge} is there, but is no bridge ({link.kind or 'a network card'})."
                    " Name a bridge."
                )
        return problems

    # The file

    def file(self, name: str) -> str:
        """Give the name of the link's boot file."""
        return f"{self.boot_files.prefix}{name}.ip"

    def text(self, item: Item) -> str:
        """Give the boot file: what makes the link, for ``ip -batch FILE``."""
        lines = "".join(f"{line}\n" for line in self.lines(item).values())
        whose = f"{self.mark_kind.replace('tunnel', 'network')} {self.mark_name(item)}"
        return f"# {OWNER}: {self.noun} of the {whose}; by hand: ip -batch {self.file(item['name'])}\n{lines}"

    def base_lines(self, item: Item, add: str) -> dict[str, str]:
        """Give the lines that every link of ours begins with."""
        name = item["name"]
        lines = {
            "add": add,
            "alias": f"link set dev {name} alias {mark(self.mark_kind, self.mark_name(item))}",
            "mtu": f"link set dev {name} mtu {item['mtu']}",
        }
        if self.ipv6:  # a kernel without IPv6 refuses the very word
            lines["addrgenmode"] = f"link set dev {name} addrgenmode none"
        return lines
