# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `plan` lists is what `site` does, always: from one random declaration to the next, on real nodes with real
QEMUs.

IKCLOUD_PAIRS is how many (200), IKCLOUD_SEED makes them the same again. Much of it is waiting, so IKCLOUD_LANES (2)
labs share them, each with a seed of its own.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_runs import Playbooks
from conftest import Lab
from declarations import Declarations
from site_run import Outcome, Site

Outcomes = dict[str, Outcome]


def step(site: Site, declaration: dict[str, Any]) -> tuple[Outcomes, Outcomes] | ComputeError:
    """Plan, run, and run again; give the first two, or why the declaration is refused."""
    try:
        planned = site.run(declaration, check=True)
    except ComputeError as error:
        with pytest.raises(ComputeError):
            site.run(declaration)
        return error
    done = site.run(declaration)
    for name, outcome in done.items():
        assert not planned[name].failed and not outcome.failed, (
            f"{name}: planned {planned[name].failed!r}, done {outcome.failed!r}"
        )
        assert planned[name].commands == outcome.commands, difference(name, planned[name].commands, outcome.commands)
        # What is said to be done is what was done: the steps, as they were run (side by side within a stage).
        said = Counter(line for (_action, answer) in outcome.calls for line in answer.result.get("commands", []))
        run = Counter(line for (_action, answer) in outcome.calls for line in answer.steps)
        assert said == run, f"{name}: said and not run: {said - run}; run and not said: {run - said}"
        assert not any(answer.steps for _action, answer in planned[name].calls), (
            f"{name}: check mode ran {planned[name].steps}"
        )
    for name, outcome in site.run(declaration).items():
        assert not outcome.failed and not outcome.commands, f"{name}: a second run: {outcome.failed} {outcome.commands}"
    return planned, done


def difference(name: str, planned: list[list[str]], done: list[list[str]]) -> str:
    """Say in what two lists of commands differ."""
    one, other = Counter(line for lines in planned for line in lines), Counter(line for lines in done for line in lines)
    return (
        f"{name}: planned and not done: {one - other}; done and not planned: {other - one}; or in another order:"
        f" {planned} {done}"
    )


def test_by_the_playbooks(lab: Lab, say: Callable[[str], None], tmp_path: Path) -> None:
    lab.bring_up(watch=False)
    walk, playbooks = Declarations(int(os.environ.get("IKCLOUD_SEED") or 1)), Playbooks(lab.settings, tmp_path)
    count = int(os.environ.get("IKCLOUD_PLAYBOOKS") or 3)
    for number in range(count):
        declaration = unprotected(walk.next())
        plan, record = playbooks.plan(declaration), playbooks.site(declaration)
        for name in lab.settings.node_names():
            done = [
                line
                for task in record["tasks"]
                if task["node"] and task["host"] == name
                for line in task["result"].get("commands", [])
            ]
            assert done == plan["commands"].get(name, []), name
        assert not playbooks.plan(declaration)["entries"]
        say(f"playbooks: pair {number + 1} of {count}, {len(plan['entries'])} entries")


class Walk:
    """One way through random declarations, on nodes of its own."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self.site, self.seed = lab.bring_up(watch=False), seed
        self.tried = self.refused = self.commands = 0
        self.stopped = False

    def go(self, pairs: int, tell: Callable[[], None]) -> None:
        """Go so many times from one declaration to the next."""
        walk = Declarations(self.seed)
        before: dict[str, Any] = {}
        while self.tried < pairs and not self.stopped:
            declaration = walk.next()
            try:
                outcome = step(self.site, declaration)
            except AssertionError as error:
                place = f"IKCLOUD_SEED={self.seed} IKCLOUD_LANES=1, pair {self.tried + 1}"
                raise AssertionError(
                    f"{place}, from\n{json.dumps(before)}\nto\n{json.dumps(declaration)}\n{error}"
                ) from None
            if isinstance(outcome, ComputeError):
                assert "protect" in str(outcome), outcome
                self.refused += 1
                # As the message says: unprotect first, by declaring it so.
                declaration = unprotected(before)
                outcome = step(self.site, declaration)
                assert not isinstance(outcome, ComputeError), outcome
                walk.refused()
            self.tried += 1
            before = declaration
            self.commands += sum(len(lines) for one in outcome[1].values() for lines in one.commands)
            tell()


def test_what_is_planned_is_what_is_done(labs: Callable[[int], list[Lab]], say: Callable[[str], None]) -> None:
    pairs = int(os.environ.get("IKCLOUD_PAIRS") or 200)
    count = min(pairs, int(os.environ.get("IKCLOUD_LANES") or 2))
    seed = int(os.environ.get("IKCLOUD_SEED") or time.time_ns() % 1_000_000)
    began = time.monotonic()
    walks = [Walk(lab, seed + number) for number, lab in enumerate(labs(count))]
    say(f"\n{pairs} pairs, IKCLOUD_SEED={seed} and the next {count - 1}")

    def tell() -> None:
        tried, commands, refused = (
            sum(values) for values in zip(*((walk.tried, walk.commands, walk.refused) for walk in walks))
        )
        if tried % 20 == 0 or tried == pairs:
            say(
                f"{tried} pairs, {commands} commands, {refused} refused for what is protected,"
                f" {time.monotonic() - began:.0f} s"
            )

    def go(number: int) -> None:
        try:
            walks[number].go(pairs // count + (number < pairs % count), tell)
        except BaseException:
            for walk in walks:
                walk.stopped = True  # the others need not go on
            raise

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(go, range(count)))
    assert sum(walk.tried for walk in walks) == pairs
    assert all(walk.commands > walk.tried for walk in walks), "declarations that change nothing prove nothing"


def unprotected(declaration: dict[str, Any]) -> dict[str, Any]:
    """Give a declaration with nothing protected."""
    return {
        **declaration,
        **{
            kind: {
                name: {key: value for key, value in spec.items() if key != "protect"}
                for name, spec in declaration[kind].items()
            }
            for kind in ("cloud_networks", "cloud_instances")
        },
    }
