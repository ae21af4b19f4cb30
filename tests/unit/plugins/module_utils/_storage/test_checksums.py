# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checksums as they are declared and published."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._storage.checksums import Checksum, find, hash_file, parse
from hypothesis import given
from hypothesis import strategies as st

A, B = "a" * 64, "b" * 64


def test_declared() -> None:
    assert parse(f"sha256:{A.upper()}") == Checksum("sha256", A)
    assert parse(f"sha512:{'c' * 128}") == Checksum("sha512", "c" * 128)
    assert parse("sha256:https://example.com/SHA256SUMS") == Checksum("sha256", url="https://example.com/SHA256SUMS")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "begin with sha256:"),
        (f"md5:{A}", "begin with"),
        (A, "begin with"),
        ("sha256:xyz", "hexadecimal"),
        (f"sha512:{A}", "has 128"),
        ("sha256:ftp://x/y", "hexadecimal"),
    ],
)
def test_what_is_none(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        f"{A} *image.img\n",
        f"{A}  image.img\n{B}  other.img\n",
        f"{B}  my-image.img\n{A}  ./image.img\r\n",
        f"SHA256 (image.img) = {A}\nSHA256 (other.img) = {B}",
        f"# comment\n\n{A.upper()} *image.img\n{A} *image.img\n",
        f"{'c' * 128}  image.img\n{A}  image.img\n",
        f"{A}\n",
    ],
)
def test_found(text: str) -> None:
    assert find(text, "image.img", "sha256") == A


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no sha256"),
        (f"{A} image.img.zip", "no sha256"),
        (f"{A} image.img\n{B} image.img", "2 different"),
        (f"{A}\n{B}\n", "no sha256"),
    ],
)
def test_not_found(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        find(text, "image.img", "sha256")


@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    try:
        assert len(find(text, "image.img", "sha256")) == 64
    except ValueError as error:
        assert "image.img" in str(error)


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello" * 1_000_000)
    digests = hash_file(str(tmp_path / "a"), ("sha256", "sha512"))
    assert digests == {name: hashlib.new(name, b"hello" * 1_000_000).hexdigest() for name in ("sha256", "sha512")}
