# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan shows, against golden files, and that it looks at every task that site has.

To accept a change of a golden file: UPDATE_GOLDEN=1 pytest tests/unit/plugins/plugin_utils/_reporting/test_changes.py,
then read the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.ikcloud.compute.plugins.plugin_utils._reporting.changes import (
    REGISTERED,
    Changes,
    Entry,
    NodeResults,
    gather,
)
from ansible_collections.ikcloud.compute.plugins.plugin_utils._reporting.render import (
    markdown,
    plan_lines,
    summary_line,
    totals_line,
)
from hypothesis import given
from hypothesis import strategies as st

PROJECT = Path(__file__).parents[5]
GOLDEN = PROJECT / "tests" / "unit" / "golden"


def entry(name: str, effect: str = "none", *reasons: str, pending: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "effect": effect,
        "changed": effect != "none",
        "reasons": list(reasons),
        "restart_required": bool(pending),
        "restart_reason": pending,
    }


def done(*entries: dict[str, Any], commands: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"changed": bool(commands), "results": list(entries), "commands": list(commands)}


def node(**kinds: dict[str, Any]) -> dict[str, Any]:
    commands = [command for kind in kinds.values() for command in kind["commands"]]
    return {"changed": any(kind["changed"] for kind in kinds.values()), "commands": commands, "kinds": kinds}


def sample() -> Changes:
    """A bare node, one with some of everything, one that failed, one that was not reached, and one that was left
    out.
    """
    bare = {
        "prepare_packages_done": {"changed": True},
        "prepare_user_done": {"changed": True},
        "prepare_folders_done": {
            "changed": True,
            "results": [{"item": "lib/images", "changed": True}, {"item": "lib/volumes", "changed": False}],
        },
        "images_done": done(
            entry("bionic", "create"), commands=("wget -c -O .bionic.img.part https://images.example/bionic.img",)
        ),
        "overlay_done": node(
            bridges=done(
                entry("br-gnv-fc814e42", "create"),
                entry("compute-networks.service", "create"),
                commands=("ip link add …",),
            )
        ),
    }
    mixed = {
        "prepare_packages_done": {"changed": False, "skipped": True},
        "compute_instances_removed": done(
            entry("old", "destroy"), commands=("systemctl stop compute-instance@0a1b2c3d.service",)
        ),
        "images_removed": done(entry("older", "destroy"), commands=("a removal of an earlier play",)),
        "images_done": done(entry("bionic")),
        "overlay_done": node(
            bridges=done(
                entry("br-gnv-fc814e42", "live", "mtu is 1500, declared 1450"),
                commands=("ip link set dev br-gnv-fc814e42 mtu 1450",),
            ),
            tunnels=done(
                entry("gnv-0d5e8a1c", "rebuild", "its VNI is 77, declared 88, so it is deleted and made anew")
            ),
        ),
        "compute_done": node(
            instances=done(
                entry("web-1", "restart", "restart: cpu is 1, declared 2"),
                entry("web-2", pending="memory is 1024, declared 2048"),
                entry("web|3`<b>\x1b[1m", "live", "labels differ"),
                commands=("systemctl restart compute-instance@4fd66e29.service", "echo ```"),
            )
        ),
    }
    failed = {"images_done": {"failed": True, "msg": "image bionic: there is no such file."}}
    nodes = [
        NodeResults("ik-node-01", bare, {"missing_packages": ["nftables", "qemu-utils"]}),
        NodeResults("ik-node-02", mixed, {}),
        NodeResults("ik-node-03", failed, {}, lost=True),
        NodeResults("ik-node-04", {}, None, lost=True),
        NodeResults("ik-node-05", {}, None, lost=True, absent=True),
    ]
    plan = {
        "purge": {"ik-node-02": {"instances": [{"name": "old", "id": "0a1b2c3d"}]}},
        "left_out": {"web-9": "it may live on ik-node-04"},
    }
    return gather(nodes, {**plan, "undeclared": {"old": "ik-node-02", "web-7": "ik-node-01"}})


