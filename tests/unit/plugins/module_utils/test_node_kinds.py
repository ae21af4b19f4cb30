# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order in which the module node brings a node to its lists."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils import engine
from ansible_collections.ikcloud.compute.plugins.module_utils.node_kinds import KINDS, argument_spec, converge_all

BRIDGE = {"name": "br-gnv-0a1b2c3d", "network": "blue", "addresses": ["192.0.2.1/24"], "mtu": 1450, "up": True, "mac": None}


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the kinds' options, in the order in which they were converged."""
    found: list[str] = []

    def converge(kind: engine.Kind, check_mode: bool) -> dict[str, Any]:
        found.append(kind.option)
        return {"changed": False, "before": {}, "after": {}, "commands": [], "results": [], "diff": [], "warn": []}

    monkeypatch.setattr(engine, "converge", converge)
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
    found = {"changed": True, "before": state, "after": state, "commands": [], "results": entries, "diff": [], "warn": []}
    monkeypatch.setattr(engine, "converge", lambda kind, check_mode: found)
    told = converge_all(params(bridges=[]), False)["kinds"]["bridges"]
    assert [entry["name"] for entry in told["results"]] == ["waits", "changed", "failed"]
    assert list(told["before"]) == list(told["after"]) == ["changed"]


def params(**given: Any) -> dict[str, Any]:
    return {**{name: spec.get("default") for name, spec in argument_spec().items()}, **given}


def test_what_stands_on_something_comes_after_it_and_goes_before_it(order: list[str]) -> None:
    options = [kind.option for kind in KINDS.values()]
    converge_all(params(bridges=[BRIDGE], purge=list(KINDS)), False)
    assert order == options
    order.clear()
    converge_all(params(**{name: [] for name in KINDS}, purge=list(KINDS)), False)
    assert order == options[::-1]
    order.clear()
    converge_all(params(purge=["bridges", "nats"]), False)
    assert order == ["networks", "bridges"]
