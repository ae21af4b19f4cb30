# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel says of a node's memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._system.memory import memory_limit, node_memory

TEXT = (
    "MemTotal:       24683520 kB\nMemFree:        21995520 kB\nHugePages_Total:       0\nSwapTotal:       2097148 kB\n"
)


@pytest.mark.parametrize(("policy", "limit"), [("0", 26152), ("2", 26152), ("1", None), (None, None)])
def test_limit(tmp_path: Path, policy: str | None, limit: int | None) -> None:
    (tmp_path / "meminfo").write_text(TEXT)
    if policy is not None:
        (tmp_path / "policy").write_text(f"{policy}\n")
    assert node_memory(str(tmp_path / "meminfo")) == 24105
    assert memory_limit(str(tmp_path / "meminfo"), str(tmp_path / "policy")) == limit


@pytest.mark.parametrize("text", ["", "MemTotal:\n", "MemTotal: much kB\n", None])
def test_unknown(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "meminfo").write_text(text)
    (tmp_path / "policy").write_text("0\n")
    assert node_memory(str(tmp_path / "meminfo")) is None
    assert memory_limit(str(tmp_path / "meminfo"), str(tmp_path / "policy")) is None
