# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read of instances, from folders that tests make, and of the processes behind them."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance import service
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.instances import (
    Instance,
    pending,
    read_instances,
)
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._core.names import short_id
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.argv import from_argv, parse_options
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.declared import paths
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.machine import Machine
from ansible_collections.ikcloud.compute.plugins.module_utils._system import kvm, process, systemd
from ansible_collections.ikcloud.compute.plugins.modules import instance_info
from ansible_collections.ikcloud.compute.tests.unit.plugins.modules.instance_samples import item, start_text

# Holds the lock that QEMU holds on its pidfile, under a name and with arguments like QEMU's.
HOLDER = """
import fcntl, sys, time
file = open(sys.argv[sys.argv.index("-pidfile") + 1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "units"
    (folder / "multi-user.target.wants").mkdir(parents=True)
    monkeypatch.setattr(systemd, "UNIT_FOLDER", str(folder))
    monkeypatch.setattr(systemd, "is_running", lambda: False)
    monkeypatch.setattr(Layout, "__post_init__", lambda self: None)  # pytest's folders are longer than sockets allow
    return folder


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "run/instances").mkdir(parents=True)
    return Layout(str(tmp_path))


def make(layout: Layout, **declared: object) -> Path:
    whole = item(**declared)
    folder = Path(paths(whole, layout).folder)
    folder.mkdir()
    (folder / "start").write_text(start_text(whole, layout), encoding="utf-8")
    if "id" in declared:
        Path(paths(whole, layout).record).write_text(f"{whole['name']}\n", encoding="utf-8")
    return folder


def test_nothing(tmp_path: Path) -> None:
    assert read_instances(Layout(str(tmp_path / "no"))) == {}


def test_owned_and_foreign(layout: Layout, tmp_path: Path) -> None:
    make(layout, name="web-1", id="00000001", labels={"node": "n"})
    folder = tmp_path / "run/instances"
    for number, files in (
        (2, {"start": "#!/bin/sh\nexec something\n"}),
        (3, {}),
        (4, {"net_1.cfg": ""}),
        (5, {"stop": "", "net_1.cfg": ""}),
        (6, {"notes": ""}),
    ):
        (folder / f"compute-0000000{number}").mkdir()
        for name, text in files.items():
            (folder / f"compute-0000000{number}" / name).write_text(text, encoding="utf-8")
    (folder / "compute-0000000g").mkdir()
    (folder / "other").mkdir()
    found = read_instances(layout)
    assert {name: instance.owned for name, instance in found.items()} == {
        "web-1": True,
        "compute-00000002": False,
        "compute-00000003": True,
        "compute-00000004": False,
        "compute-00000005": True,
        "compute-00000006": False,
    }
    assert found["web-1"].labels == {"node": "n"}
    assert (found["web-1"].power, found["web-1"].pid, found["web-1"].running) == ("stopped", 0, None)


def test_links_are_not_followed(layout: Layout, tmp_path: Path) -> None:
    """The folder belongs to QEMU's user: what it links to must not be read as root."""
    folder = make(layout, name="web-1")
    (folder / "start").rename(tmp_path / "elsewhere")
    (folder / "start").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(folder / "stop")
    found = read_instances(layout)
    assert [instance.files for instance in found.values()] == [{}]


def test_two_of_one_name(layout: Layout) -> None:
    make(layout, name="web-1", id="00000001")
    make(layout, name="web-1", id="00000002")
    assert sorted(read_instances(layout)) == ["compute-00000002", "web-1"]


