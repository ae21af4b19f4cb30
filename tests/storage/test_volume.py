# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes on a real disk."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.volumes import InstanceVolumeResource
from ansible_collections.ikcloud.compute.plugins.module_utils._core import marks, steps
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._node.node import read_node
from ansible_collections.ikcloud.compute.plugins.module_utils._storage import qcow2
from ansible_collections.ikcloud.compute.plugins.module_utils._storage.image.resource import ImageResource
from ansible_collections.ikcloud.compute.plugins.module_utils._storage.volume import resource as volume_resource
from storage_helpers import Converge, by_hand, declare, qemu_img

NAME = "compute-af95e879"


def info(path: Path) -> dict[str, Any]:
    return dict(json.loads(qemu_img("info", "-U", "--output=json", "-f", "qcow2", str(path))))


def file_of(root: Path, name: str = NAME) -> Path:
    return root / f"lib/volumes/{name}.img"


def states(root: Path) -> dict[str, tuple[int, int]]:
    folder = root / "lib/volumes"
    return (
        {entry.name: (entry.stat().st_ino, entry.stat().st_mtime_ns) for entry in folder.iterdir()}
        if folder.exists()
        else {}
    )


def test_check_then_run_then_again(root: Path, run: Converge, base: Path) -> None:
    volumes = [
        {"name": NAME, "image": "small", "size": "1G"},
        {"name": "data-1", "size": "64M"},
        {"name": "whole", "image": "small", "copy": True, "size": "32M"},
    ]
    check = run(InstanceVolumeResource, check=True, volumes=volumes)
    assert not (root / "lib/volumes").exists()
    real = run(InstanceVolumeResource, volumes=volumes)
    assert "msg" not in real
    assert check["commands"] == real["commands"]
    assert check["after"] == real["after"]
    assert info(file_of(root))["virtual-size"] == 1 << 30
    assert info(file_of(root))["full-backing-filename"] == str(base)
    assert info(file_of(root))["backing-filename-format"] == "qcow2"
    assert "backing-filename" not in info(file_of(root, "whole"))
    assert info(file_of(root, "whole"))["virtual-size"] == 32 << 20
    assert file_of(root).stat().st_mode & 0o777 == 0o640
    before = states(root)
    assert sorted(before) == sorted(["compute-af95e879.img", "data-1.img", "whole.img"])
    for check_mode in (True, False):
        again = run(InstanceVolumeResource, check=check_mode, volumes=volumes)
        assert not again["changed"] and not again["commands"] and not again["diff"]
    assert states(root) == before


