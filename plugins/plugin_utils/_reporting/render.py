# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes as people read them: on a terminal, and as Markdown (CommonMark 0.30 with GitHub's and GitLab's tables)."""

from __future__ import annotations

import html
import re

from .changes import EFFECTS, NOT_IN_RUN, Changes, Entry
from .tables import fit, one_line, width_of

_SIGNS = {"create": "+", "live": "~", "restart": "!", "rebuild": "!", "destroy": "-", "pending": "?"}
_PLANNED = {
    "create": "to create",
    "live": "to change live",
    "restart": "to restart",
    "rebuild": "to rebuild",
    "destroy": "to destroy",
}
_DONE = {
    "create": "created",
    "live": "changed live",
    "restart": "restarted",
    "rebuild": "rebuilt",
    "destroy": "destroyed",
}


def totals_line(changes: Changes, planned: bool) -> str:
    """Sum up in a line.

    :param planned: Whether it is a forecast.
    """
    counted = changes.totals()
    words = [f"{counted[effect]} {(_PLANNED if planned else _DONE)[effect]}" for effect in EFFECTS if counted[effect]]
    where = _nodes(len({entry.node for entry in changes.changes}) or len(changes.reached))
    line = (
        f"{', '.join(words)} on {where}"
        if words
        else f"nothing to do on {where}"
        if planned
        else "nothing was to be done"
    )
    if counted["pending"]:
        line += f"; {counted['pending']} restart{'s' if counted['pending'] > 1 else ''} pending"
    return f"{'Plan: ' if planned else ''}{line}."


def _nodes(number: int) -> str:
    return f"{number} node{'' if number == 1 else 's'}"


def plan_lines(changes: Changes, with_commands: bool = False) -> list[str]:
    """Give the lines for a terminal: an entry for each change, node by node, then what is to be said, and the
    totals.
    """
    lines: list[str] = []
    columns = [
        max((width_of(one_line(getattr(entry, key))) for entry in changes.entries), default=0)
        for key in ("effect", "kind", "name")
    ]
    for node in dict.fromkeys([entry.node for entry in changes.entries] + list(changes.commands)):
        lines += [*([""] if lines else []), node]
        lines += [_line(entry, columns) for entry in changes.entries if entry.node == node]
        commands = changes.commands.get(node, []) if with_commands else []
        lines += [f"    $ {one_line(command)}" for command in commands]
    lines += [""] if lines else []
    lines += warnings(changes)
    return [*lines, totals_line(changes, planned=True)]


def _line(entry: Entry, columns: list[int]) -> str:
    cells = [fit(one_line(cell), column) for cell, column in zip((entry.effect, entry.kind, entry.name), columns)]
    return f"  {_SIGNS[entry.effect]} {'  '.join(cells)}  {one_line(entry.reason)}".rstrip()


def warnings(changes: Changes) -> list[str]:
    """Say which nodes are missing, and the notes."""
    missing = [f"NOT COMPLETE: {one_line(node)} {one_line(why).rstrip('.')}." for node, why in changes.missing.items()]
    return missing + [one_line(note) for note in changes.notes]


def summary_line(changes: Changes, check_mode: bool = False) -> str:
    """Sum up a run that is over.

    :param check_mode: Whether it only said what it would do.
    """
    if check_mode:
        return f"Nothing was changed in check mode. {totals_line(changes, planned=True)}"
    lost = [node for node, why in changes.missing.items() if why != NOT_IN_RUN]
    if lost:
        there, others = changes.of(lost), changes.of(changes.reached)
        head = f"NOT DONE on {', '.join(lost)}: not reached, or failed above; run again when it is mended."
        before = f" Before that: {totals_line(there, planned=False)}" if there.changes else ""
        return f"{head}{before} On the others: {totals_line(others, planned=False)}"
    head = f"Done, without {', '.join(changes.missing)}: " if changes.missing else "Done on all nodes: "
    return head + totals_line(changes, planned=False)


def markdown(changes: Changes) -> str:
    """Give a comment for a merge request."""
    lines = [f"### {_text(totals_line(changes, planned=True))}", ""]
    for line in warnings(changes):
        lines += [f"> **Note:** {_text(line)}", ""]
    if changes.entries:
        lines += ["| node | change | kind | name | why |", "|---|---|---|---|---|"]
        lines += [
            f"| {_text(entry.node)} | {_SIGNS[entry.effect]} {entry.effect} | {_text(entry.kind)} | {_text(entry.name)}"
            f" | {_text(entry.reason)} |"
            for entry in changes.entries
        ]
        lines.append("")
    for node, commands in changes.commands.items():
        script = [one_line(command) for command in commands]
        fence = "`" * (max((len(run) for command in script for run in re.findall("`+", command)), default=0) + 1)
        fence = fence if len(fence) > 3 else "```"
        lines += [
            "<details>",
            f"<summary>{len(script)} commands on {_text(node)}</summary>",
            "",
            f"{fence}sh",
            *script,
            fence,
            "",
            "</details>",
            "",
        ]
    return "\n".join(lines)


def _text(text: str) -> str:
    """Write a text so that nothing in it counts as markup."""
    return re.sub(r"([\\`*_{}\[\]|#~@!$])", r"\\\1", html.escape(one_line(text), quote=False))
