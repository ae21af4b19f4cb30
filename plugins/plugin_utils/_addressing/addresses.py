# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which address an instance has: declared, else kept, else the first free one. A pure function."""

from __future__ import annotations

from collections.abc import Iterator

from .._declaration import ip
from .._declaration.cross_checks import place_of
from .._declaration.model import Addresses, Cloud, Network, Snapshot


def allocate(cloud: Cloud, snapshot: Snapshot, complete: bool) -> tuple[Addresses, list[str]]:
    """Give every card its address.

    :param cloud: A valid declaration.
    :param snapshot: What instances have so far; those that are not declared keep theirs unless they are purged.
    :param complete: Whether the snapshot knows all instances. If not, nothing new is allocated: it might be taken
        already.
    :returns: The addresses, and every problem.
    """
    result = Addresses({name: {} for name in cloud.instances})
    problems: list[str] = []
    for network in cloud.networks.values():
        _allocate(network, cloud, snapshot, complete, result, problems)
    return result, problems


def _allocate(
    network: Network, cloud: Cloud, snapshot: Snapshot, complete: bool, result: Addresses, problems: list[str]
) -> None:
    cards = [
        (instance.name, place_of(instance, index, "address"), nic.address)
        for instance in cloud.instances.values()
        for index, nic in enumerate(instance.nics)
        if nic.network == network.name
    ]
    held = {
        name: allocation.addresses[network.name]
        for name, allocation in snapshot.allocations.items()
        if network.name in allocation.addresses
    }
    foreign = {address: name for name, address in sorted(held.items()) if name not in cloud.instances}
    taken: dict[str, str] = {} if network.gateway is None else {str(network.gateway): "the gateway"}
    for name, place, address in cards:
        if address is not None:
            taken[address] = name
            result.by_instance[name][network.name] = address
            if address in foreign and not cloud.purge:
                problems.append(
                    f"{place}: {address} belongs to the instance {foreign[address]} on"
                    f" {snapshot.allocations[foreign[address]].node}, which is not declared any more; take another"
                    " address, or remove that instance (cloud_purge: true)."
                )
    waiting = []
    for name, place, address in cards:
        kept = held.get(name)
        if address is not None:
            continue
        if kept is not None and kept not in taken and ip.is_host(network.cidr, ip.parse_address(kept)):
            taken[kept] = name
            result.by_instance[name][network.name] = kept
        else:
            waiting.append((name, place, kept))
    free = _free(network, taken, foreign, cloud.purge)
    for name, place, kept in waiting:
        if not complete:
            result.left_out[name] = (
                f"its address in {network.name} can't be chosen without knowing which are taken there"
            )
            continue
        chosen = next(free, None)
        if chosen is None:
            named = ", ".join(sorted(foreign.values())[:10])
            problems.append(
                f"{place}: no address of {network.name} ({network.cidr}) is free, because instances that are not"
                f" declared any more hold some ({named}); remove them (cloud_purge: true), or take a wider network."
            )
            continue
        result.by_instance[name][network.name] = chosen
        if kept is not None:
            why = f"{kept} is now that of {taken[kept]}" if kept in taken else f"{kept} is outside of {network.cidr}"
            result.warnings.append(f"The address of {name} in {network.name} changes to {chosen}: {why}.")


def _free(network: Network, taken: dict[str, str], foreign: dict[str, str], purge: bool) -> Iterator[str]:
    yield from ip.free_hosts(network.cidr, {**foreign, **taken})
    if purge:  # the last resort: what instances give back that this run removes
        yield from (
            address
            for address in foreign
            if address not in taken and ip.is_host(network.cidr, ip.parse_address(address))
        )
