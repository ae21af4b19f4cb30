# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An instance's ``start``: the text that runs its QEMU, which a person can read and run, and that text read back."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from typing import Any

from .._core.errors import ComputeError
from .._core.layout import InstancePaths
from .._core.names import OWNER
from .._core.untrusted import parse_json
from .._system.process import MAX_WORDS
from .argv import MEMORY, Options, from_argv, parse_options, to_argv
from .machine import Machine
from .program import PROGRAM

_BALLOON = re.compile(r'\{"value": ([0-9]{1,18})\}')
_HEADER = re.compile(rf"#!/bin/sh\n# {re.escape(OWNER)} instance ([a-z0-9-]+)\n# labels: (.*)\n")
# A command in which no character has a meaning to a shell.
_PLAIN = re.compile(r"[A-Za-z0-9@%+=:,./_\- \n]*")


@dataclass(frozen=True)
class Start:
    """What a ``start`` says; what is beyond reading is empty."""

    name: str
    labels: dict[str, Any] = field(default_factory=dict)
    machine: Machine = field(default_factory=Machine)


def start_script(machine: Machine, labels: dict[str, Any] | None, where: InstancePaths) -> str:
    """Return the text of an instance's ``start``: its name, its labels, and QEMU's command with an option a line."""
    lines = ["#!/bin/sh", f"# {OWNER} instance {machine.name}", f"# labels: {json.dumps(labels or {}, sort_keys=True)}"]
    if machine.memory is not None and machine.memory != machine.max_memory:
        lines.append(
            f"# The guest is asked to do with {machine.memory} of its {machine.max_memory} MiB as soon as QEMU answers"
            " (virtio-balloon)."
        )
        value = f"'{{\"value\": {machine.memory << 20}}}'"
        lines.append(f"{where.qmp_script} --wait balloon {value} >/dev/null 2>&1 &")
    words = [f"exec {PROGRAM}"]
    words += [
        " ".join([name, shlex.quote(value)] if value else [name]) for name, value in to_argv(machine) if name != MEMORY
    ]
    return "\n".join(lines) + "\n" + " \\\n  ".join(words) + "\n"


def parse_script(text: str, problems: list[str] | None = None) -> Start | None:
    """Read a ``start`` of ours back; None when it is not managed by us.

    :param problems: Where is noted what is beyond reading.
    """
    problems = [] if problems is None else problems
    header = _HEADER.match(text)
    if not header:
        return None
    try:
        labels = parse_json(header.group(2), "the line of the labels in start")
    except ComputeError as error:
        labels = {}
        problems.append(error.message)
    words = _words(text[header.end() :].replace("\\\n", " "))
    if len(words) > MAX_WORDS:
        problems.append(f"the command in start has more than {MAX_WORDS} words.")
        words = []
    balloon = (
        _BALLOON.fullmatch(words[3]) if words[1:3] == ["--wait", "balloon"] and words[6:8] == ["&", "exec"] else None
    )
    words = words[7:] if balloon else words
    given: Options = parse_options(words[2:] if words[:1] == ["exec"] else [])
    given += [(MEMORY, str(int(balloon.group(1)) >> 20))] if balloon else []
    return Start(header.group(1), labels if isinstance(labels, dict) else {}, from_argv(given))


def _words(text: str) -> list[str]:
    """Split a command as a shell does; what a person edited beyond reading is no words."""
    if _PLAIN.fullmatch(text):
        return text.split()  # a hundred times as fast
    try:
        return shlex.split(text, comments=True)
    except ValueError:
        return []
