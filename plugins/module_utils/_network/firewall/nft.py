# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The firewall table of a network: its text, how a table that is there is compared with it, and what else drops its
packets.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import re
from dataclasses import dataclass, field
from typing import Any

from ..._core.commands import run
from ..._core.errors import ComputeError
from ..._core.names import OWNER, mark
from ..tunnels import PORTS

FAMILY = "inet"
TABLE = re.compile(r"ikcloud_([0-9a-f]{8})")


@dataclass(frozen=True)
class Rules:
    """What a network's table is made from.

    :ivar name: The network.
    :ivar id: 8 hex digits, of the table's name.
    :ivar uplink: The link to the world; "" when the network is closed.
    """

    name: str
    id: str
    bridge: str
    cidr: str
    uplink: str

    @property
    def table(self) -> str:
        return f"ikcloud_{self.id}"


@dataclass
class Table:
    """A table of ours or by the name of one.

    :ivar network: The network that its rules' comments name; "" when they name none.
    :ivar content: Its chains and rules without handles and counters, for comparison.
    """

    name: str
    network: str = ""
    content: dict[str, Any] = field(default_factory=dict)


def text_of(rules: Rules, file: str) -> str:
    """Give the file for ``nft -f`` (nft(8)) that replaces the network's table in one transaction, whether it is there
    or not.

    Links are named by their names, so they may come and go. Where another table accepts, these drops hold all the same.
    """
    guests, uplink = f'"{rules.bridge}"', f'"{rules.uplink}"'
    marked = f'comment "{mark("nat", rules.name)}"'
    forward = [f"iifname {guests} oifname {guests} accept {marked}"]
    if rules.uplink:
        segment = "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu"
        ports = ", ".join(str(port) for port in sorted(PORTS.values()))
        forward += [
            f"iifname {guests} oifname {uplink} {segment}",
            f"iifname {uplink} oifname {guests} {segment}",
            # A guest's own tunnel packet would leave with the node's address, which the other nodes' tunnels trust.
            f"iifname {guests} udp dport {{ {ports} }} drop",
            f"iifname {guests} oifname {uplink} ip saddr {rules.cidr} accept",
            f"iifname {uplink} oifname {guests} ct state established,related accept",
        ]
    forward += [f"iifname {guests} drop", f"oifname {guests} drop {marked}"]
    incoming = [
        f"iifname {guests} ct state established,related accept",
        f"iifname {guests} ip daddr {rules.cidr} icmp type echo-request accept",
        f"iifname {guests} drop",
    ]
    lines = [
        f"# {OWNER}: {'NAT' if rules.uplink else 'isolation'} of the network {rules.name}; by hand: nft -f {file}",
        f"add table {FAMILY} {rules.table}",
        f"delete table {FAMILY} {rules.table}",
        f"table {FAMILY} {rules.table} {{",
        "    # Guests reach nothing of the node itself: they may ping their gateway, and answer.",
        *_chain("input", "filter hook input priority filter", incoming),
        "",
        (
            f"    # {'Only to the uplink and back' if rules.uplink else 'Nothing is let out or in'}, never to another"
            " network."
        ),
        "    # With br_netfilter the bridge's own frames pass here too.",
        *_chain("forward", "filter hook forward priority filter", forward),
    ]
    if rules.uplink:
        lines += [
            "",
            *_chain(
                "postrouting",
                "nat hook postrouting priority srcnat",
                [f"oifname {uplink} ip saddr {rules.cidr} masquerade"],
            ),
        ]
    return "".join(f"{line}\n" for line in [*lines, "}"])


def cidr_of(lines: list[str]) -> str | None:
    """Give the addresses of the network whose file this is (:func:`text_of`); None when the file does not say."""
    found = (re.search(r" ip daddr ([0-9./]+) icmp ", line) for line in lines)
    return next((match.group(1) for match in found if match), None)


