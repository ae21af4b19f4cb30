# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes that a running QEMU has open."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.volumes import InstanceVolumeResource
from ansible_collections.ikcloud.compute.plugins.module_utils._core import execution
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._storage.made import Made, read_made
from storage_helpers import Converge, qemu_img, wait_for_qemu

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


@pytest.fixture
def guest(root: Path, run: Converge) -> Iterator[Path]:
    """Run a QEMU, with no guest in it, that has the volume open and a QMP socket in its place."""
    run(InstanceVolumeResource, volumes=[{"name": NAME, "size": "16M"}, {"name": "data-1", "size": "16M"}])
    folder = root / f"run/instances/{NAME}"
    folder.mkdir(parents=True)
    argv = [
        "qemu-system-x86_64",
        "-nodefaults",
        "-display",
        "none",
        "-machine",
        "none",
        "-S",
        "-qmp",
        f"unix:{folder}/qmp.sock,server=on,wait=off",
    ]
    argv += [
        "-drive",
        f"file={file_of(root)},format=qcow2,if=none,id=disk0",
        "-drive",
        f"file={file_of(root, 'data-1')},format=qcow2,if=none,id=disk1",
    ]
    process = subprocess.Popen(argv)
    wait_for_qemu(folder / "qmp.sock")
    yield folder
    process.terminate()
    process.wait()


def test_grows_under_a_running_qemu(root: Path, run: Converge, guest: Path) -> None:
    larger = [{"name": NAME, "size": "32M"}, {"name": "data-1", "size": "64M"}]
    check = run(InstanceVolumeResource, check=True, volumes=larger)
    real = run(InstanceVolumeResource, volumes=larger)
    assert check["commands"] == real["commands"] and "block_resize" in real["commands"][0]
    assert "msg" not in real and not any(entry["restart_required"] for entry in real["results"])
    assert info(file_of(root))["virtual-size"] == 32 << 20
    assert info(file_of(root, "data-1"))["virtual-size"] == 64 << 20
    if os.geteuid() == 0:
        assert read_made(str(file_of(root, "data-1"))) == Made(64 << 20)
    assert not run(InstanceVolumeResource, volumes=larger)["changed"]


def test_in_use_is_not_removed(root: Path, run: Converge, guest: Path) -> None:
    gone = [{"name": NAME}]
    check = run(InstanceVolumeResource, check=True, volumes=gone, state="absent")
    assert "in use by a running QEMU now" in check["warn"][0]
    before = states(root)
    for volumes, way_out in (
        (gone, "Stop or remove the instance first"),
        ([{"name": "data-1"}, {"name": "data-0"}], "detach it first"),
    ):
        run(InstanceVolumeResource, volumes=[{"name": "data-0", "size": "1M"}])
        with pytest.raises(ComputeError, match=f"is in use by a running QEMU; nothing was removed.*{way_out}"):
            run(InstanceVolumeResource, volumes=volumes, state="absent")
    assert before.items() <= states(root).items() and file_of(root, "data-0").exists()


@pytest.mark.parametrize("aside", [True, False])
def test_rebuild_under_a_running_qemu(root: Path, run: Converge, base: Path, guest: Path, aside: bool) -> None:
    """A new one from the image stands in its place; the former one is what QEMU goes on with, whole."""
    options: dict[str, Any] = {"rebuild": [NAME], "aside": aside, "aside_names": {NAME: "web-1"}}
    want = [{"name": NAME, "image": "small"}, {"name": "data-1", "size": "16M"}]
    with pytest.raises(ComputeError, match="stands on no image"):
        run(InstanceVolumeResource, volumes=want)
    data = file_of(root, "data-1").stat().st_ino
    check = run(InstanceVolumeResource, check=True, volumes=want, **options)
    real = run(InstanceVolumeResource, volumes=want, **options)
    assert "msg" not in real and check["commands"] == real["commands"]
    entry = real["results"][0]
    assert (entry["action"], entry["effect"], entry["restart_reason"]) == (
        "update",
        "rebuild",
        f"its disk {file_of(root)} was made anew",
    )
    assert info(file_of(root))["full-backing-filename"] == str(base)
    kept = sorted((root / "lib/volumes/kept").glob("*")) if aside else []
    assert [path.name.startswith(f"web-1-{NAME}-") for path in kept] == [True] * aside
    assert all("full-backing-filename" not in info(path) for path in kept)
    assert file_of(root, "data-1").stat().st_ino == data
    assert not run(InstanceVolumeResource, volumes=want)["changed"]
    assert run(InstanceVolumeResource, volumes=want, **options)["changed"]  # asked for once more


