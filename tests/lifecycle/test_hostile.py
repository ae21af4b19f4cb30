# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An instance whose QEMU's user is hostile: what it writes into its folder stops nobody but itself."""

from __future__ import annotations

import copy
import shlex
import time

import pytest
from conftest import CLOUD, NODE, Lab, squeezed

INSTANCES = "/var/lib/compute-service/run/instances"


@pytest.fixture(scope="module", autouse=True)
def _cloud(lab: Lab) -> None:
    """Two instances on one node: one that is hostile, and its neighbour."""
    lab.environment["COLUMNS"] = "300"  # whole tables
    lab.play("teardown")
    lab.cloud = copy.deepcopy(CLOUD)
    lab.cloud["cloud_instances"] = {name: CLOUD["cloud_instances"][name] for name in ("web-1", "web-2")}
    lab.settle()


def folder(lab: Lab, name: str) -> str:
    return f"{INSTANCES}/compute-{lab.info(name)['id']}"


def as_qemu(lab: Lab, command: str) -> None:
    lab.node(f"runuser -u compute-service -- sh -c {shlex.quote(command)}")


@pytest.mark.parametrize(
    "write",
    [
        "sed -i 2d start",
        "rm -f start; mkfifo start",
        "rm -f start; truncate -s 1G start",
        """sed -i "3s/.*/# labels: $(head -c 100000 /dev/zero | tr '\\0' '[')/" start""",
    ],
)
def test_a_start_that_cannot_be_believed(lab: Lab, write: str) -> None:
    place, neighbour = folder(lab, "web-1"), lab.pid("web-2")
    as_qemu(lab, f"cd {place} && {write}")
    about = lab.info("web-1")
    assert about["power"] == "running" and about["error"], about
    assert squeezed("can't be believed") in squeezed(lab.play("status"))
    lab.play("snapshot", instances="web-2", snapshot="one")
    lab.play("snapshot_delete", instances="web-2", snapshot="one")
    assert lab.changes() == {"instance web-1": "live"}
    said = lab.play("site")
    assert squeezed("Its files are written anew") in squeezed(said)
    assert (lab.info("web-1")["error"], lab.pid("web-2")) == ("", neighbour)
    assert lab.changes() == {}


def test_nobody_takes_another_ones_name(lab: Lab) -> None:
    place, victim = folder(lab, "web-1"), lab.info("web-2")["id"]
    as_qemu(lab, f"sed -i 's/instance web-1$/instance web-2/' {place}/start")
    assert lab.info("web-2")["id"] == victim
    assert (
        "says that it is web-2, whose id it does not have" in lab.info("web-1")["error"]
    )  # its link's alias, which is root's, has its name
    lab.settle()


def test_a_stop_that_never_ends(lab: Lab) -> None:
    """Neither the time that was asked for nor the unit's own lets it go on."""
    place = folder(lab, "web-1")
    script = '#!/bin/sh\ntrap "" TERM HUP INT\nwhile :; do sleep 1; done\n'
    as_qemu(lab, f"cd {place} && rm -f stop && printf %s {shlex.quote(script)} >stop && chmod +x stop")
    began = time.monotonic()
    lab.play("stop", instances="web-1", grace=1)
    assert time.monotonic() - began < 120
    unit = f"compute-instance@{place[-8:]}"
    assert lab.node(f"systemctl show {unit} --property=ActiveState --value").strip() in ("inactive", "failed")
    lab.settle()


def test_folders_in_folders_and_no_files_are_torn_down(lab: Lab) -> None:
    one, other = folder(lab, "web-1"), folder(lab, "web-2")
    deep = "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\n"
    as_qemu(lab, f"cd {one} && python3 -c {shlex.quote(deep)}")
    as_qemu(lab, f"sed -i 2d {one}/start")
    lab.node(f"rm -rf {other}")
    assert lab.info("web-2")["power"] == "running"
    lab.play("stop", instances="web-2", grace=1)
    lab.play("teardown")
    assert lab.node(
        "systemctl list-units --all --plain --no-legend 'compute-instance@*'; pgrep -c qemu-system || true"
    ).split() == ["0"]
    assert NODE not in lab.node(f"ls {INSTANCES} 2>&1 || true").split()
