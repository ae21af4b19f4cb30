# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of instances whose QEMU runs and answers."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.steps import RestartInstance
from ansible_collections.ikcloud.compute.plugins.module_utils._core import execution
from ansible_collections.ikcloud.compute.plugins.module_utils._core.changes import Change, Observed
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.running import CpuSlot, RunningState
from ansible_collections.ikcloud.compute.tests.unit.plugins.modules.instance_samples import (
    FOLDER,
    ROOT,
    TALK,
    UNIT,
    after,
    again,
    commands,
    declared,
    running,
)


def speaking(have: dict[str, Observed]) -> dict[str, Observed]:
    """Give the same node where QEMU answers: two processors of four, and all of its memory."""
    slots = tuple(CpuSlot("host-x86_64-cpu", {"core-id": number}) for number in (2, 3))
    devices = {"card0": "virtio-net-pci", "balloon": "virtio-balloon-pci"}
    state = RunningState("", 2, slots, 4, 0, 4096 << 20, devices, startup_ids=frozenset(devices))
    raw = replace(have["web-1"].native, state=state, runs_as="compute-service", owner="compute-service")
    return {**have, "web-1": Observed(have["web-1"].attributes, True, raw)}


def test_live_changes_come_after_the_files() -> None:
    kind, have = running(TALK)
    have = speaking(have)
    assert commands(after(again(kind, TALK), have)[0]) == []
    changes, _have = after(again(kind, {**TALK, "cpu": 3, "memory": 1024}), have)
    assert commands(changes) == [
        f"install -D -m 0755 /dev/stdin {FOLDER}/start",
        f"runuser -u compute-service -- {FOLDER}/qmp device_add "
        """'{"driver": "host-x86_64-cpu", "id": "cpu1", "core-id": 2}'""",
        f"""runuser -u compute-service -- {FOLDER}/qmp balloon '{{"value": 1073741824}}'""",
    ]
    assert changes[0].reasons == ["cpu is 2, declared 3", "memory is 4096, declared 1024"]
    assert (changes[0].restart_reason, changes[0].warnings) == ("", [])


def test_a_restart_makes_live_steps_needless() -> None:
    kind, have = running(TALK)
    change = {**TALK, "cpu": 3, "vnc": "none"}
    texts = commands(after(again(kind, change, restart="when_required"), speaking(have))[0])
    assert texts[1:] == [f"systemctl restart {UNIT}"]
    texts = commands(after(again(kind, change), speaking(have))[0])
    assert [text.split()[5] for text in texts[1:]] == ["device_add"]


@pytest.mark.parametrize(("serial", "together"), [(0, 12), (10, 10), (1, 1)])
def test_as_many_restart_at_once_as_were_allowed(serial: int, together: int) -> None:
    kind, meeting = declared(restart="when_required", restart_serial=serial), threading.Barrier(together)

    class Meeting(RestartInstance):
        def run(self) -> None:
            with self.roll.turn(self.name):
                meeting.wait(10)  # broken, an error, unless so many are there

    names = [f"web-{number}" for number in range(12)][: 12 // together * together]
    restarts = [
        Change(name, "update", steps=[Meeting(("restart", name), stage=4, name=name, roll=kind.roll)]) for name in names
    ]
    assert execution.apply(kind, restarts, []) == {}


def test_a_disk_that_another_gets_is_given_up_before_a_restart() -> None:
    """A restart comes at the same stage as what others are given."""
    moved, gone = f"{ROOT}/lib/volumes/data-1.img", f"{ROOT}/lib/volumes/data-2.img"
    kind, have = running({**TALK, "volumes": [{"path": moved}, {"path": gone}]})
    have = speaking(have)
    now = have["web-1"].native
    parts = now.running.devices
    devices = {**now.state.devices, **{part.id: "virtio-blk-pci" for part in parts.values()}}
    now.state = replace(
        now.state,
        devices=devices,
        block_nodes=tuple(disk.node for disk in now.running.disks if not disk.fixed),
    )
    other = {**TALK, "name": "web-2", "id": "0a1b2c3d", "nics": [], "volumes": [{"path": moved}]}
    changes, _have = after(again(kind, {**TALK, "vnc": "none"}, other, restart="when_required"), have)
    part = parts[f"disk {moved}"]
    said = [text for text in commands(changes) if "compute-af95e879" in text or UNIT in text]
    assert [text.split("/qmp ")[-1] for text in said[1:]] == [
        f"""device_del '{{"id": "{part.id}"}}'""",
        f"""blockdev-del '{{"node-name": "{part.node}"}}'""",
        f"systemctl restart {UNIT}",
    ]
    assert changes[0].effect == "restart"
    # Nobody else has it: the restart alone does it.
    changes, _have = after(again(kind, {**TALK, "vnc": "none"}, restart="when_required"), have)
    assert commands(changes)[1:] == [f"systemctl restart {UNIT}"]


def test_disk_outside_of_the_sandbox_waits() -> None:
    kind, have = running(TALK)
    for path, pending in (
        (f"{ROOT}/lib/volumes/data.img", ""),
        ("/srv/data.img", "disk /srv/data.img is declared, not there"),
    ):
        changes, _have = after(again(kind, {**TALK, "volumes": [{"path": path}]}), speaking(have))
        assert changes[0].restart_reason == pending


def test_silent_qemu_is_left_alone() -> None:
    """What does not answer is not restarted for what its command line no longer says."""
    kind, have = running(TALK)
    raw = replace(have["web-1"].native, qmp_unresponsive="QEMU does not answer.")
    changes, _have = after(
        again(kind, {**TALK, "cpu": 3}, restart="when_required"),
        {"web-1": Observed(have["web-1"].attributes, True, raw)},
    )
    assert commands(changes) == [f"install -D -m 0755 /dev/stdin {FOLDER}/start"]
    assert "QEMU does not answer" in changes[0].warnings[0]


def test_other_user_waits_for_a_restart() -> None:
    kind, have = running(TALK)
    changes, _have = after(again(kind, {**TALK, "user": "other"}), speaking(have))
    assert changes[0].restart_reason == "user is compute-service, declared other"


def test_a_guest_that_has_not_started_its_processor_is_named() -> None:
    talk = {**TALK, "cpu": 2}
    kind, have = running(talk)
    have = speaking(have)
    have["web-1"].native.state = replace(have["web-1"].native.state, idle_cpus=1)
    changes, _have = after(again(kind, talk), have)
    assert (commands(changes), changes[0].restart_reason) == ([], "")
    assert "its guest uses 1 of its 2 processors" in changes[0].seen[0]


def test_guest_without_a_balloon_is_named() -> None:
    talk = {**TALK, "memory": 1024, "memory_max": 4096}
    kind, have = running(talk)
    have = speaking(have)
    have["web-1"].native.state = replace(have["web-1"].native.state, balloon_reclaimed=3072 << 20)
    changes, _have = after(again(kind, talk), have)
    assert (commands(changes), changes[0].restart_reason) == ([], "")
    assert "its guest still has 4096 MiB of memory, not the 1024" in changes[0].warnings[0]
