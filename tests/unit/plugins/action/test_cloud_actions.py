# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugins, run as Ansible runs them but for the playbook around."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.action import cloud_plan, cloud_report, cloud_select, cloud_status
from ansible_collections.ikcloud.compute.plugins.action import node as node_action
from ansible_collections.ikcloud.compute.plugins.action import seed as seed_action
from ansible_collections.ikcloud.compute.plugins.module_utils._cloudinit.seed.secrets import opened, unpack
from ansible_collections.ikcloud.compute.plugins.plugin_utils._controller.run_secret import reveal
from ansible_collections.ikcloud.compute.plugins.plugin_utils._controller.seal import sealed
from ansible_collections.ikcloud.compute.plugins.plugin_utils._declaration.declaration import DECLARATION
from ansible_collections.ikcloud.compute.tests.unit.plugins.plugin_utils import samples


class Shown:
    """Takes the place of Ansible's display."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def display(self, text: str) -> None:
        self.texts.append(text)


def run(
    plugin: Any, arguments: dict[str, Any], variables: dict[str, Any], shown: Shown | None = None
) -> dict[str, Any]:
    task = SimpleNamespace(
        args=arguments, async_val=0, check_mode=True, diff=False, environment=[], action="x", no_log=False
    )
    templar = SimpleNamespace(template=lambda value: value)
    connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="unused"), has_native_async=False)
    action = plugin.ActionModule(task, connection, SimpleNamespace(check_mode=True), None, templar, None)
    action._display = shown or Shown()
    result: dict[str, Any] = action.run(None, variables)
    return result


def variables(**hosts: Any) -> dict[str, Any]:
    declared = {DECLARATION[key]: value for key, value in samples.talk().items()}
    default = {
        "ik-node-01": {"ansible_host": "10.10.20.101", "compute_uplink": "ens3", "compute_node_info": {"node": {}}},
        "ik-node-02": {
            "ansible_host": "127.0.0.1",
            "compute_underlay_address": "10.10.20.102",
            "compute_node_info": {"node": {}},
        },
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
    plan = run(
        cloud_plan,
        {"instances": {}, "nodes": {"ik-node-02": {"underlay_address": "192.0.2.2"}, "extra": {"info": {}}}},
        variables(),
    )
    assert plan["counts"]["instances"] == 0 and set(plan["nodes"]) == {"ik-node-01", "ik-node-02", "extra"}


@pytest.mark.parametrize("registered", [{"unreachable": True}, {"failed": True, "node": {}}, {"skipped": True}, "text"])
def test_a_node_without_a_good_result_is_missing(registered: Any) -> None:
    plan = run(cloud_plan, {}, variables(ik_node_02={"compute_node_info": registered}))
    assert plan["missing_nodes"] == ["ik-node-02"] and set(plan["nodes"]) == {"ik-node-01"}


def test_problems_fail_the_task_without_a_traceback() -> None:
    result = run(cloud_plan, {"instance": {}}, variables())
    assert result["failed"] and result["msg"].startswith("Unknown argument 'instance'. Did you mean instances?")
    result = run(cloud_plan, {"instances": {"x": 1}, "networks": 3}, variables())
    assert result["failed"] and result["msg"].startswith("2 problems:\n(1) cloud_networks")
    for wrong in ({"nodes": 3}, {"nodes": {"x": 3}}, {"group": 3}, {"node_info": 3}):
        assert run(cloud_plan, wrong, variables())["failed"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("password_hash", "$6$salt$abcdefghij"), ("user_data", {"write_files": [{"content": "hunter2-hunter2"}]})],
)
def test_a_secret_keeps_the_result_off_the_screen_and_is_open_nowhere_in_it(key: str, value: Any) -> None:
    plan = run(
        cloud_plan,
        {"instances": samples.talk(**{f"instances.web-1.{key}": value})["instances"], "rebuild": "web-1"},
        variables(),
    )
    assert plan["_ansible_no_log"] is True
    assert key not in json.dumps(plan) and "hunter2" not in json.dumps(plan) and "abcdefghij" not in json.dumps(plan)
    for lists in (plan["nodes"]["ik-node-01"], plan["rebuild"]["ik-node-01"]):
        (seed,) = (seed for seed in lists["seeds"] if seed["hostname"] == "web-1")
        assert unpack(reveal(seed["secrets"])) == {key: value}
        for guess in (
            json.dumps({key: value}),
            f"ikcloud-secrets-1:{json.dumps({key: value})}",
        ):  # it is not only written in another way
            assert base64.b64encode(guess.encode()).decode()[:24] not in json.dumps(plan)


class Vaulted(Sequence):  # type: ignore[type-arg]  # as Ansible's own, of anything
    """Behaves as a text from a vault does before ansible-core 2.19: a sequence that is no str, decrypted when it is
    asked for.
    """

    __ENCRYPTED__ = True

    def __init__(self, text: str) -> None:
        self.hidden = text[::-1]

    def __str__(self) -> str:
        return self.hidden[::-1]

    def __getitem__(self, index: Any) -> Any:
        return str(self)[index]

    def __len__(self) -> int:
        return len(self.hidden)


def test_values_from_a_vault() -> None:
    data = {"write_files": [{"path": "/etc/token", "content": Vaulted("hunter2")}]}
    secret = {"password_hash": Vaulted("$6$salt$abcdefghij"), "user_data": data}
    expected = {
        "password_hash": "$6$salt$abcdefghij",
        "user_data": {"write_files": [{"path": "/etc/token", "content": "hunter2"}]},
    }
    instances = samples.talk()["instances"]
    plan = run(cloud_plan, {"instances": {**instances, "web-1": {**instances["web-1"], **secret}}}, variables())
    assert "msg" not in plan
    (seed,) = (seed for seed in plan["nodes"]["ik-node-01"]["seeds"] if seed["hostname"] == "web-1")
    assert unpack(reveal(seed["secrets"])) == expected
    _result, handed = seal_and_run("seed", {"seeds": [{"name": "compute-00000001", **secret}]})
    assert unpack(handed["module_args"]["seed_secrets"]) == [expected]


def seal_and_run(module: str, arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give what an action plugin answers, and what it hands to the module."""
    handed: dict[str, Any] = {}

    # mypy knows no class whose base is chosen as it runs.
    class Action({"seed": seed_action, "node": node_action}[module].ActionModule):  # type: ignore[misc, name-defined]
        def _execute_module(self, **options: Any) -> dict[str, Any]:
            handed.update(options)
            return {"changed": True}

        def _remove_tmp_path(self, _path: str) -> None:
            pass

    return run(SimpleNamespace(ActionModule=Action), arguments, {}), handed


