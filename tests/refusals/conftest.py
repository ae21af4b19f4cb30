# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each of these tests takes some runs of ansible-playbook: IKCLOUD_PART=2/3 runs the second of three spread parts."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the part that is asked for."""
    number, _slash, parts = (os.environ.get("IKCLOUD_PART") or "1/1").partition("/")
    kept = items[int(number) - 1 :: int(parts)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
