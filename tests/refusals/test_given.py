# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run is given with -e, in the inventory and by options of ansible-playbook: heeded or refused, never passed by.

The nodes are played by this machine in a network namespace, with a root each; where a run goes through, it is in check
mode.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from machine_id import interpreter

PROJECT = Path(__file__).resolve().parents[2]
DECLARATION: dict[str, Any] = {
    "cloud_ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7u5ZQzQxGJ1lF2R1nWmXk0iW0bqkPjv0o8kqB3xY6e me@here"],
    "cloud_images": {"debian": {"path": "/srv/debian.qcow2"}},
    "cloud_networks": {"blue": {"vni": 88, "cidr": "192.168.88.0/24"}},
    "cloud_instances": {"web-1": {"image": "debian", "network": "blue", "memory": 64}},
}
IMAGES = "TASK [ikcloud.compute.images : Provide the images]"
Play = Callable[..., "Done"]


class Done:
    """How a run ended."""

    def __init__(self, folder: Path, process: subprocess.CompletedProcess[str]) -> None:
        self.status = process.returncode
        self.text = process.stdout + process.stderr
        self.words = " ".join(self.text.replace("\\n", " ").split())
        self.told = [line for line in process.stdout.splitlines() if line.startswith("fatal:")]
        self.untouched = not (folder / "root").exists()

    def refused(self, *words: str) -> None:
        """Check that one sentence says why, before anything changed."""
        assert self.status == 2 and self.untouched and "Traceback" not in self.text, self.text
        assert "changed=0" in self.text and "changed=1" not in self.text
        assert len(self.told) == 1, self.text
        for word in words:
            assert word in self.told[0], self.text


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Give a folder with a short name: sockets would stand below it."""
    with tempfile.TemporaryDirectory(prefix="ikc") as folder:
        yield Path(folder)


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Give what runs a playbook on two nodes: their declaration stands in group_vars, and each may have variables of
    its own.
    """
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs root, to make a network namespace")
    common = {
        "ansible_connection": "local",
        "ansible_become": False,
        "compute_service_root": str(tmp_path / "root"),
    }

    def run(
        playbook: str,
        *options: str,
        group: dict[str, Any] | None = None,
        hosts: dict[str, dict[str, Any]] | None = None,
        name: str = "compute_nodes",
        **more: str,
    ) -> Done:
        nodes = {
            f"ik-node-0{index}": {
                "compute_underlay_address": f"10.10.20.10{index}",
                "ansible_python_interpreter": interpreter(tmp_path, index),
            }
            for index in (1, 2)
        }
        inventory = {name: {"hosts": nodes}}
        for host, variables in (hosts or {}).items():
            (tmp_path / "host_vars").mkdir(exist_ok=True)
            (tmp_path / "host_vars" / f"{host}.yml").write_text(yaml.safe_dump(variables))
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
        (tmp_path / "group_vars").mkdir(exist_ok=True)
        (tmp_path / "group_vars" / f"{name}.yml").write_text(
            yaml.safe_dump({**common, **(DECLARATION if group is None else group)})
        )
        command = [
            "ansible-playbook",
            "-i",
            str(tmp_path / "hosts.yml"),
            playbook if "/" in playbook else f"ikcloud.compute.{playbook}",
            *options,
        ]
        setup = (
            'ip link set lo up && ip addr add 10.10.20.101/24 dev lo && ip addr add 10.10.20.102/24 dev lo && exec "$@"'
        )
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(PROJECT / ".venv" / "collections"),
            "ANSIBLE_NOCOLOR": "1",
            **more,
        }
        process = subprocess.run(
            ["unshare", "--net", "sh", "-c", setup, "sh", *command],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            check=False,
            timeout=120,
        )
        return Done(tmp_path, process)

    return run


def less(*names: str) -> dict[str, Any]:
    return {name: value for name, value in DECLARATION.items() if name not in names}


@pytest.mark.parametrize("options", [["site"], ["plan", "--limit", "ik-node-01"], ["status", "--limit", "ik-node-02"]])
def test_a_declaration_that_differs_between_hosts(play: Play, options: list[str]) -> None:
    other = {"web-2": {"image": "debian", "network": "blue", "memory": 64}}
    done = play(
        *options,
        "--check",
        group=less("cloud_instances"),
        hosts={
            "ik-node-01": {"cloud_instances": DECLARATION["cloud_instances"]},
            "ik-node-02": {"cloud_instances": other},
        },
    )
    done.refused("cloud_instances: ik-node-01 has another than ik-node-02", "group_vars/compute_nodes.yml")


