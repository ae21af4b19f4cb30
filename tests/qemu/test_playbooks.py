# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks that act on instances, run as users run them on two nodes which are this machine, each with a root of
its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.instances import read_instances
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.resource import InstanceResource
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._core.names import short_id
from ansible_collections.ikcloud.compute.plugins.module_utils._core.reconcile import argument_spec, converge
from ansible_collections.ikcloud.compute.tests.qemu.conftest import machine
from machine_id import interpreter

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def nodes(root: Path) -> Iterator[Path]:
    """Give a folder with an inventory of two nodes, n1 with web-1 and web-2, n2 with web-3, all of them running."""
    if os.geteuid() != 0:
        pytest.skip("the playbooks want to be root")
    folder = root.parent
    hosts = {
        name: {"compute_service_root": str(folder / name), "ansible_python_interpreter": interpreter(folder, index)}
        for index, name in enumerate(("n1", "n2"))
    }
    variables = {"ansible_connection": "local"}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"compute_nodes": {"vars": variables, "hosts": hosts}}))
    for node, names in (("n1", ("web-1", "web-2")), ("n2", ("web-3",))):
        (folder / node / "lib/volumes").mkdir(parents=True)
        for name in names:
            disk = folder / node / f"lib/volumes/compute-{short_id('instance', name)}.img"
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "16M"], check=True)
        given = {"instances": [machine(name, grace=0) for name in names], "root": str(folder / node)}
        converge(
            InstanceResource(
                ArgumentSpecValidator(argument_spec(InstanceResource)).validate(given).validated_parameters
            ),
            False,
        )
    yield folder
    for node in hosts:
        for instance in read_instances(Layout(str(folder / node)), units=False).values():
            if instance.pid > 0:
                os.kill(instance.pid, 9)


def play(nodes: Path, name: str, *options: str, status: int = 0) -> str:
    command = ["ansible-playbook", "-i", str(nodes / "hosts.yml"), f"ikcloud.compute.{name}", *options]
    environment = dict(os.environ, ANSIBLE_COLLECTIONS_PATH=str(PROJECT / ".venv" / "collections"), ANSIBLE_NOCOLOR="1")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=nodes, check=False, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def running(nodes: Path) -> list[str]:
    return [
        name
        for node in ("n1", "n2")
        for name, found in sorted(read_instances(Layout(str(nodes / node)), units=False).items())
        if found.pid
    ]


def test_playbooks(nodes: Path) -> None:
    said = play(nodes, "stop", "-e", "instances=web-1,web-3", "--check")
    assert running(nodes) == ["web-1", "web-2", "web-3"]
    said = play(nodes, "stop", "-e", "instances=web-1,web-3")
    assert running(nodes) == ["web-2"]
    assert "next run of site" in said and "power: stopped" in said
    assert "changed=0" in play(nodes, "stop", "-e", "instances=web-1").split("PLAY RECAP")[1]
    play(nodes, "snapshot", "-e", "instances=web-*", "-e", "snapshot=clean")
    said = play(nodes, "snapshots")
    rows = [line.split()[:3] for line in said.splitlines() if " clean " in line]
    assert rows == [["web-1", "n1", "clean"], ["web-2", "n1", "clean"], ["web-3", "n2", "clean"]]
    play(nodes, "snapshot_revert", "-e", "instances=web-1,web-2", "-e", "snapshot=clean")
    play(nodes, "backup", "-e", "instances=web-*", "--forks=1")  # one node after the other
    (backup,) = {path.stem for path in nodes.glob("n*/lib/backups/*/*")}  # of all nodes the same
    assert "instance web-2 is running; a backup is restored only while it is off" in play(
        nodes, "restore", "-e", "instances=web-2", "-e", f"backup={backup}", status=2
    )
    play(nodes, "restore", "-e", "instances=web-1", "-e", f"backup={backup}")
    play(nodes, "start", "-e", "instances=web-1")
    play(nodes, "pause", "-e", "instances=web-1")
    play(nodes, "resume", "-e", "instances=web-1")
    play(nodes, "reboot", "-e", "instances=web-1", "-e", "grace=0")
    assert running(nodes) == ["web-1", "web-2"]
    play(nodes, "snapshot_delete", "-e", "instances=web-3", "-e", "snapshot=clean")


@pytest.mark.parametrize(
    ("playbook", "options", "words"),
    [
        (
            "stop",
            ["instances=web-1,web-9"],
            "No instance web-9 was found; nothing was changed. There is: web-1, web-2, web-3.",
        ),
        ("reboot", [], "Which instances? Say -e instances=web-1,web-2"),
        ("stop", ["instances=web-1", "grace=soon"], "unable to convert to int"),
        ("snapshot", ["instances=web-1"], "name: missing; say which snapshot, to a playbook with -e snapshot=NAME."),
        (
            "snapshot_revert",
            ["instances=web-1", "snapshot=none"],
            "instance web-1 has no snapshot none; there is none.",
        ),
        ("restore", ["instances=web-1", "backup=../x"], "'../x' is not a valid name"),
        ("backup", ["instances=web-1", "backup_folder=/nowhere/a;b"], "'/nowhere/a;b' is not usable"),
    ],
)
def test_one_clear_error_and_nothing_changed(nodes: Path, playbook: str, options: list[str], words: str) -> None:
    said = play(nodes, playbook, *[word for option in options for word in ("-e", option)], status=2)
    assert len([line for line in said.splitlines() if line.startswith(("fatal:", "[ERROR]: Task failed"))]) >= 1
    assert words in said.replace("\n", " ").replace("\\'", "'"), said
    assert running(nodes) == ["web-1", "web-2", "web-3"]
    assert "changed=1" not in said


