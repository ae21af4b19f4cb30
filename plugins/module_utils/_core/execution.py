# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running what was planned, and the report of it: what the reconcile loop and the operations share."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator

from ansible.module_utils.basic import AnsibleModule

from .changes import Change, Item, Observed, PendingSteps, entry_of
from .commands import PACKAGES, missing_tools, side_by_side
from .errors import ComputeError, raise_all
from .layout import DEFAULT_ROOT
from .steps import Ip, Stage, Step, Write, read_plain, run_ip_batch

Failures = dict[str, ComputeError]  # by item


class Actor:
    """What acts on a list of items: a resource, or an operation."""

    noun: str = ""  # "bridge"; for messages
    tools: tuple[str, ...] = ()  # what the node must have
    workers: int = 1  # how many items' steps may run side by side
    # Whether check mode warns of items that are refused alone, since the run does the others; else it fails.
    warns_of_refusals: bool = False

    def __init__(self, params: Item) -> None:
        self.params = params
        self.root: str = params.get("root") or DEFAULT_ROOT
        self.warnings: list[str] = []

    def missing_prerequisites(self, changes: list[Change], check_mode: bool) -> list[str]:
        """Say what the steps need that is not there, a sentence each: an error before the first change, in check mode a
        warning.

        What an earlier module of the same play makes is no matter for check mode.
        """
        return []

    def conflict_message(self, name: str, found: Observed) -> str:
        """Say that something that is not managed by us stands in the way of an item."""
        return (
            f"{self.noun} {name}: ikcloud.compute did not make what is there under this name, and leaves it alone."
            " Rename it or remove it."
        )

    def refusal(self, name: str, found: Observed) -> str:
        """Say why nothing is done with an item of ours, "" where something can be: one that somebody hostile has in
        hand stops no other.
        """
        return ""

    def before_stage(self, work: list[PendingSteps]) -> list[PendingSteps]:
        """Hear which items' steps are about to run side by side, and put them in order: what one process can do for all
        of them is done here.
        """
        return work

    def workers_for(self, steps: list[Step]) -> int:
        """Say how many items' steps may run side by side, of these that are due."""
        return self.workers


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
    """Return what a result says of an error: of a defect of ours the user gets a sentence, and ``-vvv`` the
    traceback.
    """
    if isinstance(error, ComputeError):
        return {"msg": str(error)}
    words = f"Unexpected {type(error).__name__}: {error}. This is a defect of ikcloud.compute; please report it."
    return {"msg": words, "exception": "".join(traceback.format_exception(type(error), error, error.__traceback__))}


def missing_tools_of(actor: Actor, forgiving: bool) -> list[str]:
    """Return which tools of an actor the node lacks.

    :param forgiving: Whether it can do without: in check mode, and to remove things.
    :raises ComputeError: When it can't.
    """
    missing = missing_tools(actor.tools)
    if missing and not forgiving:
        packages = " ".join(sorted({PACKAGES.get(tool, tool) for tool in missing}))
        raise ComputeError(
            f"This node lacks {', '.join(missing)}.", f"Run the role ikcloud.compute.prepare, or install: {packages}."
        )
    return missing


def carry_out(
    actor: Actor,
    changes: list[Change],
    have: dict[str, Observed],
    check_mode: bool,
    look_again: Callable[[Failures], dict[str, Observed]],
) -> Item:
    """Run the steps unless in check mode, look at the node again, and report.

    :param have: What was observed before.
    :param look_again: Observe once more, and add to the failures what was done without effect.
    :returns: The module's result; with ``msg`` when a step failed, or the look at the node after the steps (what was
        done is in it all the same), and ``warn``, the warnings.
    :raises ComputeError: When a prerequisite is missing; then nothing was changed.
    """
    missing = actor.missing_prerequisites([change for change in changes if change.steps], check_mode)
    actor.warnings += missing if check_mode else []
    raise_all([] if check_mode else missing)
    diff = [entry for change in changes if change.steps for entry in _diff(actor.noun, change)]
    refused = {change.name: ComputeError(change.refusal) for change in changes if change.refusal}
    failures: Failures = {}
    done: list[Step] = []
    unseen: Item = {}  # why the second observation failed
    if not check_mode and any(change.steps for change in changes):
        failures = apply(actor, changes, done)
        try:
            have = look_again(failures)
        except Exception as error:
            unseen = failure_of(error)
    executed = done if failures else None
    failures = {**refused, **failures}
    warned = refused if check_mode and actor.warns_of_refusals else {}
    actor.warnings += [_named(actor, name, error) for name, error in warned.items()]
    result = _report(actor, changes, diff, failures, executed, None if check_mode or unseen else have)
    if warned:
        del result["msg"]
    if unseen:
        words = f"The changes were made, but the node could not be looked at afterwards: {unseen['msg']}"
        result.update(unseen, msg=f"{result['msg']} {words}" if failures else words)
    return result


