# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks that act on instances, run as a person runs them, and what comes of it in the guest."""

from __future__ import annotations

import copy
import re

import pytest
from conftest import ADDRESSES, CLOUD, NODE, OTHER, SMALL_GUESTS, Lab, squeezed

BOOT = "cat /proc/sys/kernel/random/boot_id"
# The guest lives in its memory; these are sectors of its disk that nothing else writes.
READ = "dd if=/dev/vda bs=512 skip=300000 count=1 2>/dev/null | head -c 6"


def write(word: str) -> str:
    """Give the command that writes a word of six letters where READ reads it."""
    return f"printf {word} | dd of=/dev/vda bs=512 seek=300000 conv=notrunc 2>/dev/null; sync; {READ}"


@pytest.fixture(scope="module", autouse=True)
def _cloud(lab: Lab) -> None:
    """Have the guests as they are declared first, and up."""
    lab.play("teardown")
    lab.cloud = copy.deepcopy(CLOUD)
    lab.settle()
    for name in SMALL_GUESTS:
        lab.guest(name, "true")


def test_stop_and_start(lab: Lab) -> None:
    boot = lab.guest("web-1", BOOT)
    lab.play("stop", "--check", instances="web-1")
    assert lab.guest("web-1", BOOT) == boot
    lab.play("stop", instances="web-1")
    assert (lab.info("web-1")["power"], lab.info("web-2")["power"]) == ("stopped", "running")
    assert lab.changes() == {"instance web-1": "live"}  # the declaration stays what site brings about
    assert "changed=0" in lab.play("stop", "--limit", "ik-node-01", instances="web-1")
    lab.play("start", instances=["web-*"])
    assert lab.guest("web-1", BOOT) != boot
    assert lab.changes() == {}


def test_pause_and_resume(lab: Lab) -> None:
    boot = lab.guest("web-1", BOOT)
    lab.play("pause", instances="web-1")
    assert lab.info("web-1")["power"] == "paused"
    lab.settle()
    assert lab.info("web-1")["power"] == "paused"  # whatever is declared
    lab.play("resume", instances="web-1")
    assert lab.guest("web-1", BOOT) == boot


def test_reboot(lab: Lab) -> None:
    boots = {name: lab.guest(name, BOOT) for name in SMALL_GUESTS}
    lab.play("reboot", instances="web-1,far-1")
    after = {name: lab.guest(name, BOOT) for name in SMALL_GUESTS}
    assert {name for name in SMALL_GUESTS if after[name] != boots[name]} == {"web-1", "far-1"}


def test_snapshots(lab: Lab) -> None:
    """What the guest has in its memory and on its disk comes back, and it goes on from there."""
    boot = lab.guest("web-1", BOOT)
    lab.guest("web-1", f"echo before >/tmp/word; {write('before')}")
    lab.play("snapshot", instances="web-1", snapshot="one")
    said = lab.play("snapshot", instances="web-1", snapshot="one", fails=True)
    assert squeezed("instance web-1 has a snapshot one already") in squeezed(said)
    assert "one" in lab.play("snapshots")
    assert lab.guest("web-1", f"echo after >/tmp/word; {write('after.')}") == "after."
    lab.play("snapshot_revert", instances="web-1", snapshot="one")
    assert lab.guest("web-1", f"{BOOT}; cat /tmp/word; {READ}") == f"{boot}before\nbefore"
    lab.play("snapshot_delete", instances="web-1", snapshot="one")
    assert squeezed("instance web-1 has no snapshot one; there is none") in squeezed(
        lab.play("snapshot_revert", instances="web-1", snapshot="one", fails=True)
    )


def test_backup_and_restore(lab: Lab) -> None:
    assert lab.guest("web-2", write("before")) == "before"
    lab.play("backup", instances="web-2", backup="nightly")
    assert lab.guest("web-2", write("after.")) == "after."
    said = lab.play("restore", instances="web-2", backup="nightly", fails=True)
    assert squeezed("instance web-2 is running; a backup is restored only while it is off") in squeezed(said)
    assert lab.guest("web-2", READ) == "after."
    lab.play("stop", instances="web-2")
    lab.play("restore", instances="web-2", backup="nightly")
    lab.play("start", instances="web-2")
    assert lab.guest("web-2", READ) == "before"
    assert lab.changes() == {}


@pytest.mark.parametrize(
    "playbook", ["stop", "start", "pause", "resume", "reboot", "snapshot", "backup", "restore", "rebuild"]
)
def test_an_instance_that_is_not_there(lab: Lab, playbook: str) -> None:
    own = {"snapshot": {"snapshot": "one"}, "backup": {"backup": "nightly"}, "restore": {"backup": "nightly"}}
    said = lab.play(playbook, fails=True, instances="web-1,nobody", **own.get(playbook, {}))
    assert "nobody" in said
    assert lab.info("web-1")["power"] == "running"


def test_status_shows_all(lab: Lab) -> None:
    said = lab.play("status")
    for name in SMALL_GUESTS:
        assert name in said and ADDRESSES[name] in said


def test_a_foreign_link_under_our_name_is_left_alone(lab: Lab) -> None:
    name = lab.node("ip -o link show type vxlan").split(":")[1].split("@")[0].strip()
    lab.node(f"ip link set dev {name} alias mine")
    said = squeezed(lab.play("overlay", fails=True))
    assert squeezed("ikcloud.compute did not make") in said and squeezed(f"NOT DONE on {NODE}") in said
    assert lab.node(f"cat /sys/class/net/{name}/ifalias").strip() == "mine"
    # Removed by whoever made it, the next run goes through.
    lab.node(f"ip link del dev {name}")
    lab.play("overlay")
    assert lab.changes() == {}


def test_teardown_keeps_images_when_asked(lab: Lab) -> None:
    for node in (NODE, OTHER):
        lab.node("rm -rf /var/lib/compute-service/lib/backups", node)  # of the tests before; a teardown leaves them
    lab.play("teardown", teardown_keep_images=True)
    for node in (NODE, OTHER):
        files = lab.node("find /var/lib/compute-service -type f -printf '%P\\n'", node).split()
        assert sorted(files) == ["lib/images/debian.img", "lib/images/small.img"]
    again = lab.play("teardown", teardown_keep_images=True)
    assert "changed=0" in again and not re.search(r"changed=[1-9]", again)
    assert squeezed("is kept: lib/images.") in squeezed(again)
    lab.play("teardown")
    assert "lib" not in lab.node("ls /var/lib/compute-service 2>/dev/null || true")
