# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sentence of every node module, spoken about a kind of resource that is nothing but a folder of small files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._core import execution, lock, reconcile
from ansible_collections.ikcloud.compute.plugins.module_utils._core.changes import Change, Item, Observed
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.lock import node_lock
from ansible_collections.ikcloud.compute.plugins.module_utils._core.reconcile import Resource
from ansible_collections.ikcloud.compute.plugins.module_utils._core.steps import Do, Ip, Remove, Step, Write


class Note(Resource):
    """A file whose first line is our mark."""

    noun = "note"
    option = "notes"
    suboptions: Item = {"name": {"type": "str", "required": True}, "text": {"type": "str"}}

    def validate_item(self, index: int, item: Item) -> list[str]:
        return [] if item.get("text") else [f"notes[{index}].text: it is required."]

    def observe(self, items: list[Item]) -> dict[str, Observed]:
        found = {}
        for entry in sorted(os.listdir(self.root)):
            text = Path(self.root, entry).read_text(encoding="utf-8")
            found[entry] = Observed({"text": text.removeprefix("# ours\n")}, owned=text.startswith("# ours\n"))
        return found

    def change(self, item: Item, have: Observed | None) -> Change:
        want = {"text": item["text"]}
        if have and have.attributes == want:
            return Change(item["name"], before=have.attributes, after=want)
        step = Write(f"{self.root}/{item['name']}", f"# ours\n{item['text']}")
        return Change(
            item["name"],
            "update" if have else "create",
            have and have.attributes,
            want,
            [step],
            ["text differs"] if have else [],
        )

    def remove(self, name: str, have: Observed) -> Change:
        return Change(name, "delete", have.attributes, None, [Remove(f"{self.root}/{name}")])


def speak(
    tmp_path: Path, notes: dict[str, str] | list[Item], check: bool = False, kind: type[Resource] = Note, **params: Any
) -> Item:
    items = notes if isinstance(notes, list) else [{"name": name, "text": text} for name, text in notes.items()]
    return reconcile.converge(
        kind({"notes": items, "state": "present", "purge": False, "root": str(tmp_path), **params}), check
    )


def test_four_runs(tmp_path: Path) -> None:
    """Check, run, run again, check again."""
    wanted = {"a": "one", "b": "two"}
    predicted = speak(tmp_path, wanted, check=True)
    assert predicted["changed"]
    assert not list(tmp_path.iterdir())
    done = speak(tmp_path, wanted)
    assert (
        done["commands"]
        == predicted["commands"]
        == [f"install -D -m 0644 /dev/stdin {tmp_path}/{name}" for name in "ab"]
    )
    assert done["after"] == predicted["after"] == {"a": {"text": "one"}, "b": {"text": "two"}}
    assert done["before"] == {"a": None, "b": None}
    for check in (False, True):
        again = speak(tmp_path, wanted, check=check)
        assert not again["changed"]
        assert again["commands"] == again["diff"] == []
        assert [entry["action"] for entry in again["results"]] == ["none", "none"]


def test_shape_is_the_same_for_no_items(tmp_path: Path) -> None:
    assert set(speak(tmp_path, {})) == set(speak(tmp_path, {"a": "one"}))


def test_diff_names_only_what_changes(tmp_path: Path) -> None:
    speak(tmp_path, {"a": "one", "b": "two"})
    diff = speak(tmp_path, {"a": "one", "b": "three"}, check=True)["diff"]
    assert [entry["before_header"] for entry in diff] == ["note b", f"{tmp_path}/b"]
    assert diff[0]["prepared"] == f"# install -D -m 0644 /dev/stdin {tmp_path}/b\n"
    assert (diff[1]["before"], diff[1]["after"]) == ("# ours\ntwo", "# ours\nthree")


def test_purge_removes_ours_and_leaves_the_foreign(tmp_path: Path) -> None:
    (tmp_path / "foreign").write_text("mine")
    speak(tmp_path, {"a": "one", "b": "two"})
    assert not speak(tmp_path, {"a": "one"})["changed"]
    result = speak(tmp_path, {"a": "one"}, purge=True)
    assert [(entry["name"], entry["action"]) for entry in result["results"]] == [("a", "none"), ("b", "delete")]
    assert speak(tmp_path, {}, purge=True)["after"] == {"a": None}
    assert [path.name for path in tmp_path.iterdir()] == ["foreign"]


def test_a_foreign_object_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(ComputeError, match=r"note b: ikcloud\.compute did not make"):
        speak(tmp_path, {"a": "one", "b": "two"})
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_absent_looks_at_names_only_and_leaves_the_foreign(tmp_path: Path) -> None:
    (tmp_path / "foreign").write_text("mine")
    speak(tmp_path, {"a": "one", "b": "two"})
    result = speak(tmp_path, [{"name": "a"}, {"name": "gone"}, {"name": "foreign"}], state="absent")
    assert [entry["action"] for entry in result["results"]] == ["delete", "none"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "foreign"]


