# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How instances are started together."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils import instance_steps
from ansible_collections.ikcloud.compute.plugins.module_utils.instance_steps import RestartInstance, StartInstance, Starts
from ansible_collections.ikcloud.compute.plugins.module_utils.steps import Run, Step


def start(name: str, starts: Starts) -> StartInstance:
    return StartInstance(("systemctl", "start", name), unit=name, starts=starts)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Give the commands that are run; one that names ``bad`` fails."""
    commands: list[tuple[str, ...]] = []

    def run(argv: Sequence[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(tuple(argv))
        return subprocess.CompletedProcess(list(argv), 1 if "bad" in argv else 0, "", "")

    monkeypatch.setattr(instance_steps, "run", run)
    return commands


def test_one_process_starts_all(asked: list[tuple[str, ...]]) -> None:
    starts = Starts()
    alone = StartInstance(("/somewhere/start",))
    restart = RestartInstance(("systemctl", "restart", "c"), unit="c", starts=starts)
    steps: list[Step] = [start("a", starts), alone, restart, start("b", starts), Run(("true",))]
    starts.begin(steps)
    assert asked == [("systemctl", "start", "a", "b")]
    assert [starts.started(unit) for unit in ("a", "b", "c", "")] == [True, True, False, False]


def test_a_single_one_is_its_own_steps_affair(asked: list[tuple[str, ...]]) -> None:
    starts = Starts()
    starts.begin([start("a", starts)])
    assert asked == []
    assert not starts.started("a")


def test_when_one_fails_each_step_says_for_itself(asked: list[tuple[str, ...]]) -> None:
    """To start a unit that runs already does nothing (systemctl(1))."""
    starts = Starts()
    starts.begin([start("a", starts), start("bad", starts)])
    assert [starts.started(unit) for unit in ("a", "bad")] == [False, False]
