# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module node with a QEMU that runs: a seed that boots read, and a rebuild, from the first command to the one
restart.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.ikcloud.compute.plugins.module_utils._cloudinit.seed.resource import SeedResource
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.instances import pending, read_instances
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.volumes import InstanceVolumeResource
from ansible_collections.ikcloud.compute.plugins.module_utils._core import execution
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._core.names import short_id
from ansible_collections.ikcloud.compute.plugins.module_utils._node import resources
from ansible_collections.ikcloud.compute.tests.qemu.conftest import machine
from ansible_collections.ikcloud.compute.tests.qemu.lifecycle import power

ID = short_id("instance", "one")
NAME = f"compute-{ID}"
NIC = {"mac": "02:00:5e:10:00:01", "addresses": ["192.168.88.2/24"], "mtu": 1450}
Converge = Callable[..., dict[str, Any]]


@pytest.fixture
def node(root: Path, monkeypatch: pytest.MonkeyPatch) -> Converge:
    """Run the module node for one instance with an image, a data volume and a seed."""
    for kind in (InstanceVolumeResource, SeedResource):
        monkeypatch.setitem(
            kind.options, "owner", {"type": "str", "default": ""}
        )  # QEMU's user need not be on this machine
    (root / "lib/images").mkdir(parents=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(root / "lib/images/small.img"), "16M"], check=True)

    def call(check: bool = False, mtu: int = 1450, **params: Any) -> dict[str, Any]:
        lists = {
            "volumes": [{"name": NAME, "image": "small"}, {"name": "data-1", "size": "1M"}],
            "seeds": [{"name": NAME, "hostname": "one", "nics": [{**NIC, "mtu": mtu}]}],
            "instances": [machine(seed=True, volumes=[{"name": "data-1"}])],
        }
        validated = ArgumentSpecValidator(resources.argument_spec()).validate({**lists, "root": str(root), **params})
        assert not validated.error_messages, validated.error_messages
        return resources.converge_all(validated.validated_parameters, check)

    return call


