# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From any power to any other, by systemd and without."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.ikcloud.compute.plugins.module_utils import engine
from ansible_collections.ikcloud.compute.plugins.module_utils.engine import Found, argument_spec
from ansible_collections.ikcloud.compute.plugins.module_utils.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils.instances import Instance
from ansible_collections.ikcloud.compute.plugins.module_utils.power_kind import PowerKind

ROOT = "/var/lib/compute-service"
FOLDER = f"{ROOT}/run/instances/compute-0a1b2c3d"
UNIT = "compute-instance@0a1b2c3d.service"
AS = "runuser -u compute-service -- " if os.geteuid() == 0 else ""


def plan(state: str, power: str, by_systemd: bool = True, said: str | None = None, **params: Any) -> tuple[list[str], list[str], Any]:
    """Give the commands and reasons that bring one instance from a power to a state."""
    validated = ArgumentSpecValidator(argument_spec(PowerKind)).validate({"instances": ["web-1"], "state": state, **params})
    assert not validated.error_messages
    kind = PowerKind(validated.validated_parameters)
    off = power in ("stopped", "failed", "awaited")
    unit = (
        {"ActiveState": {"stopped": "inactive", "failed": "failed", "stopping": "deactivating", "awaited": "activating"}.get(power, "active")}
        if by_systemd
        else {}
    )
    instance = Instance("web-1", "0a1b2c3d", FOLDER, pid=0 if off else 77, unit=unit, owner="compute-service")
    instance.options = [] if by_systemd else [("-daemonize", "")]
    kind.first["web-1"] = instance.pid
    kind.states["0a1b2c3d"] = said or (None if off else {"paused": "paused"}.get(power, "running"))
    assert power == "paused" or instance.power == {"failed": "stopped", "awaited": "running"}.get(power, power) or not by_systemd
    found = Found({"id": "0a1b2c3d", "power": {"failed": "stopped", "awaited": "running"}.get(power, power)}, True, instance)
    change = kind.change({"name": "web-1"}, found)
    assert [step.stage for step in change.steps] == sorted(step.stage for step in change.steps)  # type: ignore[attr-defined]  # all of ours have one
    return [step.text for step in change.steps], change.reasons, change


STOP, START = f"systemctl stop {UNIT}", f"systemctl start {UNIT}"
PRESS = f"{AS}{FOLDER}/stop"
QMP = f"{AS}{FOLDER}/qmp"
CONT, PAUSE = f"{QMP} cont '{{}}'", f"{QMP} stop '{{}}'"


@pytest.mark.parametrize(
    ("state", "power", "commands"),
    [
        ("started", "running", []),
        ("started", "stopped", [START]),
        ("started", "failed", [f"systemctl reset-failed {UNIT}", START]),
        ("started", "stopping", [START]),
        ("started", "awaited", [START]),
        ("stopped", "awaited", [STOP]),
        ("restarted", "awaited", [STOP, START]),
        ("started", "paused", [CONT]),
        ("resumed", "paused", [CONT]),
        ("resumed", "running", []),
        ("paused", "running", [PAUSE]),
        ("paused", "paused", []),
        ("stopped", "stopped", []),
        ("stopped", "failed", []),
        ("stopped", "running", [STOP]),
        ("stopped", "stopping", [STOP]),
        ("stopped", "paused", [STOP]),
        ("restarted", "running", [STOP, START]),
        ("restarted", "paused", [STOP, START]),
        ("restarted", "stopped", [START]),
    ],
)
def test_by_systemd(state: str, power: str, commands: list[str]) -> None:
    assert plan(state, power)[0] == commands


@pytest.mark.parametrize(
    ("state", "power", "grace", "commands"),
    [
        ("started", "stopped", None, [f"{AS}{FOLDER}/start"]),
        ("stopped", "running", None, [PRESS]),
        ("stopped", "running", 5, [f"{PRESS} 5"]),
        ("restarted", "running", 0, [f"{PRESS} 0", f"{AS}{FOLDER}/start"]),
    ],
)
def test_without_systemd(state: str, power: str, grace: int | None, commands: list[str]) -> None:
    assert plan(state, power, by_systemd=False, grace=grace)[0] == commands


def test_a_grace_of_its_own_is_kept_by_systemd_too() -> None:
    assert plan("stopped", "running", grace=5)[0] == [f"{PRESS} 5", STOP]
    assert plan("stopped", "paused", grace=5)[0] == [f"{PRESS} 5", STOP]


def test_a_guest_that_sleeps_is_woken() -> None:
    assert plan("started", "paused", said="suspended")[0] == [f"{QMP} system_wakeup '{{}}'"]


@pytest.mark.parametrize("state", ["paused", "resumed"])
@pytest.mark.parametrize("power", ["stopped", "stopping"])
def test_what_is_off_has_nothing_to_hold(state: str, power: str) -> None:
    with pytest.raises(ComputeError, match=rf"instance web-1 is {power}; only what runs can be {state}\. Start it first"):
        plan(state, power)


def test_what_is_said_of_it() -> None:
    _commands, reasons, change = plan("stopped", "running")
    assert reasons == ["is running, asked to be stopped"] and change.after["power"] == "stopped" and change.action == "update"
    _commands, reasons, change = plan("restarted", "running")
    assert (reasons, change.effect) == (["asked to be restarted"], "restart")
    assert plan("paused", "paused")[2].action == "none"


def test_one_that_cannot_be_believed_is_only_stopped_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "nothing_else_changes", lambda root, check_mode: nullcontext())
    for state, done in (("restarted", ["web-2"]), ("stopped", ["web-1", "web-2"])):
        names = {"web-1": "0a1b2c3d", "web-2": "0a1b2c3e"}
        validated = ArgumentSpecValidator(argument_spec(PowerKind)).validate({"instances": list(names), "state": state})
        kind = PowerKind(validated.validated_parameters)
        have = {
            name: Found({"id": digits, "power": "running"}, True, Instance(name, digits, "/nowhere", unit={"ActiveState": "active"}))
            for name, digits in names.items()
        }
        kind.first = dict.fromkeys(names, 0)
        have["web-1"].raw.trouble = "start is not ours."
        monkeypatch.setattr(kind, "observe", lambda items, have=have: have)
        result = engine.converge(kind, check_mode=True)
        assert [entry["name"] for entry in result["results"] if entry["action"] == "update"] == done
        assert ("instance web-1: start is not ours. Who did that" in result.get("msg", "")) is (state == "restarted")
