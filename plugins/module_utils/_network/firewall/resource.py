# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The networks' way out, as the module nat takes it."""

from __future__ import annotations

import ipaddress
import os
import re

from ..._core.changes import Change, Item, Observed
from ..._core.commands import find_tool, run
from ..._core.errors import ComputeError
from ..._core.layout import Layout
from ..._core.names import is_marked, link_problem, name_problem
from ..._core.reconcile import Resource
from ..._core.steps import Remove, Run, Stage, Step, Write
from ..links import required_problems
from ..persistence import Boot, BootFiles, read_boot, read_text
from . import iptables
from .forwarding import Forwarding, read_forwarding, read_uplink
from .nft import FAMILY, Rules, Table, describe, foreign_drops, parse, read_tables, render, text_of, translates

# Whether br_netfilter has the IPv4 filters see what passes a bridge (Documentation/networking/ip-sysctl.rst); not there
# without that module.
BRIDGED = "/proc/sys/net/bridge/bridge-nf-call-iptables"
_ID = re.compile(r"[0-9a-f]{8}")
# What the kernel takes for a link's name is nearly anything; these are the characters of real cards, VLANs and bonds.
_UPLINK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,14}")


class NatResource(Resource):
    """The ways out of the compute service's networks."""

    noun = "nat"
    option = "networks"
    suboptions = {
        "name": {"type": "str", "required": True},
        "id": {"type": "str"},
        "bridge": {"type": "str"},
        "cidr": {"type": "str"},
        "uplink": {"type": "str"},
        "masquerade": {"type": "bool", "default": True},
    }
    tools = ("ip", "nft", "sysctl")
    boot_files = BootFiles("50-nat-", (".nft",))

    def __init__(self, params: Item) -> None:
        super().__init__(params)
        self.layout = Layout(self.root)
        self.boot = Boot(self.layout)
        self.forwarding = Forwarding()
        self.tables: dict[str, Table] = {}
        self.expected: dict[str, Table] = {}
        self.uplink: str | None = None  # None: not known, in check mode before ip is there
        self.foreign: list[str] = []

    def validate_item(self, index: int, item: Item) -> list[str]:
        what = f"networks[{index}]"
        problems = required_problems(what, item, ["id", "bridge", "cidr"])
        named = [name_problem(f"{what}.name", item["name"])]
        named += [link_problem(f"{what}.bridge", item["bridge"]) if item["bridge"] else None]
        if item["id"] and not _ID.fullmatch(item["id"]):
            named.append(f"{what}.id: {item['id']!r} is not 8 hex digits in lower case.")
        if item["uplink"] is not None and not _UPLINK.fullmatch(item["uplink"]):
            named.append(f"{what}.uplink: {item['uplink']!r} is not the name of a link.")
        if item["uplink"] and item["uplink"] == item["bridge"]:
            named.append(f"{what}.uplink: it is the network's own bridge; name the link to the world.")
        if item["cidr"]:
            named.append(cidr_problem(f"{what}.cidr", item["cidr"]))
        return problems + [problem for problem in named if problem]

    def validate_list(self, items: list[Item]) -> list[str]:
        problems = []
        for key in ("id", "bridge"):
            first: dict[str, int] = {}
            for index, item in enumerate(items):
                if item[key] in first:
                    problems.append(
                        f"networks[{index}].{key}: {item[key]} stands already at networks[{first[item[key]]}]; each"
                        " network has its own."
                    )
                first.setdefault(item[key], index)
        ranges = sorted((ipaddress.IPv4Network(item["cidr"]), index) for index, item in enumerate(items))
        for (lower, one), (upper, other) in zip(ranges, ranges[1:]):
            if lower.overlaps(upper):
                problems.append(
                    f"networks[{other}].cidr: {upper} overlaps {lower} at networks[{one}]; one node can't route both."
                )
        return problems

    def observe(self, items: list[Item]) -> dict[str, Observed]:
        present = self.params["state"] == "present"
        self.read()
        self.uplink = read_uplink() if present else ""
        ruleset = parse(run(["nft", "-j", "list", "ruleset"]).stdout)
        self.tables = read_tables(ruleset)
        self.forwarding = read_forwarding(translates(ruleset))
        for name, files in self.boot.names(self.boot_files.prefix).items():
            for table in self.tables.values():
                # Emptied by hand (nft flush), it has lost its mark; the file says whose it is.
                if not table.network and any(
                    f"table {FAMILY} {table.name} {{" in self.boot.files[file] for file in files
                ):
                    table.network = name
        known = [rules for rules in (self.rules(item) for item in items if present) if rules]
        self.foreign = [rules.bridge for rules in known if self.is_foreign(rules.bridge)]
        texts = [text_of(rules, self.file(rules.name)) for rules in known if rules.table in self.tables]
        self.expected = render(texts) if texts else {}
        self.warn_of_drops(
            [*ruleset, *self.legacy_rules(known)], known, bridged=(read_text(BRIDGED) or "").strip() == "1"
        )
        return self.found(items)

    def observe_without_tools(self, items: list[Item]) -> dict[str, Observed]:
        self.read()
        if find_tool("ip"):
            self.uplink = read_uplink()
        return self.found(items)

    def read(self) -> None:
        """Read what takes no tool."""
        self.boot = read_boot(self.layout)
        self.forwarding = read_forwarding(others=False)

    def is_foreign(self, bridge: str) -> bool:
        """Tell whether a bridge is there that others made."""
        folder = f"/sys/class/net/{bridge}"
        return os.path.isdir(f"{folder}/bridge") and not is_marked(read_text(f"{folder}/ifalias"))

    def found(self, items: list[Item]) -> dict[str, Observed]:
        """Give what is there by network: its tables and its file, and foreign tables by the name of a listed one."""
        found: dict[str, Observed] = {name: Observed({}, native=[]) for name in self.boot.names(self.boot_files.prefix)}
        for table in self.tables.values():
            if table.network:
                entry = found.setdefault(table.network, Observed({}, native=[]))
                entry.native.append(table.name)
                entry.attributes = {"id": table.name.partition("_")[2], **describe(table)}
        for item in items:
            namesake = self.tables.get(f"ikcloud_{item['id']}")
            if namesake and not namesake.network:
                found[item["name"]] = Observed({"id": item["id"]}, owned=False)
        return found

    def rules(self, item: Item) -> Rules | None:
        """Give what an item's table is made from; None when its uplink can't be found."""
        uplink = item["uplink"] or self.uplink
        if uplink is None and self.uplink is None:
            uplink = "unknown"  # only in the prediction of a file's text, on a node without ip
        if not item["masquerade"]:
            uplink = ""
        elif not uplink:
            return None
        return Rules(item["name"], item["id"], item["bridge"], str(ipaddress.IPv4Network(item["cidr"])), str(uplink))

    def file(self, name: str) -> str:
        """Give the name of the network's boot file."""
        return f"{self.boot_files.prefix}{name}.nft"

    def change(self, item: Item, have: Observed | None) -> Change:
        name, rules = item["name"], self.rules(item)
        if rules is None:
            raise ComputeError(
                f"nat {name}: this node has no IPv4 default route, so its uplink is not known.",
                f"Give the uplink of {name}.",
            )
        after = {
            "id": rules.id,
            "bridge": rules.bridge,
            "cidr": rules.cidr,
            "uplink": rules.uplink or None,
            "masquerade": bool(rules.uplink),
        }
        file, table = self.file(name), self.tables.get(rules.table)
        text, path = text_of(rules, file), self.layout.network(file)
        steps: list[Step] = []
        reasons: list[str] = []
        if self.boot.files.get(file) != text:
            steps.append(Write(path, text, stage=Stage.FILES))
            reasons.append(f"{file} {'differs' if file in self.boot.files else 'is missing'}")
        stale = [other for other in (have.native if have else []) if other != rules.table]
        steps += [Run(("nft", "delete", "table", FAMILY, other), stage=Stage.DELETE) for other in stale]
        expected = self.expected.get(rules.table)
        if table is None or expected is None or table.content != expected.content:
            steps.append(Run(("nft", "-f", path), stage=Stage.CREATE))
            reasons = self.reasons(table, after, name) if table else [f"the table {rules.table} is missing"]
        before = {"id": rules.id, **describe(table)} if table else have.attributes if have and have.native else None
        if not steps:
            return Change(name, before=before, after=after)
        return Change(name, "update" if before else "create", before, after, steps, reasons if before or have else [])

    def reasons(self, table: Table, after: Item, name: str) -> list[str]:
        """Say in what a table differs."""
        if table.network != name:
            return [f"the table belonged to the network {table.network}"]
        if not any(table.content.get("rules", {}).values()):
            return [f"the table {table.name} was emptied"]
        before = describe(table)
        reasons = [
            f"{key} is {before[key]}, declared {after[key]}"
            for key in ("bridge", "cidr", "uplink", "masquerade")
            if before[key] != after[key]
        ]
        return reasons or [f"the rules in the table {table.name} were changed"]

    def remove(self, name: str, have: Observed) -> Change:
        steps: list[Step] = [
            Run(("nft", "delete", "table", FAMILY, table), stage=Stage.DELETE) for table in have.native
        ]
        steps += [
            Remove(self.layout.network(file), stage=Stage.REMOVE)
            for file in self.boot.names(self.boot_files.prefix).get(name, [])
        ]
        return Change(name, "delete", have.attributes, None, steps)

    def shared_changes(self, changes: list[Change], have: dict[str, Observed]) -> list[Change]:
        after = self.boot.after(changes)
        wanted = any(
            file.startswith(self.boot_files.prefix) and text.rstrip("}\n\t ").endswith(" masquerade")
            for file, text in after.items()
        )
        return (self.forwarding.make() if wanted else self.forwarding.drop()) + self.boot.other_changes(
            changes, self.boot_files.prefix, self.foreign
        )

    def missing_prerequisites(self, changes: list[Change], check_mode: bool) -> list[str]:
        if not check_mode and changes and os.geteuid() != 0:
            return ["nat: only root changes the firewall. Use become: true."]
        items = {item["name"]: item for item in self.params["networks"] if self.params["state"] == "present"}
        return [
            f"nat {change.name}: the uplink {items[change.name]['uplink']} is not there. Give the name of a link of"
            " this node."
            for change in changes
            if change.name in items and items[change.name]["masquerade"] and items[change.name]["uplink"]
            if not os.path.exists(f"/sys/class/net/{items[change.name]['uplink']}")
        ]

    def legacy_rules(self, known: list[Rules]) -> list[object]:
        """Read what iptables-legacy filters, if it does, or say that this can't be seen."""
        try:
            found = iptables.read_rules() if known else []
        except (ComputeError, ValueError, OSError) as error:  # it is looked at for the sake of a warning alone
            self.warn(
                "What iptables-legacy filters on this node could not be read, so whether it drops what is forwarded"
                f" for guests is not known: {error}"
            )
            return []
        if found is None:
            self.warn(
                "iptables-legacy filters on this node and is not installed, so its chain FORWARD can't be seen. See"
                f" that it accepts what comes from and goes to {', '.join(rules.bridge for rules in known)}: install"
                " the package iptables, and this looks for itself."
            )
        return found or []

    def warn_of_drops(self, ruleset: list[object], known: list[Rules], bridged: bool = False) -> None:
        """Say which chains of others drop what these networks send and get.

        :param bridged: Whether what passes a bridge from port to port is filtered as if it were forwarded
            (br_netfilter).
        """
        drops: dict[tuple[str, str, str], dict[bool, list[Rules]]] = {}
        for rules in known:
            for between in (False, True) if bridged else (False,):
                for base in foreign_drops(ruleset, rules, between):
                    drops.setdefault(base, {}).setdefault(between, []).append(rules)
        for (family, table, chain), found in drops.items():
            names = {between: ", ".join(rules.name for rules in networks) for between, networks in found.items()}
            what = [f"what is forwarded for {names[False]}"] if False in names else []
            what += (
                [f"what guests of {names[True]} send each other, since net.bridge.bridge-nf-call-iptables is 1"]
                if True in names
                else []
            )
            advice = " ".join(
                dict.fromkeys(
                    drop_advice(family, table, chain, networks[0], ruleset, between)
                    for between, networks in sorted(found.items())
                )
            )
            said = f"The chain {chain} of the table {family} {table}, which is not ours, drops {', and '.join(what)}."
            self.warn(f"{said} An accept of ours can't overrule it. {advice}")

    def warn(self, text: str) -> None:
        """Warn once: a run observes twice."""
        if text not in self.warnings:
            self.warnings.append(text)


