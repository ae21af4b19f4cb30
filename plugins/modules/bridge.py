#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bridge
short_description: Bridges that a node's instances and tunnels are joined to
version_added: 0.1.0
author: ikcloud.compute authors (@ikcloud)
description:
  - Makes Linux bridges, one for each network of the compute service that the node takes part in.
  - The whole list is read by one C(ip) process and changed by one C(ip -batch), whatever its length.
  - A file in C(run/networks) below O(root) holds the lines that make the bridge, for C(ip -batch) and a person to read.
    C(compute-networks.service) replays the files after a reboot. This module installs that unit on a node with systemd.
  - A bridge of ours carries its network in its ifalias. A link of the same name without that mark is never touched; it is an error.
  - A bridge with an address has a MAC address that follows from its name and its first address, so that guests find their gateway
    when ports come and go.
extends_documentation_fragment:
  - ikcloud.compute.batch
options:
  bridges:
    description: The bridges.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The bridge's name, 15 characters at most, such as V(br-gnv-fc814e42).
        type: str
        required: true
      network:
        description: The network that it belongs to, for its mark. Required with O(state=present).
        type: str
      mtu:
        description:
          - The MTU in bytes. It is set explicitly, since the kernel does not fit it in every order of events.
          - GENEVE and VXLAN take 50 bytes of the underlay's MTU, 70 over IPv6.
        type: int
        default: 1450
      addresses:
        description:
          - The bridge's own addresses with prefix length, exactly these. The first node of a network has the gateway address here.
          - They are added and removed live.
        type: list
        elements: str
        default: []
      labels:
        description: What else is to be known of its network; kept in its file and read by M(ikcloud.compute.node_info), without a meaning here.
        type: dict
        default: {}
seealso:
  - module: ikcloud.compute.geneve_tunnel
  - module: ikcloud.compute.tap
  - module: ikcloud.compute.nat
"""

EXAMPLES = r"""
- name: The bridge of the network blue, with its gateway address
  ikcloud.compute.bridge:
    bridges:
      - name: br-gnv-fc814e42
        network: blue
        mtu: 1450
        addresses: [192.0.2.1/24]

- name: Exactly these bridges; others that this collection made are removed
  ikcloud.compute.bridge:
    bridges:
      - {name: br-gnv-fc814e42, network: blue}
      - {name: br-gnv-1a2b3c4d, network: green, mtu: 1430, addresses: ["198.51.100.1/24", "2001:db8:88::1/64"]}
    purge: true

- name: Remove one
  ikcloud.compute.bridge:
    bridges:
      - name: br-gnv-1a2b3c4d
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
  sample: {br-gnv-fc814e42: null}
after:
  description: The items as they are now, by name, predicted in check mode; null for one that is gone.
  returned: success
  type: dict
  sample: {br-gnv-fc814e42: {network: blue, mtu: 1450, addresses: [192.0.2.1/24], up: true}}
commands:
  description: The exact commands, in order, as a person would type them; in check mode those that the next run executes.
  returned: success
  type: list
  elements: str
  sample:
    - ip link add dev br-gnv-fc814e42 type bridge stp_state 0
    - ip link set dev br-gnv-fc814e42 up
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
    - {name: br-gnv-fc814e42, action: create, changed: true, reasons: [], restart_required: false, restart_reason: ""}
diff:
  description: What changes, item by item.
  returned: success
  type: list
  elements: dict
  sample: []
