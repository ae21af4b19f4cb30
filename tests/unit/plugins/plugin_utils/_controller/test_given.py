# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run is given: variables that nobody heeds, tags, and a declaration that differs between hosts; and the plays
that rely on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import pytest
import yaml
from ansible_collections.ikcloud.compute.plugins.plugin_utils._controller import task_vars
from ansible_collections.ikcloud.compute.plugins.plugin_utils._controller.given import (
    CLOUD,
    INVENTORY,
    PLAYBOOKS,
    REGISTERS,
    Run,
    differing,
)

FOLDER = Path(__file__).resolve().parents[5] / "playbooks"


def extra(
    playbook: str, typed: bool = True, hosts: dict[str, dict[str, Any]] | None = None, **variables: Any
) -> list[str]:
    return Run(playbook, variables, frozenset(variables if typed else ()), hosts or {"n1": dict(variables)}).problems()


def test_what_a_playbook_knows_is_taken() -> None:
    for playbook, names in PLAYBOOKS.items():
        assert not extra(playbook, **dict.fromkeys([*names, *INVENTORY, "ansible_user"], 1))


@pytest.mark.parametrize(
    ("playbook", "name", "words"),
    [
        ("teardown", "instances", "teardown has no such variable; backup, pause, reboot, rebuild, restore"),
        (
            "teardown",
            "instances",
            "take it out of cloud_instances and run ikcloud.compute.site with cloud_purge: true.",
        ),
        ("site", "instances", "site is for the whole cloud"),
        ("site", "grace", "-e grace: site has no such variable; reboot, stop have it."),
        ("stop", "instnaces", "-e instnaces: there is no such variable. Did you mean instances?"),
        ("stop", "gracee", "Did you mean grace?"),
        ("site", "gracee", "site has no such variable, and nothing in the inventory uses it."),
        ("site", "clout_purge", "Did you mean cloud_purge?"),
        ("site", "cloud_lists", "-e cloud_lists: there is no such variable."),
        ("site", "compute_purge", "-e compute_purge: there is no such variable. Did you mean cloud_purge?"),
        ("teardown", "teardown_keep_image", "Did you mean teardown_keep_images?"),
        ("plan", "force", "-e force: plan has no such variable"),
        ("plan", "_raw_params", "write name=value"),
    ],
)
def test_a_variable_that_the_playbook_does_not_have(playbook: str, name: str, words: str) -> None:
    (problem,) = extra(playbook, **{name: "x"})
    assert words in problem, problem


def test_variables_for_something_else_are_let_by() -> None:
    assert not extra("site", hosts={"n1": {"region": "x", "ansible_host": "{{ region }}.example"}}, region="x")
    assert not extra("site", hosts={"n1": {"cloud_images": {"a": [{"url": "{{ mirror ~ 'x' }}"}]}}}, mirror="x")
    assert extra("site", hosts={"n1": {"note": "no region here", "region": "{{ region }}"}}, region="x")
    assert not extra("site", typed=False, vault_web="x", awx_job_id=3)
    # Slips, and what belongs to another playbook, nowhere.
    for name in ("clout_purge", "instances"):
        assert extra("site", typed=False, **{name: "x"})
    assert not extra("", instances="x", force="x")


def test_the_inventory_is_searched_for_slips() -> None:
    hosts: dict[str, dict[str, Any]] = {
        "n1": {"cloud_purge": True, "compute_uplnk": "ens3"},
        "n2": {"cloud_instance": {}, **dict.fromkeys(REGISTERS)},
    }
    assert Run("status", hosts=hosts).problems() == [
        (
            "cloud_instance in the variables of n2: there is no such variable. Did you mean cloud_instances? "
            "A variable that is not for ikcloud.compute needs another name."
        ),
        (
            "compute_uplnk in the variables of n1: there is no such variable. Did you mean compute_uplink? "
            "A variable that is not for ikcloud.compute needs another name."
        ),
    ]
    others = Run(
        "site",
        hosts={
            "n1": {"cloud_provider": "x", "region": "y", "clone_images": 1},
            "n2": {"cloud_provider": "z", "cloud_purges_limit_": 1},
        },
    )
    assert not others.problems()
    (warning,) = others.warnings()
    assert warning.startswith(
        "Nothing heeds these variables of the inventory, which are none of ikcloud.compute's: cloud_provider of n1,"
        " cloud_purges_limit_ of n2 (did you mean cloud_purge_limit?). Known: cloud_encapsulation, "
    )
    known = warning.rpartition("Known: ")[2].rstrip(".").split(", ")
    assert known == sorted(INVENTORY) and len(set(known)) == len(known)
    assert not Run("", hosts=hosts).problems() and not Run("", hosts=others.hosts).warnings()