def test_rebuild_killed_between_any_two_steps(
    root: Path, run: Converge, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run, without the option, finds the former volume or makes the new one; the former one is never lost."""
    want = [{"name": NAME, "image": "small"}]
    options: dict[str, Any] = {"rebuild": [NAME], "aside": True}

    class Killed(BaseException):
        pass

    for number in range(20):
        run(InstanceVolumeResource, volumes=want)
        former = file_of(root).stat().st_ino
        left = number

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
                run(InstanceVolumeResource, volumes=want, **options)
            except Killed:
                pass
            else:
                assert number == 6
                return
        kept = [path.stat().st_ino for path in (root / "lib/volumes").glob("kept/*")]
        for path in (root / "lib/volumes").glob("kept/*"):
            path.rename(root / f"kept-{number}")  # the next one may have the same name, which has the time in seconds
        assert "msg" not in run(InstanceVolumeResource, volumes=want)
        assert not run(InstanceVolumeResource, volumes=want)["changed"]
        assert former in (file_of(root).stat().st_ino, *kept)
        assert not [name for name in os.listdir(root / "lib/volumes") if name.startswith(".")]
    pytest.fail("it never came to its end")


def test_locked_without_a_socket_asks_for_a_stop(root: Path, run: Converge, guest: Path) -> None:
    (guest / "qmp.sock").unlink()
    result = run(InstanceVolumeResource, volumes=[{"name": NAME, "size": "32M"}])
    assert not result["changed"]
    assert result["results"][0]["restart_required"]
    assert "stop the instance" in result["results"][0]["restart_reason"]


@pytest.mark.parametrize("seen", [True, False])
def test_a_qemu_that_says_that_it_has_anothers_disk_is_not_asked_to_grow_it(
    root: Path, run: Converge, seen: bool
) -> None:
    """The kernel knows who has it: the one that is asked is the one that has it, if need be before one of which nothing
    can be seen.
    """
    run(InstanceVolumeResource, volumes=[{"name": "data-1", "size": "16M"}])
    path = file_of(root, "data-1")
    argv = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "none", "-S"]
    processes, heard = [], []
    for name, disk in (("compute-00000001", file_of(root, "other")), ("compute-00000002", path)):
        folder = root / f"run/instances/{name}"
        folder.mkdir(parents=True)
        if disk == path or seen:
            socket_path = folder / ("qmp.sock" if disk == path else "real.sock")
            qemu = [*argv, "-qmp", f"unix:{socket_path},server=on,wait=off", "-pidfile", str(folder / f"{name}.pid")]
            qemu += ["-drive", f"file={disk},format=qcow2,if=none,id=disk1"] if disk == path else []
            processes.append(subprocess.Popen(qemu))
            wait_for_qemu(socket_path)
    liar = socket.socket(socket.AF_UNIX)
    liar.bind(str(root / "run/instances/compute-00000001/qmp.sock"))
    liar.listen()

    def lie() -> None:
        while True:
            try:
                client, _peer = liar.accept()
            except OSError:
                return
            with client:
                client.sendall(b'{"QMP": {}}\n')
                for line in client.makefile("rb"):
                    asked = json.loads(line)
                    heard.append(asked["execute"])
                    answer = (
                        [{"inserted": {"file": str(path), "node-name": "mine", "drv": "qcow2"}}]
                        if asked["execute"] == "query-block"
                        else {}
                    )
                    client.sendall(json.dumps({"return": answer, "id": asked["id"]}).encode() + b"\n")

    threading.Thread(target=lie, daemon=True).start()
    try:
        real = run(InstanceVolumeResource, volumes=[{"name": "data-1", "size": "32M"}])
        assert "msg" not in real and info(path)["virtual-size"] == 32 << 20 and heard == []
    finally:
        liar.shutdown(socket.SHUT_RDWR)
        liar.close()
        for process in processes:
            process.terminate()
            process.wait()
