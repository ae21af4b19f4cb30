# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench holds creating against other ways less an empty run, and prints all of `site` too: with figures that were
measured.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from bench import BARE, CREATE, IN_TURNS, LOOP, NO_CHANGE, SITE, VIRSH, VIRT_INSTALL, Figures
from promises import promises, table


@pytest.fixture
def figures() -> Figures:
    return Figures(
        {
            (CREATE, SITE, 1): 2.92, (CREATE, SITE, 20): 4.27, (CREATE, BARE, 20): 1.55,
            (CREATE, VIRSH, 20): 8.37, (CREATE, VIRT_INSTALL, 20): 12.35, (NO_CHANGE, SITE, 0): 2.68,
            (NO_CHANGE, LOOP, 100): 95.62, (IN_TURNS, SITE, 1): 2.67, (IN_TURNS, SITE, 100): 3.30,
        },
        {20: 4},
        "a machine",
    )  # fmt: skip


def test_the_measured_figures_keep_all_promises(figures: Figures) -> None:
    found = promises(figures, 20, 100)
    assert [name for name, promise in found.items() if not promise.kept] == []
    assert found["virsh"].found == pytest.approx(5.26, abs=0.01)
    assert found["virt-install"].found == pytest.approx(7.77, abs=0.01)


@pytest.mark.parametrize(("name", "who", "bound"), [("virsh", VIRSH, 4.5), ("virt-install", VIRT_INSTALL, 7)])
def test_a_slower_site_breaks_the_promise(figures: Figures, name: str, who: str, bound: float) -> None:
    figures.seconds[CREATE, SITE, 20] = 2.68 + figures.seconds[CREATE, who, 20] / bound + 0.01
    assert not promises(figures, 20, 100)[name].kept
    figures.seconds[CREATE, SITE, 20] -= 0.02
    assert promises(figures, 20, 100)[name].kept


def test_the_table_has_all_of_site_too(figures: Figures) -> None:
    text = table(figures, promises(figures, 20, 100))
    assert "an empty run is 63%" in text
    assert f"`{VIRSH}` 1.96 times as long," in text
    assert f"and `{VIRT_INSTALL}` 2.89 times as long." in text
