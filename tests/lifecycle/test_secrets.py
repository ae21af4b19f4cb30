# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Planted secrets are looked for wherever a run leaves something: nodes' journals and files, the screen at -vvv,
callback plugins, the plan's files.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import NODE, OTHER, PROJECT, SMALL, Lab

PLANTED = "planted-7f3a"  # a part of each secret
HASH = f"$6$planted7f3a${'x' * 86}"
# Quotes, backslashes and line breaks are what a text that was only masked where it is found would escape by.
# As it is, packed as the module gets it, and in base64, where three texts are one, by where it begins.
FORMS = [
    PLANTED,
    "planted7f3a",
    "ikcloud-secrets",
    *(base64.b64encode(b" " * skipped + PLANTED.encode())[4:-4].decode() for skipped in range(3)),
]
TEXT = f'#cloud-config\n# it\'s "{PLANTED}" \\ web-2\nhostname: web-2\n'


def user_data(number: int) -> dict[str, Any]:
    """Give user-data with a secret, and with words that stand in results too: the instance's name, a number, what is
    there before and after.
    """
    content = f'it\'s "{PLANTED}-{number}" \\ here\nweb-1\n'
    return {
        "write_files": [{"path": "/etc/token", "content": content}],
        "final_message": "web-1",
        "timezone": "create",
        "x": [True, 0, "seeds", "user-data"],
    }


def machine(node: str, **other: Any) -> dict[str, Any]:
    return {**SMALL, "network": "blue", "node": node, "power": "stopped", **other}


@pytest.fixture
def told(lab: Lab, tmp_path: Path) -> list[str]:
    """Have the lab's runs dump what callbacks hear, and show all."""
    lab.environment.update(
        ANSIBLE_CALLBACK_PLUGINS=str(PROJECT / "tests" / "tools" / "callbacks"),
        ANSIBLE_CALLBACKS_ENABLED="record",
        IKCLOUD_RECORD=str(tmp_path / "records"),
    )
    lab.play("teardown")
    for node in (NODE, OTHER):
        lab.node("journalctl --rotate --quiet; journalctl --vacuum-time=1s --quiet", node)
    lab.cloud = {
        "cloud_networks": {"blue": {"vni": 88, "cidr": "192.168.88.0/24"}},
        "cloud_instances": {
            "web-1": machine(NODE, user_data=user_data(1)),
            "web-2": machine(OTHER, user_data=TEXT, password_hash=HASH),
        },
    }
    return []


def leaks(text: str) -> list[str]:
    """Give the surroundings of what was planted, open or in base64."""
    return [text[max(0, found.start() - 200) : found.end() + 50] for found in re.finditer("|".join(FORMS), text)][:3]


def journals(lab: Lab) -> str:
    """Give all that the nodes' journals hold, in every field."""
    return "".join(lab.node("journalctl --no-pager --all --output=verbose", node) for node in (NODE, OTHER))


