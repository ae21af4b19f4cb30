# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bridges, as the module bridge takes them."""

from __future__ import annotations

import ipaddress
import json

from .._core.changes import Change, Item, Observed
from .._core.names import LABELS, mac_address, name_problem
from .links import Link, LinkResource, Repair, required_problems
from .persistence import BootFiles, is_stale


class BridgeResource(LinkResource):
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
    boot_files = BootFiles("10-")
    kinds = ("bridge",)
    mark_kind = "network"

    def validate_item(self, index: int, item: Item) -> list[str]:
        what = f"bridges[{index}]"
        problems = super().validate_item(index, item) + required_problems(what, item, ["network"])
        problem = name_problem(f"{what}.network", item["network"]) if item["network"] else None
        problems += [problem] if problem else []
        for number, address in enumerate(item["addresses"]):
            problems += address_problem(f"{what}.addresses[{number}]", address)
        return problems

    def validate_list(self, items: list[Item]) -> list[str]:
        problems = []
        first: dict[str, str] = {}
        for index, item in enumerate(items):
            for number, address in enumerate(item["addresses"]):
                where = f"bridges[{index}].addresses[{number}]"
                host = str(ipaddress.ip_interface(address).ip)
                if host in first:
                    problems.append(
                        f"{where}: {host} stands already at {first[host]}; an address belongs to one bridge."
                    )
                first.setdefault(host, where)
        return problems

    def mark_name(self, item: Item) -> str:
        return str(item["network"])

    def lines(self, item: Item) -> dict[str, str]:
        name, wanted = item["name"], addresses_of(item)
        mac = f" address {gateway_mac(item)}" if wanted else ""
        # From its birth on, for udev gives another one a moment later to what has none of its own (systemd.link(5),
        # MACAddressPolicy).
        lines = self.base_lines(item, f"link add dev {name}{mac} type bridge stp_state 0")
        if wanted:
            lines["mac"] = f"link set dev {name}{mac}"  # for one that is there already
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
        # The kernel takes an IPv4 subnet's further addresses away with its first one: delete the last one first, and
        # put all back.
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

    def attributes(self, link: Link) -> Item:
        return {
            "network": link.alias.rpartition("/")[2],
            "mtu": link.mtu,
            "addresses": sorted(link.addresses),
            "up": link.up,
        }

    def wanted(self, item: Item) -> Item:
        return {"network": item["network"], "mtu": item["mtu"], "addresses": sorted(addresses_of(item)), "up": True}

    def observe(self, items: list[Item]) -> dict[str, Observed]:
        found = super().observe(items)
        self.boot.stale = self.boot.systemd and is_stale(self.boot.enabled)
        return found

    def shared_changes(self, changes: list[Change], have: dict[str, Observed]) -> list[Change]:
        return self.boot.bridge_changes(changes, self.boot_files.prefix, self.links)


def addresses_of(item: Item) -> list[str]:
    """Give an item's addresses as the kernel spells them."""
    return [str(ipaddress.ip_interface(address)) for address in item["addresses"]]


def gateway_mac(item: Item) -> str:
    """Give the MAC address of a bridge with addresses.

    Without one of its own a bridge takes the lowest of its ports', and guests lose their gateway when a port comes or
    goes. It must differ between the nodes of a network, hence the address.
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
        return [
            f"{what}: {address!r} is the address of the network itself; give one inside it, such as"
            f" {interface.ip + 1}/{interface.network.prefixlen}."
        ]
    return []
