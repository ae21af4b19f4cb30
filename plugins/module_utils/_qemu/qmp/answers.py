# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a program says that is not trusted: read as what its reader expects, or not at all.

A guest that has broken out of its QEMU says over QMP what it likes. So each value is asked for by its type, and
everything is limited.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from ..._core.errors import ComputeError

# Entries of a list that is read: an instance has up to 255 processors, and its PCI bus takes 32 devices.
MOST_ENTRIES = 1024
LONGEST_WORD = 4096
LONGEST_TEXT = 65536


@dataclass(frozen=True)
class Answer:
    """A value in an answer.

    :ivar value: The JSON.
    :ivar said: What it is an answer to, and of whom: ``QEMU answered query-block at /…/qmp.sock``.
    :ivar place: Where in the answer it is, such as ``[0].inserted.file``.
    """

    value: Any
    said: str
    place: str = ""

    def word(self) -> str:
        """Give a text that may be shown, or be the name of a file.

        :raises ComputeError: When it is none, as in all the others.
        """
        if not isinstance(self.value, str) or len(self.value) > LONGEST_WORD or not self.value.isprintable():
            self._refuse("a plain text")
        return str(self.value)

    def text(self) -> str:
        """Give a text of whatever characters."""
        if not isinstance(self.value, str) or len(self.value) > LONGEST_TEXT:
            self._refuse("a text")
        return str(self.value)

    def number(self) -> int:
        """Give a whole number."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            self._refuse("a whole number")
        if not -(1 << 63) <= self.value < 1 << 64:
            self._refuse("a number of 64 bits")
        return int(self.value)

    def flag(self) -> bool:
        """Give a truth value."""
        if not isinstance(self.value, bool):
            self._refuse("true or false")
        return bool(self.value)

    def entries(self) -> list[Answer]:
        """Give the entries of a list."""
        if not isinstance(self.value, list) or len(self.value) > MOST_ENTRIES:
            self._refuse(f"a list of at most {MOST_ENTRIES}")
        return [Answer(entry, self.said, f"{self.place}[{index}]") for index, entry in enumerate(self.value)]

    def find(self, key: str) -> Answer | None:
        """Give a member of an object, None when it is not there, or null."""
        if not isinstance(self.value, dict):
            self._refuse("an object")
        value = self.value.get(key)
        return None if value is None else Answer(value, self.said, f"{self.place}.{key}")

    def get(self, key: str) -> Answer:
        """Give a member of an object."""
        found = self.find(key)
        if found is None:
            self._refuse(f"an object with {key}")
        return found

    def numbers(self) -> dict[str, int]:
        """Give an object of whole numbers."""
        if not isinstance(self.value, dict) or len(self.value) > MOST_ENTRIES:
            self._refuse("an object")
        return {
            Answer(key, self.said, self.place).word(): Answer(value, self.said, f"{self.place}.…").number()
            for key, value in self.value.items()
        }

    def _refuse(self, wanted: str) -> NoReturn:
        place = f"{self.place.lstrip('.')} is" if self.place else "it is"
        hint = "Restart its instance; if that happens again, the guest may have broken out of it."
        raise ComputeError(f"{self.said} otherwise than QEMU does: {place} not {wanted}.", hint)
