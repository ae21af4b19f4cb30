# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much memory a node has."""

from __future__ import annotations


def meminfo(path: str = "/proc/meminfo") -> dict[str, int]:
    """Give what the kernel says of the node's memory (proc(5)), in MiB, by its names; nothing where that can't be
    read.
    """
    found = {}
    try:
        with open(path, encoding="ascii") as stream:
            for line in stream:
                name, _colon, rest = line.partition(":")
                found[name] = int(rest.split()[0]) // 1024
    except (OSError, ValueError, IndexError):
        return {}
    return found


def node_memory(path: str = "/proc/meminfo") -> int | None:
    """Give the node's memory in MiB, or None when it can't be read."""
    return meminfo(path).get("MemTotal")


def memory_limit(path: str = "/proc/meminfo", policy: str = "/proc/sys/vm/overcommit_memory") -> int | None:
    """Give the MiB that a QEMU can be started with at most: the kernel refuses more in one piece than memory and swap
    are (overcommit-accounting in its doc).

    :returns: None where it refuses nothing (vm.overcommit_memory is 1), or can't be asked.
    """
    try:
        with open(policy, encoding="ascii") as stream:
            if stream.read().strip() == "1":
                return None
    except OSError:
        return None
    found = meminfo(path)
    return found["MemTotal"] + found.get("SwapTotal", 0) if "MemTotal" in found else None
