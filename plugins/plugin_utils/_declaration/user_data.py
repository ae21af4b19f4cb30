# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""User-data that is text, read as cloud-init will read it.

Nodes have no PyYAML; the controller has it, for Ansible needs it.
"""

from __future__ import annotations

import re
from typing import Any

import yaml  # type: ignore[import-untyped]  # ansible-core brings it, without types

# What stands in quotes in PyYAML's messages may be the user's, such as the name of an anchor, unless it is punctuation,
# or a token's name in angle brackets.
_QUOTED = re.compile(r" ?'(?!<)(?=[^']*\w)[^']*'")


def cloud_config_problems(where: str, text: Any) -> list[str]:
    """Return why cloud-init could not read ``#cloud-config``, with line and column; nothing of the text itself, which
    is a secret.
    """
    if not isinstance(text, str) or text.partition("\n")[0].strip() != "#cloud-config":
        return []
    try:
        data = yaml.load(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark, words = (
            error.problem_mark or error.context_mark,
            _QUOTED.sub("", str(error.problem or error.context or "it can't be read")),
        )
        at = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return [f"{where}: it is no valid YAML{at}: {words}."]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        return [
            f"{where}: it is no valid YAML in line {line}, column {column}: the character"
            f" U+{ord(text[error.position]):04X} may not stand in it."
        ]
    except (ValueError, RecursionError):  # a date that is none, or brackets without end
        return [f"{where}: it is no valid YAML: a value can't be read."]
    if data is not None and not isinstance(data, dict):
        return [
            f"{where}: it is no mapping of keys and values, which is all that cloud-init takes after #cloud-config."
        ]
    return []


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
