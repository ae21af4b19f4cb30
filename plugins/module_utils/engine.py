# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sentence that every node module speaks.

Validate the whole list, observe once what is there, compare, list the steps that close the difference, run them unless
in check mode, report. A kind of resource supplies only what is its own: see :class:`Kind`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ikcloud.compute.plugins.module_utils.commands import PACKAGES, missing_tools, side_by_side
from ansible_collections.ikcloud.compute.plugins.module_utils.errors import ComputeError, raise_all
from ansible_collections.ikcloud.compute.plugins.module_utils.lock import nothing_else_changes
from ansible_collections.ikcloud.compute.plugins.module_utils.steps import Ip, Step, Write, read_plain, run_ip_batch

DEFAULT_ROOT = "/var/lib/compute-service"
EFFECTS = {"create": "create", "update": "live", "delete": "destroy"}
Item = dict[str, Any]
Work = tuple[str, list[Step]]  # an item's name, and its steps


@dataclass
class Found:
    """One object as it was read from the node.

    :ivar props: What can be compared with a declaration, in its words; shown to the user as ``before``.
    :ivar owned: Whether it carries our mark. What does not is never changed or removed.
    :ivar raw: What only the kind itself needs to know of it.
    """

    props: Item
    owned: bool = True
    raw: Any = None


@dataclass
class Change:
    """What is to be done about one item, and why. Without steps there is nothing to do.

    :ivar action: ``none``, ``create``, ``update`` or ``delete``.
    :ivar reasons: For an update, what differs, a phrase each, such as ``mtu is 1500, declared 1450``.
    :ivar restart_reason: Why a restart is pending, or empty.
    :ivar effect: What the change means for what uses the item, where ``action`` does not say it: ``restart``, or ``rebuild`` when it is
        removed and made anew. Otherwise ``create``, ``live`` or ``destroy``, by ``action``.
    :ivar seen: Warnings of what the look at the node showed; where something is done, of what the look after it shows.
    :ivar facts: More keys for the item's entry in ``results``.
    :ivar shared: Whether it is about what all items share (:meth:`Kind.common`).
    :ivar postponed: Whether that was to be removed, and stays for an item that failed.
    :ivar refusal: Why it is not done, where that is this item's own trouble: it fails, and the others are done.
    """

    name: str
    action: str = "none"
    before: Item | None = None
    after: Item | None = None
    steps: list[Step] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    restart_reason: str = ""
    warnings: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    facts: Item = field(default_factory=dict)
    effect: str = ""
    shared: bool = False
    postponed: bool = False
    refusal: str = ""


class Kind:
    """One kind of resource: what it is called, what its items look like, how it is read and how it is changed.

    ``change`` and ``remove`` are pure functions of their arguments and of the module's options: they run nothing.
    """

    noun: str = ""  # "bridge"; for messages
    option: str = ""  # "bridges": the module's list
    suboptions: Item = {}  # of an item; ``name`` is its key
    options: Item = {}  # more options of the module
    spec: Item = {}  # the module's whole argument spec, where its list is not one of declared items
    tools: tuple[str, ...] = ()  # what the node must have
    workers: int = 1  # how many items' steps may run side by side
    warns_of_refusals: bool = False  # whether check mode warns of items that are refused alone, since the run does the others; else it fails

    def __init__(self, params: Item) -> None:
        self.params = params
        self.root: str = params.get("root") or DEFAULT_ROOT
        self.warnings: list[str] = []

    def problems(self, index: int, item: Item) -> list[str]:
        """Say what is wrong with an item, each with its place such as ``bridges[2].mtu``. Only ``name`` is there for sure where ``state=absent``."""
        return []

    def list_problems(self, items: list[Item]) -> list[str]:
        """Say what is wrong between the items of the list (the engine looks for duplicate names itself)."""
        return []

    def observe(self, items: list[Item]) -> dict[str, Found]:
        """Read once what is there: everything of this kind that carries our mark, and whatever else bears an item's name."""
        raise NotImplementedError

    def observe_bare(self, items: list[Item]) -> dict[str, Found]:
        """Read what can be read although a tool is missing: in check mode (the role prepare will have installed it), and to remove things."""
        return {}

    def lacking(self, changes: list[Change], check_mode: bool) -> list[str]:
        """Say what the steps need that is not there, a sentence each: an error before the first change, in check mode a warning.

        What an earlier module of the same play makes is no matter for check mode.
        """
        return []

    def change(self, item: Item, have: Found | None) -> Change:
        """Compare an item with what is there and list the steps between them."""
        raise NotImplementedError

    def remove(self, name: str, have: Found) -> Change:
        """List the steps that remove an object of ours."""
        raise NotImplementedError

    def in_the_way(self, name: str, found: Found) -> str:
        """Say that something that is not ours stands in the way of a declared item."""
        return f"{self.noun} {name}: ikcloud.compute did not make what is there under this name, and leaves it alone. Rename it or remove it."

    def refusal(self, name: str, found: Found) -> str:
        """Say why nothing is done with an item of ours, "" where something can be: one that somebody hostile has in hand stops no other."""
        return ""

    def begin(self, work: list[Work]) -> list[Work]:
        """Hear which items' steps are about to run side by side, and put them in order: what one process can do for all of them is done here."""
        return work

    def workers_for(self, steps: list[Step]) -> int:
        """Say how many items' steps may run side by side, of these that are due."""
        return self.workers

    def settled(self) -> None:
        """Hear that the steps have run: what was asked to be done once (a restart, a rebuild) is not wanted once more."""

    def common(self, changes: list[Change], have: dict[str, Found]) -> list[Change]:
        """List what all items share (a systemd unit, a sysctl), given the items' own changes; their stages say when it is done.

        What has the action ``delete`` is left for the next run once an item has failed.
        """
        return []