@pytest.mark.parametrize("module", ["seed", "node"])
def test_secrets_of_seeds_go_to_the_node_in_one_text(module: str) -> None:
    data = {"packages": ["web-1"], "when": datetime.date(2026, 1, 2)}
    packed = sealed({"name": "compute-00000003", "user_data": "#!/bin/sh\n", "password_hash": "$6$salt$abcdefghij"})
    seeds = [
        {"name": "compute-00000001", "hostname": "web-1", "user_data": data, "password_hash": None},
        {"name": "compute-00000002"},
        packed,
    ]
    result, handed = seal_and_run(module, {"root": "/x", "seeds": seeds})
    assert result["changed"] and handed["module_name"] == f"ikcloud.compute.{module}" and handed["wrap_async"] is False
    arguments = handed["module_args"]
    assert set(arguments) == {"root", "seeds", "seed_secrets"}
    assert arguments["seeds"] == [
        {"name": "compute-00000001", "hostname": "web-1"},
        {"name": "compute-00000002"},
        {"name": "compute-00000003"},
    ]
    assert isinstance(arguments["seed_secrets"], str) and not arguments["seed_secrets"].startswith(("{", "["))
    back = opened(arguments["seeds"], arguments["seed_secrets"])
    assert [seed["user_data"] for seed in back] == [{"packages": ["web-1"], "when": "2026-01-02"}, None, "#!/bin/sh\n"]
    assert [seed["password_hash"] for seed in back] == [None, None, "$6$salt$abcdefghij"]


