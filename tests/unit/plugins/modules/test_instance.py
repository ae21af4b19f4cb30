# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The instance module as a pure function: from what is declared and what is there to steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance import service
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.instances import Instance, properties
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.steps import RestartInstance, WriteStart
from ansible_collections.ikcloud.compute.plugins.module_utils._core.changes import Item, Observed
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.reconcile import plan
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.guest_agent import Guest
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.machine import Machine
from ansible_collections.ikcloud.compute.tests.unit.plugins.modules.instance_samples import (
    ALONE,
    ENABLED,
    FOLDER,
    FOLDER_STEP,
    FULL,
    RECORD_STEP,
    ROOT,
    SHARED,
    TALK,
    TIMER_ENABLED,
    UNIT,
    after,
    again,
    commands,
    declared,
    running,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def test_create_with_systemd() -> None:
    changes, have = after(declared(TALK), {})
    assert commands(changes) == [
        FOLDER_STEP,
        RECORD_STEP,
        f"install -D -m 0755 /dev/stdin {FOLDER}/start",
        f"install -D -m 0755 /dev/stdin {FOLDER}/stop",
        f"install -D -m 0755 /dev/stdin {FOLDER}/qmp",
        *SHARED,
        "systemctl start compute-console.timer",
        TIMER_ENABLED,
        ENABLED,
        f"systemctl start {UNIT}",
    ]
    assert changes[0].action == "create"
    assert changes[0].before is None
    assert changes[0].after == have["web-1"].attributes
    assert have["web-1"].native.enabled


def test_create_alone() -> None:
    """As root QEMU runs as its user; for anybody else as themselves."""
    changes, _have = after(declared(ALONE), {})
    scripts = [f"install -D -m 0755 /dev/stdin {FOLDER}/{script}" for script in ("start", "stop", "qmp")]
    assert commands(changes) == [FOLDER_STEP, RECORD_STEP, *scripts, f"runuser -u compute-service -- {FOLDER}/start"]
    changes, _have = after(declared(ALONE, as_root=False), {})
    assert commands(changes) == [f"install -d -m 0750 {FOLDER}", RECORD_STEP, *scripts, f"{FOLDER}/start"]


def test_nothing_of_nothing() -> None:
    for state, purge in (("present", False), ("present", True), ("absent", False), ("absent", True)):
        assert plan(declared(state=state, purge=purge), [], {}, state == "absent") == []


@pytest.mark.parametrize("before", [TALK, ALONE, FULL, {**TALK, "power": "stopped"}, {**TALK, "user": "other"}])
def test_second_run_is_empty(before: Item) -> None:
    kind, have = running(before)
    changes, _same = after(again(kind, before), have)
    assert [change for change in changes if change.steps or change.reasons or change.restart_reason] == []


def test_an_instance_is_not_renamed() -> None:
    """Where the id tells; with another id it is another instance."""
    kind, have = running(TALK)
    found = {"web-2": Observed({}, owned=False, native=have["web-1"].native), **have}
    with pytest.raises(
        ComputeError,
        match=(
            r"instance web-2: its id af95e879 is that of web-1.* not renamed.*Declare it as web-1 again; or declare"
            r" web-2 with another id"
        ),
    ):
        after(again(kind, {**TALK, "name": "web-2"}), found)


def test_restart_is_pending_until_it_happened() -> None:
    kind, have = running(TALK)
    changes, have = after(again(kind, {**TALK, "cpu": 4}), have)
    assert commands(changes) == [f"install -D -m 0755 /dev/stdin {FOLDER}/start"]
    assert changes[0].reasons == ["cpu is 2, declared 4"]
    assert changes[0].restart_reason == "cpu is 2, declared 4"
    assert "restart is pending" in changes[0].warnings[0]
    changes, have = after(again(kind, {**TALK, "cpu": 4}), have)
    assert commands(changes) == []
    assert changes[0].restart_reason == "cpu is 2, declared 4"
    for options, one in (({"restart": "when_required"}, {}), ({}, {"restart": "when_required"})):
        changes, done = after(again(kind, {**TALK, "cpu": 4, **one}, **options), have)
        assert commands(changes) == [f"systemctl restart {UNIT}"]
        assert changes[0].restart_reason == ""
        changes, _done = after(again(kind, {**TALK, "cpu": 4}), done)
        assert (commands(changes), changes[0].restart_reason) == ([], "")
    changes, _done = after(again(kind, {**TALK, "cpu": 4, "restart": "never"}, restart="when_required"), have)
    assert commands(changes) == []


def test_restart_alone() -> None:
    kind, have = running(ALONE)
    changes, have = after(again(kind, {**ALONE, "memory": 2048}, restart="when_required"), have)
    assert commands(changes)[1:] == [
        f"runuser -u compute-service -- {FOLDER}/stop && runuser -u compute-service -- {FOLDER}/start"
    ]


def test_restart_for_what_others_changed() -> None:
    """A seed that boots read, or a disk made anew: told by the module that is just changing it, or seen."""
    kind, have = running(TALK)
    seen = {
        "web-1": Observed(
            have["web-1"].attributes, True, replace(have["web-1"].native, replaced=["its disk was made anew"])
        )
    }
    for there, options in ((have, {"restart_reasons": {"compute-af95e879": "its disk was made anew"}}), (seen, {})):
        changes, same = after(again(kind, TALK, **options), there)
        assert (commands(changes), changes[0].restart_reason) == ([], "its disk was made anew")
        changes, done = after(again(kind, TALK, restart="when_required", **options), same)
        assert commands(changes) == [f"systemctl restart {UNIT}"]
        assert (changes[0].effect, changes[0].reasons) == ("restart", ["restart: its disk was made anew"])
        assert commands(after(again(kind, TALK, restart="when_required"), done)[0]) == []
    assert (
        commands(
            after(again(kind, TALK, restart="when_required", restart_reasons={"compute-0a1b2c3d": "another"}), have)[0]
        )
        == []
    )


def test_restart_waits_for_a_guest_that_answered() -> None:
    kind, have = running({**TALK, "labels": {"addresses": ["192.168.88.102"]}})
    changes, _have = after(
        again(kind, {**TALK, "cpu": 8, "labels": {"addresses": ["192.168.88.102"]}}, restart="when_required"), have
    )
    step = next(step for step in changes[0].steps if isinstance(step, RestartInstance))
    assert step.guest == Guest(f"{FOLDER}/agent.sock", (("vnet-af95e879", "192.168.88.102"),))
    assert "restart_serial: -1" in declared(TALK, restart_serial=-1).validate_list([])[0]


def test_from_alone_to_systemd() -> None:
    kind, have = running(ALONE)
    have["web-1"].native.owner = "compute-service"
    changes, have = after(again(kind, TALK), have)
    assert changes[0].restart_reason == "supervisor is none, declared systemd"
    assert {TIMER_ENABLED, ENABLED} <= set(commands(changes))
    changes, have = after(again(kind, TALK, restart="when_required"), have)
    assert commands(changes)[-1] == f"runuser -u compute-service -- {FOLDER}/stop && systemctl start {UNIT}"


def test_power() -> None:
    kind, have = running(TALK)
    off = {**TALK, "power": "stopped"}
    stopping = again(kind, off)
    changes, stopped = after(stopping, have)
    assert commands(changes) == [f"systemctl disable {UNIT}", f"systemctl stop {UNIT}"]
    assert changes[0].reasons == ["is running, declared stopped"]
    assert commands(after(again(kind, off), stopped)[0]) == []
    changes, _have = after(again(stopping, TALK), stopped)
    assert commands(changes) == [ENABLED, f"systemctl start {UNIT}"]


@pytest.mark.parametrize(
    ("unit", "made"),
    [
        ({"ActiveState": "inactive"}, [f"systemctl start {UNIT}"]),
        ({"ActiveState": "failed"}, [f"systemctl reset-failed {UNIT}", f"systemctl start {UNIT}"]),
        ({"ActiveState": "deactivating"}, [f"systemctl start {UNIT}"]),
        ({"ActiveState": "activating", "SubState": "auto-restart"}, [f"systemctl start {UNIT}"]),
    ],
)
def test_what_went_off_is_started(unit: dict[str, str], made: list[str]) -> None:
    """Powered off from inside, or failed too often: the next run starts it."""
    kind, have = running(TALK)
    raw = replace(have["web-1"].native, pid=0, running=None, unit=unit)
    changes, _have = after(again(kind, TALK), {"web-1": Observed(properties(raw), True, raw)})
    assert commands(changes) == made
    assert changes[0].reasons[0].endswith("declared running")


def test_edited_files_are_written_again() -> None:
    kind, have = running(FULL)
    for path in list(have["web-1"].native.files):
        for wrong in (
            None,
            ("#!/bin/sh\n# ikcloud.compute instance web-1\n# labels: {}\nexec false\n", 0o755),
            (have["web-1"].native.files[path][0], 0o600),
        ):
            files = dict(have["web-1"].native.files)
            files.pop(path)
            if wrong:
                files[path] = wrong
            raw = replace(have["web-1"].native, files=files)
            changes, _have = after(again(kind, FULL), {"web-1": Observed(have["web-1"].attributes, True, raw)})
            assert any(path in command for command in commands(changes)), (path, wrong)
            assert not any(
                "systemctl restart" in command or "systemctl start" in command for command in commands(changes)
            )


def test_shared_files_are_written_again() -> None:
    kind, have = running(TALK)
    for path in list(kind.shared):
        other = again(kind, TALK)
        del other.shared[path]
        texts = commands(after(other, have)[0])
        assert texts[0].endswith(path)
        assert ("systemctl daemon-reload" in texts) == path.startswith("/etc")


def test_folder_drift() -> None:
    kind, have = running(TALK)
    kind = again(kind, TALK)
    kind.drift["web-1"] = f"mode of {FOLDER} is 0777, not 0750"
    changes, _have = after(kind, have)
    assert commands(changes) == [FOLDER_STEP]
    assert changes[0].reasons == [f"mode of {FOLDER} is 0777, not 0750"]


def test_remove_and_the_last_one_takes_all() -> None:
    two = {**TALK, "name": "web-2", "id": "0a1b2c3d", "nics": [], "grace": 5}
    kind, have = running(TALK, two)
    changes, left = after(again(kind, {"name": "web-2"}, state="absent"), have)
    assert commands(changes) == [
        "systemctl disable compute-instance@0a1b2c3d.service",
        "systemctl stop compute-instance@0a1b2c3d.service",
        "systemctl reset-failed compute-instance@0a1b2c3d.service",
        "rm -f /etc/systemd/system/compute-instance@0a1b2c3d.service.d/ikcloud-compute.conf",
        "rmdir --ignore-fail-on-non-empty /etc/systemd/system/compute-instance@0a1b2c3d.service.d",
        f"rm -rf {ROOT}/run/instances/compute-0a1b2c3d",
        f"rm -f {ROOT}/run/instances/compute-0a1b2c3d.name",
        "systemctl daemon-reload",
    ]
    last = again(kind, state="absent", purge=True)
    changes, left = after(last, left)
    assert commands(changes) == [
        f"systemctl disable {UNIT}",
        f"systemctl stop {UNIT}",
        f"systemctl reset-failed {UNIT}",
        f"rm -rf {FOLDER}",
        f"rm -f {FOLDER}.name",
        "systemctl disable --now compute-console.timer",
        "rm -f /etc/systemd/system/compute-instance@.service",
        "rm -f /etc/systemd/system/compute-console.service",
        "rm -f /etc/systemd/system/compute-console.timer",
        f"rm -f {ROOT}/run/trim-console-logs",
        f"rm -f {ROOT}/run/console",
        f"rm -f {ROOT}/run/qmp",
        f"rm -f {ROOT}/run/vnc",
        "systemctl daemon-reload",
    ]
    assert left == {}
    assert last.shared == {}


@pytest.mark.parametrize("params", [{"state": "absent"}, {"purge": True}])
def test_a_protected_one_is_removed_only_when_that_is_asked_for(params: dict[str, Any]) -> None:
    two = {**TALK, "name": "web-2", "id": "0a1b2c3d", "nics": []}
    kind, have = running(*({**item, "labels": {"protect": True}} for item in (TALK, two)))
    items = [{"name": name} for name in ("web-1", "web-2")] if "state" in params else []
    with pytest.raises(
        ComputeError, match=r"instance web-1 is protected(?s:.*)remove_protected(?s:.*)instance web-2 is protected"
    ):
        after(again(kind, *items, **params), have)
    changes, left = after(again(kind, *items, remove_protected=True, **params), have)
    assert left == {} and [change.action for change in changes] == ["delete"] * 3
    assert not after(again(kind, {**TALK, "labels": {"protect": False}}, two), have)[1]["web-1"].native.labels[
        "protect"
    ]


def test_what_an_interrupted_removal_has_left_goes() -> None:
    kind, have = running({**TALK, "grace": 5})
    drop_in = next(path for path in have["web-1"].native.files if path.endswith(".d/ikcloud-compute.conf"))
    del have["web-1"].native.files[drop_in]
    have["web-1"].native.drop_in_left = True
    rmdir = f"rmdir --ignore-fail-on-non-empty {drop_in.rpartition('/')[0]}"
    assert rmdir in commands(after(again(kind, TALK), have)[0])
    changes, left = after(again(kind, {"name": "web-1"}, state="absent", spare=["web-2"]), have)
    assert rmdir in commands(changes) and f"rm -f {drop_in}" not in commands(changes) and left == {}
    # Nothing is declared and nothing is there but what all share; its timer may still run.
    kind.timer = False
    assert commands(after(again(kind), {})[0])[:2] == [
        "systemctl disable --now compute-console.timer",
        "rm -f /etc/systemd/system/compute-instance@.service",
    ]


def test_remove_with_a_grace_of_its_own() -> None:
    kind, have = running(TALK)
    changes, _left = after(again(kind, {"name": "web-1", "grace": 0}, state="absent"), have)
    assert commands(changes)[1:4] == [
        f"runuser -u compute-service -- {FOLDER}/stop 0",
        f"systemctl stop {UNIT}",
        f"systemctl reset-failed {UNIT}",
    ]
    kind, have = running(ALONE)
    changes, _left = after(again(kind, {"name": "web-1"}, state="absent"), have)
    assert commands(changes) == [
        f"runuser -u compute-service -- {FOLDER}/stop",
        f"rm -rf {FOLDER}",
        f"rm -f {FOLDER}.name",
    ]


def test_purge_leaves_what_is_listed_and_what_is_foreign() -> None:
    kind, have = running(TALK, {**TALK, "name": "web-2", "id": "0a1b2c3d", "nics": []})
    have["foreign"] = Observed(
        {"id": "00000000"}, owned=False, native=replace(have["web-2"].native, name="foreign", id="00000000")
    )
    changes, left = after(again(kind, TALK, purge=True), have)
    assert [change.name for change in changes if change.steps] == ["web-2", service.TEMPLATE]
    assert sorted(left) == ["foreign", "web-1"]


def test_id_cannot_change() -> None:
    kind, have = running(TALK)
    with pytest.raises(ComputeError, match="is there with the id af95e879, and 0a1b2c3d is declared"):
        after(again(kind, {**TALK, "id": "0a1b2c3d"}), have)


def test_foreign_folder_is_an_error() -> None:
    kind = declared(TALK)
    theirs = Instance("compute-af95e879", "af95e879", FOLDER, owned=False)
    with pytest.raises(ComputeError, match="did not make"):
        plan(kind, kind.params["instances"], {"web-1": Observed({}, owned=False, native=theirs)}, False)


def test_auto_probes_once_when_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = {**TALK, "accel": "auto"}
    kind = declared(auto)
    changes = plan(kind, kind.params["instances"], {}, False)
    assert changes[0].after is not None
    assert (changes[0].after["accel"], changes[0].after["cpu_model"]) == ("auto", "auto")
    step = next(step for step in changes[0].steps if isinstance(step, WriteStart))
    here = "ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.resource"
    module = f"{here}.kvm_works"
    monkeypatch.setattr(f"{here}.newest_machine_type", lambda: "pc-i440fx-7.2")
    monkeypatch.setattr(module, lambda user: (True, ""))
    assert "-enable-kvm \\\n  -cpu host" in step.resolve()
    assert kind.warnings == []
    monkeypatch.setattr(module, lambda user: (False, "there is no /dev/kvm"))
    assert "-accel tcg \\\n  -cpu max" in step.resolve()
    step.resolve()
    assert len(kind.warnings) == 1
    kind, have = running(TALK)  # kvm
    changes, _have = after(again(kind, auto), have)
    assert commands(changes) == []


def test_a_machine_keeps_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one is written with the version that QEMU's newest has, and stays so whatever QEMU is installed later."""
    asked: list[str] = []
    monkeypatch.setattr(
        "ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.resource.newest_machine_type",
        lambda: asked.append("asked") or "pc-i440fx-7.2",
    )
    kind = declared(TALK, {**TALK, "name": "web-2", "id": "0a1b2c3d", "nics": []})
    changes = plan(kind, kind.params["instances"], {}, False)
    writes = [step for change in changes for step in change.steps if isinstance(step, WriteStart)]
    texts = [step.resolve() for step in writes]
    assert all("-machine pc-i440fx-7.2" in text for text in texts) and asked == ["asked"]
    kind, have = running(TALK)
    assert have["web-1"].native.written.type == "pc-i440fx-7.2"
    assert commands(after(again(kind, TALK), have)[0]) == []
    # Also when it is off, and another QEMU is there by now.
    off = {**TALK, "power": "stopped"}
    _changes, stopped = after(again(kind, off), have)
    changes, _left = after(again(kind, {**off, "memory": 2048}), stopped)
    step = next(step for step in changes[0].steps if isinstance(step, WriteStart))
    assert "-machine pc-i440fx-7.2" in step.resolve() and asked == ["asked"]


@pytest.mark.parametrize("power", ["running", "stopped"])
def test_one_from_before_its_version_was_written_down(power: str) -> None:
    kind, have = running(TALK)
    now = have["web-1"].native
    start = f"{FOLDER}/start"
    now.files[start] = (now.files[start][0].replace("pc-i440fx-7.2", "pc"), 0o755)
    now.written = replace(now.written, type="pc")
    write = f"install -D -m 0755 /dev/stdin {start}"
    if power == "stopped":
        # Nothing has to be known of it before it starts.
        have["web-1"].native = replace(now, pid=0, running=None, unit={})
        assert write not in commands(after(again(kind, {**TALK, "power": "stopped"}), have)[0])
        assert write in commands(after(again(kind, TALK), have)[0])
        return
    # One that runs says what it is; nothing is pending.
    changes, left = after(again(kind, TALK), have)
    assert commands(changes) == [write]
    assert changes[0].restart_reason == "" and left["web-1"].native.written.type == "pc-i440fx-7.2"


NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
NICS = st.one_of(
    st.fixed_dictionaries({"type": st.just("tap")}, optional={"mtu": st.integers(576, 9000), "tap": NAMES}),
    st.fixed_dictionaries({"type": st.just("user")}, optional={"hostfwd": st.just(["tcp:127.0.0.1:22101:22"])}),
    st.just({"type": "socket", "mcast": "230.0.0.1:23100"}),
)
ITEMS = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "cpu": st.integers(1, 255),
        "memory": st.integers(16, 1 << 20),
        "accel": st.sampled_from(["auto", "kvm", "tcg"]),
        "supervisor": st.sampled_from(["systemd", "none"]),
        "power": st.sampled_from(["running", "stopped"]),
        "vnc": st.sampled_from(["socket", "none"]),
        "seed": st.booleans(),
        "boot_network": st.booleans(),
        "grace": st.integers(0, 600),
        "user": st.sampled_from(["compute-service", "other"]),
        "cpu_model": st.sampled_from(["max", "qemu64,+svm"]),
        "volumes": st.sampled_from(
            [[], [{"path": "/srv/d.img"}], [{"name": "data-1"}], [{"path": "/dev/vg/lv", "format": "raw"}]]
        ),
        "nics": st.lists(NICS, max_size=2),
        "labels": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    },
)
LISTS = st.lists(ITEMS, max_size=4, unique_by=lambda entry: entry["name"])


