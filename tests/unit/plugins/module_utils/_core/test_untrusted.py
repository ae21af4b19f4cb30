# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody hostile wrote is read within limits of size, depth, number and time."""

from __future__ import annotations

import json
import os
import resource
import socket
import time
from pathlib import Path

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.untrusted import (
    MAX_TEXT,
    list_names,
    parse_json,
    read_text,
)


def test_a_text_is_read_with_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "start"
    file.write_bytes(b"web \xff\n")
    file.chmod(0o750)
    assert read_text(str(file)) == ("web \ufffd\n", 0o750)
    assert read_text(str(tmp_path / "other")) is None
    assert read_text(str(file / "below")) is None


def test_a_gibibyte_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "start"
    with open(file, "wb") as stream:
        stream.truncate(1 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ComputeError, match=f"start has more than {MAX_TEXT} bytes"):
        read_text(str(file))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "link", "device"])
def test_only_plain_files_are_read(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "start"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "socket":
        monkeypatch.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("start")
    elif kind == "folder":
        file.mkdir()
    elif kind == "link":
        (tmp_path / "secret").write_text("secret")
        file.symlink_to("secret")
    path = "/dev/zero" if kind == "device" else str(file)
    with pytest.raises(ComputeError, match=f"{path} is no plain file"):
        read_text(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested deeper than 32 levels"),
        ('{"a":' * 33 + "1" + "}" * 33, "nested deeper than 32 levels"),
        ("[" + "1," * 10_000 + "1]", "more than 10000 values"),
        ("[" + "[]," * 6_000 + "[]]", "more than 10000 values"),
        (f'"{"a" * MAX_TEXT}"', "more than 1048576 characters"),
        ("9" * 5000, "is not JSON"),
        ("1e999", "is not JSON"),
        ("NaN", "is not JSON"),
        ('"\\ud800"', "is not JSON"),
        ('{"a": 1', "is not JSON"),
        ("", "is not JSON"),
    ],
)
def test_json_beyond_the_limits_is_refused_at_once(text: str, words: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ComputeError, match=words):
        parse_json(text, "labels")
    assert time.monotonic() - begin < 2


def test_json_within_the_limits_is_read() -> None:
    flat = {"addresses": ["192.0.2.1"] * 4000, "half": 0.5, "name": "\u00e9\U0001f600", "protect": True, "none": None}
    assert parse_json(json.dumps(flat).encode(), "labels") == flat
    nested: object = '[[[{{{,,,\\"' * 1000  # in a text they mean nothing
    for _level in range(32):
        nested = [nested]
    assert parse_json(json.dumps(nested), "labels") == nested


def test_a_folder_with_too_many_entries_is_refused(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / str(number)).touch()
    assert list_names(str(tmp_path), 4) == ["0", "1", "2", "3"]
    with pytest.raises(ComputeError, match="has more than 3 entries"):
        list_names(str(tmp_path), 3)
