# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is of a cloud, from what was declared and what the nodes say: for people, as tables, and as data."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...module_utils._compute.console import screen_socket
from ...module_utils._core.layout import instance_id
from .._declaration import ip
from .._declaration.model import Cloud
from .._declaration.reader import shown
from . import ssh
from .tables import one_line, table, width_of

Item = dict[str, Any]
# VNC's display 1 on the user's machine (RFC 6143: 5900 and the display); 0 may be their own screen.
SCREEN_PORT = 5901
# The commands of which one instance's are shown, and what a person has to know of them.
WAYS_IN = {
    "log": "",
    "console": ": Ctrl-] leaves it",
    "screen": f": for a VNC viewer, at localhost:{SCREEN_PORT} while this runs; Ctrl-C ends it",
}
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class NodeState:
    """What is known of one node.

    :ivar target: How to log in; None where SSH is not the way.
    :ivar info: What node_info returned; None where it was not run or not reached.
    :ivar instances: What instance_info returned; None likewise.
    """

    name: str
    address: str | None = None
    target: ssh.Target | None = None
    info: Mapping[str, Any] | None = None
    instances: list[Any] | None = None

    @property
    def missing(self) -> bool:
        """Whether nothing is known of it in this run."""
        return self.info is None and self.instances is None


@dataclass
class Status:
    """The whole: an entry for each node, network and instance, in the order in which it is shown."""

    nodes: list[Item] = field(default_factory=list)
    networks: list[Item] = field(default_factory=list)
    instances: list[Item] = field(default_factory=list)

    def text(self, width: int) -> list[str]:
        """Give the lines to show, with tables of at most ``width`` columns.

        Commands are never cut: those are to be copied.
        """
        lines = table(
            "NODES",
            ("node", "address", "instances", "memory MiB", "disk free", "state"),
            [_node_row(node) for node in self.nodes],
            width,
        )
        heads: tuple[str, ...] = ("network", "vni", "cidr", "gateway", "gateway node", "nat", "nodes")
        lines += [
            "",
            *table(
                "NETWORKS",
                heads,
                [[network[head.replace(" ", "_")] for head in heads] for network in self.networks],
                width,
            ),
        ]
        heads = ("instance", "power", "node", "addresses", "cpu", "memory")
        rows = [[entry["name"], *(entry[head] for head in heads[1:])] for entry in self.instances]
        if any(entry["note"] for entry in self.instances):
            heads, rows = (*heads, "note"), [[*row, entry["note"]] for row, entry in zip(rows, self.instances)]
        lines += ["", *table("INSTANCES", heads, rows, width)]
        ways = [entry for entry in self.instances if entry["login"] or entry["no_login"]]
        if ways:
            column = max(width_of(entry["name"]) for entry in ways)
            lines += [
                "",
                "LOG IN",
                *(f"{entry['name']:{column}}  {entry['login'] or 'no way: ' + entry['no_login']}" for entry in ways),
            ]
        for key, about in WAYS_IN.items():
            # One that can't be believed is the example where there is no other one.
            example = min(
                (entry for entry in self.instances if entry[key]), key=lambda entry: bool(entry["error"]), default=None
            )
            lines += ["", f"{key.upper()} of {example['name']}, as an example{about}", example[key]] if example else []
        missing = [node["name"] for node in self.nodes if node["state"] == "missing"]
        if missing:
            lines += ["", f"Nothing is known of {', '.join(missing)}: not reached, or not in this run."]
        return [one_line(line) for line in lines]


def _node_row(node: Item) -> list[Any]:
    memory = f"{node['memory_used']} of {node['memory']}" if node["memory"] is not None else None
    return [
        node["name"],
        node["address"],
        node["instances"],
        memory,
        None if node["disk_free"] is None else f"{node['disk_free'] // 1024} GiB",
        node["state"],
    ]