@settings(max_examples=60)
@given(LISTS, LISTS)
def test_any_change_converges(first: list[Item], second: list[Item]) -> None:
    """From anything to anything, with purge: the second run finds nothing to do; and removal leaves nothing."""
    kind = declared(*first)
    _changes, have = after(kind, {})
    for found in have.values():
        found.native.owner = "compute-service"
    kind = again(kind, *second, purge=True, restart="when_required")
    _changes, have = after(kind, have)
    assert sorted(have) == sorted(entry["name"] for entry in second)
    kind = again(kind, *second, purge=True, restart="when_required")
    changes, have = after(kind, have)
    assert [
        (change.name, change.reasons, [step.text for step in change.steps])
        for change in changes
        if change.steps or change.restart_reason
    ] == []
    kind = again(kind, state="absent", purge=True)
    _changes, have = after(kind, have)
    assert have == {}
    assert kind.shared == {}


def test_one_whose_start_is_denied_is_made_anew_and_said() -> None:
    """What systemd runs is ours: the node's other instances don't wait for it."""
    kind, have = running({"name": "web-1"})
    now = have["web-1"].native
    start = f"{now.folder}/start"
    for files in ({start: ("#!/bin/sh\nexec something\n", 0o755)}, {}):
        denied = replace(
            now,
            files={**{path: file for path, file in now.files.items() if path != start}, **files},
            trouble="start is not ours.",
            written=Machine(),
        )
        changes, _left = after(
            again(kind, {"name": "web-1"}), {"web-1": Observed(have["web-1"].attributes, True, denied)}
        )
        assert [step.text for step in changes[0].steps if isinstance(step, WriteStart)] == [
            f"install -D -m 0755 /dev/stdin {start}"
        ]
        assert (changes[0].action, changes[0].reasons) == ("update", ["start is not ours"])
        assert (
            f"instance web-1 (compute-{now.id}): start is not ours. Its files are written anew."
            in changes[0].warnings[0]
        )
    changes, left = after(again(kind, purge=True), {"web-1": Observed(have["web-1"].attributes, True, denied)})
    assert left == {} and f"systemctl stop compute-instance@{now.id}.service" in commands(changes)


def test_labels_that_could_not_be_read_back_are_refused() -> None:
    kind = declared({"name": "web-1", "labels": {"a": [[]] * 20_000}})
    assert kind.validate_item(0, kind.items["web-1"])[0].startswith(
        "instances[0].labels has more than 10000 values. They could not be read back"
    )