def test_a_declaration_that_one_host_lacks(play: Play) -> None:
    done = play("site", "--check", hosts={"ik-node-02": {"cloud_purge": True}})
    done.refused("cloud_purge: ik-node-02 has it and ik-node-01 has not")


def test_a_declaration_that_is_written_differently_and_is_the_same(play: Play) -> None:
    hosts = {"ik-node-01": {"cloud_user": "{{ 'me' }}"}, "ik-node-02": {"cloud_user": "{{ 'm' ~ 'e' }}"}}
    done = play("images", "--check", hosts=hosts)
    assert IMAGES in done.text, done.text
    hosts["ik-node-02"] = {"cloud_user": "{{ inventory_hostname }}"}
    play("images", "--check", hosts=hosts).refused("cloud_user: ik-node-01 has another than ik-node-02")


@pytest.mark.parametrize(
    ("name", "value", "hosts"),
    [
        (
            "cloud_instances",
            "{{ mine }}",
            {"ik-node-01": {"mine": {}}, "ik-node-02": {"mine": DECLARATION["cloud_instances"]}},
        ),
        ("cloud_purge", "{{ purge_here | default(false) }}", {"ik-node-02": {"purge_here": True}}),
        ("cloud_purge", "{{ inventory_hostname == 'ik-node-02' }}", {}),
        ("cloud_user", "{{ hostvars[inventory_hostname].compute_underlay_address }}", {}),
    ],
)
def test_a_declaration_whose_template_differs_between_hosts(
    play: Play, name: str, value: str, hosts: dict[str, dict[str, Any]]
) -> None:
    done = play("site", "--check", group={**DECLARATION, name: value}, hosts=hosts)
    done.refused(f"{name}: ik-node-01 has another than ik-node-02", "a variable in its template differs")


def test_a_declaration_of_a_playbook_that_differs_between_hosts(play: Play, tmp_path: Path) -> None:
    own = [{"ansible.builtin.import_playbook": "ikcloud.compute.site", "vars": {"cloud_user": "{{ mine }}"}}]
    (tmp_path / "own.yml").write_text(json.dumps(own))
    done = play(str(tmp_path / "own.yml"), "--check", hosts={"ik-node-01": {"mine": "a"}, "ik-node-02": {"mine": "b"}})
    done.refused("cloud_user: ik-node-01 has another than ik-node-02")


@pytest.mark.parametrize(
    ("playbook", "variable", "words"),
    [
        ("teardown", "instances=web-2", "run ikcloud.compute.site with cloud_purge: true"),
        ("site", "instances=web-1", "site is for the whole cloud"),
        ("site", '{"clout_purge": true}', "Did you mean cloud_purge?"),
        ("site", "compute_purge=true", "-e compute_purge: there is no such variable"),
        ("stop", "instnaces=web-1", "Did you mean instances?"),
        ("plan", "plan_jsn=plan.json", "Did you mean plan_json?"),
        (
            "teardown",
            "cloud_instances=web-2",
            "cloud_instances is the declaration, a mapping of names; it chooses nothing",
        ),
        ("teardown", "teardown_keep_images=ture", "teardown_keep_images: 'ture' is neither true nor false."),
        ("teardown", '{"teardown_protected": "fasle"}', "teardown_protected: 'fasle' is neither true nor false."),
    ],
)
def test_a_variable_that_the_playbook_does_not_have(play: Play, playbook: str, variable: str, words: str) -> None:
    play(playbook, "--check", "-e", variable).refused(words)


def test_a_teardown_of_chosen_instances_is_none(play: Play, tmp_path: Path) -> None:
    words = "There is a variable instances, and teardown has none. teardown is for the whole cloud"
    play("teardown", "--check", group={**DECLARATION, "instances": "web-2"}).refused(words)
    (tmp_path / "own.yml").write_text(
        json.dumps([{"ansible.builtin.import_playbook": "ikcloud.compute.teardown", "vars": {"instances": "web-2"}}])
    )
    play(str(tmp_path / "own.yml"), "--check").refused(words)


def test_a_variable_of_the_inventory_that_is_misspelt(play: Play) -> None:
    group = {**DECLARATION, "cloud_instance": {}, "clout_purge": True, "compute_uplnk": "ens3"}
    for playbook in ("site", "teardown"):
        play(playbook, "--check", group=group).refused("cloud_instances", "cloud_purge", "compute_uplink")