def argument_spec(kind: type[Kind]) -> Item:
    """Give the argument spec of a kind's module."""
    return kind.spec or {
        kind.option: {"type": "list", "elements": "dict", "required": True, "options": kind.suboptions},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "purge": {"type": "bool", "default": False},
        "spare": {"type": "list", "elements": "str", "default": []},
        "root": {"type": "path", "default": DEFAULT_ROOT},
        **kind.options,
    }


def main(kind_class: type[Kind]) -> None:
    """Run the module of a kind of resource."""
    module = AnsibleModule(argument_spec=argument_spec(kind_class), supports_check_mode=True)
    finish(module, lambda: converge(kind_class(module.params), module.check_mode))


def finish(module: AnsibleModule, work: Callable[[], Item]) -> None:
    """Do a module's work, and end the module with what came out: the result of :func:`converge`, or one like it."""
    result: Item = {}
    try:
        result = work()
    except Exception as error:
        module.fail_json(**failure_of(error))
    for warning in result.pop("warn"):
        module.warn(warning)
    if not module._diff:
        del result["diff"]  # of many instances it would be most of what the controller reads
    if "msg" in result:
        module.fail_json(**result)
    module.exit_json(**result)


def failure_of(error: Exception) -> Item:
    """Return what a result says of an error: of a defect of ours the user gets a sentence, and ``-vvv`` the traceback."""
    if isinstance(error, ComputeError):
        return {"msg": str(error)}
    words = f"Unexpected {type(error).__name__}: {error}. This is a defect of ikcloud.compute; please report it."
    return {"msg": words, "exception": "".join(traceback.format_exception(type(error), error, error.__traceback__))}


def converge(kind: Kind, check_mode: bool) -> Item:
    """Speak the sentence for one list.

    :returns: The module's result; with ``msg`` when a step failed, or the look at the node after the steps (what was done is
        in it all the same), and ``warn``, the warnings.
    :raises ComputeError: When the list is wrong or can't be planned; then nothing was changed.
    """
    items: list[Item] = kind.params[kind.option]
    absent = kind.params["state"] == "absent"
    raise_all(validate(kind))
    missing = missing_tools(kind.tools)
    observe = kind.observe_bare if missing else kind.observe
    # What is to be removed was never made by tools that are not there; what reading without them finds is removed without them.
    removing = absent or not items
    if missing and not check_mode and not removing:
        packages = " ".join(sorted({PACKAGES.get(tool, tool) for tool in missing}))
        raise ComputeError(f"This node lacks {', '.join(missing)}.", f"Run the role ikcloud.compute.prepare, or install: {packages}.")
    if missing and not removing:
        kind.warnings.append(f"This node lacks {', '.join(missing)}; check mode takes it that nothing is there yet and that the role prepare installs them.")
    with nothing_else_changes(kind.root, check_mode):
        have = observe(items)
        changes = plan(kind, items, have, absent)
        lacking = kind.lacking([change for change in changes if change.steps], check_mode)
        kind.warnings += lacking if check_mode else []
        raise_all([] if check_mode else lacking)
        diff = [entry for change in changes if change.steps for entry in _diff(kind, change)]
        refused = {change.name: ComputeError(change.refusal) for change in changes if change.refusal}
        failures: dict[str, ComputeError] = {}
        done: list[Step] = []
        unseen: Item = {}  # why the second observation failed
        if not check_mode and any(change.steps for change in changes):
            failures = apply(kind, changes, done)
            kind.settled()
            try:
                have = observe(items)
                _verify(kind, items, have, absent, failures, changes)
            except Exception as error:
                unseen = failure_of(error)
    executed = done if failures else None
    failures = {**refused, **failures}
    warned = refused if check_mode and kind.warns_of_refusals else {}
    kind.warnings += [_named(kind, name, error) for name, error in warned.items()]
    result = _report(kind, changes, diff, failures, executed, None if check_mode or unseen else have)
    if warned:
        del result["msg"]
    if unseen:
        words = f"The changes were made, but the node could not be looked at afterwards: {unseen['msg']}"
        result.update(unseen, msg=f"{result['msg']} {words}" if failures else words)
    return result