def test_the_playbooks_leave_no_secret_anywhere(lab: Lab, told: list[str], tmp_path: Path) -> None:
    def play(name: str, *options: str, **variables: Any) -> str:
        paths = {key: str(tmp_path / f"{len(told)}.{key}") for key in ("plan_json", "plan_markdown") if name == "plan"}
        said = lab.play(name, "-vvv", "--diff", *options, **paths, **variables)
        told.append(said)
        assert not leaks(said), (name, options)
        return said

    for number in (1, 1, 2):  # the first run, the second, and one with other user-data
        lab.cloud["cloud_instances"]["web-1"]["user_data"] = user_data(number)
        for name in ("plan", "site"):
            assert "web-1" in play(name)
    assert "web-1" in play("status")
    play("rebuild", "--check", instances="web-1,web-2")
    play("rebuild", instances="web-1,web-2")
    assert lab.changes() == {}

    # What is registered tells nobody anything either.
    own = [
        {"ansible.builtin.import_playbook": "ikcloud.compute.plan"},
        {"hosts": NODE, "gather_facts": False, "tasks": [{"ansible.builtin.debug": {"var": "cloud_plan"}}]},
    ]
    (tmp_path / "own.yml").write_text(json.dumps(own), encoding="utf-8")
    command = ["ansible-playbook", "-i", "inventory/lab", "-e", f"@{lab.folder}/vars.json", str(tmp_path / "own.yml")]
    done = subprocess.run(command, cwd=PROJECT, env=lab.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count('"secrets": "') >= 2, done.stdout[-3000:] + done.stderr
    assert not leaks(done.stdout + done.stderr)

    for path in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        assert not leaks(path.read_text(encoding="utf-8")), path
    assert len(list(tmp_path.glob("*.plan_json"))) >= 3
    seen = journals(lab)
    assert "Invoked with" in seen and "seed_secrets=NOT_LOGGING_PARAMETER" in seen and "compute-" in seen
    assert not leaks(seen)

    # Names are names, whatever words the secrets have.
    records = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((tmp_path / "records").glob("*-site-run.json"))
    ]
    for record in (records[0], records[2]):
        done = [
            task["result"]
            for task in record["tasks"]
            if task["action"] == "node" and "seeds" in task["result"].get("kinds", {})
        ]
        seeds = [result["kinds"]["seeds"] for result in done if result["kinds"]["seeds"]["changed"]]
        assert seeds and all(
            "user-data" in found["after"][entry["name"]] for found in seeds for entry in found["results"]
        )
        for result in done:
            options = (result.get("invocation") or {}).pop("module_args", {})
            assert options.get("seed_secrets") == "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"
            assert "********" not in str(result) and "VALUE_SPECIFIED" not in str(result) + str(
                {**options, "seed_secrets": ""}
            )
    first = [
        task["result"]
        for task in records[0]["tasks"]
        if task["action"] == "node" and "instances" in task["result"].get("kinds", {})
    ]
    assert {entry["name"] for result in first for entry in result["kinds"]["instances"]["results"]} >= {
        "web-1",
        "web-2",
    }

    # On the node only who must can read them, and they stand in the seed and in what it was made from.
    found = lab.node(
        f"grep -rlaE '{PLANTED}|planted7f3a|ikcloud-secrets' /var/lib/compute-service /etc /root /tmp /var/tmp /run"
        " /var/log || true"
    )
    places = dict(
        line.split()[::-1] for line in lab.node(f"stat --format='%a:%U %n' {' '.join(found.split())}").splitlines()
    )
    assert {
        re.sub(r"compute-[0-9a-f]{8}", "ID", path.removeprefix("/var/lib/compute-service/")): mode
        for path, mode in places.items()
    } == {
        "run/instances/ID/cloud_init.cfg": "600:root",
        "lib/volumes/ID-seed.img": "640:root",
    }


def test_the_module_alone_leaves_none_either(lab: Lab, told: list[str], tmp_path: Path) -> None:
    seeds = [
        {"name": "compute-0a1b2c3d", "hostname": "web-1", "user_data": user_data(1), "password_hash": HASH},
        {"name": "compute-0a1b2c3e", "user_data": TEXT},
    ]
    task = {"ikcloud.compute.seed": {"seeds": seeds, "owner": ""}}
    wrong = {**task["ikcloud.compute.seed"], "seeds": [{**seeds[0], "mtu": 9000}]}
    plays = [
        {
            "hosts": NODE,
            "gather_facts": False,
            "tasks": [task, {**task, "async": 60, "poll": 1}, {"ikcloud.compute.seed": wrong, "ignore_errors": True}],
        },
        {
            "hosts": OTHER,
            "gather_facts": False,
            "roles": [{"role": "ikcloud.compute.compute", "vars": {"compute_seeds": seeds}}],
        },
    ]
    (tmp_path / "book.yml").write_text(json.dumps(plays), encoding="utf-8")
    lab.play("prepare")
    for options in (["--check"], [], ["--diff"]):
        command = ["ansible-playbook", "-i", "inventory/lab", str(tmp_path / "book.yml"), "-vvv", *options]
        done = subprocess.run(command, cwd=PROJECT, env=lab.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        assert (
            not leaks(done.stdout + done.stderr)
            and "compute-0a1b2c3d" in done.stdout
            and "unknown key 'mtu'" in done.stdout
        )
    for path in (tmp_path / "records").iterdir():
        assert not leaks(path.read_text(encoding="utf-8")), path
    seen = journals(lab)
    assert "Invoked with" in seen and "seed_secrets=NOT_LOGGING_PARAMETER" in seen
    assert not leaks(seen)
    assert PLANTED in lab.node("cat /var/lib/compute-service/run/instances/compute-0a1b2c3d/cloud_init.cfg")