def test_duplicates_name_both_places_and_all_problems_are_told(tmp_path: Path) -> None:
    with pytest.raises(ComputeError) as error:
        speak(tmp_path, [{"name": "a", "text": "x"}, {"name": "b"}, {"name": "a", "text": "y"}])
    assert "notes[2]: the name 'a' stands already at notes[0]" in str(error.value)
    assert "notes[1].text" in str(error.value)
    assert not list(tmp_path.iterdir())


class Fragile(Note):
    """Fails on the item named bad."""

    def change(self, item: Item, have: Observed | None) -> Change:
        change = super().change(item, have)
        if item["name"] == "bad" and change.steps:
            change.steps.insert(0, Do("false", self._fail))
        return change

    @staticmethod
    def _fail() -> None:
        raise ComputeError("the disk is full.", "Free some room.")


def test_a_failed_item_leaves_the_others_done(tmp_path: Path) -> None:
    result = speak(tmp_path, {"a": "one", "bad": "two", "c": "three"}, kind=Fragile)
    assert result["msg"].startswith("note bad: the disk is full. Free some room.")
    assert [(entry["name"], entry["changed"]) for entry in result["results"]] == [
        ("a", True),
        ("bad", False),
        ("c", True),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]
    # What was not executed is not told.
    assert (len(result["commands"]), result["commands"].count("false"), result["changed"]) == (3, 1, True)
    result = speak(tmp_path, {"a": "one", "bad": "two", "c": "three"}, kind=Fragile)
    assert ("msg" in result, result["commands"]) == (True, ["false"])


class Deaf(Note):
    """Takes its steps without effect."""

    def change(self, item: Item, have: Observed | None) -> Change:
        change = super().change(item, have)
        change.steps = [Do("true", lambda: None)] if change.steps else []
        return change


def test_a_step_without_effect_does_not_pass_for_done(tmp_path: Path) -> None:
    assert "It still differs after the change" in speak(tmp_path, {"a": "one"}, kind=Deaf)["msg"]


def test_batch_goes_on_after_a_failed_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """ip stops at the first line that fails: the failed item is left there, the others' lines still reach the
    kernel.
    """
    seen: list[list[str]] = []

    def batch(lines: list[str]) -> tuple[int, str] | None:
        seen.append(lines)
        return next(((index, "no such device") for index, line in enumerate(lines) if "bad" in line), None)

    monkeypatch.setattr(execution, "run_ip_batch", batch)
    changes = [
        Change(name, steps=[Ip(f"link add {name}", 1), Ip(f"link set {name} up", 1)]) for name in ("a", "bad", "c")
    ]
    done: list[Step] = []
    failures = execution.apply(Note({}), changes, done)
    assert list(failures) == ["bad"]
    assert [step.text for step in done] == [
        "ip link add a",
        "ip link set a up",
        "ip link add bad",
        "ip link add c",
        "ip link set c up",
    ]
    assert seen == [
        ["link add a", "link set a up", "link add bad", "link set bad up", "link add c", "link set c up"],
        ["link add c", "link set c up"],
    ]


def test_missing_tools_fail_a_run_and_warn_in_check_mode(tmp_path: Path) -> None:
    class Needy(Note):
        tools = ("no-such-tool-here",)

    with pytest.raises(ComputeError, match="lacks no-such-tool-here"):
        speak(tmp_path, {"a": "one"}, kind=Needy)
    assert "prepare installs them" in speak(tmp_path, {"a": "one"}, kind=Needy, check=True)["warn"][0]


def test_two_runs_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LOCK_TIMEOUT", 0.2)
    with node_lock(str(tmp_path), check_mode=False), pytest.raises(ComputeError, match="Another run"):
        speak(tmp_path, {"a": "one"})


def test_removing_nothing_needs_no_tool(tmp_path: Path) -> None:
    """A node that was never prepared, or has lost its packages, can be torn down."""

    class Needy(Note):
        tools = ("no-such-tool-here",)

    assert not speak(tmp_path, {}, kind=Needy, purge=True)["changed"]
    assert not speak(tmp_path, [{"name": "a"}], kind=Needy, state="absent")["changed"]