def test_what_one_node_refuses_is_done_on_none(nodes: Path) -> None:
    play(nodes, "backup", "-e", "instances=web-1,web-3", "-e", "backup=nightly")
    play(nodes, "stop", "-e", "instances=web-1")
    disk = nodes / f"n1/lib/volumes/compute-{short_id('instance', 'web-1')}.img"
    before = disk.stat().st_ino
    for more in ([], ["--check"]):
        said = refused(nodes, "restore", "web-1,web-3", "backup=nightly", *more)
        assert "instance web-3 is running; a backup is restored only while it is off; nothing was changed" in said
    assert disk.stat().st_ino == before and not (nodes / "n1/lib/volumes/kept").exists()
    # What stops them, for whatever haste, asks nobody before.
    said = play(nodes, "pause", "-e", "instances=web-*", status=2)
    assert "instance web-1 is stopped; only what runs can be paused" in " ".join(said.split()) and "changed=1" in said
    play(nodes, "resume", "-e", "instances=web-3")
    play(nodes, "snapshot", "-e", "instances=web-3", "-e", "snapshot=clean")
    assert "instance web-3 has a snapshot clean already" in refused(nodes, "snapshot", "web-*", "snapshot=clean")
    assert "instance web-1 has no snapshot clean" in refused(nodes, "snapshot_revert", "web-1,web-3", "snapshot=clean")
    said = play(nodes, "snapshots")
    assert [line.split()[0] for line in said.splitlines() if " clean " in line] == ["web-3"]
    # What all of them grant is done as ever.
    said = play(nodes, "stop", "-e", "instances=web-*", "-e", "grace=0")
    assert "changed=1" in said and "changed=2" not in said and running(nodes) == []
    play(nodes, "restore", "-e", "instances=web-1,web-3", "-e", "backup=nightly")
    assert disk.stat().st_ino != before


@contextlib.contextmanager
def silent(nodes: Path, node: str, name: str, how: str) -> Iterator[None]:
    """Have an instance's QEMU answer nothing, or nonsense, for a ``with`` statement."""
    instance = read_instances(Layout(str(nodes / node)), units=False)[name]
    if how == "stopped":
        os.kill(instance.pid, signal.SIGSTOP)
        yield
        os.kill(instance.pid, signal.SIGCONT)
        return
    path = nodes / node / f"run/instances/compute-{instance.id}/qmp.sock"
    path.rename(path.with_name("real.sock"))
    with socketserver.ThreadingUnixStreamServer(str(path), Nonsense) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()
    path.with_name("real.sock").replace(path)


class Nonsense(socketserver.StreamRequestHandler):
    """What speaks QMP, and answers each question with an empty list."""

    def handle(self) -> None:
        self.wfile.write(b'{"QMP": {}}\n')
        for line in self.rfile:
            self.wfile.write(json.dumps({"return": [], "id": json.loads(line).get("id")}).encode() + b"\n")


@pytest.mark.parametrize("how", ["stopped", "nonsense"])
def test_a_qemu_that_does_not_answer_stops_no_other(nodes: Path, how: str) -> None:
    words = {
        "stopped": "instance web-1: QEMU does not answer at",
        "nonsense": "instance web-1: its QEMU runs without its disk",
    }[how]
    with silent(nodes, "n1", "web-1", how):
        for name, option in (("snapshot", "snapshot=clean"), ("backup", "backup=nightly")):
            said = play(nodes, name, "-e", "instances=web-*", "-e", option, status=2)
            assert said.count("fatal: [") == 1 and words in " ".join(said.split()), said
            assert "NOT DONE on n1" in said
    assert sorted(path.parent.name for path in nodes.glob("n*/lib/backups/*/nightly.qcow2")) == ["web-2", "web-3"]
    assert [line.split()[0] for line in play(nodes, "snapshots").splitlines() if " clean " in line] == [
        "web-2",
        "web-3",
    ]


def refused(nodes: Path, name: str, instances: str, *more: str) -> str:
    """Run a playbook that one node refuses, and give what is said, in one line: once, and nothing changed."""
    options = [f"-e{option}" if option[0] != "-" else option for option in (f"instances={instances}", *more)]
    said = play(nodes, name, *options, status=2)
    assert said.count("fatal:") == 1 and all(f"changed={number}" not in said for number in range(1, 9)), said
    return " ".join(said.replace("\\'", "'").split())
