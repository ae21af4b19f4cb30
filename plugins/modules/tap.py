#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tap
short_description: Ports of instances on a bridge
version_added: 0.1.0
author: ikcloud.compute authors (@ikcloud)
description:
  - Makes tap links that QEMU opens as an instance's network card, and joins them to a bridge.
  - A tap belongs to QEMU's unprivileged user, so that QEMU needs no privilege to open it. The owner can't be changed in place.
    The link is made anew for that, but never while an instance has it open; then RV(results[].restart_required) is true.
  - The ports are never isolated from each other, so the instances of a network on one node see each other.
  - A file in C(run/networks) below O(root) holds the lines that make the link; C(compute-networks.service) replays it after a reboot.
extends_documentation_fragment:
  - ikcloud.compute.batch
options:
  taps:
    description: The taps.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The link's name, 15 characters at most, such as V(vnet-af95e879).
        type: str
        required: true
      bridge:
        description: The bridge that the tap is a port of. Required with O(state=present). M(ikcloud.compute.bridge) makes it.
        type: str
      mtu:
        description: The MTU in bytes, the same as the bridge's.
        type: int
        default: 1450
      owner:
        description: The user that QEMU runs as. The role C(prepare) makes the default one.
        type: str
        default: compute-service
      instance:
        description: The instance whose port it is, for its mark; the tap's name when it isn't given.
        type: str
seealso:
  - module: ikcloud.compute.bridge
  - module: ikcloud.compute.instance
"""

EXAMPLES = r"""
- name: The bridge of the network blue
  ikcloud.compute.bridge:
    bridges:
      - {name: br-gnv-fc814e42, network: blue}

- name: The ports of two instances
  ikcloud.compute.tap:
    taps:
      - {name: vnet-af95e879, bridge: br-gnv-fc814e42, instance: web-1}
      - {name: vnet-5c0d9b12, bridge: br-gnv-fc814e42, instance: web-2}

- name: Remove the port of an instance
  ikcloud.compute.tap:
    taps:
      - name: vnet-5c0d9b12
    state: absent
"""

RETURN = r"""
changed:
  description: Whether something was changed, or would be in check mode.
  returned: always
  type: bool
  sample: true
before:
  description: The items as they were, by name; null for one that was not there. What needs no look has no entry.
  returned: success
  type: dict
  sample: {vnet-af95e879: null}
after:
  description: The items as they are now, by name, predicted in check mode; null for one that is gone.
  returned: success
  type: dict
  sample: {vnet-af95e879: {instance: web-1, bridge: br-gnv-fc814e42, mtu: 1450, owner: compute-service, isolated: false, up: true}}
commands:
  description: The exact commands, in order, as a person would type them; in check mode those that the next run executes.
  returned: success
  type: list
  elements: str
  sample:
    - ip tuntap add dev vnet-af95e879 mode tap user compute-service
    - ip link set dev vnet-af95e879 up
results:
  description: An entry for each item, and for the systemd unit and the like when they change.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: The item's name., type: str, returned: always}
    action: {description: "C(none), C(create), C(update) or C(delete).", type: str, returned: always}
    changed: {description: Whether it was changed., type: bool, returned: always}
    effect: {description: "C(none), C(create), C(live), C(restart), C(rebuild) or C(destroy).", type: str, returned: always}
    reasons: {description: What differed., type: list, elements: str, returned: always}
    restart_required: {description: Whether a change waits for a restart., type: bool, returned: always}
    restart_reason: {description: Why a restart is needed., type: str, returned: always}
    error: {description: Why this item failed., type: str, returned: when it failed}
  sample:
    - {name: vnet-af95e879, action: create, changed: true, reasons: [], restart_required: false, restart_reason: ""}
diff:
  description: What changes, item by item.
  returned: success
  type: list
  elements: dict
  sample: []
"""

import pwd
import re

from ansible_collections.ikcloud.compute.plugins.module_utils import engine
from ansible_collections.ikcloud.compute.plugins.module_utils.engine import Change, Found, Item
from ansible_collections.ikcloud.compute.plugins.module_utils.links import Link, LinkKind, Repair, required_problems
from ansible_collections.ikcloud.compute.plugins.module_utils.names import link_problem, name_problem
from ansible_collections.ikcloud.compute.plugins.module_utils.steps import Ip

# useradd(8), "CAVEATS": what Debian takes for a user name.
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


class Tap(LinkKind):
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
    prefix = "30-"
    kinds = ("tap",)
    mark_kind = "instance"

    def __init__(self, params: Item) -> None:
        super().__init__(params)
        self.uids: dict[str, int] = {}

    def problems(self, index: int, item: Item) -> list[str]:
        what = f"taps[{index}]"
        problems = super().problems(index, item) + required_problems(what, item, ["bridge", "owner"])
        named = [link_problem(f"{what}.bridge", item["bridge"]) if item["bridge"] else None]
        named += [name_problem(f"{what}.instance", item["instance"]) if item["instance"] is not None else None]
        if item["owner"] and not _USER.fullmatch(item["owner"]):
            named.append(f"{what}.owner: {item['owner']!r} is not a user name.")
        return problems + [problem for problem in named if problem]

    def observe_bare(self, items: list[Item]) -> dict[str, Found]:
        # ip prints a user's name where it has one, else the number: compare numbers.
        have = super().observe_bare(items)
        users = {item["owner"] for item in items} | {str(found.raw.info.get("user", "")) for found in have.values() if found.raw}
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

    def change(self, item: Item, have: Found | None) -> Change:
        change = super().change(item, have)
        if change.restart_reason:
            change.warnings.append(f"tap {item['name']}: {change.restart_reason}.")
        return change

    def props(self, link: Link) -> Item:
        owner = str(link.info.get("user", ""))
        instance = link.alias.rpartition("/")[2]
        return {"instance": instance, "bridge": link.master, "mtu": link.mtu, "owner": owner, "isolated": link.isolated, "up": link.up}

    def wanted(self, item: Item) -> Item:
        return {"instance": self.mark_name(item), **{key: item[key] for key in ("bridge", "mtu", "owner")}, "isolated": False, "up": True}

    def lacking(self, changes: list[Change], check_mode: bool) -> list[str]:
        problems = super().lacking(changes, check_mode)
        if check_mode:
            return problems
        made = {change.name for change in changes if any(isinstance(step, Ip) and step.line.startswith("tuntap add ") for step in change.steps)}
        users = {item["owner"] for item in self.params["taps"] if item["name"] in made and item["owner"] not in self.uids}
        return problems + [f"There is no user {user!r} on this node. The role ikcloud.compute.prepare makes it." for user in sorted(users)]


def uid_of(user: str) -> int | None:
    """Give a user's number; None when there is no such user."""
    if user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def main() -> None:
    """Run the module."""
    engine.main(Tap)


if __name__ == "__main__":
    main()
