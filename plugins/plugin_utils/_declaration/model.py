# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a declaration, a node and a plan are, once they are read: plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Image:
    """A base image; just one of ``url`` and ``path`` is set."""

    name: str
    url: str | None
    path: str | None
    checksum: str | None
    format: str | None


@dataclass(frozen=True)
class Network:
    """An overlay network.

    :ivar cidr: A netaddr.IPNetwork without host bits.
    :ivar gateway: A netaddr.IPAddress, or None where the network has none.
    :ivar gateway_node: The node that has the gateway's address, None without gateway.
    :ivar mtu: Bytes, or None for what the underlay leaves.
    :ivar dns: Name servers, or None for the default.
    :ivar nodes: Nodes where it exists even if no instance there uses it.
    """

    name: str
    id: str
    vni: int
    cidr: Any
    nat: bool
    gateway: Any
    gateway_node: str | None
    mtu: int | None
    dns: tuple[str, ...] | None
    encapsulation: str
    nodes: tuple[str, ...]
    protect: bool = False


@dataclass(frozen=True)
class Nic:
    """An instance's card. ``address`` is None where it is to be allocated; ``mac`` is always set."""

    network: str
    address: str | None
    mac: str


@dataclass(frozen=True)
class Instance:
    """A virtual machine.

    :ivar memory: MiB.
    :ivar disk: Bytes, or None for the image's own size.
    :ivar options: What goes to the instance module as it was declared (vnc, accel, grace, restart, cpu_max,
        memory_max).
    """

    name: str
    id: str
    image: str
    nics: tuple[Nic, ...]
    node: str | None
    cpu: int
    memory: int
    disk: int | None
    user: str
    ssh_keys: tuple[str, ...]
    password_hash: str | None
    user_data: Any
    power: str
    copy: bool | None
    options: dict[str, Any]
    protect: bool = False

    def uses(self, network: str) -> bool:
        """Tell whether it has a card in the network."""
        return any(nic.network == network for nic in self.nics)


@dataclass(frozen=True)
class DataVolume:
    """A disk of its own, which outlives the instance that has it.

    :ivar size: Bytes.
    :ivar instance: Which instance has it; None for none at this time.
    :ivar node: Where it is to be made.
    """

    name: str
    size: int
    instance: str | None
    node: str | None


@dataclass(frozen=True)
class Cloud:
    """A whole declaration, valid in itself.

    :ivar purge_limit: How many instances, and data volumes that are not kept aside, may be removed at once.
    :ivar purge_volumes: Whether the disks of what is removed go too, rather than be kept aside.
    """

    images: dict[str, Image]
    networks: dict[str, Network]
    instances: dict[str, Instance]
    volumes: dict[str, DataVolume] = field(default_factory=dict)
    underlay_mtu: int = 1500
    purge: bool = False
    purge_limit: int = 3
    purge_volumes: bool = False


@dataclass(frozen=True)
class Allocation:
    """Where an instance lives and which address it has in which network.

    :ivar memory: MiB it takes while it runs.
    :ivar memory_max: MiB it may grow to, 0 when unknown.
    """

    node: str
    addresses: dict[str, str]
    memory: int = 0
    running: bool = True
    memory_max: int = 0


@dataclass(frozen=True)
class Snapshot:
    """All allocations that are known, by instance.

    Where they come from (the nodes, a database) is nobody's concern here.
    """

    allocations: dict[str, Allocation] = field(default_factory=dict)
    generation: int = 0


@dataclass(frozen=True)
class Route:
    """A route of a node that does not lead over our links.

    :ivar to: A netaddr.IPNetwork.
    :ivar via: The next hop, a netaddr.IPAddress; None for none.
    """

    to: Any
    via: Any
    link: str


@dataclass(frozen=True)
class Facts:
    """What a node said of itself; unknown is None or empty.

    :ivar memory: MiB in all.
    :ivar image_sizes: Bytes of virtual disk, by image.
    :ivar underlay: Networks (netaddr.IPNetwork with the node's address in it) on links that are not ours.
    :ivar tunnels: Names of our tunnels that are there, None when the node did not say.
    :ivar networks: The networks whose bridge is there, with that bridge's networks (netaddr.IPNetwork with the node's
        address in it).
    :ivar volumes: Names of our volumes, instances' own disks among them.
    :ivar attached: The instance that has it, by volume.
    :ivar members: The instances in it, by network.
    :ivar vnis: The VNIs that it has there, by network: several where something was interrupted, or changed by hand.
    :ivar cidrs: Likewise its addresses (netaddr.IPNetwork).
    :ivar volume_sizes: Bytes, by volume of ours that says how large it is.
    :ivar memory_limit: MiB that a QEMU can be started with at most, None when unknown or without a limit.
    :ivar kvm: Whether it has /dev/kvm, None when unknown.
    :ivar routes: Its routes over links that are not ours.
    :ivar name_servers: netaddr.IPAddress of those that it asks.
    :ivar client: The netaddr.IPAddress from which the controller comes, None when unknown.
    :ivar root: The folder that holds everything on it, "" when unknown.
    :ivar disk_free: Bytes that are free where the volumes are, None when unknown.
    :ivar volume_bytes: Bytes that are taken already, by volume of ours.
    :ivar machine: What two names of one machine have in common, "" when unknown.
    :ivar user_error: Why somebody else's account stands in the way of QEMU's user, "" where none does.
    """

    memory: int | None = None
    image_sizes: dict[str, int] = field(default_factory=dict)
    underlay: tuple[Any, ...] = ()
    tunnels: frozenset[str] | None = None
    networks: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    volumes: frozenset[str] = frozenset()
    attached: dict[str, str] = field(default_factory=dict)
    members: dict[str, frozenset[str]] = field(default_factory=dict)
    vnis: dict[str, frozenset[int]] = field(default_factory=dict)
    cidrs: dict[str, frozenset[Any]] = field(default_factory=dict)
    volume_sizes: dict[str, int] = field(default_factory=dict)
    memory_limit: int | None = None
    kvm: bool | None = None
    routes: tuple[Route, ...] = ()
    name_servers: tuple[Any, ...] = ()
    client: Any = None
    machine: str = ""
    root: str = ""
    disk_free: int | None = None
    volume_bytes: dict[str, int] = field(default_factory=dict)
    user_error: str = ""


@dataclass(frozen=True)
class Node:
    """A compute node. ``facts`` is None where it was not reached or is left out of this run."""

    name: str
    underlay_address: str | None
    uplink: str | None
    facts: Facts | None

    @property
    def missing(self) -> bool:
        """Whether this run has no word from the node."""
        return self.facts is None


@dataclass
class Placement:
    """Which instance goes where.

    :ivar nodes: Node by instance.
    :ivar left_out: Why an instance is left out of this run, by instance.
    :ivar unknown: Instances that may live on a node that is missing.
    """

    nodes: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)


@dataclass
class Addresses:
    """Which address an instance has in a network: ``by_instance[name][network]``.

    :ivar left_out: Why an instance can't get its addresses in this run.
    """

    by_instance: dict[str, dict[str, str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
