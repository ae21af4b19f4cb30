# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of a QEMU that runs: what is declared arrives without a restart, what a person changed by QMP is mended, and
a restart changes nothing more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance import resource as instance_resource
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance import steps as instance_steps
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.instances import (
    Instance,
    pending,
    read_instances,
)
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.volumes import InstanceVolumeResource
from ansible_collections.ikcloud.compute.plugins.module_utils._core import execution, reconcile
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._core.names import short_id
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu import hotplug, running
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.argv import describe
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.machine import has_version
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.qmp.qmp import Qmp
from ansible_collections.ikcloud.compute.tests.qemu.conftest import Converge, machine

Volume = Callable[[str], Path]
ID = short_id("instance", "one")
USER: dict[str, Any] = {"type": "user"}
VOLUMES: dict[str, Any] = {"owner": "", "state": "present", "purge": False, "spare": []}


def data(**values: Any) -> dict[str, Any]:
    return {"name": "data-1", "image": None, "image_format": "qcow2", "size": None, "copy": False, **values}


def read(root: Path) -> Instance:
    return read_instances(Layout(str(root)), units=False, talk=True)["one"]


def settled(root: Path) -> Instance:
    """Wait until the BIOS has set up the balloon, so that what it is asked can be read."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        now = read(root)
        if now.state and now.state.balloon_reclaimed is not None:
            return now
        time.sleep(0.1)
    pytest.fail("the BIOS has not set up the balloon")


def entry(result: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(found for found in result["results"] if found["name"] == "one")
    return found


def change(root: Path, run: Converge, want: dict[str, Any], pid: int) -> dict[str, Any]:
    """Go to a declaration live: the commands are those foretold, QEMU stays the same process, and there is nothing left
    to do.
    """
    predicted = run([want], check=True)
    done = run([want])
    assert "msg" not in done
    assert done["commands"] == predicted["commands"] != []
    assert done["after"] == predicted["after"]
    assert not entry(done)["restart_required"]
    assert read(root).pid == pid
    again = run([want])
    assert (again["changed"], entry(again)["restart_reason"]) == (False, "")
    return done


def test_everything_live(root: Path, run: Converge, volume: Volume) -> None:
    """Processors, memory, a card and a disk come; the next start has the same."""
    volume(ID)
    extra = {"path": str(volume("0000000a")), "format": "qcow2"}
    run([machine(memory_max=128, nics=[USER])])
    pid = settled(root).pid
    more = machine(cpu=3, memory=96, memory_max=128, nics=[USER, {**USER, "mtu": 1400}], volumes=[extra])
    done = change(root, run, more, pid)
    script = f"{root}/run/instances/compute-{ID}/qmp"
    words = [command.split(f"{script} ")[1].split()[0] for command in done["commands"] if f"{script} " in command]
    assert words == ["device_add", "device_add", "balloon", "blockdev-add", "device_add", "netdev_add", "device_add"]
    assert entry(done)["reasons"][:2] == ["cpu is 1, declared 3", "memory is 64, declared 96"]
    assert pending(read(root), read(root).written) == []
    run([{**more, "power": "stopped"}])
    assert not run([{**more, "power": "stopped"}])["changed"]
    run([more])
    assert not run([more])["changed"]
    settled(root)
    assert not run([more])["changed"]
    assert read(root).running == read(root).written
    with Qmp(f"{read(root).folder}/qmp.sock") as qmp:
        disks = [
            (device["slot"], device["qdev_id"])
            for device in qmp.execute("query-pci")[0]["devices"]
            if device["class_info"]["class"] == 0x100
        ]
    assert [name for _slot, name in sorted(disks)] == [
        "",
        f"disk-{short_id('disk', extra['path'])}",
    ]  # the guest's first disk stays the first


def places(root: Path) -> dict[str, int]:
    """Give the slots of the devices that have an id, as QEMU says them."""
    with Qmp(f"{root}/run/instances/compute-{ID}/qmp.sock") as qmp:
        return running._places(qmp.ask("query-pci"))


def test_what_is_plugged_in_comes_back_in_its_place(root: Path, run: Converge, volume: Volume) -> None:
    """Of two disks one goes again: the other one stays where it is."""
    volume(ID)
    disks = [{"path": str(volume(f"0000000{letter}")), "format": "qcow2"} for letter in "ab"]
    run([machine(nics=[USER])])
    pid = settled(root).pid
    change(root, run, machine(nics=[USER, {**USER, "mtu": 1400}], volumes=disks), pid)
    want = machine(nics=[USER, {**USER, "mtu": 1400}], volumes=disks[1:])
    now = read(root).running or pytest.fail("off")
    there = places(root)
    plugged = {disk.path: there[disk.id] for disk in now.disks if not disk.fixed}
    assert plugged == {disks[0]["path"]: 16, disks[1]["path"]: 17}
    assert there[now.nics[1].id] == 31
    # A guest without a system lets go of nothing, so it goes with the restart.
    run([{**want, "power": "stopped"}])
    run([want])
    now = read(root).running or pytest.fail("off")
    there = places(root)
    assert [there[disk.id] for disk in now.disks if not disk.fixed] == [17]
    assert there[now.nics[1].id] == 31
    settled(root)
    assert not run([want])["changed"]


def forget_version(start: Path, version: str) -> None:
    text = start.read_text(encoding="utf-8")
    start.write_text(text.replace(f"-machine {version} ", "-machine pc "), encoding="utf-8")


def test_the_machine_type_has_its_version(root: Path, run: Converge, volume: Volume) -> None:
    """From the start on, and of one from before that from when it is seen to run: then nothing is pending."""
    volume(ID)
    run([machine()])
    start = root / f"run/instances/compute-{ID}/start"
    version = read(root).written.type
    assert has_version(version) and f"-machine {version} " in start.read_text(encoding="utf-8")
    forget_version(start, version)
    before = settled(root).pid
    predicted = run([machine()], check=True)
    done = run([machine()])
    assert done["commands"] == predicted["commands"] == [f"install -D -m 0755 /dev/stdin {start}"]
    assert (entry(done)["restart_required"], read(root).pid) == (False, before)
    run([machine(power="stopped")])
    forget_version(start, version)
    assert not run([machine(power="stopped")])["changed"]
    assert "msg" not in run([machine()])
    assert read(root).written.type == (read(root).running or pytest.fail("off")).type == version
    assert not run([machine()])["changed"]


def test_a_data_volume(root: Path, run: Converge, volume: Volume) -> None:
    """It comes to a running QEMU under its name, grows there, is not removed while it is there, and is the same after a
    start.
    """
    volume(ID)
    storage = InstanceVolumeResource({**VOLUMES, "volumes": [data(size="16M")], "root": str(root)})
    reconcile.converge(storage, check_mode=False)
    run([machine()])
    now = settled(root)
    want = machine(volumes=[{"name": "data-1"}])
    done = change(root, run, want, now.pid)
    assert "disk-" in done["commands"][-1] and '"serial": "data-1"' in done["commands"][-1]
    # What is printed is what a person can type on a node.
    larger = {**VOLUMES, "volumes": [data(size="24M")], "root": str(root)}
    (typed,) = reconcile.converge(InstanceVolumeResource(larger), check_mode=True)["commands"]
    subprocess.run(["sh", "-c", typed], check=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, capture_output=True)
    assert "socat" not in typed and not reconcile.converge(InstanceVolumeResource(larger), check_mode=False)["changed"]
    larger = {**VOLUMES, "volumes": [data(size="32M")], "root": str(root)}
    grown = reconcile.converge(InstanceVolumeResource(larger), check_mode=False)
    assert "block_resize" in grown["commands"][0] and "msg" not in grown
    with Qmp(f"{now.folder}/qmp.sock") as qmp:
        sizes = {
            entry["inserted"]["file"]: entry["inserted"]["image"]["virtual-size"]
            for entry in qmp.execute("query-block")
            if "inserted" in entry
        }
    assert sizes[f"{root}/lib/volumes/data-1.img"] == 32 << 20
    assert not reconcile.converge(InstanceVolumeResource(larger), check_mode=False)["changed"]
    for gone in ({"state": "absent"}, {"volumes": [], "purge": True}):
        with pytest.raises(
            ComputeError, match=r"volume data-1 is in use by the instance one; nothing was removed. .* detach it first"
        ):
            reconcile.converge(InstanceVolumeResource({**larger, **gone}), check_mode=False)
    run([{**want, "power": "stopped"}])
    run([want])
    assert not run([want])["changed"]
    run([{**want, "power": "stopped"}])
    run([machine(power="stopped")])
    assert reconcile.converge(InstanceVolumeResource({**larger, "state": "absent"}), check_mode=False)["changed"]


def test_a_disk_and_a_seed_made_anew(root: Path, run: Converge, volume: Volume) -> None:
    """What QEMU has open is no longer what is there: seen, pending, and gone with one restart."""
    path = volume(ID)
    run([machine()])
    pid = settled(root).pid
    path.rename(root / "former.img")
    volume(ID)
    for _turn in range(2):
        done = run([machine()])
        assert (done["changed"], entry(done)["restart_reason"]) == (False, f"its disk {path} was made anew")
    assert pending(read(root), read(root).written) == [f"its disk {path} was made anew"]
    done = run([machine()], restart="when_required")
    assert entry(done)["effect"] == "restart" and read(root).pid != pid
    assert not run([machine()], restart="when_required")["changed"]


def test_restarts_follow_one_another(root: Path, run: Converge, volume: Volume) -> None:
    """With one that can't start again the others stay as they are."""
    names = ["one", "two", "three"]
    for name in names:
        volume(short_id("instance", name))
    run([machine(name) for name in names])
    pids = {name: instance.pid for name, instance in read_instances(Layout(str(root)), units=False).items()}
    want = [
        machine("one", cpu=2, cpu_max=2),
        machine("two", cpu_max=2, cpu_model="nosuchmodel"),
        machine("three", cpu_max=2),
    ]
    done = run(want, restart="when_required", restart_serial=1)
    errors = {found["name"]: found.get("error", "") for found in done["results"] if "error" in found}
    assert sorted(errors) == ["three", "two"]
    assert "nosuchmodel" in errors["two"] and "since the restart of two went wrong" in errors["three"]
    now = {name: instance.pid for name, instance in read_instances(Layout(str(root)), units=False).items()}
    assert now["one"] not in (0, pids["one"]) and now["two"] == 0 and now["three"] == pids["three"]
    done = run(
        [machine(name, cpu_max=2, cpu=2 if name == "one" else 1) for name in names],
        restart="when_required",
        restart_serial=0,
    )
    assert "msg" not in done


