# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests on the lab share. ``host("ik-node-01")`` and ``host("web-1")`` reach nodes and instances alike."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import testinfra

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "tools"))

import cloud


@pytest.fixture(scope="session")
def host() -> Callable[[str], Any]:
    """Give the testinfra host of a node, or of an instance once it can be logged in to."""
    config = str(cloud.ssh_config())

    @cache
    def get(name: str) -> Any:
        if name not in cloud.NODES:
            cloud.wait_for(name)
        return testinfra.get_host(f"ssh://{name}", ssh_config=config, timeout=60, controlpersist=0)

    return get


@pytest.fixture(scope="session")
def plan() -> dict[str, Any]:
    """Give what cloud_plan made of the declaration."""
    return cloud.plan()
