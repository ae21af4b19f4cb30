#!/usr/bin/env python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Draw the packages below plugins/ from their imports, and check that arrows only lead downward.

``imports.py --write`` puts the picture into docs/architecture.md, ``imports.py`` says whether the one there is current.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "architecture.md"
BEGIN, END = "<!-- made by `make docs`: begin -->", "<!-- made by `make docs`: end -->"
# From the bottom up: a package imports from those before it in its own list alone, and the controller from the node's
# too.
NODE = ("_core", "_system", "_storage", "_cloudinit", "_network", "_qemu", "_compute", "_node")
CONTROLLER = ("_declaration", "_addressing", "_scheduling", "_planning", "_reporting", "_controller")
ROOT = "ansible_collections.ikcloud.compute.plugins"
Edges = Mapping[str, set[str]]


def module_name(path: Path) -> str:
    """Return the dotted name of a file below plugins/, without what all of them begin with."""
    return ".".join(path.relative_to(PROJECT / "plugins").with_suffix("").parts)


def imported(path: Path) -> Iterator[str]:
    """Return what a file imports of ours, each as a dotted name below plugins/."""
    package = module_name(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            begin = package[: len(package) - node.level + 1]
            yield from _each([*begin, *(node.module or "").split(".")], node)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(ROOT):
            yield from _each((node.module or "")[len(ROOT) + 1 :].split("."), node)


def _each(words: list[str], node: ast.ImportFrom) -> Iterator[str]:
    """Return the modules that one statement names: the names it takes may be modules of a package."""
    words = [word for word in words if word]
    folder = PROJECT.joinpath("plugins", *words)
    if folder.is_dir():
        yield from (".".join([*words, alias.name]) for alias in node.names)
    else:
        yield ".".join(words)


def package_of(module: str) -> str:
    """Return the package that a module belongs to, such as ``_network``; of a thin end its folder, such as
    ``modules``.
    """
    words = module.split(".")
    return words[1] if words[0] in ("module_utils", "plugin_utils") else words[0]


def edges() -> Edges:
    """Return which package imports which others."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted((PROJECT / "plugins").rglob("*.py")):
        here = package_of(module_name(path))
        for module in imported(path):
            there = package_of(module)
            if there != here:
                found[here].add(there)
    return found


def upward(found: Edges) -> list[str]:
    """Return the arrows that lead upward."""
    order = [*NODE, *CONTROLLER]
    wrong = []
    for here, others in sorted(found.items()):
        if here in order:
            wrong += [f"{here} imports {there}" for there in sorted(others) if there not in order[: order.index(here)]]
    return wrong


def picture(found: Edges) -> str:
    """Return the picture (Mermaid): an arrow from a package to each that it imports, but for those that another
    leads to.
    """
    lines = ["```mermaid", "flowchart TD"]
    for title, packages in (
        ("the controller", ("action", *reversed(CONTROLLER))),
        ("a node", ("modules", *reversed(NODE))),
    ):
        lines += [
            f'  subgraph "{title}"',
            *(f"    {name}" for name in packages if name in found or any(name in o for o in found.values())),
            "  end",
        ]
    for here in ("action", *reversed(CONTROLLER), "modules", *reversed(NODE)):
        beyond = {further for there in found.get(here, ()) for further in reachable(there, found)}
        lines += [f"  {here} --> {there}" for there in sorted(found.get(here, set()) - beyond)]
    return "\n".join([*lines, "```"])


def reachable(package: str, found: Edges) -> set[str]:
    """Return the packages that a package imports, directly or by others."""
    seen: set[str] = set()
    todo = [package]
    while todo:
        for there in found.get(todo.pop(), set()) - seen:
            seen.add(there)
            todo.append(there)
    return seen


def page(text: str, drawn: str) -> str:
    """Return a page with the picture in its place."""
    before, _begin, rest = text.partition(BEGIN)
    _old, _end, after = rest.partition(END)
    return f"{before}{BEGIN}\n{drawn}\n{END}{after}"


def main() -> int:
    """Write the picture, or look whether it is current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    found = edges()
    wrong = upward(found)
    for line in wrong:
        print(f"{line}, which stands above it", file=sys.stderr)
    text = PAGE.read_text(encoding="utf-8")
    current = page(text, picture(found))
    if write:
        PAGE.write_text(current, encoding="utf-8")
    elif text != current:
        print("docs/architecture.md shows other imports than there are: run `make docs`.", file=sys.stderr)
        wrong.append("picture")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