def test_running_and_killed(layout: Layout) -> None:
    folder = make(layout, name="web-1", id="00000001", cpu=2)
    pidfile = folder / "compute-00000001.pid"
    arguments = ["-name", "web-1", "-smp", "1", "-pidfile", str(pidfile)]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert process.locked_by(str(pidfile)) == holder.pid
        found = read_instances(layout)["web-1"]
        assert (found.pid, found.power) == (holder.pid, "running")
        assert process.command_line(holder.pid) == [sys.executable, "-c", HOLDER, *arguments]
        found.running = from_argv(parse_options(arguments))
        assert "cpu is 1, declared 2" in pending(found, found.written)
        holder.kill()
    pidfile.write_text(f"{os.getpid()}\n", encoding="utf-8")  # stale, and somebody else has that number by now
    assert process.locked_by(str(pidfile)) == 0
    found = read_instances(layout)["web-1"]
    assert (found.pid, found.power, pending(found, [])) == (0, "stopped", [])


def test_own_lock_does_not_count(tmp_path: Path) -> None:
    with open(tmp_path / "pid", "w", encoding="utf-8") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert process.locked_by(str(tmp_path / "pid")) == 0
    assert process.command_line(1 << 30) is None


def test_enabled_without_folder(layout: Layout, units: Path) -> None:
    """Half removed: the folder is gone, the boot would still try."""
    (units / "multi-user.target.wants/compute-instance@0000000a.service").symlink_to("/nowhere")
    assert read_instances(layout)["compute-0000000a"].enabled
    (units / "compute-instance@.service").write_text(
        "ExecStart=/other/run/instances/compute-%i/start\n", encoding="utf-8"
    )
    assert read_instances(layout) == {}


