# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a guest is up, as far as it says so itself: through its agent, or to the question who has its address."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

from .._core.commands import side_by_side
from .._core.errors import ComputeError
from .._core.layout import Layout
from . import declared
from .qmp.qmp import connect

# Linux answers either within some milliseconds; emulated on an emulated node it takes its time.
PROBE = 2.0
# A guest under emulation takes some 200 s to its login.
UP_LIMIT = 600.0
AGENT = "its guest agent"
# linux/if_ether.h: every frame, seen before a bridge takes it; RFC 826 section "Definitions": Ethernet, IPv4, request
# and reply.
_ETH_P_ALL, _ETH_P_ARP, _ETHERNET, _IPV4, _REQUEST, _REPLY = 0x0003, 0x0806, 1, 0x0800, 1, 2
_ARP = struct.Struct("!6s6sHHHBBH6s4s6s4s")


@dataclass(frozen=True)
class Guest:
    """How to ask a guest whether it is up.

    :ivar agent: The socket behind which its agent listens, if it has one.
    :ivar ports: Its taps, each with the address that the guest has there.
    """

    agent: str = ""
    ports: tuple[tuple[str, str], ...] = ()

    def answering(self, limit: float = PROBE) -> list[str]:
        """Say by what it answers at this moment: ``its guest agent``, and addresses.

        :param limit: Seconds that each answer may take.
        """
        ways = [AGENT, *(address for _link, address in self.ports)]
        return [
            way
            for way, answers in zip(ways, side_by_side(lambda way: self._answers(way, limit), ways, workers=len(ways)))
            if answers
        ]

    def wait(self, answered: list[str], limit: float = UP_LIMIT) -> None:
        """Wait until it answers again by one of the ways by which it did before.

        :param answered: What :meth:`answering` gave before; a guest that never answered is not waited for.
        :raises ComputeError: When it does not.
        """
        until = time.monotonic() + limit
        while answered and not any(self._answers(way, PROBE) for way in answered):
            if time.monotonic() >= until:
                raise ComputeError(
                    f"QEMU runs, but {' and '.join(answered)} did not answer within {limit:g} s after the restart, as"
                    " before it.",
                    "See what it says (run/console --log NAME, on its node).",
                )
            time.sleep(0.5)

    def _answers(self, way: str, limit: float) -> bool:
        if way == AGENT:
            return bool(self.agent) and agent_answers(self.agent, limit)
        return any(address_answers(link, address, limit) for link, address in self.ports if address == way)


def agent_answers(path: str, limit: float = PROBE) -> bool:
    """Tell whether a guest agent answers (QEMU's guest-sync, docs/interop/qemu-ga-ref)."""
    token = int.from_bytes(os.urandom(4), "big")
    until = time.monotonic() + limit
    said = b""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        connect(client, path, limit)
        client.sendall(json.dumps({"execute": "guest-sync", "arguments": {"id": token}}).encode() + b"\n")
        while time.monotonic() < until and len(said) < 65536:
            client.settimeout(max(0.001, until - time.monotonic()))
            part = client.recv(4096)
            said += part
            if not part or b'"return": %d' % token in said:
                break
    return b'"return": %d' % token in said


def address_answers(link: str, address: str, limit: float = PROBE) -> bool:
    """Tell whether what is at the other end of a tap has an IPv4 address: an ARP probe (RFC 5227), which nobody's
    tables remember.

    It is asked on the tap itself, since only the node with the gateway has an address in the network. False where that
    can't be asked (not as root).
    """
    try:
        wanted = ipaddress.IPv4Address(address).packed
        with open(f"/sys/class/net/{link}/address", encoding="ascii") as stream:
            own = bytes.fromhex(stream.read().strip().replace(":", ""))
        until = time.monotonic() + limit
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as raw:
            raw.bind((link, _ETH_P_ALL))
            raw.send(
                _ARP.pack(
                    b"\xff" * 6, own, _ETH_P_ARP, _ETHERNET, _IPV4, 6, 4, _REQUEST, own, bytes(4), bytes(6), wanted
                )
            )
            while time.monotonic() < until:
                raw.settimeout(max(0.001, until - time.monotonic()))
                frame = raw.recv(2048)
                if len(frame) >= _ARP.size:
                    fields = _ARP.unpack(frame[: _ARP.size])
                    if fields[2] == _ETH_P_ARP and fields[7] == _REPLY and fields[9] == wanted:
                        return True
    except (OSError, ValueError):
        pass  # no such link, not root's right, or no answer in time
    return False


def guest_of(item: dict[str, Any], layout: Layout) -> Guest:
    """Give how to ask the guest of an instance, as it is declared."""
    taps = [declared.tap(item, index) if nic["type"] == "tap" else "" for index, nic in enumerate(item["nics"])]
    addresses = item["labels"].get("addresses")
    ports = zip(taps, map(str, addresses)) if isinstance(addresses, list) else ()
    return Guest(declared.paths(item, layout).agent, tuple((tap, address) for tap, address in ports if tap))
