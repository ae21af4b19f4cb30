# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tap that is deleted under a QEMU that runs: made anew it is another one, so a restart is pending."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.instances import read_instances
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._core.names import short_id

from .conftest import World

TAP = "vnet-lost"
BRIDGE = {"name": "br-lost", "network": "lost", "mtu": 1450}
ONE: dict[str, Any] = {
    "name": "one",
    "memory": 64,
    "accel": "tcg",
    "seed": False,
    "supervisor": "none",
    "user": "root",
    "grace": 1,
    "nics": [{"tap": TAP}],
}


def test_a_tap_that_was_deleted_under_its_guest(world: World) -> None:
    node = world.node("a")
    disk = Path(node.root, f"lib/volumes/compute-{short_id('instance', 'one')}.img")
    disk.parent.mkdir(parents=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "1M"], check=True)
    lists = {"bridges": [BRIDGE], "taps": [{"name": TAP, "bridge": "br-lost", "owner": "root"}], "instances": [ONE]}

    def pid() -> int:
        return read_instances(Layout(node.root), units=False)["one"].pid

    try:
        node.good("node", **lists)
        assert not node.good("node", **lists)["changed"]
        first = pid()
        node.ip(f"link delete dev {TAP}")
        reason = f"its link {TAP} was deleted, and QEMU does not have the one that is there by now"
        for check, makes in (
            (True, True),
            (False, True),
            (False, False),
        ):  # before it is made anew, as it is, and after that
            done = node.good("node", check=check, **lists)
            waiting = done["kinds"]["instances"]["results"][0]
            assert (waiting["restart_reason"], done["changed"], pid()) == (reason, makes, first)
        assert (node.link(TAP) or {})["operstate"] == "DOWN"
        check = node.good("node", check=True, restart="when_required", **lists)
        done = node.good("node", restart="when_required", **lists)
        assert check["commands"] == done["commands"] and pid() not in (0, first)
        assert not node.good("node", **lists)["changed"] and (node.link(TAP) or {})["operstate"] != "DOWN"
    finally:
        if pid():
            os.kill(pid(), signal.SIGKILL)
