# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names come out the same everywhere, and nothing dangerous passes for one."""

from __future__ import annotations

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._core import names
from hypothesis import given
from hypothesis import strategies as st


def test_identifiers_are_stable() -> None:
    """These values are on users' nodes: a change of them would orphan everything there."""
    assert names.short_id("instance", "web-1") == "0662569f"
    assert names.short_id("network", "web-1") != names.short_id("instance", "web-1")
    assert names.mac_address("web-1/0") == "02:da:87:11:23:7b"


@given(st.text())
def test_no_special_character_passes(text: str) -> None:
    safe = (
        bool(text)
        and all(letter in "abcdefghijklmnopqrstuvwxyz0123456789-" for letter in text)
        and text[0] != "-"
        and text[-1] != "-"
    )
    assert (names.name_problem("x", text) is None) == (safe and len(text) <= 63)


@pytest.mark.parametrize("bad", ["a\n", "../x", "a,b", "a%i", "{{ x }}", "-a", "a;b", "ä", "A", "", None, 3, ["a"]])
def test_refused_with_its_place(bad: object) -> None:
    assert str(names.name_problem("instances[3].name", bad)).startswith("instances[3].name: ")


@pytest.mark.parametrize(
    ("mac", "fine"),
    [
        ("02:00:5e:10:00:01", True),
        ("02:00:5E:10:00:01", False),
        ("03:00:5e:10:00:01", False),
        ("02-00", False),
        (None, False),
    ],
)
def test_mac(mac: object, fine: bool) -> None:
    assert (names.mac_problem("x", mac) is None) == fine
    assert names.mac_problem("x", names.mac_address(str(mac))) is None
