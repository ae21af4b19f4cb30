# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed anywhere: ``site`` is killed at every point there is, run again, and has to have come to where an undisturbed
run comes.

The three scenarios are one round: from nothing to A, from A to B with everything changed, from B to nothing. In each
round every scenario is killed at one point more, on both nodes, until there is none that was not tried. The time goes
into waiting for systemd and for disks, so IKCLOUD_LANES (2) labs share the rounds. IKCLOUD_POINTS=1-8,50 tries some of
them, 1-999/8 each eighth.
"""

from __future__ import annotations

import copy
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from conftest import Lab
from nodes import Kill
from scenarios import SCENARIOS, differences, prepare

Say = Callable[[str], None]
MOST_FAILURES = 8


class Harness:
    """The nodes, what an undisturbed run makes of them, and the points to try."""

    def __init__(self, lab: Lab, say: Say) -> None:
        self.lab = lab
        self.say = say
        self.site = lab.bring_up(watch=True)
        self.wanted: dict[str, dict[str, Any]] = {}
        self.points: dict[str, dict[str, list[Kill]]] = {}
        self.tried = self.survived = 0
        self.failures: list[str] = []

    def undisturbed(self) -> None:
        """See what the runs come to when nothing happens to them, and where they can be killed."""
        bare = self.converge({})
        for scenario, declaration in SCENARIOS.items():
            prepare(self.site, scenario)
            outcomes = self.site.run(declaration)
            assert not any(outcome.failed for outcome in outcomes.values()), [
                outcome.failed for outcome in outcomes.values()
            ]
            self.points[scenario] = {name: points_of(outcome.calls) for name, outcome in outcomes.items()}
            self.wanted[scenario] = self.converge(declaration)
        assert any(point.get("unit") for point in every(self.points)), "no two QEMUs were started together"
        left = differences(bare, self.wanted["B to nothing"])
        assert not left, f"what a purge leaves over: {left}"

    @property
    def rounds(self) -> int:
        """How many there are: as many as the longest list of points."""
        return max(len(listed) for nodes in self.points.values() for listed in nodes.values())

    def round(self, number: int) -> None:
        """Kill each scenario at its point of this number, on both nodes."""
        for scenario, nodes in self.points.items():
            kills = {
                name: copy.copy(listed[number]) if number < len(listed) else None for name, listed in nodes.items()
            }
            self.tried += sum(kill is not None for kill in kills.values())
            if any(kills.values()):
                self.kill(scenario, kills)
            else:
                self.go_through(scenario)  # all its points were tried: it is but the way to the next

    def converge(self, declaration: dict[str, Any]) -> dict[str, Any]:
        """Run until nothing is to do any more (once, twice if need be), and take the picture."""
        for _round in range(2):
            outcomes = self.site.run(declaration)
            assert not any(outcome.failed for outcome in outcomes.values()), [
                outcome.failed for outcome in outcomes.values()
            ]
        assert not any(outcome.commands for outcome in outcomes.values()), [
            outcome.commands for outcome in outcomes.values()
        ]
        return self.site.pictures()

    def go_through(self, scenario: str) -> None:
        """Run a scenario once, undisturbed."""
        prepare(self.site, scenario)
        failed = [outcome.failed for outcome in self.site.run(SCENARIOS[scenario]).values() if outcome.failed]
        assert not failed, f"{scenario}: {failed}"

    def kill(self, scenario: str, kills: dict[str, Kill | None]) -> None:
        """Kill a scenario at a point of each node, run it again, and again, and compare."""
        declaration = SCENARIOS[scenario]
        prepare(self.site, scenario)
        killed = self.site.run(declaration, kills=kills)
        problems = {
            name: [f"the point was not reached: {killed[name].failed or 'the run went through'}"]
            for name, kill in kills.items()
            if (kill is not None) != killed[name].killed
        }
        again = self.site.run(declaration)
        third = self.site.run(declaration)
        pictures = self.site.pictures()
        for name in kills:
            found = problems.setdefault(name, [])
            found += [f"the second run failed: {again[name].failed}"] if again[name].failed else []
            found += [f"the third run failed: {third[name].failed}"] if third[name].failed else []
            found += [f"the third run changed: {third[name].commands}"] if third[name].commands else []
            found += differences(self.wanted[scenario][name], pictures[name])
        for name, kill in kills.items():
            if kill and not problems[name]:
                self.survived += 1
        if any(problems.values()):
            for name, found in problems.items():
                if found:
                    last = [
                        note for _action, answer in killed[name].calls[-1:] for note in answer.notes if "point" in note
                    ][-1:]
                    self.failures.append(f"{scenario}, {name}, {kills[name]}, {last}:\n    " + "\n    ".join(found))
                    self.say(self.failures[-1])
            self.renew(scenario)

    def renew(self, scenario: str) -> None:
        """Begin with new nodes, where the scenario ends."""
        self.site = self.lab.bring_up(watch=True)
        for name, declaration in SCENARIOS.items():
            prepare(self.site, name)
            self.converge(declaration)
            if name == scenario:
                break


def points_of(calls: list[Any]) -> list[Kill]:
    """Give the points of an undisturbed run, in their order."""
    points: list[Kill] = []
    before = children = 0
    for _action, answer in calls:
        took = {note["child"]: note for note in answer.children}
        for note in answer.notes:
            if "point" not in note:
                continue
            mode, number = note["point"], note["number"] + (before if note["point"] == "before" else children)
            if mode == "qemu":
                points += [{"mode": mode, "number": number, "unit": unit} for unit in range(note["units"])]
                continue
            points.append({"mode": mode, "number": number})
            if mode == "orphan" and note["number"] in took:
                child = took[note["number"]]
                points.append({"mode": "half", "number": number, "seconds": round(child["seconds"] / 2, 3)})
                points += [{"mode": "lines", "number": number, "lines": lines} for lines in range(1, child["lines"])]
        before += len(answer.points("before"))
        children += len(answer.points("orphan"))
    return points


def modes(points: dict[str, dict[str, list[Kill]]]) -> dict[str, dict[str, Counter[str]]]:
    """Count the points by their mode, of each scenario and node."""
    return {
        scenario: {name: Counter(str(point["mode"]) for point in listed) for name, listed in nodes.items()}
        for scenario, nodes in points.items()
    }


def numbers(text: str, most: int) -> Iterator[int]:
    """Give the rounds that are named, such as ``1-8,50`` or, each eighth, ``1-999/8``, counted from 0."""
    for part in text.split(","):
        span, _slash, step = part.partition("/")
        first, _dash, last = span.partition("-")
        yield from range(int(first) - 1, min(int(last or first), most), int(step or 1))


def test_killed_anywhere(labs: Callable[[int], list[Lab]], say: Say) -> None:
    began = time.monotonic()
    lanes = [Harness(lab, say) for lab in labs(int(os.environ.get("IKCLOUD_LANES") or 2))]
    with ThreadPoolExecutor(len(lanes)) as pool:
        list(pool.map(Harness.undisturbed, lanes))
        points = lanes[0].points
        say("")
        for scenario, nodes in points.items():
            counted = {name: len(listed) for name, listed in nodes.items()}
            say(f"{scenario}: {sum(counted.values())} points, {counted}")
        for lane in lanes[1:]:
            # By their numbers, which are of each mode: in which order two threads come to theirs is a matter of luck.
            assert modes(lane.points) == modes(points), "an undisturbed run is not the same twice"
            lane.points = points
        rounds = list(numbers(os.environ.get("IKCLOUD_POINTS") or f"1-{lanes[0].rounds}", lanes[0].rounds))
        waiting = iter(rounds)

        def work(lane: Harness) -> None:
            for number in waiting:
                try:
                    lane.round(number)
                except BaseException:
                    list(waiting)  # the other lanes need not go on
                    raise
                if number % 10 == 9:
                    survived, tried = sum(one.survived for one in lanes), sum(one.tried for one in lanes)
                    say(
                        f"round {number + 1} of {lane.rounds}: {survived} of {tried} points survived,"
                        f" {time.monotonic() - began:.0f} s"
                    )
                if sum(len(one.failures) for one in lanes) >= MOST_FAILURES:
                    return

        list(pool.map(work, lanes))
    survived, tried = sum(lane.survived for lane in lanes), sum(lane.tried for lane in lanes)
    say(f"killed at {tried} points of {len(every(points))}, survived {survived}, in {time.monotonic() - began:.0f} s")
    failures = [failure for lane in lanes for failure in lane.failures]
    assert len(failures) < MOST_FAILURES, "too many failures to go on:\n" + "\n".join(failures)
    assert survived == tried, "\n".join(failures)
    if len(rounds) == lanes[0].rounds:
        assert tried == len(every(points))


def every(points: dict[str, dict[str, list[Kill]]]) -> list[Kill]:
    """Give all points of all scenarios and nodes."""
    return [point for nodes in points.values() for listed in nodes.values() for point in listed]
