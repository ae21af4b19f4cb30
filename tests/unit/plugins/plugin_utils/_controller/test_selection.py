# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which instances a person means."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.action import cloud_select
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.plugin_utils._controller.selection import (
    select,
    snapshots_table,
    words_of,
)
from ansible_collections.ikcloud.compute.tests.unit.plugins.action.test_cloud_actions import Shown, run
from hypothesis import given
from hypothesis import strategies as st


def instance(name: str, identifier: str = "", **more: Any) -> dict[str, Any]:
    return {"name": name, "id": identifier or f"{name}-id", **more}


NODES: dict[str, list[Any] | None] = {"n1": [instance("web-1", "0a1b2c3d"), instance("db")], "n2": [instance("web-2")]}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("web-1", ["web-1"]),
        ("web-2,web-1", ["web-2", "web-1"]),
        ("web-1, db", ["web-1", "db"]),
        (["db", "db"], ["db"]),
        ("0a1b2c3d", ["web-1"]),
        ("web-*", ["web-1", "web-2"]),
        ("*", ["db", "web-1", "web-2"]),
        ("0a1b2c3d,web-1", ["web-1"]),
    ],
)
def test_who_is_meant(given: object, names: list[str]) -> None:
    selected = select(given, NODES)
    assert selected == {
        "n1": [name for name in names if name != "web-2"],
        "n2": [name for name in names if name == "web-2"],
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            "web-3,web-1,web-4",
            r"^No instance web-3, web-4 was found; nothing was changed\. There is: db, web-1, web-2\.$",
        ),
        ("mail-*", r"^No instance mail-\* was found"),
        ("web-[12]", "^No instance web-"),
        (
            "",
            (
                r"^Which instances\? Say -e instances=web-1,web-2, or -e 'instances=web-\*'\. There is: db, web-1,"
                r" web-2\.$"
            ),
        ),
        (3, r"^instances: 3 is not a list of names\. Write it as -e instances=web-1,web-2\.$"),
        ([["web-1"]], "is not a list of names"),
    ],
)
def test_one_clear_error(given: object, words: str) -> None:
    with pytest.raises(ComputeError, match=words):
        select(given, NODES)


def test_what_is_not_known_and_what_is_there_twice() -> None:
    with pytest.raises(
        ComputeError, match=r"There is: db, web-1\. Nothing is known of n2: not reached, or not in this run\."
    ):
        select("web-2", {**NODES, "n2": None})
    with pytest.raises(ComputeError, match=r"There is none\.$"):
        select("web-2", {"n1": []})
    with pytest.raises(ComputeError, match="The instance db is on n1 and on n2; --limit the run to one of them"):
        select("db", {"n1": [instance("db")], "n2": [instance("db")]})
    assert select("db", {"n1": [instance("db")], "n2": None}) == {"n1": ["db"], "n2": []}


@given(
    st.lists(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True), min_size=1, unique=True), st.data()
)
def test_every_one_that_is_there_is_found_where_it_is(names: list[str], data: st.DataObject) -> None:
    nodes: dict[str, list[Any] | None] = {"n1": [], "n2": []}
    for name in names:
        found = nodes[data.draw(st.sampled_from(["n1", "n2"]))]
        assert found is not None
        found.append(instance(name, f"id of {name}"))
    asked = data.draw(st.lists(st.sampled_from(names), min_size=1))
    assert words_of(",".join(asked)) == list(dict.fromkeys(asked))
    selected = select(",".join(asked), nodes)
    assert {name for node in selected.values() for name in node} == set(asked)
    assert all(
        name in [entry["name"] for entry in nodes[node] or []] for node, chosen in selected.items() for name in chosen
    )


def variables(**results: Any) -> dict[str, Any]:
    return {
        "groups": {"compute_nodes": list(results)},
        "hostvars": {node: {"compute_instance_info": result} for node, result in results.items()},
    }


def test_the_action() -> None:
    found = variables(n1={"instances": NODES["n1"]}, n2={"unreachable": True})
    assert run(cloud_select, {"instances": "web-1"}, found) == {"changed": False, "nodes": {"n1": ["web-1"], "n2": []}}
    for wrong in (
        {"instance": "x"},
        {"instances": "web-2"},
        {"instances": "web-1", "instance_info": 3},
        {"instances": "web-1", "group": 3},
        {},
    ):
        result = run(cloud_select, wrong, found)
        assert result["failed"] and "Traceback" not in result["msg"]


def test_snapshots_are_shown_of_all_or_of_some() -> None:
    taken = {"name": "clean", "created": "2026-11-22T19:00:00Z", "memory": True, "memory_bytes": 5 << 20}
    nodes = {
        "n1": [
            instance("web-1", snapshots=[taken, {**taken, "name": "off", "memory": False, "memory_bytes": 0}]),
            instance("db", snapshots=[]),
        ]
    }
    assert snapshots_table(nodes, {"n1": ["web-1", "db"]}, 100) == [
        "SNAPSHOTS",
        "INSTANCE  NODE  SNAPSHOT  CREATED               MEMORY",
        "db        n1    -         -                     -",
        "web-1     n1    clean     2026-11-22T19:00:00Z  5 MiB",
        "web-1     n1    off       2026-11-22T19:00:00Z  no",
    ]
    shown = Shown()
    run(cloud_select, {"snapshots": True}, variables(n1={"instances": nodes["n1"]}), shown)
    assert "db " in shown.texts[0]
    run(cloud_select, {"snapshots": True, "instances": "web-1"}, variables(n1={"instances": nodes["n1"]}), shown)
    assert "db " not in shown.texts[1]
    assert not run(cloud_select, {"snapshots": True}, variables(n1={"instances": []}), shown).get("failed")
