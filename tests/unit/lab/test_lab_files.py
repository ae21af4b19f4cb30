# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab does with files: never outside of a root, never beside a run that is at work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import cache, host, tree
from lab.host import LabError, run


@pytest.mark.parametrize("name", ["/etc/passwd", "//etc/passwd", "../passwd", "etc/../../passwd", "link/passwd"])
def test_nothing_is_written_outside_of_a_root(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    for write in (
        lambda: tree.write(root, name, "x"),
        lambda: tree.link(root, name, "x"),
        lambda: tree.copy(root, name, Path(__file__)),
    ):
        with pytest.raises(LabError, match="outside"):
            write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "root/theirs").symlink_to(tmp_path / "mine")
    tree.write(tmp_path / "root", "theirs", "new", 0o600)
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "root/theirs").read_text() == "new"
    assert (tmp_path / "root/theirs").stat().st_mode & 0o777 == 0o600


@given(st.lists(st.text()), st.lists(st.text()))
def test_a_digest_tells_lists_apart(one: list[str], other: list[str]) -> None:
    assert (cache.digest(*one) == cache.digest(*other)) == (one == other)


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    def build(temp: Path, work: Path) -> None:
        temp.write_text("half")
        (work / "scratch").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.build_once(tmp_path / "images/a", tmp_path / "work/a", build)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    # What a kill leaves is removed by the next build, which starts afresh.
    (tmp_path / "images/a.tmp").write_text("half")
    assert cache.build_once(
        tmp_path / "images/a",
        tmp_path / "work/a",
        lambda temp, work: None if temp.exists() else (temp.write_text("whole"), None)[1],
    )
    assert (tmp_path / "images/a").read_text() == "whole"
    assert not cache.build_once(tmp_path / "images/a", tmp_path / "work/a", build)


def test_a_second_run_waits_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holder = (
        "import sys, time; from pathlib import Path; from lab import cache\nwith"
        f" cache.locked(Path({str(tmp_path / 'run/lock')!r}), 'x'):\n"
    )
    # The first removes its folder, as `down` does, so that the second must not be content with the lock of a removed
    # file.
    holder += (
        " import shutil; print('held', flush=True); time.sleep(0.5); shutil.rmtree(" + repr(str(tmp_path / "run")) + ")"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True, cwd=Path(host.__file__).parents[1]
    ) as first:
        assert first.stdout is not None and "held" in first.stdout.readline()
        began = time.monotonic()
        with cache.locked(tmp_path / "run/lock", "the test"):
            assert time.monotonic() - began > 0.3
            assert (tmp_path / "run/lock").exists()
    assert "another run is busy with the test" in capsys.readouterr().out


def test_what_a_killed_run_left_at_work_keeps_the_lock(tmp_path: Path) -> None:
    with cache.locked(tmp_path / "lock", "x"):
        assert len(host.inherited) == 1
        held = run(["readlink", f"/proc/self/fd/{host.inherited[0]}"]).strip()
    assert held == str(tmp_path / "lock")
    assert host.inherited == []


def test_a_command_does_not_outlive_us(tmp_path: Path) -> None:
    script = "import sys; from lab.host import run; run(['sh', '-c', 'echo $$ > pid; exec sleep 60'])"
    environment = {**os.environ, "PYTHONPATH": str(Path(host.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment) as parent:
        until = time.monotonic() + 10
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < until:
            time.sleep(0.02)
        pid = int((tmp_path / "pid").read_text())
        parent.kill()
    while (
        Path(f"/proc/{pid}").exists()
        and "sleep" in Path(f"/proc/{pid}/cmdline").read_text()
        and time.monotonic() < until
    ):
        time.sleep(0.02)
    assert time.monotonic() < until


def test_a_missing_program_is_a_sentence() -> None:
    with pytest.raises(LabError, match=r"^no-such-program is not installed$"):
        run(["no-such-program"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("me:100000:65536\n", True),
        ("1000:1:99999\n", True),
        ("you:100000:65536\n", False),
        ("me:1:1000\n", False),
        ("me\n\n:::\n", False),
    ],
)
def test_ranges_of_ids(tmp_path: Path, text: str, found: bool) -> None:
    (tmp_path / "subuid").write_text(text)
    assert host._has_range(tmp_path / "subuid", {"me", "1000"}) == found
    assert not host._has_range(tmp_path / "none", {"me"})