def test_a_teardown_is_of_the_whole_cloud() -> None:
    (problem,) = Run("teardown", defined={"instances", "ansible_host"}).problems()
    assert problem.startswith(
        "There is a variable instances, and teardown has none. teardown is for the whole cloud, never for some"
    )
    assert (
        not Run("site", defined={"instances"}).problems() and not Run("teardown", defined={"ansible_host"}).problems()
    )
    assert len(Run("teardown", {"instances": "web-1"}, defined={"instances"}).problems()) == 1
    (problem,) = Run("stop", {"cloud_instances": "web-1", "instances": "web-1"}).problems()
    assert problem.endswith("it chooses nothing. The variable that chooses instances is instances.")
    assert not Run("site", {"cloud_instances": "{{ mine }}", "cloud_networks": {}}).problems()


def test_tags_are_those_of_the_parts() -> None:
    for playbook in ("site", "plan"):
        run = Run(playbook, tags=["images", "overlay"])
        assert not run.problems() and run.in_parts
        assert Run(playbook, tags=["imges"]).problems() == [
            f"--tags imges: {playbook} has no such tag. Did you mean images? Known: compute, images, overlay, prepare."
        ]
        assert Run(playbook, skipped=["compute"]).in_parts
        for whole in (
            Run(playbook),
            Run(playbook, skipped=["theirs"]),
            Run(playbook, tags=["cloud"], inherited=["cloud"]),
        ):
            assert not whole.problems() and not whole.in_parts
    assert Run("stop", tags=["compute"]).problems() == [
        "--tags compute: stop has no tags, it does one thing; run it without."
    ]
    assert not Run("stop", tags=["mine"], inherited=["mine"]).problems()


def test_tags_of_a_playbook_of_the_users_own_are_let_by() -> None:
    for playbook in ("site", "plan", "stop"):
        assert Run(playbook, tags=["web"]).problems()
        assert not Run(playbook, tags=["web", "images"], alone=False).problems()


@pytest.mark.parametrize(
    ("playbooks", "alone"),
    [
        (["ikcloud.compute.site"], True),
        ([str(FOLDER / "site.yml"), "ikcloud.compute.status"], True),
        (["own.yml"], False),
        (["ikcloud.compute.site", "own.yml"], False),
    ],
)
def test_whether_the_command_runs_our_playbooks_alone(
    monkeypatch: pytest.MonkeyPatch, playbooks: list[str], alone: bool
) -> None:
    monkeypatch.setattr(task_vars.context, "CLIARGS", {"args": playbooks})
    assert task_vars._alone() is alone


def test_a_variable_that_differs_is_named_once() -> None:
    (problem,) = differing(
        CLOUD, {"n1": {"cloud_restart": "never"}, "n2": {"cloud_restart": "when_required"}}, lambda host, name: host
    )
    assert problem.startswith("cloud_restart: ")


def test_a_declaration_that_differs_between_hosts() -> None:
    def never(host: str, name: str) -> Any:
        raise AssertionError(f"{name} of {host} was templated")

    one = {"web-1": {"image": "debian"}}
    assert not differing(
        ["cloud_instances"], {"n1": {"cloud_instances": one}, "n2": {"cloud_instances": dict(one)}}, never
    )
    assert not differing(["cloud_instances"], {"n1": {}, "n2": {}}, never)
    (problem,) = differing(["cloud_instances", "cloud_user"], {"n1": {}, "n2": {"cloud_instances": one}}, never)
    assert problem.startswith("cloud_instances: n2 has it and n1 has not") and "group_vars/compute_nodes.yml" in problem
    hosts: dict[str, dict[str, Any]] = {
        name: {"cloud_user": user, "a": 1} for name, user in (("n1", "{{ a }}"), ("n2", "{{ a }}"), ("n3", "{{ b }}"))
    }
    assert not differing(["cloud_user"], hosts, lambda host, name: "same")
    (problem,) = differing(["cloud_user"], hosts, lambda host, name: host)
    assert problem.startswith("cloud_user: n1 has another than n3")


