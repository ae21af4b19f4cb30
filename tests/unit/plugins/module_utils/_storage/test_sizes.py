# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One grammar of sizes, for the modules and for the declaration."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._storage import sizes
from ansible_collections.ikcloud.compute.tests.unit.plugins.plugin_utils.samples import refusal, talk
from hypothesis import given
from hypothesis import strategies as st

GIB = 1 << 30


@pytest.mark.parametrize(
    "text",
    [
        "10G",
        "10g",
        "10GB",
        "10Gb",
        "10GiB",
        "10Gi",
        "10 G",
        "10 GiB",
        " 10 GB ",
        "10.0G",
        "10240M",
        "10737418240",
        "10737418240B",
        10 * GIB,
    ],
)
def test_ten_of_them(text: Any) -> None:
    assert sizes.read_bytes(text) == sizes.read_disk_size(text) == 10 * GIB


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("1.5G", 1536 << 20),
        ("0.5T", 512 << 30),
        (4096.0, 4096),
        ("1k", 1024),
        ("512", 512),
        ("2T", 2 << 40),
        ("0010", 10),
        (0, 0),
        ("0.5", None),
        ("0.1G", None),
    ],
)
def test_fractions_are_exact(value: Any, size: int | None) -> None:
    assert sizes.read_bytes(value) == size


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-1G",
        "10X",
        "10G\n",
        "10\tG",
        "G",
        "1.G",
        ".5G",
        "1,5G",
        "10iB",
        "10i",
        "10 G B",
        "10BG",
        "9" * 19,
        "\u0661\u0660G",
        "1e9",
        1e30,
        float("nan"),
        True,
        None,
        [10],
        b"10G",
    ],
)
def test_what_is_no_size(value: Any) -> None:
    assert sizes.read_bytes(value) is None
    with pytest.raises(ValueError):
        sizes.read_disk_size(value)


@pytest.mark.parametrize("value", [0, "0G", "513", "1.5K1", "99999999T"])
def test_what_is_no_disk(value: Any) -> None:
    with pytest.raises(ValueError, match=r"\.$|\?$"):
        sizes.read_disk_size(value)


@given(st.integers(1, (1 << 50)).map(lambda sectors: sectors * 512))
def test_sizes_read_back(size: int) -> None:
    assert sizes.read_disk_size(sizes.format_size(size)) == size


@given(
    st.integers(0, 10**6),
    st.sampled_from(["", "K", "M", "G", "T"]),
    st.sampled_from(["", "i"]),
    st.sampled_from(["", "B", "b"]),
    st.sampled_from(["", " ", "  "]),
)
def test_a_unit_is_binary_however_it_is_written(number: int, unit: str, binary: str, byte: str, gap: str) -> None:
    assert (
        sizes.read_bytes(f"{number}{gap}{unit}{binary if unit else ''}{byte}")
        == number << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[unit]
    )


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers())))
def test_whatever_it_is_it_is_read_or_not(value: Any) -> None:
    found = sizes.read_bytes(value)
    assert found is None or found >= 0
    guess = sizes.likely(value, 1 << 20, 1 << 40)
    assert guess == "" or 1 << 20 <= (sizes.read_bytes(guess[len(" Did you mean ") : -1]) or 0) <= 1 << 40


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is the other one that reads them")
@pytest.mark.parametrize("size", [10 * GIB, 512, 1536 << 20, 3 << 40])
def test_qemu_img_reads_what_is_written(size: int, tmp_path: Path) -> None:
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "a"), sizes.format_size(size)],
        check=True,
        timeout=60,
    )
    said = subprocess.run(
        ["qemu-img", "info", "--output=json", str(tmp_path / "a")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert f'"virtual-size": {size},' in said


@pytest.mark.parametrize(
    ("key", "value", "guess"),
    [
        ("memory", 4, "4G"),
        ("memory", "4", "4G"),
        ("memory", "4 gigs", "4G"),
        ("memory", "4X", "4G"),
        ("memory", "1,5G", "1.5G"),
        ("memory", 1.5, "1.5G"),
        ("memory", "4GBytes", "4G"),
        ("disk", 20, "20G"),
        ("disk", "20", "20G"),
        ("disk", "20 gig", "20G"),
        ("disk", "20.0", "20G"),
        ("disk", "10K", "10G"),
        ("disk", "~10 T", "10T"),
        ("memory", "1e3", "1000M"),
        ("memory", "1.5e3", "1500M"),
        ("disk", "1e3", "1000G"),
        ("memory", "512K", "512M"),
        ("memory", "1000B", "1000M"),
        ("disk", "1000B", "1000M"),
        ("disk", "512K", "512M"),
    ],
)
def test_the_likely_size_is_offered(key: str, value: Any, guess: str) -> None:
    assert f"Did you mean {guess}?" in refusal(talk(**{f"instances.web-1.{key}": value}))


@pytest.mark.parametrize(
    ("key", "value", "ends"), [("disk", "90T", "from 1M to 64T are possible."), ("memory", "90T", "MiB are possible.")]
)
def test_more_than_is_possible_is_told_the_range(key: str, value: str, ends: str) -> None:
    """It has its unit, which is no slip for a smaller one."""
    assert refusal(talk(**{f"instances.web-1.{key}": value})).endswith(ends)


@pytest.mark.parametrize("value", ["many", "99999999999T", None, ["4G"]])
def test_no_size_is_invented(value: Any) -> None:
    assert "Did you mean" not in refusal(talk(**{"instances.web-1.disk": value}))
