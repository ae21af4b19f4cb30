# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole is killed: `ansible-playbook site` on the controller, at moments all over its run, while modules work on
the nodes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ansible_runs import Playbooks
from conftest import Lab
from scenarios import SCENARIOS, differences, prepare


def test_killed_on_the_controller(lab: Lab, say: Callable[[str], None], tmp_path: Path) -> None:
    site, playbooks = lab.bring_up(watch=False), Playbooks(lab.settings, tmp_path)
    times = int(os.environ.get("IKCLOUD_KILLS") or 2)
    wanted, seconds = {}, {}
    for scenario, declaration in SCENARIOS.items():
        prepare(site, scenario)
        seconds[scenario] = playbooks.run("site", declaration)
        wanted[scenario] = site.pictures()
    say("")
    for number in range(1, times + 1):
        for scenario, declaration in SCENARIOS.items():
            prepare(site, scenario)
            after = seconds[scenario] * number / (times + 1)
            running = playbooks.killed("site", declaration, after)
            if number % 2:
                playbooks.hang_up()  # as one that is switched off; else the next run goes over the same connections
            playbooks.run("site", declaration)
            playbooks.hang_up()
            again = site.run(declaration, check=True)
            assert not any(outcome.failed or outcome.commands for outcome in again.values()), again
            left = differences(wanted[scenario], site.pictures())
            say(
                f"{scenario}: killed after {after:.1f} s of"
                f" {seconds[scenario]:.1f}{'' if running else ' (it had ended)'}: {len(left)} differences"
            )
            assert not left, left
