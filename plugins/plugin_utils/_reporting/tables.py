# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text for people: tables, and nothing in them that steers a terminal, whatever a guest or a node is called or says."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

GAP = "  "
MIN_COLUMN = 6
ELLIPSIS = "\u2026"


def width_of(text: str) -> int:
    """Give the columns that a text takes on a terminal: two for wide characters, none for combining ones (Unicode
    Standard Annex #11).
    """
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def fit(text: str, width: int) -> str:
    """Cut a text to a width, with an ellipsis where something is lost, and fill it up to that width."""
    if width_of(text) > width:
        while text and width_of(text) > width - 1:
            text = text[:-1]
        text += ELLIPSIS
    return text + " " * (width - width_of(text))


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> list[str]:
    """Give the lines of a table, one for each row, none longer than ``width``: the widest columns are cut until it
    fits.

    :param title: Stands above it.
    :param heads: The columns' names.
    :param rows: Cells of any type; None gives "-", a list its entries with commas.
    :param width: Columns of the terminal.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    widths = column_widths(heads, cells)
    while sum(widths) + len(GAP) * (len(widths) - 1) > width and max(widths) > MIN_COLUMN:
        widths[widths.index(max(widths))] -= 1
    lines = [
        GAP.join(fit(cell, column) for cell, column in zip(row, widths)).rstrip()
        for row in [[head.upper() for head in heads], *cells]
    ]
    return [title, *lines] if rows else [title, "(none)"]


def column_widths(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Give what each column takes to be whole."""
    return [max(map(width_of, column)) for column in zip(heads, *rows)]


def _cell(value: object) -> str:
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return one_line(", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))


def one_line(text: str) -> str:
    """Give a text without what would steer a terminal, a "?" in its place."""
    return "".join(character if character.isprintable() else "?" for character in text)


def screen(lines: Iterable[str]) -> str:
    """Give lines as they go to a terminal, each of them one line; all that we show goes through here."""
    return "\n".join(["", *map(one_line, lines), ""])


def message(error: Exception) -> str:
    """Give what an error says, for a terminal: Ansible prints it as it is."""
    return "\n".join(map(one_line, str(error).split("\n")))
