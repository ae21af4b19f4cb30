# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Container labs of these tests' own, of two nodes each, beside whatever lab is up."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nodes import Cluster, Settings, start
from site_run import Site


class Lab:
    """A lab of two nodes, brought up anew at each call.

    :ivar settings: Where its files and ports are.
    """

    def __init__(self, number: int) -> None:
        found = Settings.from_environment()
        run = Path(os.environ.get("IKCLOUD_LAB_RUN") or found.cache / "converge")
        first = int(os.environ.get("IKCLOUD_LAB_SSH_PORT") or 22441) + 20 * number
        ports = {"ssh_port": first, "http_port": first + 10, "underlay_port": first + 12}
        self.settings = dataclasses.replace(
            found, kind="container", nodes=2, run=run.with_name(f"{run.name}-{number}"), **ports
        )
        self._site: Site | None = None
        self.take_down()

    def bring_up(self, watch: bool) -> Site:
        """Give bare nodes.

        :param watch: Whether their modules note the points that they come to.
        """
        self.take_down()
        self._site = Site(start(self.settings), watch)
        return self._site

    def take_down(self) -> None:
        """Remove the nodes and all of theirs."""
        if self._site:
            self._site.close()
        self._site = None
        Cluster(self.settings).down()


@pytest.fixture
def labs() -> Iterator[Callable[[int], list[Lab]]]:
    """Give what makes labs that don't know of each other: ``labs(2)``."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("nodes that are containers need root")
    made: list[Lab] = []

    def call(count: int) -> list[Lab]:
        made.extend(Lab(number) for number in range(count))
        return made

    yield call
    for lab in made:
        lab.take_down()


@pytest.fixture
def lab(labs: Callable[[int], list[Lab]]) -> Lab:
    """Give one lab."""
    return labs(1)[0]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Give what prints a line at once."""

    one_by_one = threading.Lock()

    def call(line: str) -> None:
        with one_by_one, capsys.disabled():
            print(line, flush=True)
            sys.stdout.flush()

    return call
