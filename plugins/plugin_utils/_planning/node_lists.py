# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From placed instances to the lists that the node modules take.

Pure, and in an order that does not depend on the declaration's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from ...module_utils._core.names import short_id
from ...module_utils._node.registry import RESOURCES
from ...module_utils._storage.sizes import format_size
from .._declaration import ip
from .._declaration.cross_checks import overhead
from .._declaration.model import Addresses, Cloud, Instance, Network, Nic, Node, Placement

Item = dict[str, Any]
DEFAULT_DNS = ("8.8.8.8", "1.1.1.1")


@dataclass(frozen=True)
class Compiler:
    """Everything that is decided, ready to be written as lists."""

    cloud: Cloud
    nodes: dict[str, Node]
    placement: Placement
    addresses: Addresses
    homes: dict[str, str]

    def lists(self) -> dict[str, dict[str, list[Item]]]:
        """Give the lists of each node that is not missing: ``{node: {kind: [item]}}``."""
        result: dict[str, dict[str, list[Item]]] = {
            name: {kind: [] for kind in RESOURCES} for name, node in self.nodes.items() if not node.missing
        }
        for lists in result.values():
            lists["images"] = [_present(**asdict(image)) for image in self.cloud.images.values()]
        for network in self.cloud.networks.values():
            hosts = self.hosts(network)
            for node in hosts:
                if node in result:
                    self._network_on(network, node, hosts, result[node])
        for instance in self.placed():
            node = self.placement.nodes[instance.name]
            if node in result:
                self._instance_on(instance, node, result[node])
        for name, node in sorted(self.homes.items()):
            if node in result:
                result[node]["volumes"].append({"name": name, "size": format_size(self.cloud.volumes[name].size)})
        return result

    def disks_of(self, instance: Instance) -> list[str]:
        """Give the data volumes that an instance has."""
        return [
            name
            for name, volume in self.cloud.volumes.items()
            if volume.instance == instance.name and name in self.homes
        ]

    def volumes(self) -> dict[str, Item]:
        """Give the data volumes that this run is sure of."""
        return {
            name: {"node": node, "instance": self.cloud.volumes[name].instance, "size": self.cloud.volumes[name].size}
            for name, node in sorted(self.homes.items())
        }

    def placed(self) -> list[Instance]:
        """Give the instances that this run is sure of, by name."""
        left_out = {**self.placement.left_out, **self.addresses.left_out}
        return [
            instance
            for name, instance in self.cloud.instances.items()
            if name in self.placement.nodes and name not in left_out
        ]

    def hosts(self, network: Network) -> list[str]:
        """Give the nodes where the network exists, in the inventory's order, the missing ones included."""
        using = {
            self.placement.nodes.get(instance.name)
            for instance in self.cloud.instances.values()
            if instance.uses(network.name)
        }
        # A node that has the network stays part of it until a purge: else its bridge would keep the address of a
        # gateway that has moved.
        kept = {
            name
            for name, node in self.nodes.items()
            if node.facts and network.name in node.facts.networks and not self.cloud.purge
        }
        return [
            name
            for name in self.nodes
            if name in using or name in kept or name == network.gateway_node or name in network.nodes
        ]

    def mtu(self, network: Network) -> int:
        """Give the network's MTU: as declared, else what the underlay leaves."""
        return network.mtu if network.mtu is not None else self.cloud.underlay_mtu - overhead(list(self.nodes.values()))

    def problems(self) -> list[str]:
        """Say which nodes have tunnels to make and no underlay address."""
        lacking: dict[str, str] = {}
        for network in self.cloud.networks.values():
            hosts = self.hosts(network)
            for name in hosts if len(hosts) > 1 else ():
                if self.nodes[name].underlay_address is None:
                    lacking.setdefault(name, network.name)
        return [
            f"compute_underlay_address of {name} is missing: {network} needs a tunnel to it. Set it to the IP address"
            " at which the other nodes reach it (it is ansible_host by itself where that is an IP address)."
            for name, network in lacking.items()
        ]

    def overlaps(self) -> list[str]:
        """Say which networks share addresses and a node, which could not route both: there the module nat would refuse
        them, after other changes.
        """
        return [
            f"cloud_networks.{other.name}.cidr: {other.cidr} overlaps with {one.cidr} of cloud_networks.{one.name}, and"
            f" both are on {shared[0]}, which can't have both; take another cidr, or other nodes for one of them."
            for one, other in combinations(self.cloud.networks.values(), 2)
            if ip.overlap(one.cidr, other.cidr)
            for shared in [[node for node in self.hosts(one) if node in self.hosts(other)]]
            if shared
        ]

    def display_problems(self) -> list[str]:
        """Say which instances want the same VNC display on one node."""
        first: dict[tuple[str, int], str] = {}
        problems = []
        for instance in self.placed():
            if instance.options.get("vnc") == "loopback":
                key = (self.placement.nodes[instance.name], instance.options["vnc_display"])
                other = first.setdefault(key, instance.name)
                if other != instance.name:
                    problems.append(
                        f"cloud_instances.{instance.name}.vnc_display: {key[1]} is that of cloud_instances.{other} on"
                        f" {key[0]} already; take another one."
                    )
        return problems

    def _network_on(self, network: Network, node: str, hosts: list[str], lists: dict[str, list[Item]]) -> None:
        addresses = [f"{network.gateway}/{network.cidr.prefixlen}"] if node == network.gateway_node else []
        # Where there is no tunnel nothing else tells the VNI, which must not change under instances.
        labels = {"vni": network.vni, **({"protect": True} if network.protect else {})}
        lists["bridges"].append(
            {
                "name": bridge_name(network),
                "network": network.name,
                "mtu": self.mtu(network),
                "addresses": addresses,
                "labels": labels,
            }
        )
        lists["tunnels"] += self._tunnels(network, node, hosts)
        # On every node, not only at the gateway: whatever has a network's bridge must be shielded from its guests.
        lists["nats"].append(
            _present(
                name=network.name, id=network.id, bridge=bridge_name(network), cidr=str(network.cidr),
                masquerade=network.nat and node == network.gateway_node, uplink=self.nodes[node].uplink,
            )
        )  # fmt: skip

    def _tunnels(self, network: Network, node: str, hosts: list[str]) -> list[Item]:
        maybe = self._may_host(network)
        found = self.nodes[node].facts
        existing = found.tunnels if found else None
        remotes: dict[str, list[str]] = {}
        for other in self.nodes:
            address = self.nodes[other].underlay_address
            name = tunnel_name(network, node, other)
            # A tunnel to a missing node whose instances nobody knows stays as it is: neither cut nor made.
            if (
                other != node
                and address is not None
                and (other in hosts or (other in maybe and (existing is None or name in existing)))
            ):
                remotes.setdefault(name, []).append(address)
        return [
            {
                "name": name,
                "network": network.name,
                "vni": network.vni,
                "remote": sorted(remote),
                "bridge": bridge_name(network),
                "mtu": self.mtu(network),
                "encapsulation": network.encapsulation,
            }
            for name, remote in sorted(remotes.items())
        ]

    def _may_host(self, network: Network) -> set[str]:
        unknown = any(self.cloud.instances[name].uses(network.name) for name in self.placement.unknown)
        return {name for name, node in self.nodes.items() if node.missing} if unknown else set()

    def _instance_on(self, instance: Instance, node: str, lists: dict[str, list[Item]]) -> None:
        machine = f"compute-{instance.id}"
        lists["volumes"].append(
            _present(
                name=machine, image=instance.image, image_format=self.cloud.images[instance.image].format,
                size=None if instance.disk is None else format_size(instance.disk), copy=instance.copy,
            )
        )  # fmt: skip
        lists["seeds"].append(
            _present(
                name=machine,
                hostname=instance.name,
                user=instance.user,
                ssh_keys=list(instance.ssh_keys),
                password_hash=instance.password_hash,
                user_data=instance.user_data,
                nics=self.seed_nics(instance),
            )
        )
        nics = []
        for index, nic in enumerate(instance.nics):
            network = self.cloud.networks[nic.network]
            tap = tap_name(instance, index)
            lists["taps"].append(
                {"name": tap, "bridge": bridge_name(network), "mtu": self.mtu(network), "instance": instance.name}
            )
            nics.append({"type": "tap", "tap": tap, "mac": nic.mac, "mtu": self.mtu(network)})
        lists["instances"].append(
            {
                "name": instance.name,
                "id": instance.id,
                "cpu": instance.cpu,
                "memory": instance.memory,
                "nics": nics,
                "power": instance.power,
                **instance.options,
                **_present(volumes=[{"name": name} for name in self.disks_of(instance)] or None),
                "labels": self.labels(instance, node),
            }
        )

    def seed_nics(self, instance: Instance) -> list[Item]:
        """Give the guest's network: one default route, by the first network with NAT, and its name servers."""
        result = []
        route: Nic | None = next((nic for nic in instance.nics if self.cloud.networks[nic.network].nat), None)
        for nic in instance.nics:
            network = self.cloud.networks[nic.network]
            servers = network.dns if network.dns is not None else (DEFAULT_DNS if nic is route else ())
            result.append(
                _present(
                    mac=nic.mac,
                    addresses=[f"{self.addresses.by_instance[instance.name][nic.network]}/{network.cidr.prefixlen}"],
                    gateway=str(network.gateway) if nic is route else None,
                    nameservers=list(servers),
                    mtu=self.mtu(network),
                )
            )
        return result

    def labels(self, instance: Instance, node: str) -> Item:
        """Give what the node keeps with the instance, so that the next run knows its place and addresses."""
        return {
            "node": node,
            "image": instance.image,
            "user": instance.user,
            "networks": [nic.network for nic in instance.nics],
            "addresses": [self.addresses.by_instance[instance.name][nic.network] for nic in instance.nics],
            **({"protect": True} if instance.protect else {}),
            **({"copy": True} if instance.copy else {}),
        }

    def instances(self) -> dict[str, Item]:
        """Sum up the instances, for people and for the state database."""
        return {
            instance.name: {
                "id": instance.id,
                "node": self.placement.nodes[instance.name],
                "image": instance.image,
                "user": instance.user,
                "cpu": instance.cpu,
                "memory": instance.memory,
                "power": instance.power,
                **({"restart": instance.options["restart"]} if "restart" in instance.options else {}),
                "networks": [nic.network for nic in instance.nics],
                "addresses": [self.addresses.by_instance[instance.name][nic.network] for nic in instance.nics],
                "macs": [nic.mac for nic in instance.nics],
            }
            for instance in self.placed()
        }

    def networks(self) -> dict[str, Item]:
        """Sum up the networks."""
        return {
            network.name: {
                "id": network.id,
                "bridge": bridge_name(network),
                "vni": network.vni,
                "cidr": str(network.cidr),
                "mtu": self.mtu(network),
                "nat": network.nat,
                "gateway": None if network.gateway is None else str(network.gateway),
                "gateway_node": network.gateway_node,
                "encapsulation": network.encapsulation,
                "nodes": self.hosts(network),
                "instances": [instance.name for instance in self.placed() if instance.uses(network.name)],
            }
            for network in self.cloud.networks.values()
        }

    def collisions(self) -> list[str]:
        """Say which link names come out the same for two things (8 hex digits are few, but that is rarer than any other
        mishap).
        """
        first: dict[str, str] = {}
        problems = []
        for link, owner in self._links():
            if first.setdefault(link, owner) != owner:
                problems.append(
                    f"The link name {link} comes out for {first[link]} and for {owner}; rename one of the two."
                )
        return problems

    def _links(self) -> Sequence[tuple[str, str]]:
        taps = [
            (tap_name(instance, index), f"cloud_instances.{instance.name}.nics[{index}]")
            for instance in self.cloud.instances.values()
            for index in range(len(instance.nics))
        ]
        tunnels = []
        for network in self.cloud.networks.values():
            hosts = self.hosts(network)
            for index, node in enumerate(hosts):
                tunnels += [
                    (tunnel_name(network, node, other), f"cloud_networks.{network.name}{_pair(network, node, other)}")
                    for other in hosts[index + 1 :]
                ]
        return taps + tunnels


def bridge_name(network: Network) -> str:
    """Give the name of a network's bridge."""
    return f"br-gnv-{network.id}"


def tunnel_name(network: Network, node: str, other: str) -> str:
    """Give the name of a network's tunnel: the same at both ends; for VXLAN, one device per node, the same on all."""
    return f"gnv-{short_id('tunnel', network.name + _pair(network, node, other))}"


def _pair(network: Network, node: str, other: str) -> str:
    return "" if network.encapsulation == "vxlan" else "/" + "/".join(sorted((node, other)))


def tap_name(instance: Instance, index: int) -> str:
    """Give the name of an instance's tap: by the instance's id for its first card."""
    return f"vnet-{instance.id}" if index == 0 else f"vnet-{short_id('port', f'{instance.name}/{index}')}"


def _present(**values: Any) -> Item:
    """Give an item without what is None, which is the module's default then."""
    return {key: value for key, value in values.items() if value is not None}