def test_without_secrets_arguments_go_as_they_are() -> None:
    for arguments in ({"seeds": [{"name": "compute-00000001"}]}, {"seeds": []}, {"bridges": []}, {"seeds": None}):
        _result, handed = seal_and_run("node", arguments)
        assert handed["module_args"] == arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seeds": {"name": "x", "user_data": "hunter2"}}, "seeds: the value is not a list of mappings. Write"),
        ({"seeds": ["hunter2"]}, "seeds[0]: the value is not a mapping"),
        (
            {"seeds": [{"name": "x", "userdata": "hunter2"}]},
            "seeds[0]: unknown key 'userdata'. Did you mean user_data?",
        ),
        (
            {"seeds": [{"name": "x", "secrets": "hunter2"}]},
            "seeds[0].secrets: this is not what cloud_plan has given in this run",
        ),
        ({"name": "x", "user_data": "hunter2"}, "user_data: it is a key of an entry of seeds"),
        (
            {"seeds": [{"name": "x", "user_data": "#cloud-config\nruncmd: [hunter2\n foo: : b"}]},
            "seeds[0].user_data: it is no valid YAML in line 3",
        ),
        ({"seeds": [{"name": "x", "password_hash": ["hunter2"]}]}, "seeds[0].password_hash: the value is not text"),
        (
            {"seeds": [{"name": "x", "user_data": {"a": b"hunter2"}}]},
            "user_data can't be passed on: a bytes is neither",
        ),
        ({"seeds": [], "seed_secrets": "hunter2"}, "seed_secrets: the collection fills it"),
    ],
)
def test_what_is_refused_on_the_controller_is_not_repeated(arguments: dict[str, Any], words: str) -> None:
    result, handed = seal_and_run("seed", arguments)
    assert result["failed"] and words in result["msg"] and "hunter2" not in str(result) and not handed


def test_status_is_shown_and_returned() -> None:
    shown = Shown()
    instances = {
        "instances": [
            {
                "name": "web-2",
                "power": "running",
                "addresses": ["192.168.88.102"],
                "labels": {"networks": ["blue"], "user": "me"},
            }
        ]
    }
    known = variables(ik_node_02={"compute_instance_info": instances})
    result = run(cloud_status, {"width": 100}, known, shown)
    assert (
        result["instances"][1]["login"] == "ssh -J 10.10.20.101 ubuntu@192.168.88.102"
    )  # the declared user, whatever its files say
    assert "web-2" in result["table"] and result["table"] in shown.texts[0]
    assert (
        run(cloud_status, {"width": 100, "display": "no"}, variables(), shown)["changed"] is False
        and len(shown.texts) == 1
    )


@pytest.mark.parametrize("hostile", ["\x1b[2J", "a\nb", "\x9b31m", "\u202eb"])
def test_nothing_that_a_node_says_steers_the_terminal(hostile: str) -> None:
    shown = Shown()
    snapshot = {"name": hostile, "created": hostile, "memory": True, "memory_bytes": 5}
    entry = {"name": hostile, "id": hostile, "power": "running", "labels": {"user": hostile}, "snapshots": [snapshot]}
    info = {
        "instances": {"web-1": {"labels": {"networks": ["blue"], "addresses": ["192.168.88.9"]}}},
        "networks": {hostile: {"bridge": "b", "addresses": ["192.168.88.9/24"]}},
    }
    known = variables(ik_node_01={"compute_instance_info": {"instances": [entry]}, "compute_node_info": {"node": info}})
    texts = [
        run(cloud_status, {"width": 100}, known, shown)["table"],
        run(cloud_plan, {}, known)["msg"],
        run(cloud_select, {"instances": "web-9"}, known)["msg"],
    ]
    assert not run(cloud_select, {"snapshots": True}, known, shown).get("failed") and len(shown.texts) == 2
    for text in [*texts, *shown.texts]:
        assert all(line.isprintable() for line in text.split("\n"))
    for text in shown.texts:
        assert hostile not in text


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
def test_wrong_arguments_of_a_report(
    arguments: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(cloud_report, {**arguments, "only_validate": True}, changed_nodes())
    assert result["failed"] and words in result["msg"]
    assert not list(tmp_path.iterdir())
