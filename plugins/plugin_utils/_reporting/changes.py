# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of the playbooks' tasks changes, or in check mode would change: gathered from the tasks' results. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...module_utils._core.layout import instance_id

Item = dict[str, Any]
# The kinds of change, in the order of the totals.
EFFECTS = ("create", "live", "restart", "rebuild", "destroy")
PACKAGES, GROUP, USER, FOLDERS = (f"prepare_{what}_done" for what in ("packages", "group", "user", "folders"))
# Where the tasks of `site` register their results, in its order (a test compares this with the roles): variable to kind
# of resource.
# The module node has several: its results say which, by the names of cloud_plan's lists, which are the kinds' plurals.
REGISTERED = {
    PACKAGES: "package",
    GROUP: "group",
    USER: "user",
    FOLDERS: "folder",
    "compute_instances_removed": "instance",
    "images_done": "image",
    "overlay_done": "",
    "compute_instances_purged": "instance",
    "compute_done": "",
    "compute_kept_purged": "volume",
    "images_removed": "image",
}
MISSING = "it is not there"
NOT_IN_RUN, NOT_REACHED = "is not in this run", "was not reached"
# What a module's entry means if it does not say so itself.
_BY_ACTION = {"create": "create", "update": "live", "delete": "destroy"}


@dataclass(frozen=True)
class Entry:
    """One change of one resource, or a restart that is pending (``effect`` is then ``pending``).

    :ivar machine: The instance that it is of, ``compute-<id>``; "" for none.
    """

    node: str
    kind: str
    name: str
    effect: str
    reason: str = ""
    machine: str = ""

    def as_data(self) -> Item:
        """Give it as JSON has it."""
        return {"node": self.node, "kind": self.kind, "name": self.name, "change": self.effect, "reason": self.reason}


@dataclass(frozen=True)
class NodeResults:
    """What the tasks registered for one node.

    :ivar results: By the names of :data:`REGISTERED`.
    :ivar info: What node_info returned; None where it was not run or not reached.
    :ivar lost: Whether the node fell out of the play: not reached, or failed.
    :ivar absent: Whether it was not in the play at all (``--limit``).
    """

    name: str
    results: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] | None = None
    lost: bool = False
    absent: bool = False


@dataclass
class Changes:
    """All of it.

    :ivar entries: In the order of nodes and tasks.
    :ivar commands: By node, the commands in the order in which they are run.
    :ivar reached: The nodes that are in ``entries`` as a whole.
    :ivar missing: Why nothing, or not all, is known of a node.
    :ivar notes: What else a person should know, a sentence each.
    """

    entries: list[Entry] = field(default_factory=list)
    commands: dict[str, list[str]] = field(default_factory=dict)
    reached: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def changes(self) -> list[Entry]:
        """The entries that change something."""
        return [entry for entry in self.entries if entry.effect in EFFECTS]

    @property
    def pending(self) -> list[Entry]:
        """The entries of restarts that are waited for."""
        return [entry for entry in self.entries if entry.effect == "pending"]

    def totals(self) -> dict[str, int]:
        """Count the entries by kind of change.

        An instance that is rebuilt counts once: its disk, its seed and its restart are one.
        """
        counted = dict.fromkeys((*EFFECTS, "pending"), 0)
        rebuilt = {(entry.node, entry.machine) for entry in self.entries if entry.effect == "rebuild" and entry.machine}
        for entry in self.entries:
            if entry.effect not in ("rebuild", "restart") or (entry.node, entry.machine) not in rebuilt:
                counted[entry.effect] += 1
        counted["rebuild"] += len(rebuilt)
        return counted

    def of(self, nodes: Collection[str]) -> Changes:
        """Give what was changed on some nodes, for a line that sums it up."""
        return Changes(
            entries=[entry for entry in self.entries if entry.node in nodes],
            reached=[node for node in self.reached if node in nodes],
        )

    def as_data(self) -> Item:
        """Give all of it as JSON has it."""
        return {
            "changed": bool(self.changes),
            "totals": self.totals(),
            "entries": [entry.as_data() for entry in self.entries],
            "commands": self.commands,
            "nodes": self.reached,
            "missing_nodes": self.missing,
            "notes": self.notes,
        }


