# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what a user wrote, of whatever type it is: every value is checked, every problem is noted with its place and
a way out.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any

from ...module_utils._cloudinit.seed.secrets import SECRETS
from ...module_utils._core.names import name_problem

# Not more digits than any number here needs; int() refuses thousands of them with an error of its own.
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
# What people write who come from elsewhere.
_SYNONYMS = {
    "ip": "address",
    "ip_address": "address",
    "vcpu": "cpu",
    "vcpus": "cpu",
    "cpus": "cpu",
    "ram": "memory",
    "mem": "memory",
    "size": "disk",
    "disk_size": "disk",
    "subnet": "cidr",
    "hostname": "name",
    "keys": "ssh_keys",
    "ssh_key": "ssh_keys",
    "nameservers": "dns",
    "host": "node",
    "state": "power",
    "networks": "nics",
    "sha256": "checksum",
    "src": "path",
    "file": "path",
    "masquerade": "nat",
    "id": "vni",
}


def shown(value: object) -> str:
    """Give a value as it may stand in a message: its repr, on one line and not endless, and without secrets."""
    text = repr(_without_secrets(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _without_secrets(value: object) -> object:
    if isinstance(value, dict):
        return {key: "(secret)" if key in SECRETS else _without_secrets(entry) for key, entry in value.items()}
    return [_without_secrets(entry) for entry in value] if isinstance(value, list) else value


def nearest(word: object, known: Iterable[str]) -> str:
    """Give the sentence that helps with an unknown word: the nearest known one, and which there are."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1) if isinstance(word, str) else []
    if isinstance(word, str) and not close and _SYNONYMS.get(word) in names:
        close = [_SYNONYMS[word]]
    listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return (f"Did you mean {close[0]}? " if close else "") + (f"Known: {listed}." if names else "None is known.")


class Reader:
    """Reads the keys of one mapping. A key that is missing or null gives the default.

    :ivar place: Where it stands, such as ``cloud_instances.web-1``.
    :ivar problems: Where problems are noted.
    """

    def __init__(self, place: str, spec: object, known: Sequence[str], problems: list[str]) -> None:
        self.place = place
        self.problems = problems
        self.spec: dict[Any, Any] = {}
        self.is_mapping = spec is None or isinstance(spec, dict)
        if isinstance(spec, dict):
            self.spec = {key: value for key, value in spec.items() if value is not None}
        elif spec is not None:
            problems.append(f"{place}: {shown(spec)} is not a mapping; write keys and values, such as {known[0]}: ....")
        for key in self.spec:
            if key not in known:
                problems.append(f"{place}: unknown key {shown(key)}. {nearest(key, known)}")

    def add(self, key: str, text: str) -> None:
        """Note a problem with a key."""
        self.problems.append(f"{self.place}.{key}: {text}")

    def has(self, key: str) -> bool:
        """Tell whether the key is there and not null."""
        return key in self.spec

    def require(self, *keys: str) -> None:
        """Note each key that is not there, unless there is no mapping that could have it."""
        for key in keys if self.is_mapping else ():
            if key not in self.spec:
                self.problems.append(f"{self.place}: {key} is missing.")

    def text(
        self, key: str, pattern: re.Pattern[str] | None = None, want: str = "text", secret: bool = False
    ) -> str | None:
        """Read a string that matches the whole pattern; ``want`` says in words what it must be, a ``secret`` one is not
        repeated.
        """
        value = self.spec.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or (pattern and not pattern.fullmatch(value)):
            self.add(key, f"{'the value' if secret else shown(value)} is not {want}.")
            return None
        return value

    def integer(self, key: str, low: int, high: int, unit: str = "") -> int | None:
        """Read a whole number, also one in quotes."""
        value = self.spec.get(key)
        if value is None:
            return None
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.add(key, f"{shown(value)} is not a whole number{unit} from {low} to {high}.")
            return None
        return value

    def flag(self, key: str) -> bool | None:
        """Read true or false, also the words that YAML 1.1 and ``-e key=value`` give as text."""
        value = self.spec.get(key)
        if value is None or isinstance(value, bool):
            return value
        word = str(value).lower() if isinstance(value, (str, int)) else ""
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        self.add(key, f"{shown(value)} is neither true nor false.")
        return None

    def choice(self, key: str, choices: Sequence[str]) -> str | None:
        """Read one of a few words."""
        value = self.spec.get(key)
        if value is None or (isinstance(value, str) and value in choices):
            return value
        self.add(key, f"{shown(value)} is not one of {', '.join(choices)}.")
        return None

    def known(self, key: str, names: Iterable[str], what: str) -> str | None:
        """Read the name of something that is declared elsewhere."""
        value = self.spec.get(key)
        if value is None:
            return None
        names = list(names)
        if isinstance(value, str) and value in names:
            return value
        self.add(key, f"there is no {what} {shown(value)}. {nearest(value, names)}")
        return None

    def strings(self, key: str) -> tuple[str, ...] | None:
        """Read a list of strings; one string alone counts as a list of it."""
        value = self.spec.get(key)
        if value is None:
            return None
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, (list, tuple)) or not all(isinstance(entry, str) for entry in values):
            self.add(key, f"{shown(value)} is not a list of texts.")
            return None
        return tuple(values)


def _unquoted(place: str, name: object) -> str | None:
    """Say that YAML did not read a name as text: yes, null, 0x10, 12:30:00 and 2024-01-01 are something else to it
    (YAML 1.1).
    """
    if isinstance(name, str):
        return None
    words = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "nothing",
        date: "a date",
        datetime: "a date",
    }
    kind = words.get(type(name), "no text")
    return (
        f"{place}: YAML reads this name as {kind} ({shown(name)}); put it in quotes, as in 'yes', or take another name."
    )


def entries(place: str, value: object, problems: list[str]) -> dict[str, object]:
    """Give the named entries of a mapping, or of a list of mappings that each have a ``name``.

    A name that stands twice in a mapping is lost in YAML already (Ansible warns of it, see DUPLICATE_YAML_DICT_KEY); in
    a list it is a problem that names both places.
    """
    found: dict[str, object] = {}
    if value is None:
        return found
    if isinstance(value, dict):
        for name, spec in value.items():
            problem = _unquoted(place, name) or name_problem(place, name)
            if problem:
                problems.append(problem)
            else:
                found[str(name)] = spec
        return found
    if not isinstance(value, (list, tuple)):
        problems.append(f"{place}: {shown(value)} is neither a mapping of names nor a list of mappings with a name.")
        return found
    first: dict[str, int] = {}
    for index, spec in enumerate(value):
        if not isinstance(spec, dict) or "name" not in spec:
            problems.append(f"{place}[{index}]: {shown(spec)} is not a mapping with a name.")
            continue
        name = spec["name"]
        problem = _unquoted(f"{place}[{index}].name", name) or name_problem(f"{place}[{index}].name", name)
        if problem:
            problems.append(problem)
        elif name in first:
            problems.append(
                f"{place}[{index}].name: {name!r} stands already at {place}[{first[name]}]; a name may be declared"
                " once."
            )
        else:
            first[name] = index
            found[str(name)] = {key: entry for key, entry in spec.items() if key != "name"}
    return found
