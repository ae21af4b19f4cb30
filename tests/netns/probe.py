# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a test sends and receives inside a network namespace; no tool but Python is needed there."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time

# linux/in.h: not in Python's socket module on every platform.
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2


def checksum(data: bytes) -> int:
    """Give the Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def ping(address: str, size: int, timeout: float = 2.0) -> bool:
    """Send one ICMP echo request in an IPv4 packet of ``size`` bytes that may not be fragmented, and wait for its
    answer.
    """
    ident = os.getpid() & 0xFFFF
    payload = b"\xa5" * (size - 28 - (size % 2))
    packet = struct.pack("!BBHHH", 8, 0, 0, ident, 1) + payload
    packet = packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                raw.sendto(packet, (address, 0))
                raw.settimeout(0.5)
                answer, sender = raw.recvfrom(65535)
            except OSError:
                time.sleep(0.05)
                continue
            if sender[0] == address and answer[20] == 0 and answer[24:26] == packet[4:6] and answer[28:] == payload:
                return True
    return False


def connect(address: str, port: int, timeout: float = 2.0) -> str:
    """Connect by TCP and give what the other side says; "" when that fails."""
    try:
        with socket.create_connection((address, port), timeout=timeout) as stream:
            return stream.recv(100).decode()
    except OSError:
        return ""


def listen(port: int) -> None:
    """Tell every TCP client its own address as it is seen here."""
    with socket.create_server(("0.0.0.0", port)) as server:
        print("ready", flush=True)
        while True:
            stream, sender = server.accept()
            with stream:
                stream.sendall(sender[0].encode())


def segment(port: int) -> int:
    """Give the segment size in bytes that the first TCP client's handshake allows us."""
    with socket.create_server(("0.0.0.0", port)) as server:
        print("ready", flush=True)
        stream, _sender = server.accept()
        with stream:
            return stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)


def receive(port: int, timeout: float) -> str:
    """Wait for one UDP packet and give its sender; "" when none comes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
        stream.bind(("0.0.0.0", port))
        stream.settimeout(timeout)
        print("ready", flush=True)
        try:
            return str(stream.recvfrom(100)[1][0])
        except OSError:
            return ""


def send(address: str, port: int) -> None:
    """Send one UDP packet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
        stream.sendto(b"x", (address, port))


if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    if verb == "ping":
        sys.exit(0 if ping(words[0], int(words[1]), float(words[2])) else 1)
    if verb == "connect":
        print(connect(words[0], int(words[1])))
    if verb == "listen":
        listen(int(words[0]))
    if verb == "segment":
        print(segment(int(words[0])))
    if verb == "receive":
        print(receive(int(words[0]), float(words[1])))
    if verb == "send":
        send(words[0], int(words[1]))
