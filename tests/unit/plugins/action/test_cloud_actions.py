# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugins, run as Ansible runs them but for the playbook around."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.action import cloud_plan, cloud_report, cloud_status
from ansible_collections.ikcloud.compute.plugins.plugin_utils.declaration import DECLARATION
from ansible_collections.ikcloud.compute.tests.unit.plugins.plugin_utils import samples


class Shown:
    """Takes the place of Ansible's display."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def display(self, text: str) -> None:
        self.texts.append(text)


def run(plugin: Any, arguments: dict[str, Any], variables: dict[str, Any], shown: Shown | None = None) -> dict[str, Any]:
    task = SimpleNamespace(args=arguments, async_val=0, check_mode=True, diff=False, environment=[], action="x", no_log=False)
    templar = SimpleNamespace(template=lambda value: value)
    connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="unused"))
    action = plugin.ActionModule(task, connection, SimpleNamespace(check_mode=True), None, templar, None)
    action._display = shown or Shown()
    result: dict[str, Any] = action.run(None, variables)
    return result


def variables(**hosts: Any) -> dict[str, Any]:
    declared = {DECLARATION[key]: value for key, value in samples.talk().items()}
    default = {
        "ik-node-01": {"ansible_host": "10.10.20.101", "compute_uplink": "ens3", "compute_node_info": {"node": {}}},
        "ik-node-02": {"ansible_host": "127.0.0.1", "compute_underlay_address": "10.10.20.102", "compute_node_info": {"node": {}}},
    }
    hostvars = {name: {**spec, **hosts.get(name.replace("-", "_"), {})} for name, spec in default.items()}
    return {**declared, "groups": {"compute_nodes": list(hostvars)}, "hostvars": hostvars}


def test_the_inventory_is_all_that_the_plan_needs() -> None:
    plan = run(cloud_plan, {}, variables())
    assert plan["changed"] is False and plan["missing_nodes"] == []
    assert plan["counts"]["instances"] == 2 and plan["_ansible_no_log"] is False
    assert plan["nodes"]["ik-node-01"]["tunnels"][0]["remote"] == ["10.10.20.102"]
    assert plan["nodes"]["ik-node-01"]["nats"][0]["uplink"] == "ens3"


def test_arguments_go_before_variables() -> None:
    plan = run(cloud_plan, {"instances": {}, "nodes": {"ik-node-02": {"underlay_address": "192.0.2.2"}, "extra": {"info": {}}}}, variables())
    assert plan["counts"]["instances"] == 0 and set(plan["nodes"]) == {"ik-node-01", "ik-node-02", "extra"}


@pytest.mark.parametrize("registered", [{"unreachable": True}, {"failed": True, "node": {}}, {"skipped": True}, "text"])
def test_a_node_without_a_good_result_is_missing(registered: Any) -> None:
    plan = run(cloud_plan, {}, variables(ik_node_02={"compute_node_info": registered}))
    assert plan["missing_nodes"] == ["ik-node-02"] and set(plan["nodes"]) == {"ik-node-01"}


def test_problems_fail_the_task_without_a_traceback() -> None:
    result = run(cloud_plan, {"instance": {}}, variables())
    assert result["failed"] and result["msg"].startswith("Unknown argument 'instance'. Did you mean instances?")
    result = run(cloud_plan, {"instances": {"x": 1}, "networks": 3}, variables())
    assert result["failed"] and result["msg"].startswith("2 problems: (1) cloud_networks")
    for wrong in ({"nodes": 3}, {"nodes": {"x": 3}}, {"group": 3}, {"node_info": 3}):
        assert run(cloud_plan, wrong, variables())["failed"]


def test_a_password_hash_keeps_the_result_off_the_screen() -> None:
    plan = run(cloud_plan, {"instances": samples.talk(**{"instances.web-1.password_hash": "$6$salt$abcdefghij"})["instances"]}, variables())
    assert plan["_ansible_no_log"] is True


def test_status_is_shown_and_returned() -> None:
    shown = Shown()
    instances = {"instances": [{"name": "web-2", "power": "running", "addresses": ["192.168.88.102"], "labels": {"networks": ["blue"], "user": "me"}}]}
    result = run(cloud_status, {"width": 100}, variables(ik_node_02={"compute_instance_info": instances}), shown)
    assert result["instances"][1]["login"] == "ssh -J 10.10.20.101 me@192.168.88.102"
    assert "web-2" in result["table"] and result["table"] in shown.texts[0]
    assert run(cloud_status, {"width": 100, "display": "no"}, variables(), shown)["changed"] is False and len(shown.texts) == 1


def test_status_says_what_is_wrong_with_its_arguments() -> None:
    for wrong in ({"width": "wide"}, {"width": 3}, {"instance_info": 3}, {"tables": 1}):
        assert run(cloud_status, wrong, variables())["failed"]


def changed_nodes() -> dict[str, Any]:
    bridges = {"results": [{"name": "br-1", "effect": "live", "reasons": ["it is down"]}]}
    result = {"changed": True, "commands": ["ip link …"], "kinds": {"bridges": bridges}}
    return {**variables(ik_node_01={"overlay_done": result}), "ansible_play_hosts_all": ["ik-node-01", "ik-node-02"]}


def test_a_plan_is_shown_written_and_fails_on_changes(tmp_path: Path) -> None:
    shown = Shown()
    paths = {key: str(tmp_path / key) for key in ("json", "markdown")}
    result = run(cloud_report, {"planned": True, **paths}, changed_nodes(), shown)
    assert result["differs"] and result["changed"] is False and result["totals"]["live"] == 1
    assert shown.texts[0].splitlines()[-1] == "Plan: 1 to change live on 1 node."
    assert json.loads((tmp_path / "json").read_text())["commands"] == {"ik-node-01": ["ip link …"]}
    assert "br-1" in (tmp_path / "markdown").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["json", "markdown"]
    failed = run(cloud_report, {"planned": True, "fail_on_changes": "yes"}, changed_nodes())
    assert failed["failed"] and "1 to change live" in failed["msg"] and "entries" not in failed
    assert not run(cloud_report, {"planned": True, "fail_on_changes": True}, variables()).get("failed")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"json": "/nonexistent/plan.json"}, "json: there is no folder /nonexistent"),
        ({"markdown": "/"}, "markdown: / is a folder"),
        ({"markdown": 7}, "markdown: 7 is not the path"),
        ({"json": "a\nb"}, "is not the path"),
        ({"json": "x", "markdown": "./x"}, "are one path"),
        ({"fail_on_changes": "perhaps"}, "fail_on_changes: 'perhaps' is neither true nor false"),
        ({"jsn": "x"}, "Unknown argument 'jsn'. Did you mean json?"),
    ],
)
def test_wrong_arguments_of_a_report(arguments: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(cloud_report, {**arguments, "only_validate": True}, changed_nodes())
    assert result["failed"] and words in result["msg"]
    assert not list(tmp_path.iterdir())
