# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs as they were recorded: check mode told the truth, the second run changed nothing, and a run that changes nothing
is quick.
"""

from __future__ import annotations

import json
from typing import Any

import cloud
import pytest

# Tasks that go to a node; what Ansible does on the controller costs next to nothing.
MOST_TASKS = 8
MOST_PINGS = 15


def test_check_mode_listed_what_the_first_run_did() -> None:
    predicted = cloud.commands(cloud.records("site", check=True)[0])
    done = cloud.commands(cloud.records("site")[0])
    assert predicted.keys() == done.keys() == set(cloud.NODES)
    for node in cloud.NODES:
        assert sum(map(len, done[node].values())) > 20
        assert predicted[node] == done[node]


def test_what_was_missing_was_installed() -> None:
    for run in (cloud.records("site", check=True)[0], cloud.records("site")[0]):
        installed = [
            task["host"]
            for task in run["tasks"]
            if task["task"].endswith("Install the packages that are missing") and task["changed"]
        ]
        assert installed == ["ik-node-02"]


@pytest.fixture(scope="module")
def second(host: Any) -> dict[str, Any]:
    """Run site again once all guests have booted: what is measured beside them is not Ansible."""
    for name in cloud.plan()["instances"]:
        host(name)
    return cloud.last("ikcloud.compute.site")


def test_second_run_changed_nothing(second: dict[str, Any]) -> None:
    assert {name: stats["changed"] + stats["failures"] for name, stats in second["hosts"].items()} == dict.fromkeys(
        cloud.NODES, 0
    )
    assert [commands for tasks in cloud.commands(second).values() for commands in tasks.values() if commands] == []


def test_tasks_on_a_node(second: dict[str, Any]) -> None:
    for node in cloud.NODES:
        tasks = [task["task"] for task in second["tasks"] if task["host"] == node and task["node"]]
        assert 0 < len(tasks) <= MOST_TASKS, tasks


def test_time_of_a_run_that_changes_nothing(second: dict[str, Any]) -> None:
    pings = cloud.last(str(cloud.PROJECT / "tests" / "tools" / "ping.yml"))["seconds"]
    figure = {"ping_seconds": pings, "site_seconds": second["seconds"], "ratio": round(second["seconds"] / pings, 1)}
    (cloud.record_folder() / "performance.json").write_text(json.dumps(figure))
    print(figure)
    assert second["seconds"] <= MOST_PINGS * pings, figure