def make_status(cloud: Cloud, nodes: list[NodeState], planned: Mapping[str, Any] | None = None) -> Status:
    """Put together what is known.

    :param cloud: The declaration, as far as it is valid.
    :param nodes: In the inventory's order.
    :param planned: What cloud_plan says of the instances; None or empty where it was not run.
    """
    found = _with_declared_names([(node, entry) for node in nodes for entry in _instances_of(node)], cloud)
    networks = _networks(cloud, nodes)
    gateways = {network["network"]: network["gateway_node"] for network in networks}
    by_name = {node.name: node for node in nodes}
    status = Status([_node(node, [entry for owner, entry in found if owner is node]) for node in nodes], networks)
    for node, entry in found:
        status.instances.append(_instance(node, entry, cloud, _mapping(planned), gateways, by_name))
    there = {entry["name"] for entry in status.instances}
    missing = [node.name for node in nodes if node.missing]
    for instance in cloud.instances.values():
        if instance.name not in there:
            unknown = bool(missing) and instance.node in (None, *missing)
            status.instances.append(
                {
                    "name": instance.name,
                    "id": instance.id,
                    "node": instance.node,
                    "power": "unknown" if unknown else "absent",
                    "networks": [nic.network for nic in instance.nics],
                    "addresses": [nic.address for nic in instance.nics if nic.address],
                    "cpu": instance.cpu,
                    "memory": instance.memory,
                    "declared": True,
                    "restart_required": False,
                    "login": "",
                    "no_login": "",
                    "log": "",
                    "console": "",
                    "screen": "",
                    "error": "",
                    "note": f"may live on {' or '.join(missing)}" if unknown else "declared, not made yet",
                }
            )
    status.instances.sort(key=lambda entry: str(entry["name"]))
    return status


def _with_declared_names(
    found: list[tuple[NodeState, Mapping[str, Any]]], cloud: Cloud
) -> list[tuple[NodeState, Mapping[str, Any]]]:
    """Give the instances that have no name any more but their id's the declared one; scripts on the node know them by
    the former.
    """
    named = {entry["name"] for _node, entry in found}
    lost = {f"compute-{instance.id}": name for name, instance in cloud.instances.items() if name not in named}
    return [
        (node, {**entry, "name": lost.get(entry["name"], entry["name"]), "known_as": entry["name"]})
        for node, entry in found
    ]


def _instances_of(node: NodeState) -> list[Mapping[str, Any]]:
    """Take what instance_info says, else the less that node_info knows."""
    if node.instances is not None:
        return [entry for entry in node.instances if isinstance(entry, Mapping) and "name" in entry]
    return [
        {**entry, "name": name, "power": "running" if entry.get("running") else "stopped"}
        for name, entry in sorted(_mapping(_mapping(node.info).get("instances")).items())
        if isinstance(entry, Mapping)
    ]


def _node(node: NodeState, instances: list[Mapping[str, Any]]) -> Item:
    info = _mapping(node.info)
    lacking = [*(info.get("missing_packages") or []), *(["user"] if info.get("user_ready") is False else [])]
    return {
        "name": node.name,
        "address": node.address,
        "instances": None if node.missing else len(instances),
        "memory": info.get("memory_mb"),
        "memory_used": sum(_number(entry.get("memory")) for entry in instances if entry.get("power") != "stopped"),
        "disk_free": info.get("disk_free_mb") if isinstance(info.get("disk_free_mb"), int) else None,
        "state": "missing" if node.missing else f"lacks {', '.join(map(str, lacking))}" if lacking else "ready",
        "login": shlex.join(node.target.argv()) if node.target else "",
    }


def _networks(cloud: Cloud, nodes: list[NodeState]) -> list[Item]:
    """Say where each network is: by the nodes' bridges, and where the declaration wants its gateway as long as no node
    has it.
    """
    networks: dict[str, Item] = {
        name: {
            "network": name,
            "vni": network.vni,
            "cidr": str(network.cidr),
            "gateway": None if network.gateway is None else str(network.gateway),
            "gateway_node": network.gateway_node,
            "nat": network.nat,
            "nodes": [],
            "declared": True,
        }
        for name, network in cloud.networks.items()
    }
    for node in nodes:
        for name, found in sorted(_mapping(_mapping(node.info).get("networks")).items()):
            facts = _mapping(found)
            if not facts.get("bridge"):
                continue
            network = networks.setdefault(
                name,
                {
                    "network": name,
                    "vni": None,
                    "cidr": None,
                    "gateway": None,
                    "gateway_node": None,
                    "nat": None,
                    "nodes": [],
                    "declared": False,
                },
            )
            network["nodes"].append(node.name)
            interface = next(
                (cidr for cidr in map(ip.parse_cidr, facts.get("addresses") or []) if cidr is not None), None
            )
            if interface is not None:
                network.update(gateway=str(interface.ip), gateway_node=node.name)
                network["cidr"] = network["cidr"] or str(interface.cidr)
            tunnel = next((_mapping(entry) for entry in _mapping(facts.get("tunnels")).values()), {})
            network["vni"] = tunnel.get("vni") if network["vni"] is None else network["vni"]
    return [networks[name] for name in sorted(networks)]


@dataclass(frozen=True)
class _Way:
    """To whom in a guest one logs in, and at which addresses, each with its network.

    :ivar lie: What can't be true of what its files say of them, a sentence; "" for nothing.
    """

    user: str
    networks: list[str]
    addresses: list[str]
    lie: str = ""