def test_what_a_hand_changed_is_mended(root: Path, run: Converge, volume: Volume) -> None:
    volume(ID)
    want = machine(cpu=2)
    run([want])
    now = settled(root)
    script = f"{now.folder}/qmp"
    said = subprocess.run([script, "query-status"], check=True, capture_output=True, text=True)
    assert '"running"' in said.stdout
    subprocess.run([script, "balloon", '{"value": 33554432}'], check=True, stdout=subprocess.DEVNULL)
    done = change(root, run, want, now.pid)
    assert entry(done)["reasons"] == ["memory is 32, declared 64"]
    assert done["commands"][0].endswith("""/qmp balloon '{"value": 67108864}'""")
    subprocess.run([script, "netdev_add", '{"type": "user", "id": "network7"}'], check=True, stdout=subprocess.DEVNULL)
    done = run([want])  # nothing uses it: as a run leaves it that was killed between the two steps
    assert [command.split(" ", 1)[1] for command in done["commands"]] == ["""netdev_del '{"id": "network7"}'"""]
    refused = subprocess.run([script, "device_del", '{"id": "none"}'], check=False, capture_output=True, text=True)
    assert (refused.returncode, "QEMU refused device_del" in refused.stderr) == (1, True)


def test_a_processor_that_the_guest_does_not_start_is_named(root: Path, run: Converge, volume: Volume) -> None:
    """The BIOS starts those that were there when QEMU was started, and here is no guest that would start another."""
    volume(ID)
    assert not run([machine(cpu=2)])["warn"]
    settled(root)
    assert not run([machine(cpu=2)])["warn"]
    for changes in (True, False):
        done = run([machine(cpu=3)])
        assert done["changed"] == changes
        assert "instance one: its guest uses 2 of its 3 processors" in done["warn"][0]
    done = run([machine(cpu=4)])
    assert [warning.partition(". ")[0] for warning in done["warn"]] == [
        "instance one: its guest uses 2 of its 4 processors"
    ]
    done = run([machine(cpu=4, cpu_model="qemu64")], restart="when_required")
    assert done["changed"] and not done["warn"]


