# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The instances' ports, as the module tap takes them."""

from __future__ import annotations

import pwd
import re

from .._core.changes import Change, Item, Observed
from .._core.names import link_problem, name_problem
from .._core.steps import Ip
from .links import Link, LinkResource, Repair, required_problems
from .persistence import BootFiles

# useradd(8), "CAVEATS": what Debian takes for a user name.
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


class TapResource(LinkResource):
    """Ports of the compute service's instances."""

    noun = "tap"
    option = "taps"
    suboptions = {
        "name": {"type": "str", "required": True},
        "bridge": {"type": "str"},
        "mtu": {"type": "int", "default": 1450},
        "owner": {"type": "str", "default": "compute-service"},
        "instance": {"type": "str"},
    }
    boot_files = BootFiles("30-")
    kinds = ("tap",)
    mark_kind = "instance"

    def __init__(self, params: Item) -> None:
        super().__init__(params)
        self.uids: dict[str, int] = {}

    def validate_item(self, index: int, item: Item) -> list[str]:
        what = f"taps[{index}]"
        problems = super().validate_item(index, item) + required_problems(what, item, ["bridge", "owner"])
        named = [link_problem(f"{what}.bridge", item["bridge"]) if item["bridge"] else None]
        named += [name_problem(f"{what}.instance", item["instance"]) if item["instance"] is not None else None]
        if item["owner"] and not _USER.fullmatch(item["owner"]):
            named.append(f"{what}.owner: {item['owner']!r} is not a user name.")
        return problems + [problem for problem in named if problem]

    def observe_without_tools(self, items: list[Item]) -> dict[str, Observed]:
        # ip prints a user's name where it has one, else the number: compare numbers.
        have = super().observe_without_tools(items)
        users = {item["owner"] for item in items} | {
            str(found.native.info.get("user", "")) for found in have.values() if found.native
        }
        self.uids = {user: uid for user in users for uid in [uid_of(user)] if uid is not None}
        return have

    def mark_name(self, item: Item) -> str:
        return str(item["instance"] or item["name"])

    def lines(self, item: Item) -> dict[str, str]:
        name = item["name"]
        lines = self.base_lines(item, f"tuntap add dev {name} mode tap user {item['owner']}")
        lines["master"] = f"link set dev {name} master {item['bridge']}"
        lines["up"] = f"link set dev {name} up"
        return lines

    def repair(self, item: Item, link: Link, repair: Repair) -> None:
        if link.isolated:
            repair.lines.append(f"link set dev {link.name} type bridge_slave isolated off")
            repair.reasons.append("it is isolated from the other instances")
        user = str(link.info.get("user", ""))
        if user != item["owner"] and (user not in self.uids or self.uids[user] != self.uids.get(item["owner"])):
            reason = f"owner is {user or 'missing'}, declared {item['owner']}"
            if link.carrier:
                repair.restart = f"{reason}; it can be made anew only while the instance is stopped"
            else:
                repair.remake.append(reason)

    def change(self, item: Item, have: Observed | None) -> Change:
        change = super().change(item, have)
        if change.restart_reason:
            change.warnings.append(f"tap {item['name']}: {change.restart_reason}.")
        return change

    def attributes(self, link: Link) -> Item:
        owner = str(link.info.get("user", ""))
        instance = link.alias.rpartition("/")[2]
        return {
            "instance": instance,
            "bridge": link.master,
            "mtu": link.mtu,
            "owner": owner,
            "isolated": link.isolated,
            "up": link.up,
        }

    def wanted(self, item: Item) -> Item:
        return {
            "instance": self.mark_name(item),
            **{key: item[key] for key in ("bridge", "mtu", "owner")},
            "isolated": False,
            "up": True,
        }

    def missing_prerequisites(self, changes: list[Change], check_mode: bool) -> list[str]:
        problems = super().missing_prerequisites(changes, check_mode)
        if check_mode:
            return problems
        made = {
            change.name
            for change in changes
            if any(isinstance(step, Ip) and step.line.startswith("tuntap add ") for step in change.steps)
        }
        users = {
            item["owner"] for item in self.params["taps"] if item["name"] in made and item["owner"] not in self.uids
        }
        return problems + [
            f"There is no user {user!r} on this node. The role ikcloud.compute.prepare makes it."
            for user in sorted(users)
        ]


def uid_of(user: str) -> int | None:
    """Give a user's number; None when there is no such user."""
    if user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None
