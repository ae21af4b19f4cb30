# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Powering instances on and off, for the module ``instance_power``."""

from __future__ import annotations

from .._core.changes import Change, Observed
from .._core.errors import ComputeError
from .._core.steps import Stage
from .instance.checks import MAX_GRACE
from .instance.instances import Instance
from .instance_operation import InstanceOperation, chosen_spec

# What an instance's power is to be for each state.
POWER = {"started": "running", "restarted": "running", "resumed": "running", "paused": "paused", "stopped": "stopped"}


class PowerOperation(InstanceOperation):
    """The power of instances that are there."""

    spec = chosen_spec(list(POWER), grace={"type": "int"})
    workers = 8

    def validate(self) -> list[str]:
        grace = self.params.get("grace")
        if grace is None or 0 <= grace <= MAX_GRACE:
            return []
        return [f"grace: {grace} is out of range; 0 to {MAX_GRACE} seconds are possible."]

    def plan(self, called: str, have: Observed) -> Change:
        state, chosen = self.params["state"], have.native
        now: Instance = chosen.instance
        power, want = have.attributes["power"], POWER[state]
        change = Change(
            called,
            "update",
            have.attributes,
            {**have.attributes, "power": want},
            extra_results={"id": now.id, "folder": now.folder},
        )
        if state == "restarted":
            self._restart(change, now, power)
        elif state == "started" and now.awaited:
            change.reasons.append("is not up, asked to be running")
            change.steps = self.start(now)
        elif power == want:
            change.action = "none"
        else:
            change.reasons.append(f"is {power}, asked to be {want}")
            if want == "stopped":
                change.steps = self.halt(now, self.params["grace"])
            elif power in ("stopped", "stopping"):
                if state != "started":
                    raise ComputeError(
                        f"instance {called} is {power}; only what runs can be {state}.",
                        "Start it first (state=started).",
                    )
                change.steps = self.start(now)
            elif want == "paused":
                change.steps.append(self.ask(now, "stop", stage=Stage.WORK))
            else:
                # A guest that went to sleep (ACPI S3) does not wake by `cont`.
                change.steps.append(
                    self.ask(now, "system_wakeup" if chosen.run_state == "suspended" else "cont", stage=Stage.WORK)
                )
        return change

    def _restart(self, change: Change, now: Instance, power: str) -> None:
        change.effect = "restart"
        change.reasons.append("asked to be restarted")
        change.steps = [*(self.halt(now, self.params["grace"]) if power != "stopped" else []), *self.start(now)]

    def unmet(self, change: Change, before: Observed, now: Observed | None) -> str:
        want, name = POWER[self.params["state"]], change.name
        if now is None:
            return "" if want == "stopped" else f"{name} is not there any more"
        there: Instance = now.native.instance
        if now.attributes["power"] != want or (want == "running" and there.awaited):
            return f"it is {now.attributes['power']}, asked to be {want}"
        same = self.params["state"] == "restarted" and there.pid == before.native.instance.pid
        return "its QEMU is the one from before" if same else ""
