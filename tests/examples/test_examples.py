# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every module's EXAMPLES are run on a node of the lab, as they stand in the documentation, one after the other."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "tests" / "tools"))

import cloud  # noqa: E402

# Those that look at all nodes at once; the others run on one.
WHOLE_CLOUD = ("cloud_plan", "cloud_report", "cloud_status")
MODULES = sorted(path.stem for path in (PROJECT / "plugins" / "modules").glob("*.py") if path.stem != "__init__")


def examples(module: str) -> str:
    """Give the text of a module's EXAMPLES."""
    tree = ast.parse((PROJECT / "plugins" / "modules" / f"{module}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "EXAMPLES":
            return str(ast.literal_eval(node.value))
    raise LookupError(f"{module} has no EXAMPLES")


@pytest.fixture(scope="module", autouse=True)
def node() -> Iterator[None]:
    """Make the nodes ready, and remove afterwards what the examples made."""
    cloud.last("ikcloud.compute.prepare")
    yield
    cloud.last("ikcloud.compute.teardown")


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: str, tmp_path: Path) -> None:
    tasks = yaml.safe_load(examples(module))
    assert any(f"ikcloud.compute.{module}" in task for task in tasks)
    play = {
        "name": f"The examples of {module}",
        "hosts": "compute_nodes" if module in WHOLE_CLOUD else "ik-node-01",
        "gather_facts": False,
        "become": True,
        "tasks": tasks,
    }
    path = tmp_path / f"{module}.yml"
    path.write_text(yaml.safe_dump([play], sort_keys=False), encoding="utf-8")
    done = cloud.playbook(str(path))
    assert done.returncode == 0, done.stdout + done.stderr
