# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Powering instances on and off, for the module ``instance_power``."""

from __future__ import annotations

from ansible_collections.ikcloud.compute.plugins.module_utils.chosen import STAGE_WORK, ChosenKind, chosen_spec
from ansible_collections.ikcloud.compute.plugins.module_utils.engine import Change, Found, Item
from ansible_collections.ikcloud.compute.plugins.module_utils.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils.instance_checks import MAX_GRACE
from ansible_collections.ikcloud.compute.plugins.module_utils.instances import Instance

# What an instance's power is to be for each state.
POWER = {"started": "running", "restarted": "running", "resumed": "running", "paused": "paused", "stopped": "stopped"}


class PowerKind(ChosenKind):
    """The power of instances that are there."""

    spec = chosen_spec(list(POWER), grace={"type": "int"})
    workers = 8

    def __init__(self, params: Item) -> None:
        super().__init__(params)
        self.first: dict[str, int] = {}  # the QEMU that each ran at the first look

    def list_problems(self, items: list[Item]) -> list[str]:
        grace = self.params.get("grace")
        return [] if grace is None or 0 <= grace <= MAX_GRACE else [f"grace: {grace} is out of range; 0 to {MAX_GRACE} seconds are possible."]

    def observe(self, items: list[Item]) -> dict[str, Found]:
        found = self.choose(items)
        for name, have in found.items():
            self.first.setdefault(name, have.raw.pid)
        return found

    def change(self, item: Item, have: Found | None) -> Change:
        name, state = item["name"], self.params["state"]
        if have is None:
            raise ComputeError(f"instance {name} is not there.")
        now: Instance = have.raw
        power, want = have.props["power"], POWER[state]
        change = Change(name, "update", have.props, {**have.props, "power": want}, facts={"id": now.id, "folder": now.folder})
        if state == "restarted":
            self._restart(change, have, power)
        elif state == "started" and now.awaited:
            change.reasons.append("is not up, asked to be running")
            change.steps = self.start(now)
        elif power == want:
            change.action = "none"
        else:
            change.reasons.append(f"is {power}, asked to be {want}")
            if want == "stopped":
                change.steps = self.halt(have, self.params["grace"])
            elif power in ("stopped", "stopping"):
                if state != "started":
                    raise ComputeError(f"instance {name} is {power}; only what runs can be {state}.", "Start it first (state=started).")
                change.steps = self.start(now)
            elif want == "paused":
                change.steps.append(self.ask(now, "stop", stage=STAGE_WORK))
            else:
                # A guest that went to sleep (ACPI S3) does not wake by `cont`.
                change.steps.append(self.ask(now, "system_wakeup" if self.states[now.id] == "suspended" else "cont", stage=STAGE_WORK))
        return change

    def _restart(self, change: Change, have: Found, power: str) -> None:
        now: Instance = have.raw
        if power == "running" and now.pid != self.first[change.name]:
            change.action = "none"  # it is another QEMU by now
            return
        change.effect = "restart"
        change.reasons.append("asked to be restarted")
        change.steps = [*(self.halt(have, self.params["grace"]) if power != "stopped" else []), *self.start(now)]