class Filed(Note):
    """Notes beside a file that they share, which goes with the last of them; one that is called ``stuck`` can't be
    removed while there is a pin.
    """

    def observe(self, items: list[Item]) -> dict[str, Observed]:
        return {name: found for name, found in super().observe(items).items() if name not in ("shared", "pin")}

    def remove(self, name: str, have: Observed) -> Change:
        def unpin() -> None:
            if name == "stuck" and Path(self.root, "pin").exists():
                raise ComputeError("it is pinned.")

        return Change(name, "delete", have.attributes, None, [Do("unpin", unpin), Remove(f"{self.root}/{name}")])

    def shared_changes(self, changes: list[Change], have: dict[str, Observed]) -> list[Change]:
        left = set(have) - {change.name for change in changes if change.action == "delete"}
        path = f"{self.root}/shared"
        if left or not os.path.exists(path):
            return []
        return [Change("shared", "delete", steps=[Remove(path, stage=stage) for stage in (0, 6)])]


@pytest.mark.parametrize("params", [{"notes": ["stuck", "b"], "state": "absent"}, {"notes": [], "purge": True}])
def test_what_is_shared_stays_for_an_item_that_could_not_be_removed(tmp_path: Path, params: Item) -> None:
    options = {**params, "kind": Filed, "notes": [{"name": name} for name in params["notes"]]}
    speak(tmp_path, {"stuck": "one", "b": "two"}, kind=Filed)
    for name in ("shared", "pin"):
        (tmp_path / name).write_text("# ours\n")
    predicted = speak(tmp_path, check=True, **options)["commands"]
    failed = speak(tmp_path, **options)
    assert failed["msg"] == "note stuck: it is pinned. (1 other change was made; run again once it is mended.)"
    assert {entry["name"]: entry["changed"] for entry in failed["results"]} == {
        "stuck": False,
        "b": True,
        "shared": False,
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pin", "shared", "stuck"]
    (tmp_path / "pin").unlink()
    assert set(speak(tmp_path, **options)["commands"]) < set(predicted)
    assert not list(tmp_path.iterdir())
    assert not speak(tmp_path, **options)["changed"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ComputeError("The disk is gone."), "The disk is gone."),
        (RecursionError("deep"), "Unexpected RecursionError: deep."),
    ],
)
def test_what_was_done_is_told_when_the_second_look_fails(tmp_path: Path, error: Exception, words: str) -> None:
    class Blinded(Note):
        looks = 0

        def observe(self, items: list[Item]) -> dict[str, Observed]:
            self.looks += 1
            if self.looks > 1:
                raise error
            return super().observe(items)

    done = speak(tmp_path, {"a": "one"}, kind=Blinded)
    assert done["msg"].startswith(f"The changes were made, but the node could not be looked at afterwards: {words}")
    assert ("exception" in done) is isinstance(error, RecursionError)
    assert done["changed"] and done["commands"] == [f"install -D -m 0644 /dev/stdin {tmp_path}/a"]
    assert done["results"][0]["changed"] and done["after"] == {"a": {"text": "one"}}


def test_the_second_look_fails_after_a_step_did(tmp_path: Path) -> None:
    class Blinded(Fragile):
        looks = 0

        def observe(self, items: list[Item]) -> dict[str, Observed]:
            self.looks += 1
            if self.looks > 1:
                raise ComputeError("The disk is gone.")
            return super().observe(items)

    done = speak(tmp_path, {"bad": "one", "good": "two"}, kind=Blinded)
    assert "note bad: " in done["msg"] and done["msg"].endswith("afterwards: The disk is gone.")
    assert [entry["changed"] for entry in done["results"]] == [False, True]


class Refusing(Note):
    """Refuses the item named bad alone."""

    def change(self, item: Item, have: Observed | None) -> Change:
        return Change("bad", refusal="note bad: it lies.") if item["name"] == "bad" else super().change(item, have)


@pytest.mark.parametrize("warns", [True, False])
def test_an_item_that_is_refused_alone_stops_no_other(tmp_path: Path, warns: bool) -> None:
    kind = type("Kind", (Refusing,), {"warns_of_refusals": warns})
    predicted = speak(tmp_path, {"a": "one", "bad": "two"}, kind=kind, check=True)
    assert ("msg" in predicted) is not warns and predicted["warn"] == (["note bad: it lies."] if warns else [])
    done = speak(tmp_path, {"a": "one", "bad": "two"}, kind=kind)
    assert done["msg"].startswith("note bad: it lies. (1 other") and done["commands"] == predicted["commands"] != []
    for result in (predicted, done):
        assert {entry["name"]: entry.get("error") for entry in result["results"]} == {
            "a": None,
            "bad": "note bad: it lies.",
        }


def test_an_item_that_only_the_second_look_refuses_is_told(tmp_path: Path) -> None:
    class Turning(Note):
        def refusal(self, name: str, found: Observed) -> str:
            return "it is silent now." if name == "a" else ""

    done = speak(tmp_path, {"a": "one", "b": "two"}, kind=Turning)
    assert done["msg"].startswith("note a: it is silent now. (1 other") and done["changed"]
