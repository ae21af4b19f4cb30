# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The changelog's fragments are plain RST: what is markup elsewhere would be printed as it stands, or as something
else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

FRAGMENTS = sorted((Path(__file__).resolve().parents[2] / "changelogs" / "fragments").glob("*.yml"))
FOREIGN = {
    "Ansible's markup, such as C(...)": re.compile(r"\b(?:[BCEILMOPRUV]|RV|HORIZONTALLINE)\([^)]"),
    "a single backtick": re.compile(r"`"),
    "a Markdown link": re.compile(r"\]\("),
    "Markdown's bold": re.compile(r"\b__\w|\w__\b"),
}


def _foreign(text: str) -> list[str]:
    """Return which markup that is not RST's a text has, outside of its literals."""
    plain = re.sub(r"``.+?``", "", text, flags=re.DOTALL)
    return [name for name, pattern in FOREIGN.items() if pattern.search(plain)]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    else:
        for part in value:
            yield from _texts(part)


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.stem)
def test_a_fragment_is_plain_rst(path: Path) -> None:
    for text in _texts(yaml.safe_load(path.read_text(encoding="utf-8"))):
        assert not _foreign(text), f"{path.name}: {text}"


@pytest.mark.parametrize(
    "text", ["C(x)", "O(a#module:b[].c)", "RV(x)", "`x`", "[a](https://b)", "__bold__", "``a`` and `b`"]
)
def test_foreign_markup_is_seen(text: str) -> None:
    assert _foreign(f"nat - a {text} of it")


@pytest.mark.parametrize(
    "text", ["``C(x)``", "``a[](b)``", "**bold**", "the mark (of ours)", "XML(x)", "``a`` and ``b``"]
)
def test_rst_is_left_alone(text: str) -> None:
    assert not _foreign(f"nat - a {text} of it")
