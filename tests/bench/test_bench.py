# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench`: how fast it is beside what else there is, measured side by side in one run on nodes that are
containers.

IKCLOUD_MANY (20) and IKCLOUD_MOST (100) are the numbers of instances, IKCLOUD_ROUNDS (3) how often creations are
repeated; KEEP leaves the nodes up.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable

import pytest
from bench import Bench
from machine import PROJECT
from promises import Promise, promises, table


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest) -> dict[str, Promise]:
    """Measure, print the table and leave it in build/bench."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("a node that is a container needs root")
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(line)
            sys.stdout.flush()

    return measure(say)


def measure(say: Callable[[str], None]) -> dict[str, Promise]:
    folder = PROJECT / "build" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    many, most, rounds = (
        int(os.environ.get(f"IKCLOUD_{name}") or default)
        for name, default in (("MANY", 20), ("MOST", 100), ("ROUNDS", 3))
    )
    say("")
    figures = Bench(folder, say, many, most, rounds).run()
    kept = promises(figures, many, most)
    text = table(figures, kept)
    (folder / "performance.md").write_text(text)
    say(f"\n{text}")
    return kept


@pytest.mark.parametrize("name", ["flat", "tasks", "bare", "virsh", "virt-install", "loop"])
def test_what_is_promised(found: dict[str, Promise], name: str) -> None:
    promise = found[name]
    assert promise.kept, promise.row