def _way(entry: Mapping[str, Any], cloud: Cloud, planned: Mapping[str, Any]) -> _Way:
    """Take it from the declaration and the plan; of what is not declared from its labels, which QEMU's user can
    write.
    """
    labels = _mapping(entry.get("labels"))
    networks = [str(network) for network in _list(labels.get("networks"))]
    said = [str(address) for address in _list(entry.get("addresses")) or _list(labels.get("addresses"))]
    wrong = [address for address in said if ip.parse_address(address) is None]
    lie = f"start names an address that is none: {shown(wrong[0])}." if wrong else ""
    instance = cloud.instances.get(str(entry["name"]))
    if instance is None:
        return _Way(str(labels.get("user") or "ubuntu"), networks, [] if wrong else said, lie)
    known = {} if wrong else dict(zip(networks, said))
    plan = _mapping(planned.get(instance.name))
    known.update(zip(map(str, _list(plan.get("networks"))), map(str, _list(plan.get("addresses")))))
    known.update({nic.network: nic.address for nic in instance.nics if nic.address})
    there = [nic.network for nic in instance.nics if nic.network in known]
    return _Way(instance.user, there, [known[network] for network in there], lie)


def _instance(
    node: NodeState,
    entry: Mapping[str, Any],
    cloud: Cloud,
    planned: Mapping[str, Any],
    gateways: Mapping[str, Any],
    nodes: Mapping[str, NodeState],
) -> Item:
    name, way = str(entry["name"]), _way(entry, cloud, planned)
    login, no_login = (
        _login(way.user, way.networks, way.addresses, gateways, nodes) if entry.get("power") == "running" else ("", "")
    )
    error = " ".join(filter(None, (str(entry.get("error") or ""), way.lie)))
    notes = [
        *([f"can't be believed: {error.rstrip('.')}"] if error else []),
        *([] if name in cloud.instances else ["not declared"]),
        *([f"restart pending: {entry.get('restart_reason')}"] if entry.get("restart_required") else []),
        *(["its unit has failed"] if entry.get("unit") == "failed" else []),
    ]
    return {
        "name": name,
        "id": entry.get("id"),
        "node": node.name,
        "power": entry.get("power"),
        "networks": way.networks,
        "addresses": way.addresses,
        "cpu": entry.get("cpu"),
        "memory": entry.get("memory"),
        "declared": name in cloud.instances,
        "restart_required": bool(entry.get("restart_required")),
        "login": login,
        "no_login": no_login,
        **_ways_in(node.target, entry, str(entry["known_as"])),
        "error": error,
        "note": "; ".join(notes),
    }


def _ways_in(target: ssh.Target | None, entry: Mapping[str, Any], name: str) -> Item:
    """Give the commands that lead to an instance's serial console and to its screen: by scripts of root's, for its
    folder is QEMU's user's.
    """
    root, instances, machine = str(entry.get("folder") or "").rpartition("/instances/")
    identifier = instance_id(machine) or ""
    screen = str(entry.get("vnc") or "")
    # The scripts come with systemd's units. Its log is QEMU's user's file, for nobody to follow who can read more than
    # that.
    script = f"{root}/console" if instances and entry.get("supervisor") == "systemd" else ""
    log = ssh.on_node(target, [script, "--log", name]) if target is not None and script else ""
    if target is None or entry.get("power") in (None, "stopped"):
        return {"log": log, "console": "", "screen": ""}
    return {
        "log": log,
        "console": ssh.on_node(target, [script, name]) if script else "",
        "screen": (
            ssh.with_socket(target, SCREEN_PORT, screen_socket(identifier), [f"{root}/vnc", name])
            if script and identifier and screen.startswith("unix:")
            else ""
        ),
    }


def _login(
    user: str, networks: list[str], addresses: list[str], gateways: Mapping[str, Any], nodes: Mapping[str, NodeState]
) -> tuple[str, str]:
    """Only the node with the gateway has an address in a network, so the way leads over it.

    :returns: The command, else why there is none.
    """
    if not _USER.fullmatch(user):
        return "", "the user that its files name can be none"  # ssh would take one that begins with "-" for an option
    valid = [
        (network, address) for network, address in zip(networks, addresses) if ip.parse_address(address) is not None
    ]
    if not valid:
        return "", "its files name no address"
    over = [(nodes[gateways[network]], address) for network, address in valid if gateways.get(network) in nodes]
    for gateway, address in over:
        if gateway.target is not None:
            return ssh.login(gateway.target, user, address), ""
    if over:
        return "", f"{over[0][0].name} is not reached by SSH"
    return "", f"no node has an address in {', '.join(network for network, _address in valid)}"


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
