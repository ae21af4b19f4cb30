# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each step does what its text says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._core.commands import run
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.steps import (
    MakeFolder,
    Remove,
    Run,
    Step,
    Symlink,
    Write,
    read_plain,
)


def test_write_is_what_install_does(tmp_path: Path) -> None:
    ours, typed = tmp_path / "one" / "a file", tmp_path / "two" / "a file"
    Write(str(ours), "text\n", 0o640).run()
    subprocess.run(["sh", "-c", Write(str(typed), "text\n", 0o640).text], input="text\n", text=True, check=True)
    assert (ours.read_text(), ours.stat().st_mode) == (typed.read_text(), typed.stat().st_mode)
    assert [path.name for path in ours.parent.iterdir()] == ["a file"]


def test_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ComputeError, match="can't be written"):
        Write(str(tmp_path / "folder"), "text").run()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("tree", [False, True])
def test_remove_of_what_is_gone(tmp_path: Path, tree: bool) -> None:
    step: Step = Remove(str(tmp_path / "gone"), tree)
    step.run()


def test_folder_and_removal(tmp_path: Path) -> None:
    MakeFolder(str(tmp_path / "a" / "b"), 0o750).run()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o750
    Remove(str(tmp_path / "a"), tree=True).run()
    assert not list(tmp_path.iterdir())


def test_a_link_takes_nobodys_place(tmp_path: Path) -> None:
    step = Symlink(str(tmp_path / "wants" / "a.service"), "/etc/systemd/system/a@.service")
    step.run()
    assert os.readlink(step.path) == step.target
    (tmp_path / "wants" / "b.service").write_text("somebody's")
    with pytest.raises(ComputeError, match=r"b\.service can't be made: File exists"):
        Symlink(str(tmp_path / "wants" / "b.service"), "/nowhere").run()
    assert (tmp_path / "wants" / "b.service").read_text() == "somebody's"


def test_no_shell() -> None:
    assert Run(("echo", "a b; $(id)")).text == "echo 'a b; $(id)'"
    with pytest.raises(ComputeError, match="not installed"):
        Run(("no-such-tool; true",)).run()
    with pytest.raises(ComputeError, match="failed with status 1"):
        Run(("false",)).run()
    with pytest.raises(ComputeError, match="did not end within"):
        Run(("sleep", "5"), timeout=0.1).run()


def test_reading_follows_no_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    assert read_plain(str(tmp_path / "secret")) == ("x", (tmp_path / "secret").stat().st_mode & 0o777)
    assert [read_plain(str(tmp_path / name)) for name in ("link", "pipe", "gone", ".")] == [None] * 4


def test_commands_get_nothing_of_roots_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of them become QEMU's user, who can read its processes' environment."""
    monkeypatch.setenv("TOKEN", "secret")
    assert "secret" not in run(["env"]).stdout
    assert {line.split("=")[0] for line in run(["env"]).stdout.splitlines()} <= {"LC_ALL", "PATH"}


def test_a_folder_of_thousands_in_one_another_is_removed(tmp_path: Path) -> None:
    """QEMU's user can make them; Python's own removal calls itself for each."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "start").touch()
    (tmp_path / "kept").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "kept")
    os.mkfifo(tmp_path / "folder" / "pipe")
    handle = os.open(tmp_path / "folder", os.O_RDONLY)
    for _level in range(1200):
        os.mkdir("d", dir_fd=handle)
        deeper = os.open("d", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = deeper
    os.close(handle)
    Remove(str(tmp_path / "folder"), tree=True).run()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