def plan(kind: Kind, items: list[Item], have: dict[str, Found], absent: bool) -> list[Change]:
    """Compare the list with what is there. Pure: it runs nothing.

    :raises ComputeError: With every reason why the list can't be reached, such as a name that something foreign bears.
    """
    changes: list[Change] = []
    problems: list[str] = []
    listed = set()
    for item in items:
        name = item["name"]
        listed.add(name)
        found = have.get(name)
        if found is not None and not found.owned:
            if not absent:
                problems.append(kind.in_the_way(name, found))
            continue
        refusal = kind.refusal(name, found) if found is not None else ""
        try:
            if refusal:
                changes.append(Change(name, refusal=refusal))
            elif not absent:
                changes.append(kind.change(item, found))
            elif found is not None:
                changes.append(kind.remove(name, found))
            else:
                changes.append(Change(name))
        except ComputeError as error:
            problems.append(str(error))
    if kind.params["purge"]:
        listed |= set(kind.params.get("spare") or [])
        for name, found in sorted(have.items()):
            try:
                changes += [kind.remove(name, found)] if name not in listed and found.owned else []
            except ComputeError as error:
                problems.append(str(error))
    raise_all(problems)
    shared = kind.common(changes, have)
    for change in shared:
        change.shared = True
    return changes + shared


def apply(kind: Kind, changes: list[Change], done: list[Step]) -> dict[str, ComputeError]:
    """Run the steps, stage by stage. An item that fails is left at that point, the others go on.

    What all items share is not removed once one has failed: that item may still need it, and the next run removes both.

    :param done: Filled with the steps that were executed, whether they went well or not.
    :returns: What failed, by item.
    """
    failures: dict[str, ComputeError] = {}
    stages = sorted({getattr(step, "stage", 0) for change in changes for step in change.steps})
    for stage in stages:
        for shared in (False, True):
            due = {change.name: steps for change in changes if change.shared is shared for steps in [_due(change, stage, failures)] if steps}
            batched = {name: steps for name, steps in due.items() if all(isinstance(step, Ip) for step in steps)}
            failures.update(_apply_batch([(name, step) for name, steps in batched.items() for step in steps if isinstance(step, Ip)], done))
            rest = kind.begin([(name, steps) for name, steps in due.items() if name not in batched])
            about = [step for _name, steps in rest for step in steps]
            for name, error in _apply_items(rest, kind.workers_for(about), done):
                if error:
                    failures[name] = error
    return failures


def _due(change: Change, stage: int, failures: dict[str, ComputeError]) -> list[Step]:
    steps = [step for step in change.steps if getattr(step, "stage", 0) == stage]
    if steps and failures and change.shared and change.action == "delete":
        change.postponed = True
    return [] if change.postponed or change.name in failures else steps


def _apply_items(work: list[Work], workers: int, done: list[Step]) -> list[tuple[str, ComputeError | None]]:
    outcome = side_by_side(lambda entry: _apply_item(*entry), work, workers)
    for (_name, steps), (_again, error) in zip(work, outcome):
        done += steps[: error.executed] if error else steps
    return outcome


def _apply_item(name: str, steps: list[Step]) -> tuple[str, ComputeError | None]:
    for number, step in enumerate(steps, 1):
        try:
            step.run()
        except (ComputeError, OSError) as error:
            failure = error if isinstance(error, ComputeError) else ComputeError(f"`{step.text}`: {error}")
            failure.executed = number
            return name, failure
    return name, None


