# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which instances are rebuilt, and what refuses it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.plugin_utils._planning.planner import make_plan
from ansible_collections.ikcloud.compute.tests.unit.plugins.plugin_utils import samples
from hypothesis import given


def rebuild(
    names: object, declaration: dict[str, Any] | None = None, nodes: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    plan = make_plan({**(declaration or samples.talk()), **options}, nodes or samples.two_nodes(), rebuild=names)
    found = plan["rebuild"]
    assert isinstance(found, dict)
    return found


def refusal(names: object, **arguments: Any) -> str:
    with pytest.raises(ComputeError) as error:
        rebuild(names, **arguments)
    return str(error.value)


def test_nothing_unless_asked_for() -> None:
    assert rebuild(None) == {}


@pytest.mark.parametrize("names", ["web-1", ["web-1"], " web-1 ,, web-1", ["web-1", "web-1"]])
def test_only_what_is_its_own(names: object) -> None:
    plan = make_plan(samples.talk(), samples.two_nodes())
    machine = f"compute-{plan['instances']['web-1']['id']}"
    found = rebuild(names)
    assert found["ik-node-02"]["names"] == [] and found["ik-node-02"]["instances"] == []
    mine = found["ik-node-01"]
    assert (mine["names"], mine["aside_names"], mine["aside"]) == ([machine], {machine: "web-1"}, True)
    assert [item["name"] for kind in ("volumes", "seeds") for item in mine[kind]] == [machine, machine]
    assert mine["taps"] == plan["nodes"]["ik-node-01"]["taps"]
    assert mine["instances"] == [{**plan["nodes"]["ik-node-01"]["instances"][0], "restart": "when_required"}]
    assert rebuild(names, purge_volumes=True)["ik-node-01"]["aside"] is False


def test_data_volumes_stay() -> None:
    declaration = {
        **samples.talk(),
        "volumes": {"data-1": {"size": "1G", "instance": "web-1"}, "data-2": {"size": "1G", "node": "ik-node-01"}},
    }
    mine = rebuild("web-1", declaration=declaration)["ik-node-01"]
    assert [item["name"] for item in mine["volumes"]] == [*mine["names"], "data-1"]
    assert "data-1" not in mine["names"] and mine["instances"][0]["volumes"] == [{"name": "data-1"}]


def test_both_on_their_nodes() -> None:
    assert [len(lists["names"]) for lists in rebuild("web-1,web-2").values()] == [1, 1]


def test_what_is_refused() -> None:
    assert "no instance is named; say which, such as -e instances=web-1" in refusal("")
    assert "there is no instance 'web-l' in cloud_instances. Did you mean web-2? Known: web-1, web-2." in refusal(
        "web-l"
    )
    for names in (7, {"web-1": 1}, [1], True):
        assert "neither a list of instances nor their names" in refusal(names)
    protected = samples.talk(**{"instances.web-1.protect": True})
    assert "cloud_instances.web-1 is protected" in refusal("web-1", declaration=protected)
    assert rebuild("web-2", declaration=protected)["ik-node-02"]["names"]
    assert "web-2 can't be rebuilt now: it lives on ik-node-02" in refusal("web-2", nodes=samples.two_nodes(n2=None))
    assert "web-1 can't be rebuilt now: it may live on ik-node-02" in refusal("web-1", nodes=samples.two_nodes(n2=None))
    assert "web-l" in refusal("web-l,web-x") and "web-x" in refusal("web-l,web-x")


@given(samples.JSON)
def test_anything_is_either_read_or_refused(value: Any) -> None:
    with contextlib.suppress(ComputeError):
        assert set(rebuild(value)) == (set() if value is None else set(samples.two_nodes()))