def _chain(name: str, hook: str, rules: list[str]) -> list[str]:
    return [f"    chain {name} {{", *(f"        {line}" for line in (f"type {hook}; policy accept;", *rules)), "    }"]


def read_tables(ruleset: list[Any]) -> dict[str, Table]:
    """Give the tables of ours and by the names of ours, from what ``nft -j list ruleset`` printed
    (libnftables-json(5)).
    """
    tables: dict[str, Table] = {}
    for entry in ruleset:
        for kind, thing in entry.items():
            name = thing.get("name" if kind == "table" else "table", "") if kind != "metainfo" else ""
            if thing.get("family") != FAMILY or not TABLE.fullmatch(name):
                continue
            table = tables.setdefault(name, Table(name, content={"chains": {}, "rules": {}, "more": []}))
            plain = _plain(thing)
            comment = str(thing.get("comment", ""))
            if comment.startswith(f"{OWNER}/nat/"):
                table.network = comment.rpartition("/")[2]
            if kind == "chain":
                table.content["chains"][thing["name"]] = plain
            elif kind == "rule":
                table.content["rules"].setdefault(thing["chain"], []).append(plain)
            else:
                table.content["more"].append({kind: plain})
    return tables


def _plain(thing: Any) -> Any:
    if isinstance(thing, dict):
        return {key: {} if key == "counter" else _plain(value) for key, value in thing.items() if key != "handle"}
    return [_plain(value) for value in thing] if isinstance(thing, list) else thing


def render(texts: list[str]) -> dict[str, Table]:
    """Give the tables as this node's own nft and kernel tell them once the texts are loaded.

    They are loaded in a network namespace that is gone right after: the only comparison that holds for every version of
    nft, each of which spells its JSON differently.

    :raises ComputeError: When nft doesn't take the texts.
    """
    done = run(
        ["unshare", "--net", "sh", "-c", "nft -f - && exec nft -j list ruleset"], stdin="".join(texts), timeout=60
    )
    return read_tables(parse(done.stdout))


def parse(text: str) -> list[Any]:
    """Read what ``nft -j list ruleset`` printed.

    :raises ComputeError: When it is no JSON.
    """
    try:
        return list(json.loads(text)["nftables"]) if text.strip() else []
    except (ValueError, KeyError):
        raise ComputeError(
            "`nft -j list ruleset` did not print JSON.",
            "The role ikcloud.compute.prepare installs an nftables that does.",
        ) from None


def describe(table: Table) -> dict[str, Any]:
    """Say in the declaration's words what a table does, as far as its rules still tell."""
    found: dict[str, Any] = {"bridge": None, "cidr": None, "uplink": None, "masquerade": False}
    for chain, rules in table.content.get("rules", {}).items():
        for rule in rules:
            values = {
                _left(match): match.get("right")
                for match in (part["match"] for part in rule.get("expr", []) if "match" in part)
            }
            if chain == "input":
                found["bridge"] = values.get("iifname") or found["bridge"]
                found["cidr"] = _cidr(values.get("daddr")) or found["cidr"]
            if any("masquerade" in part for part in rule.get("expr", [])):
                found["masquerade"] = True
                found["uplink"] = values.get("oifname")
    return found


def _left(match: dict[str, Any]) -> str:
    left = match.get("left")
    if isinstance(left, dict):
        for what in ("meta", "payload", "ct"):
            if isinstance(left.get(what), dict):
                return str(left[what].get("key") or left[what].get("field"))
    return ""


def _cidr(value: Any) -> str | None:
    if isinstance(value, dict) and "prefix" in value:
        return f"{value['prefix']['addr']}/{value['prefix']['len']}"
    return f"{value}/32" if isinstance(value, str) else None


# What others drop


@dataclass(frozen=True)
class Packet:
    """A packet that has to get through: from a guest to the world, or the answer."""

    iifname: str
    oifname: str
    saddr: str | None
    daddr: str | None
    state: str
    bridged: bool = False