def test_what_takes_a_restart_says_so(root: Path, run: Converge, volume: Volume) -> None:
    """Beyond the room that was reserved, and fewer processors: pending, nothing changed, until it is allowed."""
    volume(ID)
    run([machine()])
    pid = settled(root).pid
    for want, reason in (
        (machine(cpu=5), "cpu is 1, declared 5; cpu_max is 4, declared 10"),
        (machine(memory=80), "memory is 64, declared 80; memory_max is 64, declared 80"),
        (machine(cpu_max=2), "cpu_max is 4, declared 2"),
        (machine(nics=[{**USER, "hostfwd": ["tcp:127.0.0.1:1:22"]}]), "card"),
    ):
        for _turn in range(2):
            done = run([want])
            assert reason in entry(done)["restart_reason"]
            assert not any("/qmp " in command and "install" not in command for command in done["commands"])
            assert read(root).pid == pid
    # What can be done live is, what can't is pending.
    done = run([machine(cpu=2, cpu_model="qemu64")])
    assert entry(done)["restart_reason"] == "cpu_model is max, declared qemu64"
    assert (read(root).state or pytest.fail("silent")).cpus == 2
    assert "cpu is 2, declared 1" in entry(run([machine()]))["restart_reason"]
    done = run([machine()], restart="when_required")
    assert read(root).pid != pid
    assert not any("/qmp device_add" in command for command in done["commands"])
    assert not run([machine()])["changed"]


