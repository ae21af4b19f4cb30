# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The loop that brings every resource to what is declared.

Validate the whole list, observe once what is there, compare, list the steps that close the difference, run them unless
in check mode, observe again, report. A resource supplies only what is its own: see :class:`Resource`.
"""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule

from .changes import Change, Item, Observed
from .errors import ComputeError, raise_all
from .execution import Actor, Failures, carry_out, finish, missing_tools_of
from .layout import DEFAULT_ROOT
from .lock import node_lock


class Resource(Actor):
    """One kind of resource: what it is called, what its items look like, how it is read and how it is changed.

    ``change`` and ``remove`` are pure functions of their arguments and of the module's options: they run nothing.
    """

    option: str = ""  # "bridges": the module's list
    suboptions: Item = {}  # of an item; ``name`` is its key
    options: Item = {}  # more options of the module

    def validate_item(self, index: int, item: Item) -> list[str]:
        """Say what is wrong with an item, each with its place such as ``bridges[2].mtu``.

        Only ``name`` is there for sure where ``state=absent``.
        """
        return []

    def validate_list(self, items: list[Item]) -> list[str]:
        """Say what is wrong between the items of the list (the loop looks for duplicate names itself)."""
        return []

    def observe(self, items: list[Item]) -> dict[str, Observed]:
        """Read once what is there: everything of this kind that carries our mark, and whatever else bears an item's
        name.
        """
        raise NotImplementedError

    def observe_without_tools(self, items: list[Item]) -> dict[str, Observed]:
        """Read what can be read although a tool is missing: in check mode (the role prepare will have installed it),
        and to remove things.
        """
        return {}

    def change(self, item: Item, have: Observed | None) -> Change:
        """Compare an item with what is there and list the steps between them."""
        raise NotImplementedError

    def remove(self, name: str, have: Observed) -> Change:
        """List the steps that remove an object of ours."""
        raise NotImplementedError

    def after_apply(self) -> None:
        """Hear that the steps have run: what was asked to be done once (a restart, a rebuild) is not wanted once
        more.
        """

    def shared_changes(self, changes: list[Change], have: dict[str, Observed]) -> list[Change]:
        """List what all items share (a systemd unit, a sysctl), given the items' own changes; their stages say when it
        is done.

        What has the action ``delete`` is left for the next run once an item has failed.
        """
        return []


def argument_spec(kind: type[Resource]) -> Item:
    """Give the argument spec of a kind's module."""
    return {
        kind.option: {"type": "list", "elements": "dict", "required": True, "options": kind.suboptions},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "purge": {"type": "bool", "default": False},
        "spare": {"type": "list", "elements": "str", "default": []},
        "root": {"type": "path", "default": DEFAULT_ROOT},
        **kind.options,
    }


def main(resource_class: type[Resource]) -> None:
    """Run the module of a resource."""
    module = AnsibleModule(argument_spec=argument_spec(resource_class), supports_check_mode=True)
    finish(module, lambda: converge(resource_class(module.params), module.check_mode))


def converge(kind: Resource, check_mode: bool) -> Item:
    """Run the loop for one list.

    :returns: See :func:`execution.carry_out`.
    :raises ComputeError: When the list is wrong or can't be planned; then nothing was changed.
    """
    items: list[Item] = kind.params[kind.option]
    absent = kind.params["state"] == "absent"
    raise_all(validate(kind))
    # What is to be removed was never made by tools that are not there; what reading without them finds is removed
    # without them.
    removing = absent or not items
    missing = missing_tools_of(kind, check_mode or removing)
    observe = kind.observe_without_tools if missing else kind.observe
    if missing and not removing:
        kind.warnings.append(
            f"This node lacks {', '.join(missing)}; check mode takes it that nothing is there yet and that the role"
            " prepare installs them."
        )
    with node_lock(kind.root, check_mode):
        have = observe(items)
        changes = plan(kind, items, have, absent)

        def look_again(failures: Failures) -> dict[str, Observed]:
            kind.after_apply()
            now = observe(items)
            _verify(kind, items, now, absent, failures, changes)
            return now

        return carry_out(kind, changes, have, check_mode, look_again)


def plan(kind: Resource, items: list[Item], have: dict[str, Observed], absent: bool) -> list[Change]:
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
                problems.append(kind.conflict_message(name, found))
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
    shared = kind.shared_changes(changes, have)
    for change in shared:
        change.shared = True
    return changes + shared


def validate(kind: Resource) -> list[str]:
    """Say what is wrong with a kind's list, without looking at the node."""
    items: list[Item] = kind.params[kind.option]
    absent = kind.params["state"] == "absent"
    problems: list[str] = []
    first: dict[str, int] = {}
    for index, item in enumerate(items):
        name = item["name"]
        if name in first:
            problems.append(
                f"{kind.option}[{index}]: the name {name!r} stands already at {kind.option}[{first[name]}]; a name may"
                " be listed once."
            )
        first.setdefault(name, index)
        if not absent:
            problems += kind.validate_item(index, item)
    return problems if absent or problems else kind.validate_list(items)


def _verify(
    kind: Resource,
    items: list[Item],
    have: dict[str, Observed],
    absent: bool,
    failures: Failures,
    changes: list[Change],
) -> None:
    """Look whether what was done has closed the difference: a step that the node took without effect must not pass for
    done.

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
        if (
            change.steps
            and change.name not in failures
            and not (failures and change.shared and change.action == "delete")
        ):
            left = "; ".join(change.reasons) or f"still to do: {change.steps[0].text}"
            failures[change.name] = ComputeError(
                f"It still differs after the change: {left}.", "Something else may be changing it."
            )