RENDERED = {
    "plan_report.txt": lambda: (
        "\n".join([*plan_lines(sample(), with_commands=True), "", summary_line(sample())]) + "\n"
    ),
    "plan_report.md": lambda: markdown(sample()),
    "plan_report.json": lambda: json.dumps(sample().as_data(), indent=1, ensure_ascii=False) + "\n",
}


@pytest.mark.parametrize("name", RENDERED)
def test_golden(name: str) -> None:
    text = RENDERED[name]()
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert text == (GOLDEN / name).read_text(encoding="utf-8")


def test_a_folder_is_listed_with_what_is_wrong_with_it() -> None:
    wrong = "mode of /srv/run/instances is 0777, not 0755"
    results = {
        "prepare_folders_done": {
            "changed": True,
            "results": [{"item": name, "changed": True} for name in ("lib/images", "run/instances")],
        }
    }
    info = {"folders_due": {"lib/images": "it is not there", "run/instances": wrong}}
    assert [
        (entry.name, entry.effect, entry.reason) for entry in gather([NodeResults("a", results, info)], {}).entries
    ] == [
        ("lib/images", "create", "it is not there"),
        ("run/instances", "live", wrong),
    ]


def test_nothing_to_do() -> None:
    nodes = [NodeResults(name, {variable: done(entry("x")) for variable in REGISTERED}, {}) for name in ("a", "b")]
    changes = gather(nodes, {})
    assert plan_lines(changes) == ["Plan: nothing to do on 2 nodes."]
    assert summary_line(changes) == "Done on all nodes: nothing was to be done."
    assert (
        summary_line(changes, check_mode=True) == "Nothing was changed in check mode. Plan: nothing to do on 2 nodes."
    )
    assert not changes.changes and not changes.commands and markdown(changes) == "### Plan: nothing to do on 2 nodes.\n"


def test_a_pending_restart_is_no_change() -> None:
    changes = gather(
        [NodeResults("a", {"compute_done": node(instances=done(entry("x", pending="cpu is 1, declared 2")))}, {})], {}
    )
    assert not changes.changes and len(changes.pending) == 1
    assert totals_line(changes, True) == "Plan: nothing to do on 1 node; 1 restart pending."


def test_of_a_rebuild_the_instance_says_whether_a_restart_is_pending() -> None:
    volumes = done(entry("compute-0a1b2c3d", "rebuild", "it is made anew", pending="its disk was made anew"))
    instances = done(entry("x", "restart", "restart: its disk was made anew"))
    changes = gather([NodeResults("a", {"compute_done": node(volumes=volumes, instances=instances)}, {})], {})
    assert [change.effect for change in changes.entries] == ["rebuild", "restart"] and not changes.pending
    waiting = done(entry("x", pending="its disk was made anew"))
    changes = gather([NodeResults("a", {"compute_done": node(volumes=volumes, instances=waiting)}, {})], {})
    assert [(change.kind, change.name) for change in changes.pending] == [("instance", "x")]


def test_a_rebuild_of_one_instance_counts_once() -> None:
    """Its disk, its seed and its restart are one rebuild; what happens to another one is not."""
    again = [done({**entry("compute-0a1b2c3d", "rebuild", "it is made anew")}) for _kind in ("volumes", "seeds")]
    instances = done(
        {**entry("x", "restart", "restart: its disk was made anew"), "id": "0a1b2c3d"},
        {**entry("y", "restart", "restart: cpu"), "id": "00000001"},
    )
    changes = gather(
        [NodeResults("a", {"compute_done": node(volumes=again[0], seeds=again[1], instances=instances)}, {})], {}
    )
    assert totals_line(changes, False) == "1 restarted, 1 rebuilt on 1 node." and len(changes.entries) == 4


