# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes of disks and memory as people write them: one grammar for declarations and modules."""

from __future__ import annotations

import re

SECTOR = 512
# Units are powers of 1024 however they are written (10G, 10GB, 10Gi, 10 GiB), as qemu-img's are. Not more digits than
# any size needs.
_SIZE = re.compile(r" *([0-9]{1,18})(?:\.([0-9]{1,9}))? *(?:([KMGT])i?)?(B?) *", re.IGNORECASE)
_LIKELY = re.compile(
    r"(?<![0-9.,])([0-9]{1,9}(?:[.,][0-9]{1,9})?)(?![0-9])(?:e\+?([0-9]{1,2})\b)?\s*([KMGTB]?)", re.IGNORECASE
)
# So many K, or bytes, were rather M than G.
_MANY = 100
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# QEMU's offsets are signed 64-bit numbers; nothing near that is a disk.
_MAX = 1 << 60


def read_bytes(value: object, plain: str = "") -> int | None:
    """Read a size such as ``10G``, ``1.5 GiB`` or ``4096``; None for what is none, or no whole number of bytes.

    :param plain: The unit of a number without one: "" for bytes.
    """
    match = (
        _SIZE.fullmatch(str(value)) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else None
    )
    if not match:
        return None
    whole, fraction, unit, byte = match.group(1), match.group(2) or "", match.group(3), match.group(4)
    factor = _UNITS[unit.upper() if unit else "" if byte else plain]
    size, rest = divmod(int(whole + fraction) * factor, 10 ** len(fraction))
    return None if rest else size


def read_disk_size(value: object) -> int:
    """Read the bytes of a disk.

    :raises ValueError: When it is no size, or not a whole number of 512-byte sectors.
    """
    size = read_bytes(value)
    if not size:
        raise ValueError(
            f"{value!r} is not a size; write it as 10G (K, M, G and T are powers of 1024) or in"
            f" bytes.{likely(value, SECTOR, _MAX)}"
        )
    if size % SECTOR:
        raise ValueError(f"{value!r} is not a whole number of sectors of {SECTOR} bytes; write the unit, such as 10G.")
    if size >= _MAX:
        raise ValueError(f"{value!r} is larger than an image can be.")
    return size


def likely(value: object, low: int, high: int, plain: str = "") -> str:
    """Offer the size that was likely meant, as a sentence with a blank before it; "" where there is none from ``low``
    to ``high`` bytes.

    :param plain: The unit of a number without one, as of :func:`read_bytes`.
    """
    match = _LIKELY.search(str(value)) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else None
    if match:
        number = match.group(1).replace(",", ".")
        number = f"{float(number) * 10 ** int(match.group(2)):.9f}".rstrip("0") if match.group(2) else number
        number = number.removesuffix(".0").removesuffix(".")
        unit = match.group(3).upper()
        larger = ("M", "G") if unit in ("K", "B") and float(number) >= _MANY else ("G", "M")
        for guess in (unit if unit != "B" else "", plain, *larger):
            size = read_bytes(number + guess) if guess else None
            if size is not None and low <= size <= high:
                return f" Did you mean {number}{guess}?"
    return ""


def format_size(size: int) -> str:
    """Write bytes as a person would, and as qemu-img reads them: ``10G`` where that is exact, else bytes."""
    for unit in ("T", "G", "M", "K"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)
