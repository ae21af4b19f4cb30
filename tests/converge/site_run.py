# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``site`` and ``plan`` without ansible-playbook: the tasks that the playbooks' and roles' files have, in their order,
templated by Ansible's own templar,
planned by the collection's own planner, and run by the real modules on the nodes. Only the connection and the strategy
are ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jinja2
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.ikcloud.compute.plugins.plugin_utils._declaration.declaration import DECLARATION
from ansible_collections.ikcloud.compute.plugins.plugin_utils._planning.planner import make_plan
from nodes import PROJECT, ROOT, Answer, Kill, Node

Vars = dict[str, Any]
KEYWORDS = {
    "name",
    "any_errors_fatal",
    "when",
    "register",
    "vars",
    "loop",
    "tasks_from",
    "run_once",
    "changed_when",
    "failed_when",
    "tags",
}
LOADER = DataLoader()
# The same few templates thousands of times: what they compile to is kept (where they are text; conditions come as
# nodes), a third of this process's time.
_COMPILE = jinja2.Environment.compile
_COMPILED: dict[str, Any] = {}


def _compile(environment: jinja2.Environment, source: Any, *more: Any, **options: Any) -> Any:
    if more or options or not isinstance(source, str):
        return _COMPILE(environment, source, *more, **options)
    if str(source) not in _COMPILED:
        _COMPILED[str(source)] = _COMPILE(environment, source)
    return _COMPILED[str(source)]


jinja2.Environment.compile = _compile  # type: ignore[method-assign]  # Ansible's environment has no cache of its own


@dataclass
class Task:
    """One task as the files have it, with the conditions of what includes it."""

    action: str
    arguments: Any
    defaults: Vars
    when: list[str]
    register: str = ""
    loop: Any = None


@dataclass
class Outcome:
    """What a run has done on one node.

    :ivar calls: Each task's answer, with its action, in order.
    :ivar killed: Whether it ended at the point.
    """

    calls: list[tuple[str, Answer]] = field(default_factory=list)
    killed: bool = False
    failed: str = ""

    @property
    def commands(self) -> list[list[str]]:
        """The commands that each task that changed something, or would, names."""
        return [
            answer.result.get("commands", [action]) for action, answer in self.calls if answer.result.get("changed")
        ]

    @property
    def steps(self) -> list[list[str]]:
        """The steps that were really run, task by task."""
        return [answer.steps for _action, answer in self.calls if answer.steps]


def _load(path: str) -> Any:
    return LOADER.load_from_file(str(PROJECT / path), trusted_as_template=True)


def _conditions(value: Any) -> list[str]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def flatten(path: str, defaults: Vars, when: list[str]) -> Iterator[Task]:
    """Give a file's tasks, with those of the files and roles that it includes."""
    for entry in _load(path):
        (action,) = (key for key in entry if key not in KEYWORDS)
        short, arguments = action.rpartition(".")[2], entry[action]
        conditions = when + _conditions(entry.get("when"))
        if short in ("import_tasks", "include_tasks"):
            yield from flatten(f"{path.rpartition('/')[0]}/{arguments}", defaults, conditions)
        elif short in ("import_role", "include_role"):
            role = arguments["name"].rpartition(".")[2]
            yield from flatten(
                f"roles/{role}/tasks/{arguments.get('tasks_from', 'main')}.yml",
                _load(f"roles/{role}/defaults/main.yml"),
                conditions,
            )
        else:
            yield Task(str(action), arguments, defaults, conditions, str(entry.get("register", "")), entry.get("loop"))


class Site:
    """The runs of ``site`` on some nodes."""

    def __init__(self, nodes: list[Node], watch: bool) -> None:
        self.nodes = nodes
        self.watch = watch
        self.tasks = list(flatten("playbooks/tasks/site.yml", {}, []))
        self.common: Vars = {**_load("playbooks/vars/cloud.yml"), **_load("playbooks/vars/purge.yml")}
        self.pool = ThreadPoolExecutor(len(nodes))
        # Ansible loads its filters at the first use, and not by two threads at once.
        Templar(LOADER, {}).template(trust_as_template("{{ [] | default([]) | intersect([]) | list }}"))

    def close(self) -> None:
        """End the agents."""
        self.pool.shutdown()
        for node in self.nodes:
            node.close()

    def on_all(self, work: Callable[[Node], Any]) -> dict[str, Any]:
        """Do something on all nodes at once."""
        return dict(zip((node.name for node in self.nodes), self.pool.map(work, self.nodes)))

    def pictures(self) -> dict[str, Any]:
        """Take all nodes' pictures."""
        return self.on_all(lambda node: node.picture())

    def run(
        self, declaration: Vars, check: bool = False, kills: Mapping[str, Kill | None] | None = None
    ) -> dict[str, Outcome]:
        """Run ``site``.

        :param kills: For each node the point at which a module of its is killed, after which the node is left as it is.
        :raises ComputeError: When the declaration is refused.
        """
        infos = self.on_all(lambda node: node.call("ikcloud.compute.node_info", {"root": ROOT}).result)
        addresses = {
            node.name: {"underlay_address": node.underlay, "info": infos[node.name]["node"]} for node in self.nodes
        }
        plan = make_plan({key: declaration.get(name) for key, name in DECLARATION.items()}, addresses)
        found: Vars = {**declaration, "cloud_plan": plan}
        return self.on_all(
            lambda node: self._on(
                node, {**found, "compute_node_info": infos[node.name]}, check, (kills or {}).get(node.name)
            )
        )

    def _on(self, node: Node, found: Vars, check: bool, kill: Kill | None) -> Outcome:
        outcome = Outcome()
        kill = dict(kill) if kill else None
        for task in self.tasks:
            if task.action.rpartition(".")[2] in ("node_info", "cloud_plan"):
                continue
            templar = Templar(LOADER, {**task.defaults, **self.common, **found, "inventory_hostname": node.name})
            if not all(templar.evaluate_conditional(condition) for condition in task.when):
                continue
            results = []
            for item in templar.template(task.loop) if task.loop is not None else [None]:
                templar.available_variables = {**templar.available_variables, "item": item}
                arguments = templar.template(task.arguments)
                answer = node.call(task.action, plain(arguments), check, kill, self.watch)
                outcome.calls.append((task.action, answer))
                results.append(answer.result)
                if answer.killed:
                    outcome.killed = True
                    return outcome
                if answer.result.get("failed") or answer.status:
                    outcome.failed = f"{task.action}: {answer.result.get('msg', '')} {answer.errors}"
                    return outcome
                if kill:  # the points are counted over all modules of the run
                    kill["number"] -= len(answer.points("before" if kill["mode"] == "before" else "orphan"))
            if task.register:
                found[task.register] = results[0] if task.loop is None else {"results": results}
        return outcome


def plain(value: Any) -> Any:
    """Give templated values without Ansible's tags, which JSON has no words for."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value
