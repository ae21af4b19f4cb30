# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which instances are to be rebuilt, and what of the plan is theirs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._declaration.model import Cloud, Placement
from .._declaration.reader import nearest, shown

Item = dict[str, Any]
Lists = Mapping[str, Mapping[str, list[Item]]]


def read_names(value: object, problems: list[str]) -> list[str]:
    """Read names as a person gives them: a list, or a text with commas (``-e instances=web-1,web-2``), each once."""
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):
        problems.append(f"rebuild: {shown(value)} is neither a list of instances nor their names with commas.")
        return []
    names = list(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not names:
        problems.append("rebuild: no instance is named; say which, such as -e instances=web-1.")
    return names


def select(
    value: object, cloud: Cloud, lists: Lists, placement: Placement, left_out: Mapping[str, str]
) -> tuple[dict[str, Item], list[str]]:
    """Give what rebuilding instances takes, by node.

    :param value: The instances, of any type; None when nothing is to be rebuilt.
    :param lists: The whole plan's, by node and kind.
    :param left_out: Why instances are left out of this run.
    :returns: For each node that is reached the lists ``volumes``, ``seeds``, ``taps`` and ``instances`` of what is
        theirs, ``names`` (``compute-<id>``), and ``aside_names``; and every problem. A rebuild restarts what runs.
    """
    problems: list[str] = []
    if value is None:
        return {}, problems
    names = read_names(value, problems)
    chosen = {}
    for name in names:
        instance = cloud.instances.get(name)
        if instance is None:
            problems.append(
                f"rebuild: there is no instance {shown(name)} in cloud_instances. {nearest(name, cloud.instances)}"
            )
        elif instance.protect:
            problems.append(
                f"rebuild: cloud_instances.{name} is protected (protect: true); declare protect: false for it to give"
                " up what its disk holds."
            )
        elif name in left_out or placement.nodes.get(name) not in lists:
            why = left_out.get(
                name, f"it lives on {placement.nodes.get(name)}, which was not reached or is not in this run"
            )
            problems.append(f"rebuild: {name} can't be rebuilt now: {why}.")
        else:
            chosen[name] = instance
    result: dict[str, Item] = {}
    for node, kinds in lists.items():
        here = {f"compute-{instance.id}": name for name, instance in chosen.items() if placement.nodes[name] == node}
        mine = [item for item in kinds["instances"] if item["name"] in here.values()]
        theirs = {*here, *(disk["name"] for item in mine for disk in item.get("volumes", []))}
        result[node] = {
            "names": sorted(here),
            "aside_names": here,
            "aside": not cloud.purge_volumes,
            "volumes": [item for item in kinds["volumes"] if item["name"] in theirs],
            "seeds": [item for item in kinds["seeds"] if item["name"] in here],
            "taps": [item for item in kinds["taps"] if item["instance"] in here.values()],
            "instances": [{**item, "restart": "when_required"} for item in mine],
        }
    return result, problems
