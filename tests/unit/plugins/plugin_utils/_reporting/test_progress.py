# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines that show how far downloads have come."""

from __future__ import annotations

from ansible_collections.ikcloud.compute.plugins.plugin_utils._reporting.progress import Progress, read_parts

MIB = 1 << 20


def test_reads_what_the_node_says() -> None:
    assert read_parts(f".bionic.img.part {MIB} {380 * MIB}\n.odd.img.part 5 \nnoise\n") == {
        "bionic": (MIB, 380 * MIB),
        "odd": (5, None),
    }


def test_a_line_every_five_seconds() -> None:
    progress = Progress("ik-node-01")
    shown = []
    for second in range(12):
        shown += progress.lines({"bionic": (second * 12 * MIB, 380 * MIB)}, float(second))
    assert shown == [
        "ik-node-01: image bionic 15 % of 380 MiB, 12.0 MiB/s",
        "ik-node-01: image bionic 31 % of 380 MiB, 12.0 MiB/s",
    ]


def test_unknown_length_and_the_end() -> None:
    progress = Progress("n")
    progress.lines({"a": (0, None), "b": (0, 10 * MIB)}, 0)
    assert progress.lines({"a": (10 * MIB, None), "b": (10 * MIB, 10 * MIB)}, 5) == [
        "n: image a 10 MiB, 2.0 MiB/s",
        "n: image b has come, 10 MiB; being verified",
    ]