def foreign_drops(ruleset: list[Any], rules: Rules, bridged: bool = False) -> list[tuple[str, str, str]]:
    """Find chains of other tables that drop a network's packets; our accept doesn't overrule them.

    :param bridged: Whether to look for those that pass its bridge from port to port, rather than for those from and to
        its uplink.
    :returns: Family, table and chain of each. Only what is sure is told: a rule with a match that isn't understood is
        passed by.
    """
    guest, other = (str(address) for address in itertools.islice(ipaddress.ip_network(rules.cidr).hosts(), 2))
    packets = []
    if bridged:
        packets = [Packet(rules.bridge, rules.bridge, guest, other, "new", bridged=True)]
    elif rules.uplink:
        packets = [
            Packet(rules.bridge, rules.uplink, guest, None, "new"),
            Packet(rules.uplink, rules.bridge, None, guest, "established"),
        ]
    bases = []
    chains: dict[tuple[str, str, str], list[Any]] = {}
    for entry in ruleset:
        chain, rule = entry.get("chain"), entry.get("rule")
        if (
            chain
            and chain.get("hook") == "forward"
            and chain.get("family") in ("ip", "inet")
            and not TABLE.fullmatch(chain["table"])
        ):
            bases.append(((chain["family"], chain["table"], chain["name"]), chain.get("policy", "accept")))
        if rule:
            chains.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule.get("expr", []))
    return [
        base
        for base, policy in bases
        if any((_verdict(chains, base, packet, 0) or policy) == "drop" for packet in packets)
    ]


def _verdict(
    chains: dict[tuple[str, str, str], list[Any]], chain: tuple[str, str, str], packet: Packet, depth: int
) -> str | None:
    for expr in chains.get(chain, []) if depth < 16 else []:
        if not all(_matches(part, packet) for part in expr):
            continue
        for part in expr:
            if "accept" in part:
                return "accept"
            if "drop" in part or "reject" in part:
                return "drop"
            if "return" in part:
                return None
            jump = part.get("jump") or part.get("goto")
            verdict = _verdict(chains, (chain[0], chain[1], jump["target"]), packet, depth + 1) if jump else None
            if verdict or "goto" in part:
                return verdict
    return None


def _matches(part: dict[str, Any], packet: Packet) -> bool:
    if "match" not in part:
        if isinstance(part.get("xt"), dict) and part["xt"].get("name") == "physdev":
            return packet.bridged  # as a rule it is --physdev-is-bridged, with an accept
        return not {"xt", "vmap", "limit", "quota", "connlimit"} & set(part)
    match = part["match"]
    known: dict[str, str | None] = {
        "iifname": packet.iifname,
        "iif": packet.iifname,
        "oifname": packet.oifname,
        "oif": packet.oifname,
        "saddr": packet.saddr,
        "daddr": packet.daddr,
        "state": packet.state,
        "nfproto": "ipv4",
    }
    value = known.get(_left(match))
    if value is None:
        return False
    right = match.get("right")
    choices = right.get("set", [right]) if isinstance(right, dict) else right if isinstance(right, list) else [right]
    negated = bool(match.get("op") == "!=")
    return any(_is(value, choice) for choice in choices) != negated


def _is(value: str, choice: Any) -> bool:
    if isinstance(choice, dict) and "prefix" in choice:
        try:
            return ipaddress.ip_address(value) in ipaddress.ip_network(_cidr(choice) or "", strict=False)
        except ValueError:
            return False
    return isinstance(choice, str) and (value.startswith(choice[:-1]) if choice.endswith("*") else value == choice)


def translates(ruleset: list[Any]) -> bool:
    """Tell whether a table of somebody else translates addresses, so that forwarding is theirs too."""
    return any(
        not TABLE.fullmatch(rule["table"]) and any({"masquerade", "snat"} & set(part) for part in rule.get("expr", []))
        for rule in (entry["rule"] for entry in ruleset if "rule" in entry)
    )