@pytest.mark.parametrize(
    ("name", "value", "first", "second"),
    [
        ("cloud_instances", "{{ my_instances }}", {"my_instances": {"web-1": {}}}, {"my_instances": {"web-2": {}}}),
        ("cloud_purge", "{{ purge_here | default(false) }}", {}, {"purge_here": True}),
        ("cloud_purge", "{{ inventory_hostname == 'x' }}", {}, {}),
        # In nested values, through other variables, and where the names cannot be known.
        ("cloud_instances", {"web-1": {"nics": [{"network": "{{ net }}"}]}}, {"net": "blue"}, {"net": "green"}),
        (
            "cloud_user",
            "{{ a }}",
            {"a": "{{ b | ansible.utils.some }}", "b": 1},
            {"a": "{{ b | ansible.utils.some }}", "b": 2},
        ),
        ("cloud_user", "{{ lookup('vars', 'user_' ~ 'here') }}", {}, {}),
        ("cloud_user", "{{ query(kind, 'x') }}", {"kind": "file"}, {"kind": "file"}),
        ("cloud_user", "{% include 'x' %}", {}, {}),
        ("cloud_user", "{{ a b }}", {}, {}),
        ("cloud_user", "{{ registered.stdout }}", {}, {}),
    ],
)
def test_a_template_that_differs_between_hosts(
    name: str, value: Any, first: dict[str, Any], second: dict[str, Any]
) -> None:
    hosts = {"n1": {name: value, **first}, "n2": {name: value, **first}, "n3": {name: value, **second}}
    (problem,) = differing([name], hosts, lambda host, name: host == "n3")
    assert problem.startswith(f"{name}: n1 has another than n3") and "a variable in its template differs" in problem
    assert not differing([name], hosts, lambda host, name: "same")


@pytest.mark.parametrize(
    "value",
    [
        "{{ a }}",
        {"web-1": ["{{ a | ansible.builtin.combine({}) }}", "{% for x in range(a) %}{{ x }}{% endfor %}"]},
        "{{ lookup('file', 'key.pub') ~ lookup('ansible.builtin.env', 'HOME') }}",
        "{{ a if a is ansible.builtin.version('1', '<') else omit }}",
    ],
)
def test_a_template_that_is_the_same_everywhere_is_not_templated(value: Any) -> None:
    asked: list[str] = []
    hosts = {f"n{number}": {"cloud_user": value, "a": "{{ b }}", "b": [1], "own": number} for number in range(50)}
    assert not differing(["cloud_user"], hosts, lambda host, name: asked.append(host))
    assert not asked


def test_a_template_that_may_differ_is_templated_once_for_each_host() -> None:
    asked: list[str] = []
    hosts = {f"n{number}": {"cloud_user": "{{ own }}", "own": number} for number in range(50)}
    assert not differing(["cloud_user"], hosts, lambda host, name: asked.append(host))
    assert sorted(asked) == sorted(hosts)


def plays() -> list[tuple[str, dict[str, Any]]]:
    found = [
        (path.stem, play)
        for path in sorted(FOLDER.glob("*.yml"))
        for play in yaml.safe_load(path.read_text(encoding="utf-8"))
    ]
    assert {name for name, _play in found} == set(PLAYBOOKS)
    return found


def test_every_play_is_ready_for_what_it_may_be_given() -> None:
    for name, play in plays():
        assert play["strategy"] == "linear", f"{name}: a task with run_once is run for each host by others"
        assert play["hosts"] == "{{ cloud_hosts }}", f"{name}: an empty group is passed by"
        assert play["vars_files"][0] == "vars/run.yml" and play["vars"]["cloud_playbook"] == name


def named(value: Any, found: set[str], folder: Path) -> None:
    """Gather the variables that a playbook's templates name, and the files of tasks that it imports."""
    environment = jinja2.Environment()
    if isinstance(value, dict):
        for key, entry in value.items():
            if key == "ansible.builtin.import_tasks":
                named(yaml.safe_load((folder / entry).read_text(encoding="utf-8")), found, (folder / entry).parent)
            conditions = entry if isinstance(entry, list) else [entry]
            named(
                [f"{{{{ {one} }}}}" for one in conditions] if key in ("when", "that", "changed_when") else entry,
                found,
                folder,
            )
    elif isinstance(value, list):
        for entry in value:
            named(entry, found, folder)
    elif isinstance(value, str) and "{{" in value:
        text = value.replace("| bool", "").replace("| difference", "| reject")  # filters of Ansible's
        found |= jinja2.meta.find_undeclared_variables(environment.parse(text))


def test_the_table_has_the_variables_that_the_playbooks_read() -> None:
    ours = ("cloud_", "compute_", "images_", "overlay_", "prepare_", "ansible_", "inventory_", "plan_report")
    for playbook, names in PLAYBOOKS.items():
        found: set[str] = set()
        for name, play in plays():
            if name == playbook:
                named(play, found, FOLDER)
        assert {name for name in found if not name.startswith(ours)} - {
            "now",
            "omit",
            "undef",
            "hostvars",
            "true",
            "false",
        } == set(names), playbook