def results(done: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """Give what is told of a kind, by name; nothing is of what is as it should be."""
    return {entry["name"]: entry for entry in done["kinds"][kind]["results"]}


def pid(root: Path) -> int:
    return read_instances(Layout(str(root)), units=False)["one"].pid


def test_a_seed_that_boots_read(root: Path, node: Converge) -> None:
    node()
    before = pid(root)
    for turn in range(2):
        done = node(mtu=1400)
        reason = "network-config: cloud-init reads the seed at boot, QEMU has the former one open"
        assert (results(done, "instances")["one"]["restart_reason"], done["changed"], pid(root)) == (
            reason,
            turn == 0,
            before,
        )
    now = read_instances(Layout(str(root)), units=False, talk=True)["one"]
    assert pending(now, now.written) == [reason]
    for mtu in (1400, 1300):  # one that is written already, and one that the same run writes
        check = node(check=True, mtu=mtu, restart="when_required")
        done = node(mtu=mtu, restart="when_required")
        assert check["commands"] == done["commands"] and "msg" not in done
        assert sum("/stop && " in command for command in done["commands"]) == 1
        assert pid(root) not in (0, before)
        before = pid(root)
        again = node(mtu=mtu, restart="when_required")
        assert not again["changed"] and results(again, "instances") == {}


def test_a_seed_that_is_as_the_guest_has_it_again(root: Path, node: Converge) -> None:
    """Taken back while its restart is pending, a change takes none any more, which check mode knows too."""
    node()
    before = pid(root)
    node(mtu=1400)
    for restart in ("never", "when_required"):
        check = node(check=True, restart=restart)
        assert results(check, "instances").get("one", {}).get("restart_reason", "") == ""
    done = node(restart="when_required")
    assert (check["commands"], "msg" in done, pid(root)) == (done["commands"], False, before)
    assert not node(restart="when_required")["changed"]


def test_rebuild(root: Path, node: Converge) -> None:
    """Disk and seed are new, the data volume and the former disk are what they were, and the next run has nothing to
    do.
    """
    node()
    volumes = root / "lib/volumes"
    disk, data, before = (volumes / f"{NAME}.img").stat().st_ino, (volumes / "data-1.img").stat().st_ino, pid(root)
    for number, identifier in enumerate((f"iid-{ID}-2", f"iid-{ID}-3"), 1):
        asked: dict[str, Any] = {
            "rebuild": [NAME],
            "aside": True,
            "aside_names": {NAME: "one"},
            "restart": "when_required",
        }
        check = node(check=True, **asked)
        done = node(**asked)
        assert check["commands"] == done["commands"] and "msg" not in done
        effects = {
            kind: {name: entry["effect"] for name, entry in results(done, kind).items()}
            for kind in ("volumes", "seeds", "instances")
        }
        assert effects == {"volumes": {NAME: "rebuild"}, "seeds": {NAME: "rebuild"}, "instances": {"one": "restart"}}
        assert sum("/stop && " in command for command in done["commands"]) == 1
        assert results(done, "seeds")[NAME]["instance_id"] == identifier
        kept = [path.stat().st_ino for path in (volumes / "kept").iterdir()]
        assert (disk in kept, len(kept)) == (True, number)
        assert (volumes / "data-1.img").stat().st_ino == data
        assert pid(root) not in (0, before)
        before = pid(root)
        assert not node()["changed"] and pid(root) == before
        if number == 1:
            subprocess.run(["sleep", "1"], check=True)  # kept disks are named by the second


@pytest.mark.parametrize("name", [NAME, "data-1"])
def test_a_disk_that_was_deleted_under_its_guest_is_not_made_anew(root: Path, node: Converge, name: str) -> None:
    """Its data are still there, and the way out that is named brings them back."""
    node()
    disk, before = root / f"lib/volumes/{name}.img", pid(root)
    written = disk.stat().st_ino
    disk.unlink()
    now = read_instances(Layout(str(root)), units=False, talk=True)["one"]
    assert now.replaced == [f"its disk {disk} is not there any more"]
    for check in (True, False):
        done = node(check=check, restart="when_required")
        assert (
            f"volume {name}: its file {disk} was deleted while the instance one, which runs, has it open" in done["msg"]
        )
        assert not done["changed"] and not disk.exists() and pid(root) == before
    command = done["msg"].split("`")[1]
    power(root, "paused")
    subprocess.run(command.split(), check=True)
    assert disk.stat().st_ino != written
    power(root, "stopped", grace=0)
    assert "msg" not in node() and pid(root) not in (0, before)
    assert not node()["changed"]
    # Given up, it is made anew once its QEMU has ended.
    disk.unlink()
    power(root, "stopped", grace=0)
    assert "msg" not in node() and disk.exists()


class Killed(BaseException):
    """As if the module had been killed."""


def test_rebuild_killed_between_any_two_steps(root: Path, node: Converge, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run, which knows nothing of it, leaves an instance that runs on what is there, or is shown as waiting
    for that.
    """
    for number in range(40):
        node()
        before, left = pid(root), number

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
                node(rebuild=[NAME], aside=True, restart="when_required")
            except Killed:
                pass
            else:
                assert number == 11
                return
        assert "msg" not in node()
        assert pid(root) == before
        again = node()
        assert not again["changed"]
        waiting = results(again, "instances")
        assert [name for name, entry in waiting.items() if entry["restart_required"]] == (
            ["one"] if number >= 5 else []
        ), (number, waiting)
        assert "msg" not in node(restart="when_required")
        assert results(node(), "instances") == {}
    pytest.fail("it never came to its end")


def test_check_mode_does_not_warn_of_what_the_run_itself_ends(root: Path, node: Converge) -> None:
    """The instance goes first; one that stays has its disks and its seed in use."""
    assert "msg" not in node() and pid(root) > 0
    nothing: dict[str, Any] = {"volumes": [], "seeds": [], "instances": []}
    said = node(check=True, **nothing, purge=["volumes", "seeds"])["warn"]
    for name in (
        f"volume {NAME} is in use by the instance one now",
        "volume data-1 is in use by the instance one now",
        f"seed {NAME} is in use",
    ):
        assert [line for line in said if line.startswith(name)], said
    check = node(check=True, **nothing, purge=["volumes", "seeds", "instances"])
    assert check["warn"] == [] and {"instances", "volumes", "seeds"} <= set(check["kinds"])
    done = node(**nothing, purge=["volumes", "seeds", "instances"])
    assert "msg" not in done and done["commands"] == check["commands"] and not list((root / "lib/volumes").iterdir())