def test_what_a_node_did_before_it_failed_is_its_own() -> None:
    images = done({**entry("x", "create")}, commands=("wget",))
    broken = {"failed": True, "msg": "2 problems:\n(1) no\n(2) no"}
    nodes = [
        NodeResults("a", {"images_done": images, "overlay_done": broken}, {}, lost=True),
        NodeResults("b", {"images_done": done(entry("x"))}, {}),
    ]
    changes = gather(nodes, {})
    assert (
        summary_line(changes)
        == "NOT DONE on a: not reached, or failed above; run again when it is mended. Before that: 1 created on 1 node."
        " On the others: nothing was to be done."
    )
    assert changes.missing == {"a": "has failed: 2 problems: (1) no (2) no"}


def test_an_item_that_failed_is_not_counted_as_done() -> None:
    changes = gather(
        [
            NodeResults(
                "a",
                {"images_done": {**done({**entry("x", "create"), "error": "no"}), "failed": True, "msg": "no"}},
                {},
                lost=True,
            )
        ],
        {},
    )
    assert not changes.changes
    assert summary_line(changes).startswith("NOT DONE on a:")


def tasks(path: str) -> list[dict[str, Any]]:
    found = yaml.safe_load((PROJECT / path).read_text(encoding="utf-8"))
    assert isinstance(found, list)
    return found


def registers(file: str) -> list[str]:
    """Give what a list of tasks registers, those that it includes too, in order; purge.yml of a role only where the
    playbook includes it.
    """
    found: list[str] = []
    for task in tasks(file):
        role = task.get("ansible.builtin.import_role") or task.get("ansible.builtin.include_role")
        inner = task.get("ansible.builtin.include_tasks") or task.get("ansible.builtin.import_tasks")
        if role:
            found += registers(f"roles/{role['name'].rsplit('.', 1)[-1]}/tasks/{role.get('tasks_from', 'main')}.yml")
        elif inner and not file.startswith("roles/"):
            found += registers(f"playbooks/tasks/{inner}")
        elif "register" in task:
            found.append(task["register"])
        else:
            assert inner, f"{file}: the task {task['name']!r} registers nothing, so no plan shows it"
    return found


def test_every_task_of_site_is_looked_at_in_its_order() -> None:
    read = ["compute_node_info", "cloud_plan", "prepare_read", "prepare_refused", "prepare_group_read"]
    assert [variable for variable in registers("playbooks/tasks/site.yml") if variable not in read] == list(REGISTERED)


def test_plan_and_site_are_the_same_tasks() -> None:
    plan, site = tasks("playbooks/plan.yml")[0], tasks("playbooks/site.yml")[0]
    assert plan["check_mode"] is True
    assert {"ansible.builtin.import_tasks": "tasks/site.yml"}.items() <= plan["tasks"][1].items()
    assert [task.get("ansible.builtin.import_tasks") for task in site["tasks"]] == [
        "tasks/site.yml",
        "tasks/report.yml",
    ]
    assert {key: plan[key] for key in ("hosts", "become", "gather_facts", "vars_files")} == {
        key: site[key] for key in ("hosts", "become", "gather_facts", "vars_files")
    }


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_any_result_is_taken(result: Any) -> None:
    changes = gather(
        [NodeResults("a", dict.fromkeys(REGISTERED, result), {})],
        {"nodes": result, "left_out": result, "undeclared": result},
    )
    assert plan_lines(changes) and markdown(changes) and json.dumps(changes.as_data())


@given(st.text())
def test_no_text_breaks_a_table(text: str) -> None:
    changes = Changes([Entry("a", "bridge", text, "live", text)], {"a": [text]}, ["a"])
    rows = [line for line in markdown(changes).splitlines() if line.startswith("| a |")]
    assert len(rows) == 1 and rows[0].replace("\\|", "").count("|") == 6
    assert len(plan_lines(changes)) == 4
