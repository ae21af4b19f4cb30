# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seeds, made by genisoimage and read back."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.ikcloud.compute.plugins.module_utils._cloudinit.iso9660 import read_files
from ansible_collections.ikcloud.compute.plugins.module_utils._cloudinit.seed.resource import SeedResource
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from storage_helpers import Converge, declare, wait_for_qemu

NAME = "compute-af95e879"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7u5ZQzQxGJ1lF2R1nWmXk0iW0bqkPjv0o8kqB3xY6e me@here"
NIC = {
    "mac": "02:00:5e:10:00:01",
    "addresses": ["192.168.88.102/24"],
    "gateway": "192.168.88.1",
    "nameservers": ["9.9.9.9"],
    "mtu": 1450,
}
SEED: dict[str, Any] = {"name": NAME, "hostname": "web-1", "ssh_keys": [KEY], "nics": [NIC]}


def image_of(root: Path, name: str = NAME) -> Path:
    return root / f"lib/volumes/{name}-seed.img"


def in_image(root: Path) -> dict[str, Any]:
    return {name: yaml.safe_load(data) for name, data in read_files(str(image_of(root))).items()}


def inodes(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(root)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def test_check_then_run_then_again(root: Path, run: Converge) -> None:
    check = run(SeedResource, check=True, seeds=[SEED])
    assert list(root.iterdir()) == []
    real = run(SeedResource, seeds=[SEED])
    assert "msg" not in real and check["commands"] == real["commands"] and check["after"] == real["after"]
    found = in_image(root)
    assert sorted(found) == ["meta-data", "network-config", "user-data"]
    assert found["meta-data"] == {"instance-id": "iid-af95e879", "local-hostname": "web-1"}
    assert found["network-config"]["ethernets"]["nic0"]["match"] == {"macaddress": NIC["mac"]}
    assert found["user-data"]["users"][0]["ssh_authorized_keys"] == [KEY]
    folder = root / f"run/instances/{NAME}"
    assert folder.stat().st_mode & 0o777 == 0o750
    assert (folder / "cloud_init.cfg").stat().st_mode & 0o777 == 0o600
    assert image_of(root).stat().st_mode & 0o777 == 0o640
    before = inodes(root)
    for check_mode in (True, False):
        again = run(SeedResource, check=check_mode, seeds=[SEED])
        assert not again["changed"] and not again["commands"] and not again["diff"] and not again["warn"]
    assert inodes(root) == before


def test_commands_do_not_depend_on_what_the_instance_made(root: Path, run: Converge) -> None:
    bare = run(SeedResource, check=True, seeds=[SEED])["commands"]
    (root / f"run/instances/{NAME}").mkdir(parents=True, mode=0o700)
    assert run(SeedResource, check=True, seeds=[SEED])["commands"] == bare


def test_only_what_differs_is_made_anew(root: Path, run: Converge) -> None:
    run(SeedResource, seeds=[SEED, {**SEED, "name": "compute-00000002"}])
    before = inodes(root)
    changed = run(
        SeedResource, seeds=[{**SEED, "user_data": {"packages": ["nginx"]}}, {**SEED, "name": "compute-00000002"}]
    )
    after = inodes(root)
    assert {name for name in after if after[name] != before[name]} == {
        f"lib/volumes/{NAME}-seed.img",
        f"run/instances/{NAME}/cloud_init.cfg",
    }
    assert changed["results"][0]["reasons"] == [
        f"{root}/run/instances/{NAME}/cloud_init.cfg differs",
        "user-data in the seed differs",
    ]
    assert "first boot again only with another instance_id" in changed["warn"][0]
    assert in_image(root)["user-data"]["packages"] == ["nginx"]


def test_instance_id_is_kept(root: Path, run: Converge) -> None:
    run(SeedResource, seeds=[{**SEED, "instance_id": "second"}])
    assert in_image(root)["meta-data"]["instance-id"] == "second"
    assert not run(SeedResource, seeds=[SEED])["changed"]
    run(SeedResource, seeds=[{**SEED, "hostname": "web-2"}])
    assert in_image(root)["meta-data"] == {"instance-id": "second", "local-hostname": "web-2"}


@pytest.mark.parametrize("lost", ["image", "cloud_init.cfg", "net_1.cfg", "meta_data.cfg", "folder"])
def test_what_is_lost_comes_back(root: Path, run: Converge, lost: str) -> None:
    run(SeedResource, seeds=[SEED])
    folder = root / f"run/instances/{NAME}"
    if lost == "folder":
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    else:
        (image_of(root) if lost == "image" else folder / lost).unlink()
    check = run(SeedResource, check=True, seeds=[SEED])
    real = run(SeedResource, seeds=[SEED])
    assert check["commands"] == real["commands"] and real["changed"]
    assert not run(SeedResource, seeds=[SEED])["changed"]


def test_a_folder_in_the_place_of_a_file_is_removed(root: Path, run: Converge, tmp_path: Path) -> None:
    """QEMU's user can make one there; what links in it lead to is not touched."""
    run(SeedResource, seeds=[SEED])
    folder = root / f"run/instances/{NAME}"
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    for file in ("cloud_init.cfg", "net_1.cfg", "meta_data.cfg"):
        (folder / file).unlink()
        (folder / file / "a/b").mkdir(parents=True)
        (folder / file / "a/link").symlink_to(tmp_path / "other")
        (folder / f".new-{file}/a").mkdir(parents=True)
    check = run(SeedResource, check=True, seeds=[SEED])
    real = run(SeedResource, seeds=[SEED])
    assert (
        "msg" not in real and check["commands"] == real["commands"] and f"rm -rf {folder}/net_1.cfg" in real["commands"]
    )
    assert (tmp_path / "other/file").exists() and not run(SeedResource, seeds=[SEED])["changed"]


def test_a_link_that_comes_between_the_steps_is_not_followed(root: Path, run: Converge, tmp_path: Path) -> None:
    """The instance's folder is QEMU's user's, who may lay a link there at any moment."""
    secret = tmp_path / "secret"
    secret.write_text("only root reads this\n")
    secret.chmod(0o600)
    folder = root / f"run/instances/{NAME}"

    def lay_links() -> None:
        for file in ("cloud_init.cfg", "net_1.cfg", "meta_data.cfg") if folder.exists() else ():
            (folder / file).unlink(missing_ok=True)
            (folder / file).symlink_to(secret)

    for again in (False, True):  # a new one, then one whose files have another mode
        for file in folder.iterdir() if again else ():
            file.chmod(0o666)
        kind = declare(SeedResource, root=str(root), owner="", seeds=[SEED])
        have = kind.observe([SEED])
        for step in kind.change(kind.params["seeds"][0], have.get(NAME)).steps:
            lay_links()
            step.run()
        assert not any(b"only root" in data for data in read_files(str(image_of(root))).values())
        assert in_image(root)["meta-data"]["local-hostname"] == "web-1"
        assert secret.read_text() == "only root reads this\n" and secret.stat().st_mode & 0o777 == 0o600
        assert run(SeedResource, seeds=[SEED])["changed"] and not run(SeedResource, seeds=[SEED])["changed"]


def test_killed_at_any_step(root: Path, run: Converge, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends after any of its steps is mended by the next one."""
    from ansible_collections.ikcloud.compute.plugins.module_utils._core import execution

    class Killed(BaseException):
        pass

    steps = len(run(SeedResource, check=True, seeds=[SEED])["commands"])
    original = execution._apply_item
    for number in range(steps):

        def stop_there(name: str, todo: list[Any], last: int = number) -> Any:
            original(name, todo[:last])
            raise Killed

        monkeypatch.setattr(execution, "_apply_item", stop_there)
        with pytest.raises(Killed):
            run(SeedResource, seeds=[SEED])
        monkeypatch.setattr(execution, "_apply_item", original)
        assert "msg" not in run(SeedResource, seeds=[SEED])
        assert not run(SeedResource, seeds=[SEED])["changed"]
        run(SeedResource, seeds=[], purge=True)
        assert not [path for path in root.rglob("*") if path.is_file()]


def test_a_password_is_nowhere_in_plain_or_in_the_result(root: Path, run: Converge) -> None:
    secret = (
        "$6$rounds=5000$saltsalt$9zJWnvGJrGqLEFvkn5UmWdBKVg3wnJUbMh6FXNVQqwT5c1uYUJcOqyoQzY1EhOa6ufPHUBYV6rDgkGkWJzPmI1"
    )
    result = run(SeedResource, seeds=[{**SEED, "password_hash": secret}])
    assert secret not in str(result)
    user = in_image(root)["user-data"]["users"][0]
    assert user["hashed_passwd"] == secret and user["lock_passwd"] is False
    assert in_image(root)["user-data"]["ssh_pwauth"] is False


def test_text_replaces_ours(root: Path, run: Converge) -> None:
    run(SeedResource, seeds=[{**SEED, "user_data": "#!/bin/sh\necho 'hé' \"$x\"\r\n"}])
    assert read_files(str(image_of(root)))["user-data"].decode() == "#!/bin/sh\necho 'hé' \"$x\"\r\n"
    assert not run(SeedResource, seeds=[{**SEED, "user_data": "#!/bin/sh\necho 'hé' \"$x\"\r\n"}])["changed"]


def test_a_seed_larger_than_most(root: Path, run: Converge) -> None:
    seed = {**SEED, "user_data": f"#!/bin/sh\n# {'x' * 300_000}\n"}
    assert "msg" not in run(SeedResource, seeds=[seed])
    assert not run(SeedResource, seeds=[seed])["changed"]
    assert read_files(str(image_of(root)))["user-data"].decode() == seed["user_data"]
    os.truncate(image_of(root), 28 * 2048 + 100)  # where the root folder is
    with pytest.raises(ValueError, match="in the middle of its folder"):
        read_files(str(image_of(root)))
    assert run(SeedResource, seeds=[seed])["changed"]


def test_foreign_seeds_are_left_alone(root: Path, run: Converge, tmp_path: Path) -> None:
    image_of(root).parent.mkdir(parents=True)
    for name in ("user-data", "meta-data"):
        (tmp_path / name).write_text("#cloud-config\n{}\n" if name == "user-data" else "instance-id: mine\n")
    subprocess.run(
        [
            "genisoimage",
            "-quiet",
            "-output",
            str(image_of(root)),
            "-volid",
            "cidata",
            "-joliet",
            "-rock",
            str(tmp_path),
        ],
        check=True,
    )
    foreign = image_of(root).read_bytes()
    assert not run(SeedResource, seeds=[], purge=True)["results"]
    with pytest.raises(ComputeError, match="did not make"):
        run(SeedResource, seeds=[SEED])
    run(SeedResource, seeds=[SEED], state="absent")
    assert image_of(root).read_bytes() == foreign


def test_absent_leaves_the_instances_own_files(root: Path, run: Converge) -> None:
    run(SeedResource, seeds=[SEED])
    start = root / f"run/instances/{NAME}/start"
    start.write_text("#!/bin/sh\n")
    check = run(SeedResource, check=True, seeds=[{"name": NAME}], state="absent")
    real = run(SeedResource, seeds=[{"name": NAME}], state="absent")
    assert check["commands"] == real["commands"]
    assert [path for path in root.rglob("*") if path.is_file()] == [start]
    start.unlink()
    assert not run(SeedResource, seeds=[{"name": NAME}], state="absent")["changed"]


def test_forty_seeds_are_read_quickly(root: Path, run: Converge) -> None:
    seeds = [{**SEED, "name": f"compute-{number:08x}"} for number in range(40)]
    run(SeedResource, seeds=seeds)
    begun = time.process_time()
    assert not run(SeedResource, seeds=seeds)["changed"]
    assert time.process_time() - begun < 0.5


@pytest.fixture
def guest(root: Path, run: Converge) -> Iterator[None]:
    """Run a QEMU, with no guest in it, that has the seed open and its pidfile in its place."""
    run(SeedResource, seeds=[SEED])
    pid = root / f"run/instances/{NAME}/{NAME}.pid"
    argv = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "none", "-S", "-pidfile", str(pid)]
    argv += ["-qmp", f"unix:{root}/qmp.sock,server=on,wait=off"]
    process = subprocess.Popen([*argv, "-drive", f"file={image_of(root)},format=raw,if=none,id=seed,readonly=on"])
    wait_for_qemu(root / "qmp.sock")
    yield
    process.terminate()
    process.wait()


def test_pending_restart_is_what_qemu_has_open(root: Path, run: Converge, guest: None) -> None:
    assert not run(SeedResource, seeds=[SEED])["results"][0]["restart_required"]
    other = {**SEED, "nics": [{**NIC, "mtu": 1400}]}
    for expected in (True, False, False):  # it stays pending until QEMU is restarted, however often this runs
        result = run(SeedResource, seeds=[other])
        assert result["changed"] is expected
        assert result["results"][0]["restart_required"] and "network-config" in result["results"][0]["restart_reason"]
    back = run(SeedResource, seeds=[SEED])
    assert back["changed"] and not back["results"][0]["restart_required"]


def test_rebuild_gives_a_new_instance_id(root: Path, run: Converge, guest: None) -> None:
    """The seed itself tells the next run which one it is."""
    for number, expected in enumerate(("iid-af95e879-2", "iid-af95e879-3")):
        check = run(SeedResource, check=True, seeds=[SEED], rebuild=[NAME])
        real = run(SeedResource, seeds=[SEED], rebuild=[NAME])
        entry = real["results"][0]
        assert check["commands"] == real["commands"] and check["after"] == real["after"]
        assert (entry["effect"], entry["instance_id"], entry["restart_required"]) == ("rebuild", expected, True)
        again = run(SeedResource, seeds=[SEED])
        assert not again["changed"] and again["results"][0]["instance_id"] == expected
        (root / f"run/instances/{NAME}/meta_data.cfg").unlink()
        if number:
            image_of(root).unlink()
        else:
            assert run(SeedResource, seeds=[SEED])["results"][0]["instance_id"] == expected  # either of the two will do


def test_user_data_alone_needs_no_restart(root: Path, run: Converge, guest: None) -> None:
    for expected in (True, False):
        result = run(SeedResource, seeds=[{**SEED, "user_data": {"packages": ["nginx"]}}])
        assert result["changed"] is expected and bool(result["warn"]) is expected
        assert not result["results"][0]["restart_required"]


def test_in_use_is_not_removed(root: Path, run: Converge, guest: None) -> None:
    assert run(SeedResource, check=True, seeds=[], purge=True)["warn"]
    assert "is in use by a running QEMU" in run(SeedResource, seeds=[], purge=True)["msg"]
    assert image_of(root).exists()


def test_owner(root: Path, run: Converge) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    check = run(SeedResource, check=True, seeds=[SEED], owner="daemon")
    assert check["commands"] == run(SeedResource, seeds=[SEED], owner="daemon")["commands"]
    folder = root / f"run/instances/{NAME}"
    image = image_of(root)
    assert (image.owner(), image.group(), image.stat().st_mode & 0o777) == ("root", "daemon", 0o640)
    assert (folder.owner(), (folder / "cloud_init.cfg").owner()) == ("daemon", "root")
    assert not run(SeedResource, seeds=[SEED], owner="daemon")["changed"]
    os.chown(folder, 0, 0)
    os.chown(image_of(root), 0, 0)
    mended = run(SeedResource, seeds=[SEED], owner="daemon")
    assert mended["results"][0]["reasons"] == [
        f"the folder {folder} has another mode or owner",
        f"{image} is not root's, for the group daemon to read",
    ]
    assert not run(SeedResource, seeds=[SEED], owner="daemon")["changed"]


OWNER = "daemon"


@pytest.fixture
def formerly(root: Path, run: Converge) -> Path:
    """Make a seed as one was until QEMU's user was given none any more: that user's own, in its second life."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    run(SeedResource, seeds=[SEED], owner=OWNER)
    run(SeedResource, seeds=[SEED], owner=OWNER, rebuild=[NAME])
    shutil.chown(image_of(root), OWNER, OWNER)
    return image_of(root)


def forge(root: Path, texts: dict[str, str]) -> None:
    """Do what QEMU's user can do to an image of its own: write over it."""
    folder = root / "forged"
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)
    made = root / "forged.img"
    subprocess.run(
        ["genisoimage", "-quiet", "-output", str(made), "-volid", "cidata", "-joliet", "-rock", str(folder)], check=True
    )
    command = [
        "setpriv",
        "--reuid",
        OWNER,
        "--regid",
        OWNER,
        "--clear-groups",
        "dd",
        f"of={image_of(root)}",
        "conv=notrunc",
        "status=none",
    ]
    for path in (root.parent, root):
        path.chmod(0o755)
    with made.open("rb") as stream:
        subprocess.run(command, check=True, stdin=stream)


def test_one_of_qemus_user_is_taken_over_while_it_runs(root: Path, run: Converge, formerly: Path) -> None:
    """The plan lists it, nothing restarts, and who has the former one open to write to it has no hold of the new
    one.
    """
    argv = [
        "qemu-system-x86_64",
        "-nodefaults",
        "-display",
        "none",
        "-machine",
        "none",
        "-S",
        "-qmp",
        f"unix:{root}/qmp.sock,server=on,wait=off",
    ]
    argv += [
        "-pidfile",
        str(root / f"run/instances/{NAME}/{NAME}.pid"),
        "-drive",
        f"file={formerly},format=raw,if=none,readonly=on",
    ]
    with formerly.open("r+b") as held, subprocess.Popen(argv) as process:
        try:
            wait_for_qemu(root / "qmp.sock")
            check = run(SeedResource, check=True, seeds=[SEED], owner=OWNER)
            real = run(SeedResource, seeds=[SEED], owner=OWNER)
            assert "msg" not in real and check["commands"] == real["commands"]
            (entry,) = real["results"]
            assert entry["reasons"] == [f"{formerly} is not root's, for the group {OWNER} to read"]
            assert (entry["instance_id"], entry["restart_required"], real["warn"]) == ("iid-af95e879-2", False, [])
            assert (formerly.owner(), formerly.group()) == ("root", OWNER)
            held.write(b"x" * 99999)
            again = run(SeedResource, seeds=[SEED], owner=OWNER)
            assert not again["changed"] and in_image(root)["meta-data"]["instance-id"] == "iid-af95e879-2"
        finally:
            process.terminate()


def test_qemus_user_reads_it_and_writes_nothing(root: Path, run: Converge, formerly: Path) -> None:
    run(SeedResource, seeds=[SEED], owner=OWNER)
    with pytest.raises(subprocess.CalledProcessError):
        forge(root, {"meta-data": "x"})
    subprocess.run(
        ["setpriv", "--reuid", OWNER, "--regid", OWNER, "--clear-groups", "head", "-c1", str(formerly)], check=True
    )


@pytest.mark.parametrize("marked", [True, False])
def test_a_forged_instance_id_is_not_believed(root: Path, run: Converge, formerly: Path, marked: bool) -> None:
    """Nor does what lacks our mark by now stop the other seeds of the node."""
    folder = root / f"run/instances/{NAME}"
    forge(root, {"meta-data": ("# ikcloud.compute seed x\n" if marked else "") + "instance-id: forged\n"})
    for text in ("net_1.cfg", *(() if marked else ("meta_data.cfg",))):
        (folder / text).unlink()
        (folder / text).write_text("instance-id: forged\n")
        shutil.chown(folder / text, OWNER, OWNER)
    real = run(SeedResource, seeds=[SEED, {**SEED, "name": "compute-00000002"}], owner=OWNER)
    assert "msg" not in real and image_of(root, "compute-00000002").exists()
    # Where nothing of root's tells it any more, it is what a new instance has.
    assert in_image(root)["meta-data"]["instance-id"] == ("iid-af95e879-2" if marked else "iid-af95e879")
    assert not run(SeedResource, seeds=[SEED], owner=OWNER)["changed"]


@pytest.mark.parametrize("content", ["empty", "noise", "pipe", "tebibyte"])
def test_whatever_is_in_its_place_is_made_anew(root: Path, run: Converge, formerly: Path, content: str) -> None:
    if content == "pipe":
        formerly.unlink()
        os.mkfifo(formerly)
        shutil.chown(formerly, OWNER, OWNER)
    else:
        formerly.write_bytes(os.urandom(1 << 20) if content == "noise" else b"")
        os.truncate(formerly, 1 << 40 if content == "tebibyte" else formerly.stat().st_size)
    began = time.monotonic()
    real = run(SeedResource, seeds=[SEED, {**SEED, "name": "compute-00000002"}], owner=OWNER)
    assert "msg" not in real and in_image(root)["meta-data"]["instance-id"] == "iid-af95e879-2"
    assert time.monotonic() - began < 10 and not run(SeedResource, seeds=[SEED], owner=OWNER)["changed"]
