# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan that promises more memory or disk than a node has says so, and is carried out."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.plugin_utils._planning.planner import make_plan
from ansible_collections.ikcloud.compute.plugins.plugin_utils._reporting.changes import gather
from ansible_collections.ikcloud.compute.tests.unit.plugins.plugin_utils import samples
from hypothesis import given
from hypothesis import strategies as st

GIB = 1 << 30


def notes(info: dict[str, Any], instances: dict[str, Any], **more: Any) -> list[str]:
    nodes = {"ik-node-01": {"underlay_address": "10.10.20.101", "info": info}}
    declared = {name: {"image": "bionic", "network": "blue", **spec} for name, spec in instances.items()}
    plan = make_plan({**samples.TALK, "instances": declared, **more}, nodes)
    # Both of the playbooks that make changes known read them here.
    assert set(plan["notes"]) <= set(gather([], plan).notes)
    assert [sentence for sentence in plan["warnings"] if sentence in plan["notes"]] == plan["notes"]
    return list(plan["notes"])


def test_three_that_may_outgrow_their_node() -> None:
    three = {f"web-{number}": {"memory": 1024, "memory_max": 4096} for number in (1, 2, 3)}
    (said,) = notes({"memory_mb": 4096}, three)
    for word in ("ik-node-01", "12288 MiB", "4096", "web-1 4096", "memory_max"):
        assert word in said
    assert notes({"memory_mb": 12288}, three) == [] == notes({}, three)
    assert notes({"memory_mb": 8192}, {**three, "web-3": {**three["web-3"], "power": "stopped"}}) == []


@pytest.mark.parametrize(("purge", "expected"), [(False, 1), (True, 0)])
def test_what_runs_undeclared_counts_unless_it_goes(purge: bool, expected: int) -> None:
    old = {"id": "00000001", "labels": {}, "memory": 1024, "memory_max": 3072, "running": True}
    assert (
        len(
            notes(
                {"memory_mb": 4096, "instances": {"old": old}},
                {"web-1": {"memory": 1024, "memory_max": 2048}},
                purge=purge,
            )
        )
        == expected
    )


def test_disks_that_may_outgrow_their_node() -> None:
    info = {"disk_free_mb": 12 << 10, "images": {"bionic": {"virtual_size": 4 * GIB}}}
    two = {"web-1": {"disk": "8G"}, "web-2": {}}
    assert notes(info, two) == []
    (said,) = notes({**info, "disk_free_mb": (12 << 10) - 1}, two)
    for word in ("ik-node-01", "12G", "12287M", "compute-"):
        assert word in said
    assert len(notes(info, two, volumes={"data": {"size": "1G", "instance": "web-1"}})) == 1


def test_what_a_disk_takes_already_is_not_taken_twice() -> None:
    disk = {
        "compute-c3d2eb6b": {"base": "bionic", "virtual_size": 8 * GIB, "allocated": 7 * GIB},
        "old": {"virtual_size": 3 * GIB, "allocated": 1 * GIB},
    }
    plan = make_plan(samples.talk(**{"instances.web-2": None}), samples.two_nodes())
    name = plan["nodes"]["ik-node-01"]["volumes"][0]["name"]
    volumes = {name: disk["compute-c3d2eb6b"], "old": disk["old"]}
    # 1 GiB of its own disk, 2 GiB of one that nobody declares any more and that stays.
    assert notes({"disk_free_mb": 3 << 10, "volumes": volumes}, {"web-1": {"disk": "8G"}}) == []
    assert len(notes({"disk_free_mb": (3 << 10) - 1, "volumes": volumes}, {"web-1": {"disk": "8G"}})) == 1
    assert (
        notes({"disk_free_mb": 1 << 10, "volumes": volumes}, {"web-1": {"disk": "8G"}}, purge=True, purge_volumes=True)
        == []
    )


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4), st.booleans()), max_size=5), st.integers(20, 60))
def test_memory_is_said_when_the_sum_is_more(instances: list[tuple[int, int, bool]], memory: int) -> None:
    declared = {
        f"web-{number}": {
            "memory": size << 10,
            "memory_max": (size + more) << 10,
            "power": "running" if running else "stopped",
        }
        for number, (size, more, running) in enumerate(instances)
    }
    total = sum(size + more for size, more, running in instances if running)
    assert bool(notes({"memory_mb": memory << 10}, declared)) == (total > memory)
