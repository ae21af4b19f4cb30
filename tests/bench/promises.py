# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is promised of the speed, and the table that shows it."""

from __future__ import annotations

from dataclasses import dataclass

from bench import BARE, CREATE, IN_TURNS, LOOP, NO_CHANGE, SITE, VIRSH, VIRT_INSTALL, Figures


@dataclass
class Promise:
    """One ratio, or count, and its bound."""

    what: str
    found: float
    bound: float
    at_least: bool = False

    @property
    def kept(self) -> bool:
        return self.found >= self.bound if self.at_least else self.found <= self.bound

    @property
    def row(self) -> str:
        return (
            f"| {self.what} | {self.found:.2f} | {'at least' if self.at_least else 'at most'} {self.bound:g} |"
            f" {'yes' if self.kept else 'NO'} |"
        )


def promises(figures: Figures, many: int, most: int) -> dict[str, Promise]:
    """Hold the figures against the bounds."""
    seconds, ratio = figures.seconds, figures.ratio
    # What Ansible takes to run at all is no part of creating: the others are commands in a shell that is there already.
    creating = seconds[CREATE, SITE, many] - seconds[NO_CHANGE, SITE, 0]
    return {
        "flat": Promise(
            f"`site` without a change over {most}, to that over 1",
            ratio((IN_TURNS, SITE, most), (IN_TURNS, SITE, 1)),
            1.3,
        ),
        "tasks": Promise("tasks that go to a node", max(figures.tasks.values()), 8),
        "bare": Promise(
            f"`site` creating {many}, less an empty run, to the bare commands",
            creating / seconds[CREATE, BARE, many],
            1.5,
        ),
        "virsh": Promise(
            f"`virsh` creating {many}, to `site` less an empty run",
            seconds[CREATE, VIRSH, many] / creating,
            4.5,
            at_least=True,
        ),
        "virt-install": Promise(
            f"`virt-install` creating {many}, to `site` less an empty run",
            seconds[CREATE, VIRT_INSTALL, many] / creating,
            7,
            at_least=True,
        ),
        "loop": Promise(
            f"the loop over community.libvirt without a change over {most}, to `site`",
            ratio((NO_CHANGE, LOOP, most), (IN_TURNS, SITE, most)),
            15,
            at_least=True,
        ),
    }


def table(figures: Figures, found: dict[str, Promise]) -> str:
    """Give it all as Markdown."""
    counts = sorted({count for _what, _who, count in figures.seconds if count})
    lines = [f"| seconds | {' | '.join(map(str, counts))} |", "|---|" + "---:|" * len(counts)]
    for what in (CREATE, NO_CHANGE, IN_TURNS):
        for who in (SITE, BARE, VIRSH, VIRT_INSTALL, LOOP):
            cells = [figures.seconds.get((what, who, count)) for count in counts]
            if any(cells):
                lines.append(
                    f"| {what}: {who} | " + " | ".join("" if cell is None else f"{cell:.2f}" for cell in cells) + " |"
                )
    empty = figures.seconds[NO_CHANGE, SITE, 0]
    lines += [f"| an empty run of {SITE} | " + " | ".join([f"{empty:.2f}"] + [""] * (len(counts) - 1)) + " |"]
    lines += [
        "",
        "| ratio | found | promised | kept |",
        "|---|---:|---:|---|",
        *(promise.row for promise in found.values()),
    ]
    site = figures.seconds[CREATE, SITE, counts[1]]
    lines += [
        "",
        (
            f"Of the {site:.2f} s that `site` takes to create {counts[1]}, an empty run is {empty / site:.0%}. Beside"
            " all of `site` are"
        ),
    ]
    lines += [
        f"`{who}` {figures.seconds[CREATE, who, counts[1]] / site:.2f} times as long," for who in (VIRSH, VIRT_INSTALL)
    ]
    lines[-1] = f"and {lines[-1].rstrip(',')}."
    return "\n".join([*lines, "", f"Machine: {figures.machine}.", ""])