"""

import ipaddress
import json

from ansible_collections.ikcloud.compute.plugins.module_utils import engine
from ansible_collections.ikcloud.compute.plugins.module_utils.engine import Change, Found, Item
from ansible_collections.ikcloud.compute.plugins.module_utils.links import Link, LinkKind, Repair, required_problems
from ansible_collections.ikcloud.compute.plugins.module_utils.names import LABELS, mac_address, name_problem


class Bridge(LinkKind):
    """Bridges of the compute service's networks."""

    noun = "bridge"
    option = "bridges"
    suboptions = {
        "name": {"type": "str", "required": True},
        "network": {"type": "str"},
        "mtu": {"type": "int", "default": 1450},
        "addresses": {"type": "list", "elements": "str", "default": []},
        "labels": {"type": "dict", "default": {}},
    }
    prefix = "10-"
    kinds = ("bridge",)
    mark_kind = "network"

    def problems(self, index: int, item: Item) -> list[str]:
        what = f"bridges[{index}]"
        problems = super().problems(index, item) + required_problems(what, item, ["network"])
        problem = name_problem(f"{what}.network", item["network"]) if item["network"] else None
        problems += [problem] if problem else []
        for number, address in enumerate(item["addresses"]):
            problems += address_problem(f"{what}.addresses[{number}]", address)
        return problems

    def list_problems(self, items: list[Item]) -> list[str]:
        problems = []
        first: dict[str, str] = {}
        for index, item in enumerate(items):
            for number, address in enumerate(item["addresses"]):
                where = f"bridges[{index}].addresses[{number}]"
                host = str(ipaddress.ip_interface(address).ip)
                if host in first:
                    problems.append(f"{where}: {host} stands already at {first[host]}; an address belongs to one bridge.")
                first.setdefault(host, where)
        return problems

    def mark_name(self, item: Item) -> str:
        return str(item["network"])

    def lines(self, item: Item) -> dict[str, str]:
        name, wanted = item["name"], addresses_of(item)
        lines = self.base_lines(item, f"link add dev {name} type bridge stp_state 0")
        if wanted:
            lines["mac"] = f"link set dev {name} address {gateway_mac(item)}"
        lines.update({f"address {address}": f"address replace {address} dev {name}" for address in wanted})
        lines["up"] = f"link set dev {name} up"
        return lines

    def repair(self, item: Item, link: Link, repair: Repair) -> None:
        name, lines, wanted = item["name"], self.lines(item), addresses_of(item)
        if link.info.get("stp_state"):
            repair.lines.append(f"link set dev {name} type bridge stp_state 0")
            repair.reasons.append("STP is on")
        if wanted and link.mac != gateway_mac(item):
            repair.lines.append(lines["mac"])
            repair.reasons.append(f"MAC address is {link.mac}, not {gateway_mac(item)}")
        have = {str(ipaddress.ip_interface(address)): address for address in link.addresses}
        extra = [text for address, text in have.items() if address not in wanted]
        # The kernel takes an IPv4 subnet's further addresses away with its first one: delete the last one first, and put all back.
        repair.lines += [f"address delete {address} dev {name}" for address in reversed(extra)]
        missing = [address for address in wanted if extra or address not in have]
        repair.lines += [lines[f"address {address}"] for address in missing]
        if extra:
            repair.reasons.append(f"it has {', '.join(extra)}, which is not declared")
        if set(wanted) - set(have):
            repair.reasons.append(f"it lacks {', '.join(address for address in wanted if address not in have)}")

    def text(self, item: Item) -> str:
        first, rest = super().text(item).split("\n", 1)
        labels = item.get("labels")
        return f"{first}\n{LABELS}{json.dumps(labels, sort_keys=True)}\n{rest}" if labels else f"{first}\n{rest}"

    def props(self, link: Link) -> Item:
        return {"network": link.alias.rpartition("/")[2], "mtu": link.mtu, "addresses": sorted(link.addresses), "up": link.up}

    def wanted(self, item: Item) -> Item:
        return {"network": item["network"], "mtu": item["mtu"], "addresses": sorted(addresses_of(item)), "up": True}

    def common(self, changes: list[Change], have: dict[str, Found]) -> list[Change]:
        return self.boot.bridge_changes(changes, self.prefix, self.links)


def addresses_of(item: Item) -> list[str]:
    """Give an item's addresses as the kernel spells them."""
    return [str(ipaddress.ip_interface(address)) for address in item["addresses"]]


def gateway_mac(item: Item) -> str:
    """Give the MAC address of a bridge with addresses.

    Without one of its own a bridge takes the lowest of its ports', and guests lose their gateway when a port comes or goes.
    It must differ between the nodes of a network, hence the address.
    """
    return mac_address(f"bridge/{item['name']}/{ipaddress.ip_interface(item['addresses'][0]).ip}")


def address_problem(what: str, address: str) -> list[str]:
    """Say what is wrong with an address with prefix length."""
    try:
        interface = ipaddress.ip_interface(address)
    except ValueError:
        return [f"{what}: {address!r} is not an address; write it with its prefix length, such as 192.0.2.1/24."]
    if "/" not in address or "%" in address or not address.partition("/")[2].isdigit():
        return [f"{what}: {address!r} needs a prefix length, such as 192.0.2.1/24."]
    if interface.ip.is_multicast or interface.ip.is_unspecified or interface.ip.is_loopback:
        return [f"{what}: {address!r} can't be the address of a bridge."]
    if interface.network.prefixlen < interface.max_prefixlen - 1 and interface.ip == interface.network.network_address:
        return [f"{what}: {address!r} is the address of the network itself; give one inside it, such as {interface.ip + 1}/{interface.network.prefixlen}."]
    return []


def main() -> None:
    """Run the module."""
    engine.main(Bridge)


if __name__ == "__main__":
    main()