def test_unit_states(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "NeedDaemonReload=no\nId=compute-instance@a.service\nActiveState=active\n\n"
    text += "Id=compute-instance@b.service\nActiveState=inactive\n"
    monkeypatch.setattr(systemd, "is_running", lambda: True)
    monkeypatch.setattr(systemd, "run", lambda argv, **options: subprocess.CompletedProcess(argv, 0, text, ""))
    found = systemd.states(["compute-instance@a.service", "compute-instance@b.service"])
    assert {name: state["ActiveState"] for name, state in found.items()} == {
        "compute-instance@a.service": "active",
        "compute-instance@b.service": "inactive",
    }
    assert systemd.states([]) == {}


def test_drop_in_of_a_device() -> None:
    text = service.drop_in(item(volume="/dev/vg/lv", user="other"), Layout("/srv/cloud"))
    assert text.splitlines()[1:] == ["[Service]", "User=other", "DeviceAllow=/dev/vg/lv rw"]


@pytest.mark.parametrize(
    ("root", "path", "hidden"),
    [
        ("/srv/c", "/home/me/a.img", True),
        ("/srv/c", "/tmp/a.img", True),
        ("/srv/c", "/srv/a.img", False),
        ("/root/compute-service", "/root/a.img", False),
        ("/root/compute-service", "/tmp/a.img", True),
        ("/tmp/c", "/tmp/a.img", False),
    ],
)
def test_hidden_paths(root: str, path: str, hidden: bool) -> None:
    assert service.hidden_path(path, Layout(root)) is hidden
    text = service.shared_files(Layout(root))[f"{systemd.UNIT_FOLDER}/{service.TEMPLATE}"][0]
    assert ("ProtectHome=read-only" in text) == root.startswith("/root")
    assert ("PrivateTmp=no" in text) == root.startswith("/tmp")


@pytest.mark.parametrize(("status", "works"), [(33, True), (1, False), (0, False)])
def test_kvm_probe(monkeypatch: pytest.MonkeyPatch, status: int, works: bool) -> None:
    monkeypatch.setattr(kvm, "_answers", {})
    monkeypatch.setattr(kvm, "find_tool", lambda tool: "/usr/bin/qemu-system-x86_64")
    monkeypatch.setattr("os.path.exists", lambda path: True)
    asked = []

    def run(argv: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        asked.append(argv)
        return subprocess.CompletedProcess(argv, status, "", "first\nCould not access KVM\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert kvm.kvm_works() == (works, "" if works else "Could not access KVM")
    kvm.kvm_works()
    assert len(asked) == 1  # once is enough


def test_kvm_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(argv, 30)

    monkeypatch.setattr(kvm, "_answers", {})
    monkeypatch.setattr(kvm, "find_tool", lambda tool: "/usr/bin/qemu-system-x86_64")
    monkeypatch.setattr("os.path.exists", lambda path: True)
    monkeypatch.setattr(subprocess, "run", run)
    assert kvm.kvm_works() == (False, "a guest of one instruction did not end within 30 s")


def test_no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "_answers", {})
    monkeypatch.setattr("os.path.exists", lambda path: False)
    assert kvm.kvm_works("somebody") == (False, "there is no /dev/kvm")


def test_loaded_units(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "compute-instance@0000000a.service loaded active running Instance compute-0000000a\n"
        "compute-instance@0000000b.service loaded failed failed  Instance compute-0000000b\n"
    )
    monkeypatch.setattr(systemd, "is_running", lambda: True)

    def run(argv: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        assert argv[:2] == ["systemctl", "list-units"] and {
            "--all",
            "--plain",
            "--no-legend",
            "compute-instance@*.service",
        } <= set(argv)
        return subprocess.CompletedProcess(argv, 0, text, "")

    monkeypatch.setattr(systemd, "run", run)
    assert service.loaded() == {
        "compute-instance@0000000a.service": {"ActiveState": "active", "SubState": "running"},
        "compute-instance@0000000b.service": {"ActiveState": "failed", "SubState": "failed"},
    }


def as_systemd(monkeypatch: pytest.MonkeyPatch, **units: str) -> None:
    """Have systemd run these, by id, in these states."""
    known = {service.unit(name): {"ActiveState": state, "SubState": "running"} for name, state in units.items()}
    monkeypatch.setattr(systemd, "is_running", lambda: True)
    monkeypatch.setattr(service, "loaded", lambda: known)


WEB = short_id("instance", "web-1")


@pytest.mark.parametrize("left", ["no mark", "no start", "no folder", "a pipe", "1 GiB", "a link"])
def test_what_systemd_runs_is_ours_whatever_the_files_say(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    make(layout, name="db-1")
    folder = make(layout, name="web-1")
    start = folder / "start"
    if left == "no mark":
        start.write_text("#!/bin/sh\nexec qemu-system-x86_64\n", encoding="utf-8")
    elif left == "no folder":
        shutil.rmtree(folder)
    else:
        start.unlink()
    if left == "a pipe":
        os.mkfifo(start)
    elif left == "a link":
        start.symlink_to(tmp_path / "run/instances" / f"compute-{short_id('instance', 'db-1')}" / "start")
    elif left == "1 GiB":
        with open(start, "wb") as stream:
            stream.truncate(1 << 30)
    as_systemd(monkeypatch, **{WEB: "active"})
    found = read_instances(layout)
    assert sorted(found) == [f"compute-{WEB}", "db-1"]
    about = found[f"compute-{WEB}"]
    assert (about.owned, about.power, about.managed) == (True, "running", True)
    assert about.trouble and not found["db-1"].trouble


def test_a_start_that_was_deleted_is_missed(layout: Layout) -> None:
    """A run writes it before the others: what is there without it was not left by one that was interrupted."""
    folder = make(layout, name="web-1")
    (folder / "start").unlink()
    assert not read_instances(layout)[f"compute-{WEB}"].trouble
    (folder / "stop").touch()
    assert read_instances(layout)[f"compute-{WEB}"].trouble == "start is not there."


def test_what_systemd_starts_at_boot_is_ours_too(layout: Layout, units: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (make(layout, name="web-1") / "start").write_text("#!/bin/sh\nexec something\n", encoding="utf-8")
    as_systemd(monkeypatch)
    assert not read_instances(layout)[f"compute-{WEB}"].owned
    (units / "multi-user.target.wants" / service.unit(WEB)).symlink_to("/nowhere")
    about = read_instances(layout)[f"compute-{WEB}"]
    assert (about.owned, about.power, about.trouble) == (True, "stopped", "start does not bear our mark.")
    as_systemd(monkeypatch, **{WEB: "active"})
    assert (
        read_instances(layout)[f"compute-{WEB}"].trouble
        == "start does not bear our mark, and systemd runs it all the same."
    )


def test_a_start_that_is_not_believed_makes_no_restart_pending(layout: Layout) -> None:
    running = from_argv([("-smp", "1"), ("-m", "512")])
    trouble = "start does not bear our mark."
    instance = Instance("web-1", WEB, "/nowhere", pid=os.getpid(), running=running, trouble=trouble)
    outside = replace(instance, replaced=["its disk was made anew"], stale_seed="its seed differs")
    for seen, reason in ((instance, ""), (outside, "its disk was made anew; its seed differs")):
        told = instance_info.describe(seen, layout, 0)
        assert (told["restart_required"], told["restart_reason"], told["error"]) == (
            bool(reason),
            reason,
            instance.trouble,
        )
    assert instance_info.describe(replace(instance, trouble="", written=Machine(cpus=2)), layout, 0)["restart_required"]


def test_nobody_claims_another_ones_name(layout: Layout) -> None:
    """The attacker's folder is the first in the order."""
    victim = short_id("instance", "db-7")
    whole = item(name="db-7", id="00000001")
    folder = Path(paths(whole, layout).folder)
    folder.mkdir()
    (folder / "start").write_text(start_text(whole, layout), encoding="utf-8")
    make(layout, name="db-7")
    found = read_instances(layout)
    assert {name: instance.id for name, instance in found.items()} == {"db-7": victim, "compute-00000001": "00000001"}
    assert found["compute-00000001"].trouble == "start says that it is db-7, whose id it does not have."
    assert not found["db-7"].trouble


def test_a_declared_id_has_the_name_that_root_wrote_down(layout: Layout) -> None:
    folder = make(layout, name="web-1", id="00000001")
    assert (read_instances(layout)["web-1"].id, read_instances(layout)["web-1"].trouble) == ("00000001", "")
    (folder / "start").write_text("#!/bin/sh\n# ikcloud.compute instance db-1\n# labels: {}\n", encoding="utf-8")
    assert read_instances(layout)["web-1"].trouble == "start says that it is db-1, whose id it does not have."


@pytest.mark.parametrize(
    "labels", ["[" * 100_000, '{"a":' * 900 + "1" + "}" * 900, "1" + "0" * 400_000, "[" + "1," * 200_000 + "1]"]
)
def test_hostile_labels_are_one_instances_trouble(layout: Layout, labels: str) -> None:
    make(layout, name="db-1", labels={"node": "n"})
    text = f"#!/bin/sh\n# ikcloud.compute instance web-1\n# labels: {labels}\nexec qemu-system-x86_64\n"
    (make(layout, name="web-1") / "start").write_text(text, encoding="utf-8")
    found = read_instances(layout)
    assert (found["web-1"].labels, found["db-1"].labels) == ({}, {"node": "n"})
    assert re.match(r"the line of the labels in start (is not|is nested|has more)", found["web-1"].trouble)
    assert not found["db-1"].trouble


def test_a_command_of_too_many_words_is_not_compared(layout: Layout) -> None:
    text = f"#!/bin/sh\n# ikcloud.compute instance web-1\n# labels: {{}}\nexec qemu-system-x86_64 {'-a b ' * 100_000}\n"
    (make(layout, name="web-1") / "start").write_text(text, encoding="utf-8")
    found = read_instances(layout)["web-1"]
    assert (found.written, found.trouble) == (Machine(), "the command in start has more than 2000 words.")


def test_a_folder_of_any_number_of_files_is_looked_at(layout: Layout) -> None:
    folder = make(layout, name="web-1")
    (folder / "start").unlink()
    for number in range(100):
        (folder / str(number)).touch()
    assert not read_instances(layout)[f"compute-{WEB}"].owned
    (folder / "stop").touch()
    assert read_instances(layout)[f"compute-{WEB}"].owned
