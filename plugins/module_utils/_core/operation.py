# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done once, to what is there: a snapshot, a backup, a restart.

Check the words, find what is meant, check the preconditions and list the steps, run them unless in check mode,
look again whether the postcondition holds, report. It shares steps, stages, the node's lock and the report with the
reconcile loop, but nothing is compared with a declaration.
"""

from __future__ import annotations

from collections.abc import Mapping

from ansible.module_utils.basic import AnsibleModule

from .changes import Change, Item, Observed
from .errors import ComputeError, raise_all
from .execution import Actor, Failures, carry_out, finish, missing_tools_of
from .lock import node_lock


class Operation(Actor):
    """One operation on some objects, which it calls by their names."""

    spec: Item = {}  # the module's argument spec
    option: str = ""  # the module's list of names

    def validate(self) -> list[str]:
        """Say what is wrong with the module's other options."""
        return []

    def observe(self, names: list[str], earlier: Mapping[str, Observed]) -> dict[str, Observed]:
        """Read what there is of the named objects, by name.

        :param earlier: What was observed before the steps ran; empty before.
        :raises ComputeError: When one is not there.
        """
        raise NotImplementedError

    def plan(self, called: str, have: Observed) -> Change:
        """Check the preconditions, and list the steps. Pure: it runs nothing.

        :param called: What the object was called.
        :raises ComputeError: When a precondition is not met; then nothing is done with any.
        """
        raise NotImplementedError

    def unmet(self, change: Change, before: Observed, now: Observed | None) -> str:
        """Say in what the postcondition does not hold after the steps, "" where it does or nobody can tell."""
        return ""


def main(operation_class: type[Operation]) -> None:
    """Run the module of an operation."""
    module = AnsibleModule(argument_spec=operation_class.spec, supports_check_mode=True)
    finish(module, lambda: perform(operation_class(module.params), module.check_mode))


def perform(operation: Operation, check_mode: bool) -> Item:
    """Do an operation.

    :returns: See :func:`execution.carry_out`.
    :raises ComputeError: When the words are wrong, or a precondition is not met; then nothing was changed.
    """
    names: list[str] = operation.params[operation.option]
    raise_all([*_named_twice(operation.option, names)] or operation.validate())
    missing = missing_tools_of(operation, check_mode)
    if missing:
        operation.warnings.append(f"This node lacks {', '.join(missing)}.")
    with node_lock(operation.root, check_mode):
        have = operation.observe(names, {})
        changes = _plan(operation, have)

        def look_again(failures: Failures) -> dict[str, Observed]:
            now = operation.observe(names, have)
            for change in changes:
                name = change.name
                found = now.get(name)
                refusal = operation.refusal(name, found) if found and not change.refusal else ""
                left = operation.unmet(change, have[name], found) if change.steps and not refusal else ""
                if refusal or left:
                    words = refusal or f"It was done without effect: {left}."
                    failures.setdefault(name, ComputeError(words))
            return now

        return carry_out(operation, changes, have, check_mode, look_again)


def _plan(operation: Operation, have: Mapping[str, Observed]) -> list[Change]:
    changes, problems = [], []
    for name, found in have.items():
        if not found.owned:
            problems.append(operation.conflict_message(name, found))
            continue
        refusal = operation.refusal(name, found)
        try:
            changes.append(Change(name, refusal=refusal) if refusal else operation.plan(name, found))
        except ComputeError as error:
            problems.append(str(error))
    raise_all(problems)
    return changes


def _named_twice(option: str, names: list[str]) -> list[str]:
    first: dict[str, int] = {}
    return [
        f"{option}[{index}]: the name {name!r} stands already at {option}[{first[name]}]; a name may be listed once."
        for index, name in enumerate(names)
        if first.setdefault(name, index) != index
    ]
