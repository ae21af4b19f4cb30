# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is written as YAML reads back as the same data."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from ansible_collections.ikcloud.compute.plugins.module_utils._cloudinit.yaml_text import dump, flow, quote, scalar
from hypothesis import given
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
LINES = st.lists(TEXT, max_size=4).map("\n".join)
TRICKY = st.sampled_from(
    [
        "yes",
        "No",
        "null",
        "~",
        "1e3",
        "1_000",
        "0x10",
        "12:30:45",
        "2026-11-22",
        "=",
        "<<",
        "- a",
        "a: b",
        "#x",
        "!t",
        "&a",
        "*a",
        "%d",
        "@x",
        "`",
        "a #b",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | LINES | TRICKY
DATA = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | TRICKY, inner, max_size=4),
    max_leaves=12,
)


@given(DATA)
def test_reads_back(data: Any) -> None:
    assert yaml.safe_load(dump(data)) == data
    assert yaml.safe_load(flow(data)) == data


@given(st.dictionaries(TEXT, DATA, min_size=1, max_size=3))
def test_reads_back_below_other_keys(data: dict[str, Any]) -> None:
    text = f"first: 1\nouter:\n{dump(data, 2)}last: 2\n"
    assert yaml.safe_load(text) == {"first": 1, "outer": data, "last": 2}


@given(TEXT)
def test_quoted_text_stays_on_a_line(text: str) -> None:
    assert "\n" not in quote(text) and "\n" not in scalar(text)


def test_looks_as_a_person_would_write_it() -> None:
    data = {
        "hostname": "web-1",
        "users": [{"name": "ubuntu", "sudo": "ALL=(ALL) NOPASSWD:ALL", "keys": ["ssh-ed25519 AAAA me@here"]}],
        "packages": ["nginx", "curl"],
        "runcmd": [["systemctl", "enable", "nginx"], "echo hello"],
        "write_files": [{"path": "/etc/motd", "content": "Hello\n  there\n\nfriend\n"}],
        "none": None,
        "empty": {},
        "list": [],
        "answer": "yes",
    }
    assert dump(data) == (
        "hostname: web-1\n"
        "users:\n"
        "  - name: ubuntu\n"
        '    sudo: "ALL=(ALL) NOPASSWD:ALL"\n'
        '    keys: ["ssh-ed25519 AAAA me@here"]\n'
        'packages: ["nginx", "curl"]\n'
        "runcmd:\n"
        '  - ["systemctl", "enable", "nginx"]\n'
        '  - "echo hello"\n'
        "write_files:\n"
        "  - path: /etc/motd\n"
        "    content: |\n"
        "      Hello\n"
        "        there\n"
        "\n"
        "      friend\n"
        "none: null\n"
        "empty: {}\n"
        "list: []\n"
        'answer: "yes"\n'
    )


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinities(value: float) -> None:
    assert yaml.safe_load(scalar(value)) == value


def test_nan() -> None:
    assert math.isnan(yaml.safe_load(scalar(math.nan)))


@pytest.mark.parametrize("data", ["\ud800", {1: "a"}, {"a": {2}}, b"x", {"a" * 1001: 1}])
def test_what_is_no_data_is_refused(data: Any) -> None:
    with pytest.raises(ValueError):
        dump(data)