def test_variables_of_the_users_own_are_let_by(play: Play, tmp_path: Path) -> None:
    group = {**DECLARATION, "cloud_user": "{{ who }}", "cloud_provider": "here"}
    (tmp_path / "secrets.yml").write_text("vault_web: x\n")
    done = play("images", "--check", "-e", "who=me", "-e", "@secrets.yml", group=group)
    assert IMAGES in done.text, done.text
    assert "none of ikcloud.compute's: cloud_provider of ik-node-01. Known: " in done.words
    # In a playbook of theirs a variable may be that playbook's.
    (tmp_path / "own.yml").write_text("- ansible.builtin.import_playbook: ikcloud.compute.images\n  tags: [cloud]\n")
    done = play(str(tmp_path / "own.yml"), "--check", "-e", "version=3", "--tags", "cloud")
    assert IMAGES in done.text, done.text


@pytest.mark.parametrize("strategy", ["free", "host_pinned"])
def test_another_strategy_does_not_reach_the_plays(play: Play, strategy: str) -> None:
    done = play("images", "--check", ANSIBLE_STRATEGY=strategy)
    planned = done.text.split("TASK [Plan the cloud]")[1].split("TASK [")[0]
    assert planned.count("ok: [") == 1 and done.text.count("TASK [Plan the cloud]") == 1, done.text


def test_tags(play: Play) -> None:
    done = play("site", "--check", "--tags", "overlay", group={**DECLARATION, "cloud_purge": True})
    assert done.status == 0, done.text
    assert "TASK [ikcloud.compute.overlay : Make the bridges" in done.text and IMAGES not in done.text, done.text
    assert "cloud_purge: nothing is removed in this run" in done.words and "3 to create" in done.text, done.text
    play("site", "--check", "--tags", "imges").refused("site has no such tag. Did you mean images?")
    for playbook in ("stop", "teardown"):
        play(playbook, "--check", "--tags", "images").refused(f"{playbook} has no tags")


def test_tags_of_a_playbook_of_the_users_own(play: Play, tmp_path: Path) -> None:
    own = [
        {"ansible.builtin.import_playbook": "ikcloud.compute.site"},
        {
            "hosts": "all",
            "gather_facts": False,
            "tasks": [{"name": "Mine", "ansible.builtin.debug": {"msg": "mine"}, "tags": "web"}],
        },
    ]
    (tmp_path / "own.yml").write_text(json.dumps(own))
    done = play(str(tmp_path / "own.yml"), "--check", "--tags", "web")
    assert done.status == 0 and "TASK [Mine]" in done.text and IMAGES not in done.text, done.text


@pytest.mark.parametrize(
    ("playbook", "task"),
    [
        ("site", "Provide the images"),
        ("teardown", "Remove the folders that are empty"),
        ("teardown", "Refuse to remove what is protected"),
        ("stop", "Power them off"),
    ],
)
def test_a_run_that_does_not_begin_at_the_beginning(play: Play, playbook: str, task: str) -> None:
    done = play(playbook, "--check", "--start-at-task", task)
    assert done.status == 2 and done.told, done.text
    assert all("This run has left out the tasks that read the nodes and plan" in line for line in done.told), done.text


def test_an_inventory_without_the_group_or_without_hosts_in_it(play: Play) -> None:
    for playbook in ("site", "teardown"):
        done = play(playbook, name="compute_node")
        assert (
            done.status not in (0, 2)
            and "The inventory has no host in the group compute_nodes. Write your servers into it" in done.words
        ), done.text
        assert "PLAY RECAP" not in done.text


def test_defaults_for_all_modules_are_none_of_the_tasks_on_the_controller(play: Play, tmp_path: Path) -> None:
    tasks: list[dict[str, Any]] = [
        {"ikcloud.compute.node_info": {}, "register": "compute_node_info"},
        {"ikcloud.compute.instance_info": {}, "register": "compute_instance_info"},
        {"ikcloud.compute.cloud_plan": {}, "register": "cloud_plan", "run_once": True},
        {"ikcloud.compute.cloud_status": {}, "run_once": True},
        {"ikcloud.compute.cloud_select": {"instances": [], "snapshots": True}, "run_once": True},
        {"ikcloud.compute.cloud_report": {}, "run_once": True},
        {"ikcloud.compute.image": {"images": []}},
    ]
    defaults = {"group/ikcloud.compute.compute": {"root": "{{ compute_service_root }}"}}
    book = [
        {"hosts": "compute_nodes", "gather_facts": False, "module_defaults": defaults, "tasks": copy.deepcopy(tasks)}
    ]
    (tmp_path / "own.yml").write_text(json.dumps(book))
    done = play(str(tmp_path / "own.yml"), "--check")
    assert done.status == 0, done.text
