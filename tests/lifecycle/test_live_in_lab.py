# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens to real guests in the lab: changed while somebody is logged in, restarted, rebuilt.

The steps follow one another on one cloud.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator

import pytest
from conftest import ADDRESSES, NODE, OTHER, PATIENCE, SMALL_GUESTS, Lab, squeezed


class Session:
    """One login that stays, whatever is done to the guest meanwhile."""

    def __init__(self, lab: Lab, address: str) -> None:
        self.process = subprocess.Popen(
            [*lab.ssh(address), "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, command: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\necho =end=\n")
        self.process.stdin.flush()
        said = ""
        for line in self.process.stdout:
            if line == "=end=\n":
                return said
            said += line
        pytest.fail(f"the session ended: {said}")

    def until(self, command: str, pattern: str, limit: float = 30 * PATIENCE) -> str:
        """Ask until the answer is as expected; a guest takes its moment."""
        until = time.monotonic() + limit
        while not re.search(pattern, said := self.ask(command)):
            assert time.monotonic() < until, said
            time.sleep(0.5)
        return said


@pytest.fixture(scope="module")
def session(lab: Lab) -> Iterator[Session]:
    lab.settle()
    lab.guest("web-1", "true")
    made = Session(lab, ADDRESSES["web-1"])
    yield made
    made.process.kill()
    made.process.wait()


def present(session: Session, count: int) -> str:
    """Return the processors that a guest of so many knows, after it booted with one: an emulated one from Linux 6.12.58
    on knows no later ones.
    """
    release = tuple(map(int, re.findall(r"[0-9]+", session.ask("uname -r"))[:3]))
    return "0" if release >= (6, 12, 58) else f"0-{count - 1}"


DISKS = "grep -H . /sys/block/vd*/serial; for d in /sys/block/vd*; do echo $d $(cat $d/size); done"


def test_changes_while_somebody_is_logged_in(lab: Lab, session: Session) -> None:
    """Memory, a processor, a card and a data volume come, the volume grows; the session goes on."""
    pid = lab.pid("web-1")
    session.until("cat /proc/meminfo", "MemTotal: +[0-9]{5} kB")  # of 192 MiB it has given 64 back
    web = lab.cloud["cloud_instances"]["web-1"]
    cards = [
        {"network": web.pop("network"), "address": web.pop("address")},
        {"network": "green", "address": "192.168.99.101"},
    ]
    web.update(cpu=2, memory=160, nics=cards, disk="300M")
    lab.cloud["cloud_volumes"]["data-1"] = {"size": "64M", "instance": "web-1"}
    effects = lab.changes()
    assert (
        effects["instance web-1"],
        effects["volume data-1"],
        effects[f"volume compute-{lab.info('web-1')['id']}"],
    ) == ("live", "create", "live")
    said = squeezed(lab.play("site"))
    # The card is there; what the guest is to do with it, cloud-init reads at boot.
    assert squeezed("instance web-1: a restart is pending (network-config: cloud-init reads the seed at boot") in said
    assert lab.pid("web-1") == pid
    session.until(DISKS, r"serial:data-1\n")
    session.until("cat /sys/devices/system/cpu/present", f"^{present(session, 2)}$")
    session.until("cat /sys/block/vda/size", f"{300 << 11}\n")
    session.until("cat /proc/meminfo", "MemTotal: +1[0-9]{5} kB")
    session.until("ls /sys/class/net", r"(?s)eth.*eth")
    lab.cloud["cloud_volumes"]["data-1"]["size"] = "128M"
    assert lab.changes()["volume data-1"] == "live"
    # Nothing in the small guest brings a processor online.
    assert squeezed("instance web-1: its guest uses 1 of its 2 processors") in squeezed(lab.settle())
    disk = re.search(r"/sys/block/(vd.)/serial:data-1\n", session.until(DISKS, f"{128 << 11}"))
    assert disk is not None
    session.ask(f"printf whatever >/dev/{disk.group(1)}; sync")
    assert lab.pid("web-1") == pid


def test_a_volume_in_use_is_not_removed(lab: Lab, session: Session) -> None:
    volume = lab.cloud["cloud_volumes"].pop("data-1")
    for purge in (False, True):
        said = lab.play("site", fails=True, cloud_purge=purge)
        assert squeezed("The volume data-1 on ik-node-01 is attached to web-1, and not declared any more") in squeezed(
            said
        )
    lab.cloud["cloud_volumes"]["data-1"] = volume
    assert not lab.plan()["changed"]


def test_a_volume_goes_from_one_guest_to_the_other(lab: Lab, session: Session) -> None:
    """In one run, while both go on; what was written is there."""
    lab.guest("web-2", "true")
    pids = [lab.pid("web-1"), lab.pid("web-2")]
    lab.cloud["cloud_volumes"]["data-1"]["instance"] = "web-2"
    lab.settle()
    assert "data-1" not in session.ask(DISKS)
    disk = re.search(r"/sys/block/(vd.)/serial:data-1\n", lab.guest("web-2", DISKS))
    assert disk is not None
    assert lab.guest("web-2", f"head -c 8 /dev/{disk.group(1)}") == "whatever"
    assert [lab.pid("web-1"), lab.pid("web-2")] == pids


def test_what_needs_a_restart_is_pending_until_it_may(lab: Lab, session: Session) -> None:
    pid = lab.pid("web-1")
    web = lab.cloud["cloud_instances"]["web-1"]
    web.update(cpu=3, cpu_max=3)
    reason = "cpu is 2, declared 3; cpu_max is 2, declared 3"
    assert squeezed(f"instance web-1: a restart is pending ({reason}") in squeezed(lab.play("site"))
    planned = lab.plan()
    assert not planned["changed"]
    assert [(entry["name"], entry["change"]) for entry in planned["entries"]] == [("web-1", "pending")]
    info = lab.info("web-1")
    assert (
        info["restart_required"]
        and info["restart_reason"] == planned["entries"][0]["reason"]
        and info["restart_reason"].startswith(reason)
    )
    assert "restart pending" in lab.play("status")
    assert session.ask("cat /sys/devices/system/cpu/present") == f"{present(session, 2)}\n" and lab.pid("web-1") == pid
    web["restart"] = "never"
    assert lab.plan(cloud_restart="when_required")["changed"] is False
    web.pop("restart")
    commands = [
        command for command in lab.plan(cloud_restart="when_required")["commands"][NODE] if "systemctl" in command
    ]
    assert [command.split()[:2] for command in commands] == [["systemctl", "restart"]]
    lab.play("site", cloud_restart="when_required")
    once = lab.pid("web-1")
    lab.settle(cloud_restart="when_required")
    assert once != pid and lab.pid("web-1") == once
    assert lab.guest("web-1", "cat /sys/devices/system/cpu/present") == "0-2\n"
    assert not lab.info("web-1")["restart_required"]


def test_restarts_are_rolled(lab: Lab) -> None:
    """The network's MTU is what guests read at boot: pending for all, then one after another, each up before the
    next.
    """
    lab.cloud["cloud_networks"]["blue"]["mtu"] = 1400
    for name in SMALL_GUESTS:
        lab.guest(name, "true")
    lab.play("site")
    pending = {entry["name"]: entry["reason"] for entry in lab.plan()["entries"]}
    assert set(pending) == {"web-1", "web-2", "far-1"}
    lab.play("restart")
    assert lab.plan()["entries"] == []
    # The nodes' clocks are the host's. A guest takes seconds from its start until it answers.
    starts = [lab.started(name, node) for name, node in (("web-1", NODE), ("web-2", NODE), ("far-1", OTHER))]
    print("seconds between the restarts:", [round(after - before, 1) for before, after in zip(starts, starts[1:])])
    assert all(after - before > 3 for before, after in zip(starts, starts[1:]))
    for name in SMALL_GUESTS:
        assert "1400" in lab.guest(name, "cat /sys/class/net/eth*/mtu")


def test_rebuild(lab: Lab) -> None:
    """A new disk and a new instance-id; the volumes stay, the former disk is kept, and then there is nothing to do."""
    # The guest lives in its memory; what it has of the disk beyond its image is this.
    mark = "dd if=/dev/vda bs=512 skip=400000 count=1 2>/dev/null | head -c 4"
    assert (
        lab.guest("web-2", f"printf mine | dd of=/dev/vda bs=512 seek=400000 conv=notrunc 2>/dev/null; sync; {mark}")
        == "mine"
    )
    before = lab.node("cat /var/lib/compute-service/run/instances/*/meta_data.cfg")
    machine = f"compute-{lab.info('web-2')['id']}"
    assert f"iid-{machine[8:]}" in before and f"iid-{machine[8:]}-2" not in before
    said = lab.play("rebuild", "--check", instances="web-2")
    assert "rebuild" in said
    lab.play("rebuild", instances="web-2")
    assert f"iid-{machine[8:]}-2" in lab.node(f"cat /var/lib/compute-service/run/instances/{machine}/meta_data.cfg")
    assert f"web-2-{machine}-" in lab.node("ls /var/lib/compute-service/lib/volumes/kept")
    assert lab.plan()["entries"] == []
    assert "data-1" in lab.guest("web-2", DISKS)
    assert lab.guest("web-2", mark) != "mine"
    lab.settle()
    assert f"iid-{machine[8:]}-2" in lab.node(f"cat /var/lib/compute-service/run/instances/{machine}/meta_data.cfg")
    assert squeezed("no instance is named") in squeezed(lab.play("rebuild", fails=True))


def test_a_detached_volume_outlives_its_instance(lab: Lab) -> None:
    lab.cloud["cloud_instances"].pop("web-2")
    said = lab.play("site", fails=True, cloud_purge=True)
    assert squeezed("cloud_volumes.data-1.instance: there is no instance 'web-2'") in squeezed(said)
    lab.cloud["cloud_volumes"]["data-1"].pop("instance")
    lab.settle(cloud_purge=True)
    assert "data-1.img" in lab.node("ls /var/lib/compute-service/lib/volumes").split()
    lab.cloud["cloud_volumes"] = {}
    lab.settle(cloud_purge=True)
    volumes = lab.node("ls /var/lib/compute-service/lib/volumes /var/lib/compute-service/lib/volumes/kept").split()
    assert "data-1.img" not in volumes and [name for name in volumes if name.startswith("data-1-")]
