#!/usr/bin/env python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run layers of tests and count what came out; a layer that fails does not stop the next.

``layers.py NAME...`` runs these, ``--test`` what `make test` runs, ``--all`` everything that has not passed yet with
what it depends on as it is now, ``--table`` shows where each layer stands.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from layer_table import LAYERS, Layer, Mode, wrong_knobs
from passed import Passes

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]


@dataclass(frozen=True)
class Counts:
    """What came out of a layer, and after how many seconds."""

    passed: int
    failed: int
    skipped: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped in {self.seconds:.0f} s"


def run(layer: Layer, mode: Mode) -> Counts:
    """Run a layer's short round or all of it; record that all of it has passed."""
    settings = layer.settings(mode)
    said = "".join(f" {name}={value}" for name, value in settings.items())
    print(f"\n=== {layer.name}: {layer.what}{said and f' ({said.strip()})'} ===", flush=True)
    before, began = passes.now(layer), time.monotonic()
    tally = PROJECT / "build" / "test" / f"{layer.name}.tally"
    tally.parent.mkdir(parents=True, exist_ok=True)
    tally.unlink(missing_ok=True)
    environment = dict(
        os.environ,
        IKCLOUD_TALLY=str(tally),
        PYTEST_ADDOPTS=f"{os.environ.get('PYTEST_ADDOPTS', '')} -p tally".strip(),
        **settings,
    )
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    codes = [execute((str(HERE / "packages"),), environment, quiet=False)] if layer.packages else []
    if not any(codes):
        with ThreadPoolExecutor(layer.at_once) as pool:
            codes = list(pool.map(lambda words: execute(words, environment, quiet=layer.at_once > 1), layer.commands))
    counts = count(codes, tally, time.monotonic() - began)
    print(f"{layer.name}: {counts}", flush=True)
    # What was changed while it ran was not what it ran on.
    if (
        layer.whole_in(mode)
        and not counts.failed
        and counts.passed
        and not layer.narrowed()
        and passes.now(layer) == before
    ):
        passes.add(layer, counts.passed, counts.skipped, counts.seconds)
    return counts


def count(codes: list[int], tally: Path, seconds: float) -> Counts:
    """Count tests where pytest ran them, and else commands."""
    if not tally.exists():
        return Counts(codes.count(0), len(codes) - codes.count(0), 0, seconds)
    lines = tally.read_text(encoding="ascii").splitlines()
    passed, failed, skipped = (sum(int(line.split()[column]) for line in lines) for column in range(3))
    # Something beside the tests may have failed.
    return Counts(passed, failed or int(any(codes)), skipped, seconds)


def execute(words: tuple[str, ...], environment: dict[str, str], quiet: bool) -> int:
    """Run a command; a quiet one shows what it said when it has failed."""
    began = time.monotonic()
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if quiet else {}
    # mypy can't tell which overload of run() a mapping of keywords means.
    done = subprocess.run(words, env=environment, cwd=PROJECT, text=True, check=False, **streams)  # type: ignore[call-overload]
    if quiet:
        outcome = "ok" if done.returncode == 0 else f"FAILED ({done.returncode})"
        shown = "" if done.returncode == 0 else f"{done.stdout.rstrip()}\n"
        print(f"{shown}  {shlex.join(words)}: {outcome}, {time.monotonic() - began:.0f} s", flush=True)
    return int(done.returncode)


def run_layers(layers: list[Layer], mode: Mode, again: bool) -> int:
    """Run layers, and end with a line for each and a line of counts; give the exit status."""
    lines, passed, failed, skipped, began = [], 0, 0, 0, time.monotonic()
    for layer in layers:
        earlier = None if again else passes.current(layer)
        if earlier is not None:
            lines.append(f"{layer.name:11} {earlier}")
            passed, skipped = passed + earlier.passed, skipped + earlier.skipped
            continue
        counts = run(layer, mode)
        lines.append(
            f"{layer.name:11} {counts.passed:5} passed {counts.failed:3} failed {counts.skipped:3} skipped"
            f" {counts.seconds:6.0f} s"
        )
        passed, failed, skipped = passed + counts.passed, failed + counts.failed, skipped + counts.skipped
    if len(layers) > 1:
        print("\n" + "\n".join(lines) + f"\nin {time.monotonic() - began:.0f} s")
        print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


def table() -> int:
    """Show of each layer at which commit it has passed, and whether that still counts."""
    for layer in LAYERS.values():
        current, last = passes.current(layer), passes.last(layer)
        stale = (
            f"has to run: passed at {last.commit}, what it depends on changed since"
            if last
            else "has to run: never passed here"
        )
        print(f"{layer.name:11} {current or stale}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(LAYERS)}")
    parser.add_argument("--test", action="store_true", help="the layers of make test, in their short rounds")
    parser.add_argument("--all", action="store_true", help="all of the layers that have not passed as they are")
    parser.add_argument("--again", action="store_true", help="with --all: those that have passed too")
    parser.add_argument("--table", action="store_true", help="where each layer stands")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in LAYERS]
    if unknown:
        parser.error(f"there is no layer {', '.join(unknown)}; there are {', '.join(LAYERS)}")
    if wrong_knobs():
        parser.error("; ".join(wrong_knobs()))
    if arguments.table:
        return table()
    named = [LAYERS[name] for name in arguments.names] or list(LAYERS.values())
    if arguments.test:
        return run_layers([layer for layer in named if layer.short is not None], Mode.SHORT, again=True)
    return run_layers(named, Mode.ALL, again=arguments.again or not arguments.all)


passes = Passes(PROJECT)

if __name__ == "__main__":
    sys.exit(main())
