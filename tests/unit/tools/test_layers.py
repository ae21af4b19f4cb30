# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layers of tests: a pass counts as long as nothing that the layer depends on has changed, and what fails is never
counted as passed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import layers
from layer_table import LAYERS, Layer, Mode
from passed import Passes

ONE = Layer("one", "a test", (("true",),), ("code",))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a file that the layer depends on, and one beside it."""
    made = tmp_path / "project"
    (made / "code").mkdir(parents=True)
    (made / "code" / "file").write_text("one")
    (made / "other").write_text("one")
    git(made, "init", "--quiet")
    git(made, "add", ".")
    git(made, "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "--quiet", "-m", "x")
    return made


@pytest.fixture
def passes(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Passes:
    """The record of that repository; the runner runs there."""
    made = Passes(project, tmp_path / "record")
    monkeypatch.setattr(layers, "passes", made)
    monkeypatch.setattr(layers, "PROJECT", project)
    return made


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def test_a_pass_counts_until_what_the_layer_depends_on_changes(project: Path, passes: Passes) -> None:
    assert passes.current(ONE) is None
    passes.add(ONE, 3, 1, 2.0)
    found = passes.current(ONE)
    assert found is not None and (found.passed, found.skipped) == (3, 1) and not found.commit.endswith("+")
    (project / "other").write_text("two")
    assert passes.current(ONE) == found
    (project / "code" / "file").write_text("two")
    assert passes.current(ONE) is None and passes.last(ONE) == found
    (project / "code" / "file").write_text("one")
    assert passes.current(ONE) == found


@pytest.mark.parametrize("change", ["added", "removed", "mode", "renamed"])
def test_any_change_of_a_file_counts(project: Path, passes: Passes, change: str) -> None:
    passes.add(ONE, 1, 0, 1.0)
    file = project / "code" / "file"
    if change == "added":
        (project / "code" / "new").write_text("")
    elif change == "removed":
        file.unlink()
    elif change == "mode":
        file.chmod(0o755)
    else:
        file.rename(file.with_name("another"))
    assert passes.current(ONE) is None


def test_another_command_or_setting_is_another_layer(passes: Passes) -> None:
    passes.add(ONE, 1, 0, 1.0)
    assert passes.current(Layer("one", "a test", (("true", "x"),), ("code",))) is None
    assert passes.current(Layer("one", "a test", (("true",),), ("code",), whole={"A": "1"})) is None


def test_a_commit_with_changes_is_marked(project: Path, passes: Passes) -> None:
    (project / "code" / "file").write_text("two")
    passes.add(ONE, 1, 0, 1.0)
    found = passes.current(ONE)
    assert found is not None and found.commit.endswith("+")


def test_what_has_passed_is_not_run_again_and_what_fails_is_not_recorded(
    project: Path, passes: Passes, capsys: pytest.CaptureFixture[str]
) -> None:
    good = Layer("good", "it passes", (("sh", "-c", "echo x >>ran"),), ("code",))
    bad = Layer("bad", "it fails", (("false",), ("true",)), ("code",))
    for _time in range(2):
        assert layers.run_layers([good, bad], Mode.ALL, again=False) == 1
        assert capsys.readouterr().out.splitlines()[-1] == "2 passed, 1 failed, 0 skipped"
    assert (project / "ran").read_text() == "x\n"
    assert passes.current(bad) is None
    layers.run_layers([good], Mode.ALL, again=True)
    assert (project / "ran").read_text() == "x\nx\n"


def test_a_short_round_and_a_part_are_not_recorded(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer(
        "one", "a test", (("true",),), ("code",), short=lambda: {"IKCLOUD_POINTS": "1"}, knobs=("IKCLOUD_POINTS",)
    )
    layers.run(layer, Mode.SHORT)
    monkeypatch.setenv("IKCLOUD_POINTS", "1-9")
    layers.run(layer, Mode.ALL)
    assert passes.current(layer) is None
    monkeypatch.setenv("IKCLOUD_POINTS", "")
    layers.run(layer, Mode.ALL)
    assert passes.current(layer) is not None
    same = Layer("two", "a test whose short round is all of it", (("true",),), ("code",))
    layers.run(same, Mode.SHORT)
    assert passes.current(same) is not None


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("IKCLOUD_POINTS", ("", "50", "50-60", "1-999/8", "1-8,50"), ("zz", "1-", "1/3", "0", "5-9/")),
        ("IKCLOUD_PAIRS", ("", "20"), ("x", "0", "-1", "1.5")),
        ("IKCLOUD_PART", ("", "1/3"), ("1", "1/0", "a/b")),
    ],
)
def test_what_no_test_could_read_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, name: str, good: tuple[str, ...], bad: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "argv", ["layers.py", "--table"])
    for value in good:
        monkeypatch.setenv(name, value)
        assert layers.main() == 0
    for value in bad:
        monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit):
            layers.main()


def test_pytest_is_counted_by_its_tests_and_a_failure_beside_them_counts(project: Path, passes: Passes) -> None:
    tally = 'echo "3 0 1" >"$IKCLOUD_TALLY"'
    counts = layers.run(Layer("a", "tests", (("sh", "-c", tally),), ("code",)), Mode.ALL)
    assert (counts.passed, counts.failed, counts.skipped) == (3, 0, 1)
    counts = layers.run(Layer("b", "tests", (("sh", "-c", f"{tally}; exit 1"),), ("code",)), Mode.ALL)
    assert (counts.passed, counts.failed, counts.skipped) == (3, 1, 1)


def test_every_path_that_a_layer_depends_on_is_there() -> None:
    for layer in LAYERS.values():
        for path in layer.depends:
            assert path == "." or list(layers.PROJECT.glob(path)), f"{layer.name}: {path}"
