# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/properties.md says of every property of every kind of resource what a change does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[4]
WORDS = {"live", "restart", "new", "rebuild", "remade", "refused"}


def documented() -> dict[str, dict[str, str]]:
    """Give what the tables say: module, property, kinds of change."""
    sections = re.split(r"^## (.+)$", (ROOT / "docs/properties.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {
        name: dict(re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", text, re.MULTILINE))
        for name, text in zip(sections[1::2], sections[2::2])
        if name.isidentifier()
    }


def declared(module: str) -> set[str]:
    """Give the suboptions of a module's list, those of lists in it as ``nics.mac``."""
    texts = [ROOT / f"plugins/modules/{module}.py", ROOT / f"plugins/doc_fragments/{module}.py"]
    found = [
        text
        for path in texts
        if path.exists()
        for text in re.findall(r'= r"""(.*?)^ *"""', path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    ]
    options = [
        option
        for text in found
        if "options:\n" in text
        for option in (yaml.safe_load(text).get("options") or {}).values()
    ]
    lists = [option for option in options if option.get("elements") == "dict" and "suboptions" in option]
    assert lists
    return {name for option in lists for name in names(option["suboptions"], "")}


def names(options: dict[str, Any], prefix: str) -> set[str]:
    found = {prefix + name for name in options}
    return found.union(
        *(names(option["suboptions"], f"{prefix}{name}.") for name, option in options.items() if "suboptions" in option)
    )


# What is done to instances that are there is not declared, and so has no properties that change.
DEEDS = {"backup", "instance_power", "snapshot"}


def test_every_kind_has_its_table() -> None:
    kinds = {
        path.stem
        for path in (ROOT / "plugins/modules").glob("*.py")
        if "reconcile.main(" in path.read_text(encoding="utf-8")
    }
    assert set(documented()) == kinds - DEEDS


@pytest.mark.parametrize("module", sorted(documented()))
def test_every_property_is_in_the_table(module: str) -> None:
    assert set(documented()[module]) == declared(module)
    for name, words in documented()[module].items():
        assert set(words.strip().split(", ")) <= WORDS, (name, words)