def apply(actor: Actor, changes: list[Change], done: list[Step]) -> dict[str, ComputeError]:
    """Run the steps, stage by stage. An item that fails is left at that point, the others go on.

    What all items share is not removed once one has failed: that item may still need it, and the next run removes both.

    :param done: Filled with the steps that were executed, whether they went well or not.
    :returns: What failed, by item.
    """
    failures: dict[str, ComputeError] = {}
    stages = sorted({step.stage for change in changes for step in change.steps})
    for stage in stages:
        for shared in (False, True):
            due = {
                change.name: steps
                for change in changes
                if change.shared is shared
                for steps in [_due(change, stage, failures)]
                if steps
            }
            batched = {name: steps for name, steps in due.items() if all(isinstance(step, Ip) for step in steps)}
            failures.update(
                _apply_batch(
                    [(name, step) for name, steps in batched.items() for step in steps if isinstance(step, Ip)], done
                )
            )
            rest = actor.before_stage([(name, steps) for name, steps in due.items() if name not in batched])
            about = [step for _name, steps in rest for step in steps]
            for name, error in _apply_items(rest, actor.workers_for(about), done):
                if error:
                    failures[name] = error
    return failures


def _due(change: Change, stage: Stage, failures: dict[str, ComputeError]) -> list[Step]:
    steps = [step for step in change.steps if step.stage == stage]
    if steps and failures and change.shared and change.action == "delete":
        change.deferred = True
    return [] if change.deferred or change.name in failures else steps


def _apply_items(work: list[PendingSteps], workers: int, done: list[Step]) -> list[tuple[str, ComputeError | None]]:
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


def _diff(noun: str, change: Change) -> Iterator[Item]:
    title = f"{noun} {change.name}"
    commands = "".join(f"# {step.text}\n" for step in change.steps)
    yield {
        "before_header": title,
        "after_header": title,
        "before": change.before or "",
        "after": change.after or "",
        "prepared": commands,
    }
    for step in change.steps:
        if isinstance(step, Write) and not step.secret:
            yield {
                "before_header": step.path,
                "after_header": step.path,
                "before": _text_of(step.path),
                "after": step.content,
            }


def _text_of(path: str) -> str:
    return (read_plain(path) or ("", 0))[0]


def _report(
    actor: Actor,
    changes: list[Change],
    diff: list[Item],
    failures: dict[str, ComputeError],
    done: list[Step] | None,
    have: dict[str, Observed] | None,
) -> Item:
    # Of a run in which something failed, only what was executed (by identity: equal steps of two items are two).
    executed = None if done is None else set(map(id, done))
    ordered = sorted(
        (
            (step.stage, step.text)
            for change in changes
            for step in change.steps
            if executed is None or id(step) in executed
        ),
        key=lambda entry: entry[0],
    )
    touched = [change for change in changes if change.before or change.after]
    after = {change.name: change.after for change in touched}
    if have is not None:
        after = {change.name: have[change.name].attributes if change.name in have else None for change in touched}
    result: Item = {
        "changed": bool(ordered),
        "before": {change.name: change.before for change in touched},
        "after": after,
        "commands": [text for _stage, text in ordered],
        "results": [entry_of(change, failures.get(change.name)) for change in changes],
        "diff": diff,
        "warn": actor.warnings + [warning for change in changes for warning in (*change.warnings, *change.seen)],
    }
    if failures:
        whole = sum(1 for change in changes if change.steps and change.name not in failures and not change.deferred)
        named = " ".join(_named(actor, name, error) for name, error in failures.items())
        others = "1 other change was" if whole == 1 else f"{whole} other changes were"
        result["msg"] = f"{named} ({others} made; run again once it is mended.)"
    return result


def _named(actor: Actor, name: str, error: ComputeError) -> str:
    begin = f"{actor.noun} {name}: "
    return str(error) if str(error).startswith(begin) else f"{begin}{error}"
