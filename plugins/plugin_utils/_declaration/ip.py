# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses and networks: the one place that uses netaddr."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from typing import Any

from ...module_utils._core.errors import ComputeError

try:
    from netaddr import AddrFormatError, IPAddress, IPNetwork

    HAS_NETADDR = True
except ImportError:
    HAS_NETADDR = False

# netaddr takes more spellings than people should write (a lone number, a network without a prefix): these are all that
# we take.
_ADDRESS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-fA-F:]+(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3})?")
_CIDR = re.compile(r"([0-9a-fA-F:.]+)/([0-9]{1,3})")


def require_netaddr() -> None:
    """Make sure that netaddr is there.

    :raises ComputeError: When it is not.
    """
    if not HAS_NETADDR:
        raise ComputeError(
            "The Python package netaddr is missing on the controller.",
            "Install it where ansible-playbook runs: pip install netaddr.",
        )


def parse_address(text: object) -> Any:
    """Give the netaddr.IPAddress that a string stands for, or None."""
    if not isinstance(text, str) or not _ADDRESS.fullmatch(text):
        return None
    try:
        return IPAddress(text)
    except (AddrFormatError, ValueError):
        return None


def parse_cidr(text: object) -> Any:
    """Give the netaddr.IPNetwork of ``address/prefix``, host bits kept, or None."""
    match = _CIDR.fullmatch(text) if isinstance(text, str) else None
    if not match or parse_address(match.group(1)) is None:
        return None
    try:
        return IPNetwork(text)
    except (AddrFormatError, ValueError):
        return None


def overlap(one: Any, other: Any) -> bool:
    """Tell whether two networks share an address."""
    return bool(one.version == other.version and one.first <= other.last and other.first <= one.last)


def is_host(network: Any, address: Any) -> bool:
    """Tell whether a host may have the address: inside the network, neither the network's own nor the broadcast address
    (RFC 919).
    """
    return bool(address.version == network.version and network.first < int(address) < network.last)


def first_host(network: Any) -> Any:
    """Give the first address that a host may have."""
    return IPAddress(network.first + 1, network.version)


def host_count(network: Any) -> int:
    """Say how many addresses hosts may have, the gateway's included."""
    return max(0, int(network.size) - 2)


def host_range(network: Any) -> str:
    """Write the addresses that hosts may have: ``192.168.88.1 to 192.168.88.254``."""
    return f"{IPAddress(network.first + 1, network.version)} to {IPAddress(network.last - 1, network.version)}"


def free_hosts(network: Any, taken: Container[str]) -> Iterator[str]:
    """Give the addresses of the network that a host may have and that are not taken, lowest first."""
    for number in range(network.first + 1, network.last):
        text = str(IPAddress(number, network.version))
        if text not in taken:
            yield text


def families(addresses: Iterable[str]) -> set[int]:
    """Give the IP versions (4, 6) among the addresses."""
    return {parsed.version for parsed in map(parse_address, addresses) if parsed is not None}
