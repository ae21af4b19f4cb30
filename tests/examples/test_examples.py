# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every module's EXAMPLES are run on a node of a lab, as they stand in the documentation.

Containers have this machine's kernel, which may lack GENEVE: its examples are run on the vm lab, by molecule; all
others in containers, which is much faster. Who is not root, and so has no containers, has all of them run on the vm
lab.
"""

from __future__ import annotations

import ast
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "tests" / "tools"))

import cloud  # noqa: E402  # found by the path that is set above

# Those that look at all nodes at once; the others run on one.
WHOLE_CLOUD = ("cloud_plan", "cloud_report", "cloud_status")
GENEVE = ("geneve_tunnel",)
CONTAINERS = cloud.Settings.from_environment().kind == "container"
ALL = sorted(path.stem for path in (PROJECT / "plugins" / "modules").glob("*.py") if path.stem != "__init__")
ROOT = os.geteuid() == 0
MODULES = [module for module in ALL if (module not in GENEVE if CONTAINERS else module in GENEVE or not ROOT)]


def examples(module: str) -> str:
    """Give the text of a module's EXAMPLES."""
    tree = ast.parse((PROJECT / "plugins" / "modules" / f"{module}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "EXAMPLES":
            return str(ast.literal_eval(node.value))
    raise LookupError(f"{module} has no EXAMPLES")


def play(module: str, hosts: str) -> dict[str, Any]:
    """Give the play of a module's examples."""
    return {
        "name": module,
        "hosts": hosts,
        "gather_facts": False,
        "become": True,
        "tasks": yaml.safe_load(examples(module)),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """Run all plays, half of them on each node at the same time, and give their tasks' results by play, and what
    Ansible said.

    What they leave over stays: the nodes are removed afterwards.
    """
    if CONTAINERS and not ROOT:
        pytest.skip("nodes that are containers need root")
    cloud.last("ikcloud.compute.prepare")
    folder = tmp_path_factory.mktemp("run")
    for record in cloud.record_folder().glob("*-examples-*.json"):
        record.unlink()
    # The more tasks, the longer: so the halves take about the same time.
    single = sorted(set(MODULES) - set(WHOLE_CLOUD), key=lambda module: (-examples(module).count("\n- name:"), module))
    shares = {
        "ik-node-01": single[1::2],
        "ik-node-02": single[::2],
        "compute_nodes": [module for module in WHOLE_CLOUD if module in MODULES],
    }
    shares = {hosts: modules for hosts, modules in shares.items() if modules}

    def share(hosts: str) -> str:
        path = folder / f"examples-{hosts}.yml"
        path.write_text(
            yaml.safe_dump([play(module, hosts) for module in shares[hosts]], sort_keys=False), encoding="utf-8"
        )
        done = cloud.playbook(str(path), timeout=1800)
        return done.stdout + done.stderr

    with ThreadPoolExecutor(2) as pool:
        said = "".join(pool.map(share, [hosts for hosts in shares if hosts in cloud.NODES]))
    said += "".join(share(hosts) for hosts in shares if hosts not in cloud.NODES)
    found: dict[str, list[dict[str, Any]]] = {module: [] for module in MODULES}
    for hosts in shares:
        for task in [task for record in cloud.records(f"examples-{hosts}") for task in record["tasks"]]:
            found[task["play"]].append(task)
    return found, said


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: str, run: tuple[dict[str, list[dict[str, Any]]], str]) -> None:
    tasks, said = run[0][module], run[1]
    assert tasks, f"not reached, since one before has failed: {said}"
    wrong = [task for task in tasks if task["status"] not in ("ok", "skipped")]
    assert not wrong, said
    assert any(task["action"] == module and task["status"] == "ok" for task in tasks)
    assert len({task["task"] for task in tasks}) >= len(yaml.safe_load(examples(module)))
