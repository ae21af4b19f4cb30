# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The compute nodes: from inventory variables and what the nodes said of themselves (node_info) to :class:`Node` and
:class:`Snapshot`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._declaration import ip
from .._declaration.model import Allocation, Facts, Instance, Node, Route, Snapshot
from .._declaration.reader import Reader, shown

NODE_KEYS = ("underlay_address", "uplink", "info")


def read_nodes(value: object, problems: list[str]) -> dict[str, Node]:
    """Read the nodes.

    :param value: ``{name: {underlay_address, uplink, info}}``; without ``info`` a node is missing in this run, an empty
        one is a bare node.
    :param problems: Where problems are noted.
    """
    nodes: dict[str, Node] = {}
    if value is None:
        return nodes
    if not isinstance(value, Mapping):
        problems.append(f"nodes: {shown(value)} is not a mapping of node names.")
        return nodes
    for name, spec in value.items():
        if not isinstance(name, str) or not name.isprintable() or not name:
            problems.append(f"nodes: {shown(name)} is not a node's name; use the names of the inventory.")
            continue
        reader = Reader(f"nodes.{name}", spec, NODE_KEYS, problems)
        address = ip.parse_address(reader.spec.get("underlay_address"))
        if reader.has("underlay_address") and (address is None or address.is_loopback()):
            reader.add(
                "underlay_address",
                f"{shown(reader.spec['underlay_address'])} is not an address that other nodes reach; set"
                " compute_underlay_address.",
            )
            address = None
        info = reader.spec.get("info")
        if info is not None and not isinstance(info, Mapping):
            reader.add("info", f"{shown(info)} is not what node_info returns.")
            info = None
        nodes[name] = Node(
            name,
            str(address) if address is not None else None,
            reader.text("uplink"),
            None if info is None else read_facts(info),
        )
    return nodes


def with_declared_names(value: object, instances: Mapping[str, Instance]) -> object:
    """Give the nodes with the declared names of the instances whose own files don't say any more who they are: their
    ids still do.

    :param value: As of :func:`read_nodes`.
    :param instances: What is declared.
    """
    names = {f"compute-{instance.id}": name for name, instance in instances.items()}
    found = {
        node: _mapping(_mapping(_mapping(spec).get("info")).get("instances")) for node, spec in _mapping(value).items()
    }
    named = {name for there in found.values() for name in there}
    changed: dict[Any, Any] = {}
    for node, there in found.items():
        lost = {name: names[name] for name in there if name in names and names[name] not in named}
        if lost:
            spec = _mapping(value)[node]
            changed[node] = {
                **spec,
                "info": {
                    **spec["info"],
                    "instances": {lost.get(name, name): instance for name, instance in there.items()},
                },
            }
    return {**_mapping(value), **changed} if changed else value


def read_facts(info: Mapping[str, Any]) -> Facts:
    """Read what node_info returned. What lacks or has another form counts as unknown."""
    tunnels = info.get("tunnels")
    return Facts(
        _mib(info.get("memory_mb")),
        _sizes(info.get("images")),
        tuple(
            network
            for network in _networks(info.get("underlay_addresses"))
            if not network.ip.is_loopback() and not network.ip.is_link_local()
        ),
        frozenset(map(str, tunnels)) if isinstance(tunnels, (list, tuple, Mapping)) else None,
        {
            str(name): tuple(_networks(_mapping(network).get("addresses")))
            for name, network in _mapping(info.get("networks")).items()
            if _mapping(network).get("bridge")
        },
        frozenset(map(str, _mapping(info.get("volumes")))),
        {
            str(volume): str(name)
            for name, instance in _mapping(info.get("instances")).items()
            for volumes in [_mapping(instance).get("volumes")]
            for volume in (volumes if isinstance(volumes, (list, tuple)) else ())
        },
        _members(info),
        *_identities(info),
        _sizes(info.get("volumes")),
        _mib(info.get("memory_limit_mb")),
        info["kvm"] if isinstance(info.get("kvm"), bool) else None,
        routes=_routes(info.get("routes")),
        name_servers=_parsed(info.get("name_servers")),
        client=ip.parse_address(info.get("client")),
        machine=str(info.get("machine") or ""),
        root=str(info.get("root") or ""),
        disk_free=_bytes(info.get("disk_free_mb")),
        volume_bytes=_sizes(info.get("volumes"), "allocated"),
        user_error=str(info.get("user_error") or ""),
    )


def _routes(value: object) -> tuple[Route, ...]:
    entries = [_mapping(entry) for entry in value] if isinstance(value, (list, tuple)) else []
    read = [
        (ip.parse_cidr(entry.get("to")), ip.parse_address(entry.get("via")), str(entry.get("link")))
        for entry in entries
    ]
    return tuple(Route(to, via, link) for to, via, link in read if to is not None)