def test_guest_that_does_not_let_go(root: Path, run: Converge, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a system nobody answers ACPI: one clear error with the way out, and a start does it."""
    monkeypatch.setattr(hotplug, "UNPLUG_LIMIT", 0.5)
    volume(ID)
    run([machine(nics=[USER, USER])])
    settled(root)
    for _turn in range(2):
        assert "The guest did not let go of card" in run([machine(nics=[USER])])["msg"]
    run([machine(nics=[USER], power="stopped")])
    run([machine(nics=[USER])])
    assert not run([machine(nics=[USER])])["changed"]


@pytest.mark.usefixtures("obliging")
def test_a_disk_that_was_detached_is_not_missed(root: Path, run: Converge, volume: Volume) -> None:
    """It stands on the command line, and nobody has it open any more."""
    volume(ID)
    run([machine(volumes=[{"path": str(volume("0000000a"))}])])
    pid = settled(root).pid
    change(root, run, machine(), pid)
    assert pending(read(root), read(root).written) == []
    assert not run([machine()], restart="when_required")["changed"] and read(root).pid == pid


@pytest.mark.usefixtures("obliging")
def test_a_disk_moves_from_one_that_is_restarted(root: Path, run: Converge, volume: Volume) -> None:
    volume(ID)
    volume(short_id("instance", "two"))
    moved = {"path": str(volume("0000000a")), "format": "qcow2"}
    run([machine(volumes=[moved]), machine("two")])
    first = settled(root).pid
    second = read_instances(Layout(str(root)), units=False)["two"].pid

    want = [machine(vnc="none"), machine("two", volumes=[moved])]
    predicted = run(want, check=True, restart="when_required")
    done = run(want, restart="when_required")
    assert "msg" not in done and done["commands"] == predicted["commands"]
    assert read(root).pid not in (0, first)
    now = read_instances(Layout(str(root)), units=False, talk=True)
    assert now["two"].pid == second and moved["path"] in [
        disk.path for disk in (now["two"].running or pytest.fail("off")).disks
    ]
    assert not run(want, restart="when_required")["changed"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_disk_that_its_guest_keeps_moves_by_the_restart_that_is_due(
    root: Path, run: Converge, volume: Volume, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    """The guest has no system that would let go.

    Who is to get the disk is not stopped for it as long as the other has it.
    """
    monkeypatch.setattr(hotplug, "UNPLUG_LIMIT", 0.5)
    monkeypatch.setattr(hotplug, "RELEASE_LIMIT", 0.5)
    monkeypatch.setattr(instance_steps, "RELEASE_LIMIT", 0.5)
    volume(ID)
    volume(short_id("instance", "two"))
    moved = {"path": str(volume("0000000a")), "format": "qcow2"}
    run([machine(volumes=[moved]), machine("two")])
    first, second = settled(root).pid, read_instances(Layout(str(root)), units=False)["two"].pid
    # Only the one that is to get it may be restarted.
    want = [machine(), machine("two", volumes=[moved], vnc="none", restart="when_required")][::order]
    done = run(want)
    assert {found["name"]: "error" in found for found in done["results"]} == {"one": True, "two": True}
    assert "so it was not restarted" in done["msg"] or "lock" in done["msg"]
    now = read_instances(Layout(str(root)), units=False)
    assert (now["one"].pid, now["two"].pid) == (first, second)
    # Both may, and both are due.
    want = [machine(vnc="none"), machine("two", volumes=[moved], vnc="none")][::order]
    done = run(want, restart="when_required", restart_serial=1)
    assert "msg" not in done and not run(want, restart="when_required")["changed"]
    now = read_instances(Layout(str(root)), units=False, talk=True)
    assert {first, second}.isdisjoint({now["one"].pid, now["two"].pid, 0})
    assert moved["path"] in [disk.path for disk in (now["two"].running or pytest.fail("off")).disks]


def test_two_that_exchange_their_disks_do_not_wait_for_each_other_for_ever(
    root: Path, run: Converge, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their guests keep them: it takes a moment at which both are off."""
    monkeypatch.setattr(hotplug, "UNPLUG_LIMIT", 0.5)
    monkeypatch.setattr(hotplug, "RELEASE_LIMIT", 0.5)
    monkeypatch.setattr(instance_steps, "RELEASE_LIMIT", 0.5)
    volume(ID)
    volume(short_id("instance", "two"))
    these, those = ([{"path": str(volume(name)), "format": "qcow2"}] for name in ("0000000a", "0000000b"))
    run([machine(volumes=these), machine("two", volumes=those)])
    pids = {name: now.pid for name, now in read_instances(Layout(str(root)), units=False).items()}
    want = [machine(volumes=those, vnc="none"), machine("two", volumes=these, vnc="none")]
    for serial in (1, 0):
        assert (
            "is in use by another QEMU, so it was not restarted"
            in run(want, restart="when_required", restart_serial=serial)["msg"]
        )
        assert {name: now.pid for name, now in read_instances(Layout(str(root)), units=False).items()} == pids
    run([{**one, "power": "stopped"} for one in want])
    assert "msg" not in run(want) and not run(want)["changed"]


def test_one_that_is_silent_is_restarted_whatever_it_has(
    root: Path, run: Converge, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that was plugged in later is not on its command line; that it is locked is its own doing."""
    disk, want = volume(ID), machine(volumes=[{"path": str(volume("0000000a"))}])
    run([machine()])
    run([want])
    pid = settled(root).pid
    disk.rename(root / "former.img")
    volume(ID)
    with monkeypatch.context() as patch:
        patch.setattr(running, "TIMEOUT", 0.0)
        done = run([want], restart="when_required")
        assert read_instances(Layout(str(root)), units=False)["one"].pid not in (0, pid), done
    assert "msg" not in run([want]) and not run([want])["changed"]


def test_memory_at_the_next_boot(root: Path, run: Converge, volume: Volume) -> None:
    """The start script alone, as a boot runs it, asks the guest for what is declared."""
    volume(ID)
    want = machine(memory=64, memory_max=256)
    run([want])
    run([{**want, "power": "stopped"}])
    folder = root / f"run/instances/compute-{ID}"
    subprocess.run([str(folder / "start")], check=True)
    now = settled(root)
    until = time.monotonic() + 10
    while (now.state and now.state.balloon_reclaimed == 0) and time.monotonic() < until:
        time.sleep(0.1)
        now = read(root)
    assert now.state is not None
    assert now.state.balloon_reclaimed == 192 << 20
    assert not run([want])["changed"]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, to be somebody else")
def test_tap_for_nobody(root: Path, run: Converge, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU as nobody opens a tap that is its user's, in a network namespace of the test's."""
    # the tap is in another namespace than we
    monkeypatch.setattr(instance_resource, "obstacles", lambda *arguments: [])
    os.chmod(root.parent, 0o755)
    for disk in (volume(ID), extra := volume("0000000a")):
        os.chown(disk, 65534, 65534)
    one = machine(user="nobody", power="stopped")
    run([one])
    folder = root / f"run/instances/compute-{ID}"
    commands = (
        f"ip tuntap add dev vnet-{ID} mode tap user nobody && exec setpriv --reuid=65534 --regid=65534 --clear-groups"
        f" --no-new-privs {folder}/start"
    )
    subprocess.run(["unshare", "--net", "sh", "-c", commands], check=True)
    pid = settled(root).pid
    one["power"] = "running"
    assert not run([one])["changed"]
    change(root, run, {**one, "nics": [{"mac": "02:00:5e:10:00:01"}], "volumes": [{"path": str(extra)}]}, pid)
    now = read(root)
    assert now.lost == frozenset()
    assert describe(now.running or pytest.fail("off"))["nics"] == [
        {"type": "tap", "mac": "02:00:5e:10:00:01", "mtu": 1450, "tap": f"vnet-{ID}"}
    ]


class Killed(BaseException):
    """As if the module had been killed."""


def test_killed_at_every_step(root: Path, run: Converge, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    volume(ID)
    extra = {"path": str(volume("0000000a")), "format": "qcow2"}
    want = machine(cpu=2, memory=48, nics=[USER], volumes=[extra])
    for number in range(12):
        run([machine()])
        pid = settled(root).pid
        left = number

        def step(name: str, steps: list[Any]) -> tuple[str, Any]:
            nonlocal left
            for one in steps:
                if left == 0:
                    raise Killed
                left -= 1
                one.run()
            return name, None

        with monkeypatch.context() as patch:
            patch.setattr(execution, "_apply_item", step)
            try:
                run([want])
            except Killed:
                pass
            else:
                assert number == 7
                return
        assert "msg" not in run([want])
        assert not run([want])["changed"]
        assert read(root).pid == pid
        with Qmp(f"{read(root).folder}/qmp.sock") as qmp:
            nodes = [node["node-name"] for node in qmp.execute("query-named-block-nodes")]
        assert len([node for node in nodes if node.startswith("volume-")]) == 1
        run([{"name": "one", "grace": 0}], state="absent")
    pytest.fail("it never came to its end")
