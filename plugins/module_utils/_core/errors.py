# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception that is meant for the user."""

from __future__ import annotations


class ComputeError(Exception):
    """Something that the user can do something about.

    :param message: What is wrong and where (names the item).
    :param hint: What to do about it, a sentence, may be empty.
    :ivar executed: How many of an item's steps were executed when it came, itself among them.
    """

    executed: int = 0

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


# How many problems are listed; a person mends those first.
_LISTED = 20


def raise_all(problems: list[str]) -> None:
    """Raise one error that lists the problems, a line each, so that the user mends them in one round; of very many the
    first.

    :param problems: Sentences; nothing is raised when there are none.
    :raises ComputeError: When there is at least one problem.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise ComputeError(problems[0])
    lines = [f"({number}) {text}" for number, text in enumerate(problems[:_LISTED], 1)]
    left = len(problems) - _LISTED
    raise ComputeError(
        "\n".join([f"{len(problems)} problems:", *lines, *([f"... and {left} more."] if left > 0 else [])])
    )