def test_many_of_a_kind_are_what_qemu_img_makes_of_each(
    root: Path, run: Converge, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process serves those that are the same; others have their own."""
    asked: list[str] = []
    run_command = steps.run

    def noting(argv: Any, *more: Any, **options: Any) -> Any:
        asked.append(argv[-1])
        return run_command(argv, *more, **options)

    monkeypatch.setattr(steps, "run", noting)
    volumes = [
        {"name": f"compute-0000000{number}", "image": "small", "size": size}
        for number, size in enumerate(("1G", "1G", "2G", "1G"))
    ]
    done = run(InstanceVolumeResource, volumes=[*volumes, {"name": "data-1", "size": "1G"}])
    assert "msg" not in done
    assert sorted(asked) == ["1G", "1G", "2G"]
    assert sum(command.startswith("qemu-img create") for command in done["commands"]) == 5
    contents = {volume["name"]: file_of(root, str(volume["name"])).read_bytes() for volume in volumes}
    for volume in volumes:
        path, size = file_of(root, str(volume["name"])), str(volume["size"])
        assert info(path)["full-backing-filename"] == str(base)
        qemu_img("check", "-q", str(path))
        by_itself = root / "by-itself"
        qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(by_itself), size)
        assert contents[str(volume["name"])] == by_itself.read_bytes()


def test_commands_of_a_bare_node_are_those_of_a_ready_one(root: Path, run: Converge) -> None:
    volumes = [{"name": NAME, "image": "small", "size": "1G"}]
    bare = run(InstanceVolumeResource, check=True, volumes=volumes)
    (root / "lib/images").mkdir(parents=True)
    (root / "lib/volumes").mkdir()
    qemu_img("create", "-f", "qcow2", str(root / "lib/images/small.img"), "16M")
    assert run(InstanceVolumeResource, check=True, volumes=volumes)["commands"] == bare["commands"]
    assert run(InstanceVolumeResource, volumes=volumes)["commands"] == bare["commands"]


def test_a_size_is_written_as_people_write_it(root: Path, run: Converge, base: Path) -> None:
    """What qemu-img does not take by itself, when it is made and when it grows."""
    assert base.exists()
    for size, mebibytes in (("64 MiB", 64), ("0.125GB", 128), ("128MiB", 128)):
        volumes = [
            {"name": "data-1", "size": size},
            {"name": NAME, "image": "small", "size": size},
            {"name": "whole", "image": "small", "copy": True, "size": size},
        ]
        run(InstanceVolumeResource, volumes=volumes)
        assert {info(file_of(root, name))["virtual-size"] for name in ("data-1", NAME, "whole")} == {mebibytes << 20}
        assert not run(InstanceVolumeResource, volumes=volumes)["changed"]


def test_a_copy_of_the_images_own_size(root: Path, run: Converge) -> None:
    volumes = [{"name": NAME, "image": "small", "size": "16M", "copy": True}]
    bare = run(InstanceVolumeResource, check=True, volumes=volumes)
    (root / "lib/images").mkdir(parents=True)
    qemu_img("create", "-f", "qcow2", str(root / "lib/images/small.img"), "16M")
    assert run(InstanceVolumeResource, volumes=volumes)["commands"] == bare["commands"]


def test_by_hand(root: Path, run: Converge, base: Path, tmp_path: Path) -> None:
    """What is listed, typed into a shell, makes what the module makes."""
    volumes = [
        {"name": NAME, "image": "small", "size": "1G"},
        {"name": "whole", "image": "small", "copy": True, "size": "32M"},
    ]
    by_hand(run(InstanceVolumeResource, check=True, volumes=volumes)["commands"], tmp_path)
    assert not run(InstanceVolumeResource, volumes=volumes)["changed"]


def test_grows_and_never_shrinks(root: Path, run: Converge, base: Path) -> None:
    run(InstanceVolumeResource, volumes=[{"name": NAME, "image": "small", "size": "1G"}])
    larger = [{"name": NAME, "image": "small", "size": "2G"}]
    check = run(InstanceVolumeResource, check=True, volumes=larger)
    real = run(InstanceVolumeResource, volumes=larger)
    assert check["commands"] == real["commands"] == [f"qemu-img resize -q -f qcow2 {file_of(root)} 2G"]
    assert real["results"][0]["reasons"] == ["size is 1G, declared 2G"]
    assert info(file_of(root))["virtual-size"] == 2 << 30
    for absurd, words in (("1G", "has 2G, declared is 1G: a volume never shrinks"), ("1536M", "declared is 1536M")):
        with pytest.raises(ComputeError, match=words):
            run(InstanceVolumeResource, volumes=[{"name": NAME, "image": "small", "size": absurd}])


def test_smaller_than_its_image_changes_nothing(root: Path, run: Converge, base: Path) -> None:
    with pytest.raises(ComputeError, match="size 8M is smaller than its image small, which has 16M"):
        run(
            InstanceVolumeResource,
            volumes=[{"name": "data-1", "size": "8M"}, {"name": NAME, "image": "small", "size": "8M"}],
        )
    assert states(root) == {}


def test_missing_image_is_one_error_before_any_change(root: Path, run: Converge) -> None:
    with pytest.raises(
        ComputeError,
        match=r"its image .*/lib/images/small\.img is not there; put it there first with ikcloud\.compute\.image",
    ):
        run(
            InstanceVolumeResource,
            volumes=[{"name": "data-1", "size": "8M"}, {"name": NAME, "image": "small", "size": "1G"}],
        )
    assert states(root) == {}


def test_another_base_is_refused(root: Path, run: Converge, base: Path) -> None:
    qemu_img("create", "-f", "qcow2", str(root / "lib/images/other.img"), "16M")
    run(InstanceVolumeResource, volumes=[{"name": NAME, "image": "small"}])
    for declared in ({"image": "other"}, {"size": "16M"}, {"image": "small", "copy": True}):
        with pytest.raises(ComputeError, match=r"stands on .*small\.img.*ikcloud\.compute\.rebuild"):
            run(InstanceVolumeResource, volumes=[{"name": NAME, **declared}])
    with pytest.raises(ComputeError, match="image_format raw"):
        run(InstanceVolumeResource, volumes=[{"name": NAME, "image": "small", "image_format": "raw"}])


@pytest.mark.parametrize(
    ("feature", "words"),
    [("data_file", "data stand in another file"), ("corrupt", "marked as corrupt.*qemu-img check")],
)
def test_a_volume_that_a_guest_may_not_have_is_refused(
    root: Path, run: Converge, base: Path, feature: str, words: str
) -> None:
    run(InstanceVolumeResource, volumes=[{"name": "data-1", "size": "16M"}])
    path = file_of(root, "data-1")
    if feature == "data_file":
        qemu_img("create", "-f", "qcow2", "-o", f"data_file={root / 'other'},data_file_raw=on", str(path), "16M")
    else:
        data = bytearray(path.read_bytes())
        data[79] |= 1 << 1  # docs/interop/qcow2.txt, "incompatible_features"
        path.write_bytes(data)
    before = states(root)
    for size in ("16M", "32M"):
        with pytest.raises(ComputeError, match=words):
            run(InstanceVolumeResource, volumes=[{"name": "data-1", "size": size}, {"name": NAME, "image": "small"}])
    assert states(root) == before
    assert run(InstanceVolumeResource, volumes=[{"name": "data-1"}], state="absent")["changed"]


def test_a_volume_that_changes_at_the_last_moment_is_not_resized(root: Path, run: Converge) -> None:
    item = {"name": "data-1", "size": "16M"}
    run(InstanceVolumeResource, volumes=[item])
    kind = declare(InstanceVolumeResource, root=str(root), owner="", volumes=[{**item, "size": "32M"}])
    change = kind.change(kind.params["volumes"][0], kind.observe([kind.params["volumes"][0]])["data-1"])
    secret = root / "secret"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={secret},data_file_raw=on", str(file_of(root, "data-1")), "16M")
    with pytest.raises(ComputeError, match="changed meanwhile"):
        change.steps[0].run()
    assert secret.stat().st_size == 16 << 20


def test_a_disk_that_others_name_is_read_only_where_it_is_a_plain_file(root: Path, tmp_path: Path) -> None:
    real = tmp_path / "there"
    (real / "folder").mkdir(parents=True)
    linked = root / "linked"
    linked.symlink_to(real)
    disk = real / "disk.img"
    qemu_img("create", "-f", "qcow2", str(disk), "16M")
    assert qcow2.read_untrusted(str(disk), str(root))[0].virtual_size == 16 << 20
    # The root itself may be a link; below it none is followed, nor elsewhere.
    assert qcow2.read_untrusted(f"{linked}/disk.img", str(linked))[1] == disk.stat().st_blocks * 512
    os.mkfifo(real / "pipe")
    (real / "link").symlink_to(disk)
    (real / "folder/parent").symlink_to(real)
    refused = [linked / "disk.img", real / "pipe", real / "link", real / "folder/parent/disk.img", real / "folder"]
    for path in [*refused, Path("/dev/zero"), Path("/proc/self/status")]:
        with pytest.raises(OSError, match=r"no plain file|Too many levels"):
            qcow2.read_untrusted(str(path), str(root))
    for name in ("", "disk.img", "nbd://192.0.2.1", "json:{}", f"{real}/../there/disk.img"):
        with pytest.raises(OSError, match=r"no plain file|No such file"):
            qcow2.read_untrusted(name, str(root))


def test_a_base_of_another_format_is_refused(root: Path, run: Converge, base: Path) -> None:
    with pytest.raises(ComputeError, match="is qcow2, declared is image_format raw"):
        run(InstanceVolumeResource, volumes=[{"name": NAME, "image": "small", "image_format": "raw"}])


def test_raw_base(root: Path, run: Converge) -> None:
    image = root / "lib/images/plain.img"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"\0" * (1 << 20))
    run(InstanceVolumeResource, volumes=[{"name": NAME, "image": "plain", "image_format": "raw", "size": "2M"}])
    assert info(file_of(root))["backing-filename-format"] == "raw"
    assert not run(
        InstanceVolumeResource, volumes=[{"name": NAME, "image": "plain", "image_format": "raw", "size": "2M"}]
    )["changed"]


def test_foreign_files_are_left_alone(root: Path, run: Converge) -> None:
    folder = root / "lib/volumes"
    folder.mkdir(parents=True)
    qemu_img("create", "-f", "qcow2", str(folder / "precious.img"), "16M")
    qemu_img("create", "-f", "qcow2", str(folder / "compute-00000001.img"), "16M")
    (folder / "compute-00000002.img").symlink_to(folder / "precious.img")
    (folder / "notes.txt").write_text("mine")
    run(InstanceVolumeResource, volumes=[{"name": NAME, "size": "16M"}])
    purged = run(InstanceVolumeResource, volumes=[], purge=True)
    assert [entry["name"] for entry in purged["results"]] == [NAME]
    assert sorted(path.name for path in folder.iterdir()) == [
        "compute-00000001.img",
        "compute-00000002.img",
        "notes.txt",
        "precious.img",
    ]
    with pytest.raises(ComputeError, match="did not make"):
        run(InstanceVolumeResource, volumes=[{"name": "precious", "size": "16M"}])
    with pytest.raises(ComputeError, match="did not make"):
        run(InstanceVolumeResource, volumes=[{"name": "compute-00000002", "size": "16M"}])
    assert not run(InstanceVolumeResource, volumes=[{"name": "precious"}], state="absent")["changed"]


def test_brought_back_from_a_backup(root: Path, run: Converge) -> None:
    """A copy without attributes is taken for ours where its name can only be ours; it is marked again."""
    run(InstanceVolumeResource, volumes=[{"name": NAME, "size": "16M"}])
    os.removexattr(file_of(root), marks.MARK)
    again = run(InstanceVolumeResource, volumes=[{"name": NAME, "size": "16M"}])
    assert again["results"][0]["reasons"] == ["it has lost its mark"]
    assert not run(InstanceVolumeResource, volumes=[{"name": NAME, "size": "16M"}])["changed"]


def test_killed_in_the_middle(root: Path, run: Converge, base: Path) -> None:
    hidden = root / f"lib/volumes/.{NAME}.img.new"
    hidden.parent.mkdir(parents=True)
    hidden.write_bytes(b"half of one")
    run(InstanceVolumeResource, volumes=[{"name": NAME, "image": "small", "size": "1G"}])
    assert info(file_of(root))["virtual-size"] == 1 << 30
    assert not hidden.exists()
    hidden.write_bytes(b"half of one")
    assert run(InstanceVolumeResource, volumes=[{"name": NAME, "image": "small"}])["changed"]
    assert not hidden.exists()
    (root / "lib/volumes/.other.img.new").write_bytes(b"half of one")
    run(InstanceVolumeResource, volumes=[{"name": NAME, "image": "small"}], purge=True)
    assert list(states(root)) == [f"{NAME}.img"]


def test_failed_command_leaves_nothing(root: Path, run: Converge, base: Path) -> None:
    base.chmod(0o644)
    data = bytearray(base.read_bytes())
    data[36:40] = b"\xff" * 4  # an L1 table of absurd size (docs/interop/qcow2.txt): qemu-img refuses it
    base.write_bytes(data)
    failed = run(
        InstanceVolumeResource,
        volumes=[{"name": NAME, "image": "small", "copy": True}, {"name": "data-1", "size": "8M"}],
    )
    assert f"volume {NAME}: `qemu-img convert" in failed["msg"] and "1 other change was made" in failed["msg"]
    assert list(states(root)) == ["data-1.img"]


def test_full_disk_leaves_nothing_half_made(
    root: Path, run: Converge, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base.chmod(0o644)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 8M", str(base)], check=True, capture_output=True)
    folder = root / "lib/volumes"
    folder.mkdir(parents=True)
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
        != 0
    ):
        pytest.skip("a small disk can be mounted by root only")
    try:
        with pytest.raises(ComputeError, match=r"needs 8\.\d MiB, .*/lib/volumes has 2\.0 MiB free"):
            run(InstanceVolumeResource, volumes=[{"name": NAME, "image": "small", "copy": True}])
        assert states(root) == {}
        # Somebody else fills it after that was asked.
        monkeypatch.setattr(volume_resource, "copy_size", lambda *_: 0)
        failed = run(InstanceVolumeResource, volumes=[{"name": NAME, "image": "small", "copy": True}])
        assert f"volume {NAME}: " in failed["msg"] and "No space left on device" in failed["msg"]
        assert states(root) == {}
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_base_of_a_volume_stays(root: Path, run: Converge) -> None:
    run(InstanceVolumeResource, volumes=[{"name": "data-1", "size": "16M"}])
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", "data-1.img", str(file_of(root, "snapshot")))
    refused = run(InstanceVolumeResource, volumes=[{"name": "data-1"}], state="absent")
    assert "is the base of" in refused["msg"] and "snapshot.img" in refused["msg"]
    assert file_of(root, "data-1").exists()


def test_without_extended_attributes(root: Path, run: Converge, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    monkeypatch.setattr(os, "getxattr", unsupported)
    run(InstanceVolumeResource, volumes=[{"name": "data-1", "size": "16M"}])
    assert (root / "lib/volumes/.data-1.img.marks").exists()
    assert not run(InstanceVolumeResource, volumes=[{"name": "data-1", "size": "16M"}])["changed"]
    run(InstanceVolumeResource, volumes=[], purge=True)
    assert states(root) == {}


def test_hundred_volumes_read_quickly(root: Path, run: Converge, base: Path) -> None:
    volumes = [{"name": f"data-{number}", "image": "small"} for number in range(40)]
    run(InstanceVolumeResource, volumes=volumes)
    begun = time.process_time()
    assert not run(InstanceVolumeResource, volumes=volumes)["changed"]
    assert time.process_time() - begun < 0.5


def test_owner(root: Path, run: Converge, base: Path) -> None:
    """As root everything goes to QEMU's user; another owner is set right again."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    volumes = [{"name": NAME, "image": "small"}]
    real = run(InstanceVolumeResource, volumes=volumes, owner="daemon")
    hidden = f"{root}/lib/volumes/.{NAME}.img.new"
    assert f"install -D -m 0640 /dev/stdin {hidden}" == real["commands"][0]
    assert f"chown daemon:daemon {hidden}" == real["commands"][-2]
    assert file_of(root).owner() == "daemon" and file_of(root).group() == "daemon"
    assert not run(InstanceVolumeResource, volumes=volumes, owner="daemon")["changed"]
    os.chown(file_of(root), 0, 0)
    assert run(InstanceVolumeResource, volumes=volumes, owner="daemon")["results"][0]["reasons"] == [
        "owner is not daemon"
    ]
    assert file_of(root).owner() == "daemon"


def test_user_that_is_not_there_yet(root: Path, run: Converge) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    assert run(InstanceVolumeResource, check=True, volumes=[{"name": NAME, "size": "16M"}], owner="no-such-user")[
        "changed"
    ]
    with pytest.raises(
        ComputeError,
        match=r"There is no user 'no-such-user' on this node\. The role ikcloud\.compute\.prepare makes it\.",
    ):
        run(InstanceVolumeResource, volumes=[{"name": NAME, "size": "16M"}], owner="no-such-user")
    assert states(root) == {}


def test_without_root(root: Path, run: Converge, base: Path) -> None:
    """Somebody else works in a folder of their own, and gives nothing away."""
    if os.geteuid() != 0:
        pytest.skip("the other tests are without root already")
    os.chmod(root.parent, 0o755)
    for folder in (root, root / "lib"):
        os.chown(folder, 65534, 65534)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            done = run(InstanceVolumeResource, volumes=[{"name": NAME, "image": "small"}], owner="daemon")
            again = run(InstanceVolumeResource, volumes=[{"name": NAME, "image": "small"}], owner="daemon")
            status = 0 if done["changed"] and "msg" not in done and not again["changed"] else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert file_of(root).stat().st_uid == 65534


def test_kept_aside(run: Converge, root: Path, base: Path) -> None:
    name = "compute-af95e879"
    run(InstanceVolumeResource, volumes=[{"name": name, "image": "small"}, {"name": "data-1", "size": "1M"}])
    options = {"volumes": [], "purge": True, "spare": ["data-1"], "aside": True, "aside_names": {name: "web-1"}}
    predicted = run(InstanceVolumeResource, check=True, **options)
    assert (root / f"lib/volumes/{name}.img").exists()
    done = run(InstanceVolumeResource, **options)
    assert done["commands"] == predicted["commands"] and done["commands"][1].endswith(
        f"kept/web-1-{name}-$(date -u +%Y%m%dT%H%M%SZ).img"
    )
    kept = list((root / "lib/volumes/kept").glob("*.img"))
    assert len(kept) == 1 and kept[0].name.startswith(f"web-1-{name}-20") and str(kept[0]) in " ".join(done["warn"])
    assert (root / "lib/volumes/data-1.img").exists()
    assert not run(InstanceVolumeResource, **options)["changed"]
    # Its image can't go from under it.
    marks.write_mark(str(base), marks.MARK, "image/small")
    refused = run(ImageResource, images=[{"name": "small"}], state="absent")
    assert "kept/web-1" in refused["msg"]
    assert base.exists()
    assert "remove_kept" not in options
    gone = run(InstanceVolumeResource, check=True, volumes=[], purge=True, remove_kept=True)
    assert gone["commands"][-1] == f"rm -f {kept[0]}; rmdir {kept[0].parent}"
    assert run(InstanceVolumeResource, volumes=[], purge=True, remove_kept=True)["commands"] == gone["commands"]
    assert not (root / "lib/volumes/kept").exists()
    with pytest.raises(ComputeError, match="aside_names"):
        run(InstanceVolumeResource, volumes=[], purge=True, aside_names={name: "../x"})


@pytest.mark.parametrize("attributes", [True, False])
def test_of_those_kept_aside_only_ours_are_removed(
    run: Converge, root: Path, monkeypatch: pytest.MonkeyPatch, attributes: bool
) -> None:
    """Also where marks are files beside; a rescued disk that a person has put there stays, with the mark of the volume
    that it is a copy of, too.
    """
    if not attributes:

        def unsupported(*_arguments: object) -> bytes:
            raise OSError(errno.ENOTSUP, "not supported")

        monkeypatch.setattr(os, "getxattr", unsupported)
        monkeypatch.setattr(os, "setxattr", unsupported)
    volumes = ["compute-af95e879", "data-1", "data-2"]
    run(InstanceVolumeResource, volumes=[{"name": name, "size": "1M"} for name in volumes])
    kept = root / "lib/volumes/kept"
    kept.mkdir()
    subprocess.run(["cp", "--preserve=all", str(file_of(root, "data-1")), str(kept / "rescued.img")], check=True)
    (kept / "data-1-20260101T000000Z.img").write_bytes(b"named as ours are")
    (kept / "folder").mkdir()
    # A disk that was restored without its mark is kept with one.
    marks.forget_marks(str(file_of(root)))
    if attributes:
        os.removexattr(file_of(root), marks.MARK)
    run(
        InstanceVolumeResource,
        volumes=[{"name": volumes[0], "size": "1M"}],
        rebuild=[volumes[0]],
        purge=True,
        aside=True,
    )
    assert len(list(kept.iterdir())) == (6 if attributes else 9)
    left = {"rescued.img", "data-1-20260101T000000Z.img", "folder"}
    for check in (True, False):
        done = run(InstanceVolumeResource, check=check, volumes=[], purge=True, remove_kept=True)
        assert "msg" not in done and done["commands"][-1].startswith("rm -f ")
        (said,) = [line for line in done["warn"] if "does not bear our mark" in line]
        assert all(name in said for name in (*left, str(kept))) and "Z.img, folder, rescued.img in" in said
        assert (len(list(kept.iterdir())) > len(left)) is check
    assert {path.name for path in kept.iterdir()} == left
    again = run(InstanceVolumeResource, volumes=[], purge=True, remove_kept=True)
    assert not again["changed"] and "rescued.img" in again["warn"][0]
    for name in left - {"folder"}:
        (kept / name).unlink()
    (kept / "folder").rmdir()
    assert run(InstanceVolumeResource, volumes=[], purge=True, remove_kept=True)["changed"] and not kept.exists()


@pytest.mark.parametrize(
    "done", ["mark taken off", "mark of another", "no header", "half a header", "data elsewhere", "empty"]
)
@pytest.mark.parametrize("name", ["data-1", "compute-af95e879"])
def test_what_qemus_user_does_to_its_volume_stops_no_other(root: Path, run: Converge, done: str, name: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    mine, other = {"name": name, "size": "1M"}, {"name": "data-2", "size": "1M"}
    run(InstanceVolumeResource, volumes=[mine], owner="daemon")
    path = root / f"lib/volumes/{name}.img"
    if done.startswith("mark"):
        os.removexattr(path, marks.MARK) if done.endswith("off") else os.setxattr(path, marks.MARK, b"volume/data-2")
    else:
        header = bytearray(path.read_bytes()[:4096])
        header[79] |= (
            4 if done == "data elsewhere" else 0
        )  # the last byte of the incompatible features: an external data file
        path.write_bytes(
            {"no header": b"x" * 4096, "half a header": b"QFI\xfb\xff", "data elsewhere": bytes(header), "empty": b""}[
                done
            ]
        )
    for check in (True, False):
        result = run(InstanceVolumeResource, volumes=[mine, other], owner="daemon", check=check)
        errors = {entry["name"]: entry.get("error", "") for entry in result["results"]}
        if name.startswith("compute-") and done.startswith("mark"):
            assert "msg" not in result  # whose disk it is, its name says
            continue
        assert f"volume {name}: {path} " in errors[name] and "QEMU's user" in result["msg"]
        assert errors["data-2"] == "" and "qemu-img create" in " ".join(result["commands"])
    assert (root / "lib/volumes/data-2.img").exists()
    run(InstanceVolumeResource, volumes=[], purge=True, owner="daemon")
    if done == "mark taken off" and name == "data-1":
        assert path.exists()  # nothing that does not bear our mark is removed


def forge(path: Path, done: str) -> None:
    """Write into a disk's header as its owner can."""
    if done == "larger":
        with path.open("r+b") as stream:
            stream.seek(24)  # docs/interop/qcow2.txt, "size"
            stream.write((1 << 50).to_bytes(8, "big"))
    else:
        base = {
            "another file": "/etc/hostname",
            "another image": str(path.parents[1] / "images/other.img"),
            "no base": "",
        }[done]
        qemu_img("rebase", "-u", "-f", "qcow2", "-b", base, *(("-F", "raw") if base else ()), str(path))


@pytest.mark.parametrize("done", ["larger", "another file", "another image", "no base"])
def test_what_qemus_user_writes_into_its_volumes_header_stops_no_other(
    root: Path, run: Converge, base: Path, done: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    mine, other = {"name": NAME, "image": "small", "size": "32M"}, {"name": "data-2", "size": "1M"}
    run(InstanceVolumeResource, volumes=[mine], owner="daemon")
    path = file_of(root)
    forge(path, done)
    before = path.read_bytes()
    wanted = {
        "larger": "it has 1024T, and it was made with 32M",
        "another file": f"it stands on /etc/hostname, and it was made on {base}",
        "another image": f"it stands on {root}/lib/images/other.img, and it was made on {base}",
        "no base": f"it stands on no image, and it was made on {base}",
    }[done]
    for check in (True, False):
        result = run(InstanceVolumeResource, volumes=[mine, other], owner="daemon", check=check)
        errors = {entry["name"]: entry.get("error", "") for entry in result["results"]}
        assert f"volume {NAME}: {path} says that {wanted}" in errors[NAME] and "QEMU's user" in errors[NAME]
        assert errors["data-2"] == "" and "qemu-img create" in " ".join(result["commands"])
    assert path.read_bytes() == before and (root / "lib/volumes/data-2.img").exists()
    # The plan is made from what root knows.
    assert read_node(Layout(str(root)))["volumes"][NAME]["virtual_size"] == 32 << 20
    # What is declared otherwise is refused before anything is changed, whatever the header says.
    for wrong, words in (
        ({"size": "16M"}, "a volume never shrinks"),
        ({"image": "other"}, rf"stands on {base}, declared is .*other\.img"),
    ):
        with pytest.raises(ComputeError, match=words):
            run(InstanceVolumeResource, volumes=[{**mine, **wrong}, {"name": "data-3", "size": "1M"}], owner="daemon")
    assert not (root / "lib/volumes/data-3.img").exists()
    # The way out that is advised.
    run(InstanceVolumeResource, volumes=[mine], owner="daemon", rebuild=[NAME])
    assert not run(InstanceVolumeResource, volumes=[mine], owner="daemon")["changed"]


def test_what_a_volume_was_made_as_grows_with_it(root: Path, run: Converge) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    root.parent.chmod(0o755)
    for size in ("16M", "32M"):
        assert "msg" not in run(InstanceVolumeResource, volumes=[{"name": "data-1", "size": size}], owner="daemon")
    with pytest.raises(ComputeError, match="has 32M, declared is 24M: a volume never shrinks"):
        run(InstanceVolumeResource, volumes=[{"name": "data-1", "size": "24M"}], owner="daemon")
    qemu_img("resize", "-f", "qcow2", str(file_of(root, "data-1")), "64M")
    refused = run(InstanceVolumeResource, volumes=[{"name": "data-1", "size": "32M"}], owner="daemon")
    assert "If you have grown it by hand, declare 64M." in refused["msg"]
    assert not run(InstanceVolumeResource, volumes=[{"name": "data-1", "size": "64M"}], owner="daemon")["changed"]


def test_a_volume_that_was_flattened_by_hand_is_what_is_declared(root: Path, run: Converge, base: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    run(InstanceVolumeResource, volumes=[{"name": NAME, "image": "small"}], owner="daemon")
    qemu_img("rebase", "-f", "qcow2", "-b", "", str(file_of(root)))
    assert not run(InstanceVolumeResource, volumes=[{"name": NAME, "image": "small", "copy": True}], owner="daemon")[
        "changed"
    ]


def test_where_it_can_t_be_written_down_the_header_is_believed(
    root: Path, run: Converge, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    write = os.setxattr

    def denied(path: Any, name: str, *values: Any) -> None:
        if name.startswith("trusted."):  # as in a container of a user namespace
            raise PermissionError(1, "not permitted")
        write(path, name, *values)

    monkeypatch.setattr(os, "setxattr", denied)
    item = {"name": "data-1", "size": "16M"}
    run(InstanceVolumeResource, volumes=[item], owner="daemon")
    assert not run(InstanceVolumeResource, volumes=[item], owner="daemon")["changed"]
    forge(file_of(root, "data-1"), "larger")
    with pytest.raises(ComputeError, match="has 1024T, declared is 16M"):
        run(InstanceVolumeResource, volumes=[item], owner="daemon")
