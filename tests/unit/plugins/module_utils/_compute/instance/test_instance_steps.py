# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How instances are started together."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance import service
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance import steps as instance_steps
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.steps import (
    RestartInstance,
    StartInstance,
    Starts,
    StopUnit,
)
from ansible_collections.ikcloud.compute.plugins.module_utils._core import execution, reconcile, steps
from ansible_collections.ikcloud.compute.plugins.module_utils._core.commands import TookTooLongError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.steps import Run, Step
from ansible_collections.ikcloud.compute.plugins.module_utils._system import systemd
from ansible_collections.ikcloud.compute.tests.unit.plugins.modules.instance_samples import TALK, declared


def start(name: str, starts: Starts) -> StartInstance:
    return StartInstance(("systemctl", "start", name), unit=name, starts=starts)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Give the commands that are run; one that names ``bad`` fails."""
    commands: list[tuple[str, ...]] = []

    def run(argv: Sequence[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(tuple(argv))
        return subprocess.CompletedProcess(list(argv), 1 if "bad" in argv else 0, "", "")

    for module in (instance_steps, steps, systemd):
        monkeypatch.setattr(module, "run", run)
    return commands


def test_one_process_starts_all(asked: list[tuple[str, ...]]) -> None:
    starts = Starts()
    alone = StartInstance(("/somewhere/start",))
    restart = RestartInstance(("systemctl", "restart", "c"), unit="c", starts=starts)
    due: list[Step] = [start("a", starts), alone, restart, start("b", starts), Run(("true",))]
    starts.begin(due)
    assert asked == [("systemctl", "start", "a", "b")]
    assert [starts.started(unit) for unit in ("a", "b", "c", "")] == [True, True, False, False]


def test_the_engine_has_instances_started_together(
    asked: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance_steps, "locked_by", lambda _pidfile: 4711)
    monkeypatch.setattr(instance_steps.qmp, "status", lambda _path, timeout: "running")
    kind = declared(TALK, {**TALK, "name": "web-2", "id": "0a1b2c3d", "nics": []})
    changes = reconcile.plan(kind, kind.params["instances"], {}, absent=False)
    for change in changes:
        change.steps = [step for step in change.steps if isinstance(step, StartInstance)]
    assert execution.apply(kind, changes, []) == {}
    assert asked == [("systemctl", "start", "compute-instance@af95e879.service", "compute-instance@0a1b2c3d.service")]


def test_not_all_at_once(asked: list[tuple[str, ...]]) -> None:
    starts = Starts()
    starts.begin([start(str(number), starts) for number in range(2 * instance_steps.AT_ONCE + 1)])
    assert [len(command) for command in asked] == [2 + instance_steps.AT_ONCE] * 2  # the last one is a single one
    assert not starts.started(str(2 * instance_steps.AT_ONCE))


def test_a_node_without_systemctl_hears_it_from_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: Sequence[str], **_options: Any) -> None:
        raise ComputeError(f"{argv[0]} is not installed on this node.")

    monkeypatch.setattr(instance_steps, "run", run)
    starts = Starts()
    starts.begin([start("a", starts), start("b", starts)])
    assert not starts.started("a")


def test_a_single_one_is_its_own_steps_affair(asked: list[tuple[str, ...]]) -> None:
    starts = Starts()
    starts.begin([start("a", starts)])
    assert asked == []
    assert not starts.started("a")


@pytest.mark.usefixtures("asked")
def test_when_one_fails_its_own_step_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come up all the same is not started again."""
    up = {"b": {"ActiveState": "active"}, "bad": {"ActiveState": "failed"}}
    monkeypatch.setattr(systemd, "states", lambda names: {name: up[name] for name in names if name in up})
    starts = Starts()
    starts.begin([start("b", starts), start("bad", starts)])
    assert [starts.started(unit) for unit in ("b", "bad")] == [True, False]


def test_a_stop_that_systemd_does_not_get_done_is_forced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The unit waits for a script that QEMU's user can write: what its own settings allow is the limit."""
    monkeypatch.setattr(systemd, "UNIT_FOLDER", str(tmp_path))
    commands: list[tuple[tuple[str, ...], float | None]] = []

    def run(argv: Sequence[str], timeout: float | None = None, **_options: Any) -> subprocess.CompletedProcess[str]:
        commands.append((tuple(argv), timeout))
        if len(commands) == 1:
            raise TookTooLongError("it did not end")
        return subprocess.CompletedProcess(list(argv), 0, "", "")

    monkeypatch.setattr(instance_steps, "run", run)
    unit = "compute-instance@0a1b2c3d.service"
    stop, kill = ("systemctl", "stop", unit), ("systemctl", "kill", "--signal=SIGKILL", unit)
    for grace, drop_in, limit in ((None, "", 105), (None, "[Service]\nTimeoutStopSec=35\n", 50), (5, "", 35)):
        path = Path(service.drop_in_path("0a1b2c3d"))
        path.parent.mkdir(exist_ok=True)
        path.write_text(drop_in, encoding="utf-8")
        commands.clear()
        StopUnit(stop, id="0a1b2c3d", grace=grace).run()
        assert commands == [(stop, limit), (kill, 30), (stop, 30)]


def test_a_stop_that_fails_is_not_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: Sequence[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        assert argv[1] == "stop"
        raise ComputeError("there is no such unit")

    monkeypatch.setattr(instance_steps, "run", run)
    with pytest.raises(ComputeError, match="no such unit"):
        StopUnit(("systemctl", "stop", "compute-instance@0a1b2c3d.service"), id="0a1b2c3d").run()
