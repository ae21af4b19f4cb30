# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a role's README shows is what the role takes: its example, and the table of its variables with their
defaults.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[3]
ROLES = sorted(folder.name for folder in (PROJECT / "roles").iterdir() if folder.is_dir())
# Which module's option a role's list is, as argument_specs has it.
LISTS = re.compile(r"O\(ikcloud\.compute\.(\w+)#module:(\w+)\)")


def _yaml(text: str) -> Any:
    return yaml.safe_load(text)


def _readme(role: str) -> str:
    return (PROJECT / "roles" / role / "README.md").read_text(encoding="utf-8")


def _options(role: str) -> dict[str, dict[str, Any]]:
    """Read what the role takes, by its argument_specs."""
    specs = _yaml((PROJECT / "roles" / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))[
        "argument_specs"
    ]
    options: dict[str, dict[str, Any]] = specs["main"]["options"]
    return options


def _examples(role: str) -> list[list[dict[str, Any]]]:
    """Read the README's indented blocks, each a YAML list of plays or tasks."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", _readme(role), re.MULTILINE)
    return [_yaml("\n".join(line[4:] for line in block.splitlines())) for block in blocks]


def _used(role: str) -> dict[str, Any]:
    """Read the variables that the example hands to the role."""
    play = next(found[0] for found in _examples(role) if "hosts" in found[0])
    (entry,) = play["roles"]
    if isinstance(entry, str):
        entry = {"role": entry}
    assert entry.pop("role") == f"ikcloud.compute.{role}"
    return entry


def _suboptions(module: str, option: str) -> dict[str, Any]:
    """Read what an item of a module's list may have, from its doc fragment, or from the module where it has none."""
    fragment = PROJECT / "plugins" / "doc_fragments" / f"{module}.py"
    source = fragment if fragment.exists() else PROJECT / "plugins" / "modules" / f"{module}.py"
    text = source.read_text(encoding="utf-8").partition('r"""')[2].partition('"""')[0]
    suboptions: dict[str, Any] = _yaml(text)["options"][option]["suboptions"]
    return suboptions


@pytest.mark.parametrize("role", ROLES)
def test_the_example_uses_what_the_role_takes(role: str) -> None:
    options = _options(role)
    for variable, value in _used(role).items():
        assert variable in options, f"{role} has no variable {variable}"
        found = LISTS.search(options[variable]["description"])
        assert found, f"the example of {role} sets {variable}, which is no module's list"
        suboptions = _suboptions(*found.groups())
        for item in value:
            assert set(item) <= set(suboptions), f"{variable} of {role}: {set(item) - set(suboptions)}"
            required = {name for name, option in suboptions.items() if option.get("required")}
            assert required <= set(item), f"{variable} of {role} lacks {required - set(item)}"


@pytest.mark.parametrize("role", ROLES)
def test_the_table_has_the_roles_variables_and_defaults(role: str) -> None:
    options = _options(role)
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", _readme(role), re.MULTILINE)
    assert rows
    for variable, default in rows:
        assert variable in options, f"{role} has no variable {variable}"
        if default != "read by the role":
            assert _yaml(default.strip("`")) == options[variable]["default"], variable


@pytest.mark.parametrize("role", ROLES)
def test_tasks_that_the_readme_names_are_there(role: str) -> None:
    for name in re.findall(r"tasks_from: (\w+)", _readme(role)):
        assert (PROJECT / "roles" / role / "tasks" / f"{name}.yml").is_file()


@pytest.mark.parametrize("role", ROLES)
def test_each_way_into_a_role_is_described(role: str) -> None:
    specs = _yaml((PROJECT / "roles" / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))[
        "argument_specs"
    ]
    for name, spec in specs.items():
        assert (PROJECT / "roles" / role / "tasks" / f"{name}.yml").is_file(), name
        assert spec.get("short_description") and spec.get("description"), f"{name} lacks a description"
