# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two nodes of a container lab of these tests' own, beside whatever lab is up."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nodes import Cluster, Settings, start
from site_run import Site


@pytest.fixture(scope="session")
def settings() -> Iterator[Settings]:
    """Give the lab's settings, and remove the lab in the end."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("nodes that are containers need root")
    found = Settings.from_environment()
    run = Path(os.environ.get("IKCLOUD_LAB_RUN") or found.cache / "converge")
    ports = {} if os.environ.get("IKCLOUD_LAB_SSH_PORT") else {"ssh_port": 22401, "http_port": 22480, "underlay_port": 22490}
    found = dataclasses.replace(found, kind="container", nodes=2, run=run, **ports)
    Cluster(found).down()
    yield found
    Cluster(found).down()


@pytest.fixture
def bring_up(settings: Settings) -> Iterator[Callable[[bool], Site]]:
    """Give what brings the nodes up, bare: ``bring_up(watch)``; at each call anew."""
    there: list[Site] = []

    def call(watch: bool) -> Site:
        take_down()
        there.append(Site(start(settings), watch))
        return there[-1]

    def take_down() -> None:
        while there:
            there.pop().close()
            Cluster(settings).down()

    yield call
    take_down()


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Give what prints a line at once."""

    def call(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)
            sys.stdout.flush()

    return call
