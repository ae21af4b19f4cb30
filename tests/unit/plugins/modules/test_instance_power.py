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
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.instances import Instance
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance_operation import Chosen
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.power import PowerOperation
from ansible_collections.ikcloud.compute.plugins.module_utils._core import operation
from ansible_collections.ikcloud.compute.plugins.module_utils._core.changes import Change, Observed
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.machine import Machine

ROOT = "/var/lib/compute-service"
FOLDER = f"{ROOT}/run/instances/compute-0a1b2c3d"
UNIT = "compute-instance@0a1b2c3d.service"
AS = "runuser -u compute-service -- " if os.geteuid() == 0 else ""


def plan(
    state: str, power: str, by_systemd: bool = True, said: str | None = None, **params: Any
) -> tuple[list[str], list[str], Any]:
    """Give the commands and reasons that bring one instance from a power to a state."""
    validated = ArgumentSpecValidator(PowerOperation.spec).validate({"instances": ["web-1"], "state": state, **params})
    assert not validated.error_messages
    kind = PowerOperation(validated.validated_parameters)
    off = power in ("stopped", "failed", "awaited")
    unit = (
        {
            "ActiveState": {
                "stopped": "inactive",
                "failed": "failed",
                "stopping": "deactivating",
                "awaited": "activating",
            }.get(power, "active")
        }
        if by_systemd
        else {}
    )
    instance = Instance("web-1", "0a1b2c3d", FOLDER, pid=0 if off else 77, unit=unit, owner="compute-service")
    instance.written = Machine(daemon=not by_systemd)
    run_state = said or (None if off else {"paused": "paused"}.get(power, "running"))
    assert (
        power == "paused"
        or instance.power == {"failed": "stopped", "awaited": "running"}.get(power, power)
        or not by_systemd
    )
    found = Observed(
        {"id": "0a1b2c3d", "power": {"failed": "stopped", "awaited": "running"}.get(power, power)},
        True,
        Chosen(instance, run_state),
    )
    change = kind.plan("web-1", found)
    assert [step.stage for step in change.steps] == sorted(step.stage for step in change.steps)
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
    with pytest.raises(
        ComputeError, match=rf"instance web-1 is {power}; only what runs can be {state}\. Start it first"
    ):
        plan(state, power)


def test_what_is_said_of_it() -> None:
    _commands, reasons, change = plan("stopped", "running")
    assert (
        reasons == ["is running, asked to be stopped"]
        and change.after["power"] == "stopped"
        and change.action == "update"
    )
    _commands, reasons, change = plan("restarted", "running")
    assert (reasons, change.effect) == (["asked to be restarted"], "restart")
    assert plan("paused", "paused")[2].action == "none"


def test_one_that_cannot_be_believed_is_only_stopped_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation, "node_lock", lambda root, check_mode: nullcontext())
    for state, done in (("restarted", ["web-2"]), ("stopped", ["web-1", "web-2"])):
        names = {"web-1": "0a1b2c3d", "web-2": "0a1b2c3e"}
        validated = ArgumentSpecValidator(PowerOperation.spec).validate({"instances": list(names), "state": state})
        kind = PowerOperation(validated.validated_parameters)
        have = {
            name: Observed(
                {"id": digits, "power": "running"},
                True,
                Chosen(Instance(name, digits, "/nowhere", unit={"ActiveState": "active"})),
            )
            for name, digits in names.items()
        }
        have["web-1"].native.instance.trouble = "start is not ours."
        monkeypatch.setattr(kind, "observe", lambda names, earlier, have=have: have)
        result = operation.perform(kind, check_mode=True)
        assert [entry["name"] for entry in result["results"] if entry["action"] == "update"] == done
        assert ("instance web-1: start is not ours. Who did that" in result.get("msg", "")) is (state == "restarted")


@pytest.mark.parametrize(
    ("state", "power", "pid", "left"),
    [
        ("started", "running", 78, ""),
        ("started", "stopped", 0, "it is stopped, asked to be running"),
        ("stopped", "stopping", 77, "it is stopping, asked to be stopped"),
        ("restarted", "running", 77, "its QEMU is the one from before"),
        ("restarted", "running", 78, ""),
        ("paused", "running", 77, "it is running, asked to be paused"),
    ],
)
def test_what_was_done_without_effect(state: str, power: str, pid: int, left: str) -> None:
    kind = PowerOperation({"instances": ["web-1"], "state": state, "root": ROOT, "grace": None})
    before = Observed(
        {"id": "0a1b2c3d", "power": "running"}, True, Chosen(Instance("web-1", "0a1b2c3d", FOLDER, pid=77))
    )
    now = Observed({"id": "0a1b2c3d", "power": power}, True, Chosen(Instance("web-1", "0a1b2c3d", FOLDER, pid=pid)))
    assert kind.unmet(Change("web-1"), before, now) == left
    assert (kind.unmet(Change("web-1"), before, None) == "") is (state == "stopped")
