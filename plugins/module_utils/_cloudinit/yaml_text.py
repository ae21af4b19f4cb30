# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""YAML as a person would write it, from plain data: nodes have no PyYAML, only the standard library.

What is written reads back as the same data by YAML 1.1 (PyYAML, cloud-init) and 1.2: text is left bare only where no
reader can take it for anything else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_BARE = re.compile(r"[A-Za-z/_](?:[A-Za-z0-9_./@-]*[A-Za-z0-9_/])?")
# YAML 1.1 takes these for booleans and null (yaml.org/type/bool.html, null.html); infinities and such begin with a dot.
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"}
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
# YAML 1.1 section 5.1: what may stand as it is. U+0085, U+2028 and U+2029 are line breaks to some readers, U+FEFF a
# byte order mark.
_PLAIN_CHARACTERS = re.compile("[\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]*")
_WIDTH = 110


def dump(data: Any, indent: int = 0) -> str:
    """Write data as YAML.

    :param data: Dictionaries with text as keys, lists, text, numbers, booleans and None.
    :param indent: Spaces before each line.
    :returns: Lines, each with its line break.
    :raises ValueError: When something else is in it, or text that is no Unicode (a lone surrogate).
    """
    return "".join(f"{' ' * indent}{line}\n" if line else "\n" for line in _lines(data))


def scalar(value: Any) -> str:
    """Write one value on one line.

    :raises ValueError: When it is no scalar.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str):
        bare = _BARE.fullmatch(value) and value.lower() not in _WORDS and len(value) < 100
        return value if bare else quote(value)
    raise ValueError(f"a {type(value).__name__} can't be written as YAML")


def quote(text: str) -> str:
    """Write text in double quotes.

    :raises ValueError: When it has half of a surrogate pair.
    """
    out = []
    for character in text:
        if character in _ESCAPES:
            out.append(_ESCAPES[character])
        elif _PLAIN_CHARACTERS.fullmatch(character):
            out.append(character)
        else:
            point = ord(character)
            if 0xD800 <= point <= 0xDFFF:
                raise ValueError(f"text with half of a surrogate pair (U+{point:04X}) is no Unicode")
            out.append(f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}")
    return f'"{"".join(out)}"'


def flow(data: Any) -> str:
    """Write data on one line, with brackets.

    :raises ValueError: As :func:`dump`.
    """
    if isinstance(data, Mapping):
        return "{" + ", ".join(f"{_key(key)}: {flow(value)}" for key, value in data.items()) + "}"
    if _is_list(data):
        return "[" + ", ".join(flow(value) for value in data) + "]"
    # Inside brackets "a/b" could stand bare; in quotes lists of commands look like what they are.
    return quote(data) if isinstance(data, str) else scalar(data)


def _is_list(data: Any) -> bool:
    return isinstance(data, Sequence) and not isinstance(data, (str, bytes))


def _number(value: float) -> str:
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    text = repr(value)
    # YAML 1.1 wants a point in a float (yaml.org/type/float.html): 1e+22 is text to it.
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise ValueError(f"the key {key!r} is no text")
    text = scalar(key)
    if len(text) > 1000:
        raise ValueError("a key may have 1000 characters at most")  # YAML 1.1 section 9.2.1 says 1024, quotes and all
    return text


def _lines(data: Any) -> list[str]:
    if isinstance(data, Mapping) and data:
        return [line for key, value in data.items() for line in _entry(f"{_key(key)}:", value)]
    if _is_list(data) and data:
        return [line for value in data for line in _element(value)]
    if isinstance(data, Mapping) or _is_list(data):
        return [flow(data)]
    return [scalar(data)]


def _entry(head: str, value: Any) -> list[str]:
    """Write ``key: value``."""
    block = _block(value)
    if block:
        return [f"{head} {block[0]}", *(f"  {line}" if line else "" for line in block[1:])]
    if (isinstance(value, Mapping) or _is_list(value)) and value:
        short = flow(value)
        nested = value.values() if isinstance(value, Mapping) else value
        if not any(isinstance(entry, Mapping) or _is_list(entry) or _block(entry) for entry in nested) and _is_short(
            head, short, value
        ):
            return [f"{head} {short}"]
        return [head, *(f"  {line}" if line else "" for line in _lines(value))]
    return [f"{head} {_lines(value)[0]}"]


def _is_short(head: str, text: str, value: Any) -> bool:
    return len(value) <= 4 and len(head) + len(text) < 60


def _element(value: Any) -> list[str]:
    """Write ``- value``."""
    if isinstance(value, Mapping) and value:
        lines = _lines(value)
        return [f"- {lines[0]}", *(f"  {line}" if line else "" for line in lines[1:])]
    if _is_list(value) and value:
        if len(flow(value)) < _WIDTH:
            return [f"- {flow(value)}"]
        return ["-", *(f"  {line}" if line else "" for line in _lines(value))]
    block = _block(value)
    if block:
        return [f"- {block[0]}", *(f"  {line}" if line else "" for line in block[1:])]
    return [f"- {_lines(value)[0]}"]


def _block(value: Any) -> list[str]:
    """Write text of several lines as a literal block, where that can hold it; else give nothing."""
    if not isinstance(value, str) or "\n" not in value:
        return []
    body, head = (value[:-1], "|") if value.endswith("\n") else (value, "|-")
    lines = body.split("\n")
    # The first line sets the indentation; blanks at a line's end, and line breaks at the text's end, would be taken for
    # layout.
    if not lines[0].strip() or lines[0][0] in " \t" or not lines[-1].strip():
        return []
    if any((line.strip() == "" and line) or not _PLAIN_CHARACTERS.fullmatch(line.replace("\t", " ")) for line in lines):
        return []
    return [head, *lines]