def gather(nodes: Sequence[NodeResults], plan: Mapping[str, Any]) -> Changes:
    """Gather what the nodes' tasks have done, or would do.

    :param nodes: In the inventory's order.
    :param plan: What cloud_plan returned; may be empty.
    """
    changes = Changes()
    for node in nodes:
        failure = _failure(node)
        if node.absent:
            changes.missing[node.name] = NOT_IN_RUN
        elif failure:
            changes.missing[node.name] = failure
        elif node.info is None or node.lost:
            changes.missing[node.name] = NOT_REACHED
        else:
            changes.reached.append(node.name)
        purged = mapping(mapping(plan.get("purge")).get(node.name))
        commands: list[str] = []
        for variable, kind in REGISTERED.items():
            result = mapping(node.results.get(variable))
            # A task of the purge that is left out in this run may have run in an earlier play.
            if variable.endswith("_removed") and not purged.get(f"{kind}s"):
                continue
            of_kind = (
                {kind: result}
                if kind
                else {
                    str(option).removesuffix("s"): mapping(done)
                    for option, done in mapping(result.get("kinds")).items()
                }
            )
            for name, done in of_kind.items():
                changes.entries += _entries(node, variable, name, done)
            commands += [str(command) for command in sequence(result.get("commands"))]
        if commands:
            changes.commands[node.name] = commands
    changes.notes += _notes(plan)
    return changes


def _failure(node: NodeResults) -> str:
    for result in map(mapping, node.results.values()):
        if result.get("unreachable"):
            return NOT_REACHED
        if result.get("failed"):
            failed = [
                mapping(entry) for entry in sequence(result.get("results")) if mapping(entry).get("failed")
            ]  # of a loop
            words = (failed or [result])[0].get("msg") or result.get("msg") or "without a word"
            return f"has failed: {' '.join(str(words).split(chr(10)))}"
    return ""


def _entries(node: NodeResults, variable: str, kind: str, result: Mapping[Any, Any]) -> list[Entry]:
    if variable == PACKAGES:
        names = sequence(mapping(node.info).get("missing_packages")) if result.get("changed") else []
        return [Entry(node.name, kind, str(name), "create", "it is not installed") for name in names]
    if variable in (GROUP, USER):
        reason = (
            "it is not there, or not in the group kvm" if variable == USER else "an interrupted run has left it out"
        )
        return [Entry(node.name, kind, "compute-service", "create", reason)] if result.get("changed") else []
    found: list[Entry] = []
    due = mapping(mapping(node.info).get("folders_due"))
    for entry in map(mapping, sequence(result.get("results"))):
        if variable == FOLDERS:
            name, reason = str(entry.get("item")), str(due.get(entry.get("item")) or MISSING)
            found += (
                [Entry(node.name, kind, name, "create" if reason == MISSING else "live", reason)]
                if entry.get("changed")
                else []
            )
            continue
        name = str(entry.get("name"))
        # Names of resources have no dot: these are units and settings that all resources of a kind share.
        what = "system" if "." in name else kind
        machine = (
            name if instance_id(name) else f"compute-{entry['id']}" if kind == "instance" and entry.get("id") else ""
        )
        effect = entry.get("effect") or _BY_ACTION.get(str(entry.get("action")), "none")
        if effect in EFFECTS and "error" not in entry:
            found.append(Entry(node.name, what, name, str(effect), _reason(str(effect), entry), machine))
        # Of a seed, and of a disk that is made anew, the instance says it, which knows too whether it is just being
        # restarted.
        if entry.get("restart_required") and kind != "seed" and effect != "rebuild":
            found.append(Entry(node.name, what, name, "pending", str(entry.get("restart_reason") or "")))
    return found


def _reason(effect: str, entry: Mapping[Any, Any]) -> str:
    reasons = "; ".join(str(reason).removeprefix("restart: ") for reason in sequence(entry.get("reasons")))
    return reasons or {"create": MISSING, "destroy": "it is not declared"}.get(effect, "")


def _notes(plan: Mapping[str, Any]) -> list[str]:
    left = "; ".join(f"{name}: {why}" for name, why in mapping(plan.get("left_out")).items())
    purged = mapping(plan.get("purge"))
    undeclared = [
        f"{name} on {node}"
        for name, node in mapping(plan.get("undeclared")).items()
        if name not in [mapping(item).get("name") for item in sequence(mapping(purged.get(str(node))).get("instances"))]
    ]
    undeclared += [
        f"volume {name} on {node}"
        for name, node in mapping(plan.get("undeclared_volumes")).items()
        if name not in sequence(mapping(purged.get(str(node))).get("volumes"))
    ]
    notes = [f"Left out: {left}."] if left else []
    if undeclared:
        notes.append(f"Not declared any more, and left alone without cloud_purge: {', '.join(undeclared)}.")
    return notes + [str(sentence) for sentence in sequence(plan.get("notes"))]


def mapping(value: object) -> Mapping[Any, Any]:
    """Give a mapping, an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: object) -> Sequence[Any]:
    """Give a list, an empty one for anything else."""
    return value if isinstance(value, (list, tuple)) else []
