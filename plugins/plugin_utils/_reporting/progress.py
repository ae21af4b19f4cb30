# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines that show how far downloads have come."""

from __future__ import annotations

import re

INTERVAL = 5.0  # seconds between two lines of one download
_MIB = 1 << 20
_LINE = re.compile(r"\.(?P<name>[a-z0-9-]+)\.img\.part (?P<size>\d+) ?(?P<total>\d*)")


def read_parts(text: str) -> dict[str, tuple[int, int | None]]:
    """Read ``.bionic.img.part 1048576 398458880`` lines.

    :returns: For each image the bytes that have come, and all of them, None where the server did not say.
    """
    found: dict[str, tuple[int, int | None]] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        if match:
            found[match["name"]] = (int(match["size"]), int(match["total"]) if match["total"] else None)
    return found


class Progress:
    """What was shown of each download, and what is to be shown now.

    :param host: The node's name in the inventory.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._shown: dict[str, tuple[float, int]] = {}

    def lines(self, parts: dict[str, tuple[int, int | None]], now: float) -> list[str]:
        """Give the lines that are due.

        :param parts: As :func:`read_parts` gives them.
        :param now: Seconds of a clock that never goes back.
        """
        lines = []
        for name, (size, total) in sorted(parts.items()):
            if name not in self._shown:
                self._shown[name] = (now, size)
                continue
            since, before = self._shown[name]
            if now - since < INTERVAL:
                continue
            self._shown[name] = (now, size)
            lines.append(f"{self._host}: image {name} {_state(size, total, max(0.0, (size - before) / (now - since)))}")
        return lines


def _state(size: int, total: int | None, rate: float) -> str:
    if total and size >= total:
        return f"has come, {size / _MIB:.0f} MiB; being verified"
    if total:
        return f"{100 * size // total} % of {total / _MIB:.0f} MiB, {rate / _MIB:.1f} MiB/s"
    return f"{size / _MIB:.0f} MiB, {rate / _MIB:.1f} MiB/s"
