# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which instances a person means, and which node has each: for the playbooks that act on some instances."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from ...module_utils._core.errors import ComputeError, raise_all
from .._declaration.reader import shown
from .._reporting.tables import table

_SHOWN = 40


def words_of(given: object) -> list[str]:
    """Give the names in what a person wrote: ``web-1,web-2`` or a list.

    :raises ComputeError: When it is neither.
    """
    if isinstance(given, str):
        given = given.replace(",", " ").split()
    if isinstance(given, Sequence) and all(isinstance(word, str) and word for word in given):
        return list(dict.fromkeys(given))
    raise ComputeError(f"instances: {shown(given)} is not a list of names.", "Write it as -e instances=web-1,web-2.")


def select(given: object, nodes: Mapping[str, list[Any] | None]) -> dict[str, list[str]]:
    """Give the instances that are meant, for each node.

    :param given: Names, ids, or patterns with ``*`` such as ``web-*``, of which each has to match something.
    :param nodes: What instance_info returned on each node; None where that is not known.
    :raises ComputeError: When something is not there, with what is; when two nodes have one of that name.
    """
    words = words_of(given)
    missing = [node for node, found in nodes.items() if found is None]
    places: dict[str, list[str]] = {}
    ids: dict[str, str] = {}
    for node, found in nodes.items():
        for entry in found or []:
            name = str(entry["name"])
            places.setdefault(name, []).append(node)
            ids[str(entry.get("id"))] = name
    names = sorted(places)
    there = (
        f"There is: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}." if names else "There is none."
    )
    if missing:
        there += f" Nothing is known of {', '.join(missing)}: not reached, or not in this run."
    if not words:
        raise ComputeError("Which instances? Say -e instances=web-1,web-2, or -e 'instances=web-*'.", there)
    chosen: dict[str, None] = {}
    lost = []
    for word in words:
        matched = (
            [word]
            if word in places
            else [ids[word]]
            if word in ids
            else fnmatch.filter(names, word)
            if "*" in word
            else []
        )
        chosen.update(dict.fromkeys(matched))
        lost += [] if matched else [word]
    if lost:
        raise ComputeError(f"No instance {', '.join(lost)} was found; nothing was changed.", there)
    raise_all(
        [
            f"The instance {name} is on {' and on '.join(places[name])}; --limit the run to one of them."
            for name in chosen
            if len(places[name]) > 1
        ]
    )
    return {node: [name for name in chosen if places[name] == [node]] for node in nodes}


def snapshots_table(nodes: Mapping[str, list[Any] | None], selected: Mapping[str, list[str]], width: int) -> list[str]:
    """Give the lines that show the snapshots of the instances that were selected."""
    rows = []
    for node, found in nodes.items():
        for entry in found or []:
            if entry["name"] in selected[node]:
                snapshots = entry.get("snapshots") or []
                rows += [[entry["name"], node, one["name"], one["created"], _size(one)] for one in snapshots] or [
                    [entry["name"], node, None, None, None]
                ]
    return table(
        "SNAPSHOTS",
        ("instance", "node", "snapshot", "created", "memory"),
        sorted(rows, key=lambda row: str(row[0])),
        width,
    )


def _size(snapshot: Mapping[str, Any]) -> str:
    return f"{max(1, int(snapshot['memory_bytes']) >> 20)} MiB" if snapshot["memory"] else "no"