def _parsed(addresses: object) -> tuple[Any, ...]:
    """Read addresses; what is none is passed by."""
    found = [ip.parse_address(entry) for entry in addresses] if isinstance(addresses, (list, tuple)) else []
    return tuple(address for address in found if address is not None)


def _mib(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _bytes(mebibytes: object) -> int | None:
    return (
        mebibytes << 20 if isinstance(mebibytes, int) and not isinstance(mebibytes, bool) and mebibytes >= 0 else None
    )


def _sizes(disks: object, key: str = "virtual_size") -> dict[str, int]:
    """Give the bytes of each disk that says how large it is."""
    sizes = {str(name): _mapping(disk).get(key) for name, disk in _mapping(disks).items()}
    return {
        name: size for name, size in sizes.items() if isinstance(size, int) and not isinstance(size, bool) and size > 0
    }


def _members(info: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Give the instances in each network, by their labels and by the bridges that their taps are on."""
    found: dict[str, set[str]] = {}
    instances = _mapping(info.get("instances"))
    for name, instance in instances.items():
        networks = (_mapping(_mapping(instance).get("labels")) or _mapping(instance)).get("networks")
        for network in networks if isinstance(networks, (list, tuple)) else ():
            found.setdefault(str(network), set()).add(str(name))
    bridges = {
        str(_mapping(network).get("bridge")): str(name)
        for name, network in _mapping(info.get("networks")).items()
        if _mapping(network).get("bridge")
    }
    for tap in _mapping(info.get("taps")).values():
        network, name = bridges.get(str(_mapping(tap).get("bridge"))), _mapping(tap).get("instance")
        if network and isinstance(name, str) and name in instances:
            found.setdefault(network, set()).add(name)
    return {network: frozenset(names) for network, names in found.items()}


def _identities(info: Mapping[str, Any]) -> tuple[dict[str, frozenset[int]], dict[str, frozenset[Any]]]:
    """Give the VNIs and the addresses that networks have: by their files, and the VNI by their tunnels too."""
    recorded = {str(name): _mapping(network) for name, network in _mapping(info.get("recorded")).items()}
    vnis = {name: [network.get("vni")] for name, network in recorded.items()}
    for name, network in _mapping(info.get("networks")).items():
        vnis.setdefault(str(name), []).extend(
            _mapping(tunnel).get("vni") for tunnel in _mapping(_mapping(network).get("tunnels")).values()
        )
    return (
        {
            name: frozenset(vni for vni in found if isinstance(vni, int) and not isinstance(vni, bool))
            for name, found in vnis.items()
        },
        {
            name: frozenset(
                cidr
                for cidr in _networks([network.get("cidr")])
                if _credible(cidr, name, _mapping(info.get("instances")))
            )
            for name, network in recorded.items()
        },
    )


def _credible(cidr: Any, network: str, instances: Mapping[Any, Any]) -> bool:
    """Tell whether a network's addresses may be these: some instance's is one of them, or there is none.

    What a file says may have been edited by hand.
    """
    held = [
        addresses[network]
        for instance in instances.values()
        for addresses in [_addresses(_mapping(instance))]
        if network in addresses
    ]
    return not held or any(ip.parse_address(address) in cidr for address in held)


def _networks(addresses: object) -> list[Any]:
    """Read addresses with their prefix lengths; what is none is passed by."""
    found = (
        [ip.parse_cidr(entry) for entry in addresses if isinstance(entry, str)]
        if isinstance(addresses, (list, tuple))
        else []
    )
    return [network for network in found if network is not None]


def read_snapshot(value: object, problems: list[str]) -> Snapshot:
    """Gather from all nodes which instance lives where, with which addresses.

    :param value: As of :func:`read_nodes`.
    :param problems: Where an instance that lives on two nodes is noted.
    """
    allocations: dict[str, Allocation] = {}
    for node, spec in _mapping(value).items():
        for name, instance in sorted(
            _mapping(_mapping(_mapping(spec).get("info")).get("instances")).items(), key=lambda entry: str(entry[0])
        ):
            found = _mapping(instance)
            name = str(name)
            if name in allocations:
                problems.append(
                    f"The instance {name} is on {allocations[name].node} and on {node}; remove one of the two "
                    "(ikcloud.compute.instance, state: absent, on that node) before anything else is done."
                )
                continue
            allocations[name] = Allocation(
                str(node),
                _addresses(found),
                _mib(found.get("memory")) or 0,
                found.get("running") is not False,
                _mib(found.get("memory_max")) or 0,
            )
    return Snapshot(allocations)


def _addresses(instance: Mapping[Any, Any]) -> dict[str, str]:
    """Read the labels ``networks`` and ``addresses``, lists of the same order."""
    labels = _mapping(instance.get("labels")) or instance
    networks, addresses = labels.get("networks"), labels.get("addresses")
    if not isinstance(networks, (list, tuple)) or not isinstance(addresses, (list, tuple)):
        return {}
    return {
        str(network): str(address)
        for network, address in zip(networks, addresses)
        if ip.parse_address(address) is not None
    }


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}
