# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What iptables-legacy filters, told as ``nft -j list ruleset`` would, which does not show it."""

from __future__ import annotations

import shlex
from typing import Any

from ..._core.commands import find_tool, run

TOOL = "iptables-legacy"
# Its rules and those of an nftables table of the same name are two things.
TABLE = "filter (iptables-legacy)"
# The kernel lists there which tables of the old kind exist; to ask the tool for one that doesn't would make it.
_TABLES = "/proc/net/ip_tables_names"
_VERDICTS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "reject", "RETURN": "return"}
_META = {"-i": "iifname", "-o": "oifname"}
_PAYLOAD = {"-s": "saddr", "-d": "daddr"}
_MODULES = ("conntrack", "state", "comment", "physdev")  # for -m: those that need no words of their own here


def in_use() -> bool:
    """Tell whether this node filters IPv4 with the old kind of table."""
    try:
        with open(_TABLES, encoding="ascii") as stream:
            return "filter" in stream.read().split()
    except OSError:
        return False


def read_rules() -> list[Any] | None:
    """Give its chains and rules as libnftables-json(5) has them; nothing where it is not used, None where the tool to
    ask is missing.

    :raises ComputeError: When the tool fails.
    :raises ValueError: When what it prints can't be read.
    """
    if not in_use():
        return []
    # Another one that is just changing the rules holds a lock (xtables(8)): it is waited for.
    return parse(run([TOOL, "-w", "5", "-S"], timeout=30).stdout) if find_tool(TOOL) else None


def parse(text: str) -> list[Any]:
    """Read what ``iptables-legacy -S`` printed (iptables(8))."""
    lines = [shlex.split(line) for line in text.splitlines()]
    made: list[Any] = []
    for words in lines:
        there = {"family": "ip", "table": TABLE}
        if words[:1] == ["-P"] and len(words) > 2:
            made.append({"chain": {**there, "name": words[1], "hook": words[1].lower(), "policy": words[2].lower()}})
        elif words[:1] == ["-N"] and len(words) > 1:
            made.append({"chain": {**there, "name": words[1]}})
        elif words[:1] == ["-A"] and len(words) > 1:
            made.append({"rule": {**there, "chain": words[1], "expr": _expression(words[2:])}})
    return made


def _expression(words: list[str]) -> list[Any]:
    made: list[Any] = []
    operator, rest = "==", iter(words)
    for word in rest:
        if word == "!":
            operator = "!="
            continue
        if word == "--physdev-is-bridged" and operator == "==":
            made.append({"xt": {"type": "match", "name": "physdev"}})
            continue
        value = next(rest, "")
        if word in ("-j", "-g"):
            verdict = _VERDICTS.get(value)
            return [*made, {verdict: None} if verdict else {"jump" if word == "-j" else "goto": {"target": value}}]
        if word in _META:
            made.append(
                _match({"meta": {"key": _META[word]}}, operator, f"{value[:-1]}*" if value.endswith("+") else value)
            )
        elif word in _PAYLOAD:
            address, _slash, length = value.partition("/")
            # A mask with gaps, such as 255.0.255.0, is no prefix: what it matches is not known here.
            if "." in length:
                made.append({"xt": {"type": "match", "name": word}})
            else:
                field = {"payload": {"protocol": "ip", "field": _PAYLOAD[word]}}
                made.append(_match(field, operator, {"prefix": {"addr": address, "len": int(length or 32)}}))
        elif word in ("--ctstate", "--state"):
            made.append(_match({"ct": {"key": "state"}}, operator, value.lower().split(",")))
        elif word != "--comment" and (word != "-m" or value not in _MODULES):
            made.append({"xt": {"type": "match", "name": word}})
        operator = "=="
    return made


def _match(left: Any, operator: str, right: Any) -> Any:
    return {"match": {"left": left, "op": operator, "right": right}}
