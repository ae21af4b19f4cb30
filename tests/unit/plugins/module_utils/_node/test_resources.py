# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order in which the module node brings a node to its lists."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._core import reconcile
from ansible_collections.ikcloud.compute.plugins.module_utils._node.registry import IN_ONE_CALL
from ansible_collections.ikcloud.compute.plugins.module_utils._node.resources import argument_spec, converge_all
from ansible_collections.ikcloud.compute.tests.unit.plugins.modules import instance_samples

BRIDGE = {
    "name": "br-gnv-0a1b2c3d",
    "network": "blue",
    "addresses": ["192.0.2.1/24"],
    "mtu": 1450,
    "up": True,
    "mac": None,
}


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the kinds' options, in the order in which they were converged."""
    found: list[str] = []

    def converge(kind: reconcile.Resource, check_mode: bool) -> dict[str, Any]:
        found.append(kind.option)
        return {"changed": False, "before": {}, "after": {}, "commands": [], "results": [], "diff": [], "warn": []}

    monkeypatch.setattr(reconcile, "converge", converge)
    return found


def test_what_is_as_it_should_be_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its entry nor its state; what fails is, and what waits for a restart."""
    entries = [
        {"name": "as-declared", "action": "none", "restart_required": False},
        {"name": "waits", "action": "none", "restart_required": True},
        {"name": "changed", "action": "update", "restart_required": False},
        {"name": "failed", "action": "none", "restart_required": False, "error": "it still differs"},
    ]
    state = {entry["name"]: {"mtu": 1450} for entry in entries}
    found = {
        "changed": True,
        "before": state,
        "after": state,
        "commands": [],
        "results": entries,
        "diff": [],
        "warn": [],
    }
    monkeypatch.setattr(reconcile, "converge", lambda kind, check_mode: found)
    told = converge_all(params(bridges=[]), False)["kinds"]["bridges"]
    assert [entry["name"] for entry in told["results"]] == ["waits", "changed", "failed"]
    assert list(told["before"]) == list(told["after"]) == ["changed"]


def params(**given: Any) -> dict[str, Any]:
    return {**{name: spec.get("default") for name, spec in argument_spec().items()}, **given}


def test_what_stands_on_something_comes_after_it_and_goes_before_it(order: list[str]) -> None:
    options = [kind.option for kind in IN_ONE_CALL.values()]
    converge_all(params(bridges=[BRIDGE], purge=list(IN_ONE_CALL)), False)
    assert order == options
    order.clear()
    converge_all(params(**{name: [] for name in IN_ONE_CALL}, purge=list(IN_ONE_CALL)), False)
    assert order == options[::-1]
    order.clear()
    converge_all(params(purge=["bridges", "nats"]), False)
    assert order == ["networks", "bridges"]


@pytest.mark.parametrize("check_mode", [True, False])
def test_one_volume_that_is_refused_stops_only_the_instances_that_have_it(
    monkeypatch: pytest.MonkeyPatch, check_mode: bool
) -> None:
    seen: dict[str, Any] = {}

    def converge(kind: reconcile.Resource, check_mode: bool) -> dict[str, Any]:
        seen[kind.option] = ([item["name"] for item in kind.params[kind.option]], kind.params["spare"])
        result: dict[str, Any] = {
            "changed": False,
            "before": {},
            "after": {},
            "commands": [],
            "results": [],
            "diff": [],
            "warn": [],
        }
        if kind.option == "volumes":
            bad = [
                {"name": name, "action": "none", "restart_required": False, "error": f"volume {name}: spoilt."}
                for name in ("data-1", "compute-0000000b")
            ]
            result.update(
                results=[*bad, {"name": "data-2", "action": "create", "restart_required": False}], msg="refused"
            )
        return result

    monkeypatch.setattr(reconcile, "converge", converge)
    instances = [
        instance_samples.item(name="web-1", id="0000000a", volumes=[{"name": "data-1"}]),
        instance_samples.item(name="web-2", id="0000000b", volumes=[]),
        instance_samples.item(name="web-3", id="0000000c", volumes=[{"name": "data-2"}]),
    ]
    result = converge_all(
        params(volumes=[{"name": "data-1", "size": "1M"}], instances=instances, seeds=[], purge=["instances"]),
        check_mode,
    )
    assert seen["instances"] == (["web-3"], ["web-1", "web-2"])  # the others are not purged either
    words = " ".join(result["warn"]) if check_mode else result["msg"]
    assert ("msg" in result) is not check_mode
    assert (
        "volume data-1: spoilt." in words
        and "instance web-1, which has that disk (data-1)" in words
        and "web-2" in words
        and "web-3" not in words
    )


def test_a_volume_that_fails_stops_what_stands_on_it(monkeypatch: pytest.MonkeyPatch, order: list[str]) -> None:
    before = reconcile.converge

    def converge(kind: reconcile.Resource, check_mode: bool) -> dict[str, Any]:
        result = before(kind, check_mode)
        return {
            **result,
            "results": [{"name": "a", "action": "create", "restart_required": False, "error": "full"}],
            "msg": "full",
        }

    monkeypatch.setattr(reconcile, "converge", converge)
    assert (
        converge_all(params(volumes=[{"name": "a", "size": "1M"}], instances=[instance_samples.item()]), False)["msg"]
        == "full"
    )
    assert order == ["volumes"]