def drop_advice(family: str, table: str, chain: str, rules: Rules, ruleset: list[object], bridged: bool = False) -> str:
    """Say how the owner of a chain is told to let a network's packets pass.

    :param bridged: Whether they are those from port to port of its bridge.
    """
    chains = {
        entry["chain"]["name"]
        for entry in ruleset
        if isinstance(entry, dict) and "chain" in entry and entry["chain"]["table"] == table
    }
    tool = iptables.TOOL if table == iptables.TABLE else "iptables"
    if table == "firewalld":
        return (
            f"Allow it in firewalld: firewall-cmd --permanent --zone=trusted --add-interface={rules.bridge} &&"
            " firewall-cmd --reload"
        )
    if "ufw-user-forward" in chains:
        return (
            f"Allow it in ufw: ufw route allow in on {rules.bridge} out on {rules.bridge if bridged else rules.uplink}"
        )
    if "DOCKER-USER" in chains or tool == iptables.TOOL:
        where, whose = ("DOCKER-USER", "beside Docker") if "DOCKER-USER" in chains else (chain, "there")
        return (
            f"Allow it {whose}: {tool} -I {where} -i {rules.bridge} -j ACCEPT; {tool} -I {where} -o {rules.bridge} -j"
            " ACCEPT"
        )
    return f"Allow it there: accept iifname {rules.bridge} and oifname {rules.bridge} in {family} {table} {chain}."


def cidr_problem(what: str, cidr: str) -> str | None:
    """Say what is wrong with a network's addresses."""
    try:
        network = ipaddress.IPv4Network(cidr)
    except ValueError:
        return (
            f"{what}: {cidr!r} is not an IPv4 network; write the network's address with prefix length, such as"
            " 192.0.2.0/24."
        )
    if not cidr.partition("/")[2].isdigit() or not 8 <= network.prefixlen <= 30:
        return f"{what}: {cidr!r} needs a prefix length of 8 to 30."
    return None