def _apply_batch(steps: list[tuple[str, Ip]], done: list[Step]) -> dict[str, ComputeError]:
    failures: dict[str, ComputeError] = {}
    while steps:
        failed = run_ip_batch([step.line for _name, step in steps])
        index, words = failed or (len(steps), "")
        done += [step for _name, step in steps[: index + 1]]
        if failed is None:
            break
        name, step = steps[index]
        failures[name] = ComputeError(f"`ip {step.line}` failed: {words}")
        # ip stopped there: the lines before are done, the other items' lines are still to do.
        steps = [entry for entry in steps[index + 1 :] if entry[0] != name]
    return failures


def validate(kind: Kind) -> list[str]:
    """Say what is wrong with a kind's list, without looking at the node."""
    items: list[Item] = kind.params[kind.option]
    absent = kind.params["state"] == "absent"
    problems: list[str] = []
    first: dict[str, int] = {}
    for index, item in enumerate(items):
        name = item["name"]
        if name in first:
            problems.append(f"{kind.option}[{index}]: the name {name!r} stands already at {kind.option}[{first[name]}]; a name may be listed once.")
        first.setdefault(name, index)
        if not absent:
            problems += kind.problems(index, item)
    return problems if absent or problems else kind.list_problems(items)


def _verify(kind: Kind, items: list[Item], have: dict[str, Found], absent: bool, failures: dict[str, ComputeError], changes: list[Change]) -> None:
    """Look whether what was done has closed the difference: a step that the node took without effect must not pass for done.

    :param changes: What was done; ``seen`` of each becomes what is seen now.
    """
    refused = {change.name for change in changes if change.refusal}
    now = plan(kind, items, have, absent)
    seen = {change.name: change.seen for change in now}
    for change in changes:
        change.seen = seen.get(change.name, [])
    for change in now:
        if change.refusal and change.name not in refused:
            failures.setdefault(change.name, ComputeError(change.refusal))
        if change.steps and change.name not in failures and not (failures and change.shared and change.action == "delete"):
            left = "; ".join(change.reasons) or f"still to do: {change.steps[0].text}"
            failures[change.name] = ComputeError(f"It still differs after the change: {left}.", "Something else may be changing it.")


def _diff(kind: Kind, change: Change) -> Iterator[Item]:
    title = f"{kind.noun} {change.name}"
    commands = "".join(f"# {step.text}\n" for step in change.steps)
    yield {"before_header": title, "after_header": title, "before": change.before or "", "after": change.after or "", "prepared": commands}
    for step in change.steps:
        if isinstance(step, Write) and not step.secret:
            yield {"before_header": step.path, "after_header": step.path, "before": _text_of(step.path), "after": step.content}


def _text_of(path: str) -> str:
    return (read_plain(path) or ("", 0))[0]


def _report(
    kind: Kind, changes: list[Change], diff: list[Item], failures: dict[str, ComputeError], done: list[Step] | None, have: dict[str, Found] | None
) -> Item:
    # Of a run in which something failed, only what was executed (by identity: equal steps of two items are two).
    executed = None if done is None else set(map(id, done))
    ordered = sorted(
        ((getattr(step, "stage", 0), step.text) for change in changes for step in change.steps if executed is None or id(step) in executed),
        key=lambda entry: entry[0],
    )
    touched = [change for change in changes if change.before or change.after]
    after = {change.name: change.after for change in touched}
    if have is not None:
        after = {change.name: have[change.name].props if change.name in have else None for change in touched}
    result: Item = {
        "changed": bool(ordered),
        "before": {change.name: change.before for change in touched},
        "after": after,
        "commands": [text for _stage, text in ordered],
        "results": [_entry(change, failures.get(change.name)) for change in changes],
        "diff": diff,
        "warn": kind.warnings + [warning for change in changes for warning in (*change.warnings, *change.seen)],
    }
    if failures:
        whole = sum(1 for change in changes if change.steps and change.name not in failures and not change.postponed)
        named = " ".join(_named(kind, name, error) for name, error in failures.items())
        others = "1 other change was" if whole == 1 else f"{whole} other changes were"
        result["msg"] = f"{named} ({others} made; run again once it is mended.)"
    return result


def _named(kind: Kind, name: str, error: ComputeError) -> str:
    begin = f"{kind.noun} {name}: "
    return str(error) if str(error).startswith(begin) else f"{begin}{error}"


def _entry(change: Change, failure: ComputeError | None) -> Item:
    return {
        "name": change.name,
        "action": change.action if change.steps else "none",
        "changed": bool(change.steps) and failure is None and not change.postponed,
        "effect": (change.effect or EFFECTS.get(change.action, "live")) if change.steps else "none",
        "reasons": change.reasons,
        "restart_required": bool(change.restart_reason),
        "restart_reason": change.restart_reason,
        **({"error": str(failure)} if failure else {}),
        **change.facts,
    }
