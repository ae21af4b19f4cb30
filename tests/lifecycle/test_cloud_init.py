# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest of a distribution, with its own cloud-init: what it makes of its seed. (The lab's small guest reads a seed by
a script of the lab's.)
"""

from __future__ import annotations

import copy
import json

import pytest
from conftest import ADDRESSES, CLOUD, NODE, Lab

DEBIAN = {
    "image": "debian",
    "network": "blue",
    "address": ADDRESSES["deb-1"],
    "node": NODE,
    "cpu": 2,
    "memory": 512,
    "disk": "3G",
}


@pytest.fixture(scope="module", autouse=True)
def _guest(lab: Lab) -> None:
    """Have the guest and nothing else, and wait until cloud-init is through."""
    lab.cloud = {**copy.deepcopy(CLOUD), "cloud_instances": {"deb-1": DEBIAN}}
    lab.play("teardown")
    lab.settle()
    lab.guest("deb-1", "cloud-init status --wait || true")


def test_it_is_done_without_errors(lab: Lab) -> None:
    # The exit status is 2 for "done, with recoverable errors" (cloud-init's own documentation); nothing but 0 will do.
    said = lab.guest("deb-1", "cloud-init status --format json", limit=0)
    status = json.loads(said[said.index("{") :])
    assert (status["status"], status["errors"]) == ("done", [])


def test_name_network_and_disk_are_as_declared(lab: Lab) -> None:
    said = lab.guest(
        "deb-1", "hostname; cat /sys/class/net/e*/mtu /sys/block/vda/size; df -B1 --output=size / | tail -n 1"
    ).split()
    size = 3 << 30
    assert said[:3] == ["deb-1", "1450", str(size // 512)]
    assert int(said[3]) > 0.85 * size


def test_no_password_lets_anybody_in(lab: Lab) -> None:
    shadow = dict(line.split(":")[:2] for line in lab.guest("deb-1", "sudo cat /etc/shadow").splitlines())
    assert shadow["ubuntu"].startswith(("!", "*"))
