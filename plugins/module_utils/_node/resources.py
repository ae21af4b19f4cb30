# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several kinds of resources of one node in one call: what the module node does."""

from __future__ import annotations

from typing import Any

from .._cloudinit.seed.resource import SeedResource
from .._compute.instance.resource import InstanceResource
from .._compute.volumes import InstanceVolumeResource
from .._core import execution, reconcile
from .._core.changes import Item
from .._core.errors import raise_all
from .._core.layout import DEFAULT_ROOT
from .._core.reconcile import Resource
from .._qemu import declared
from .registry import IN_ONE_CALL

# Of the kinds' own options, those that a whole node takes.
OPTIONS = {
    name: {**SeedResource.options, **InstanceVolumeResource.options, **InstanceResource.options}[name]
    for name in (
        "aside",
        "aside_names",
        "remove_kept",
        "remove_protected",
        "restart",
        "restart_serial",
        "rebuild",
        "seed_secrets",
    )
}


def argument_spec() -> Item:
    """Give the argument spec of the module node."""
    lists = {
        name: {"type": "list", "elements": "dict", "options": kind.suboptions} for name, kind in IN_ONE_CALL.items()
    }
    return {
        **lists,
        **OPTIONS,
        "purge": {"type": "list", "elements": "str", "choices": list(IN_ONE_CALL), "default": []},
        "spare": {
            "type": "dict",
            "default": {},
            "options": {name: {"type": "list", "elements": "str", "default": []} for name in IN_ONE_CALL},
        },
        "root": {"type": "path", "default": DEFAULT_ROOT},
    }


def converge_all(params: Item, check_mode: bool) -> Item:
    """Run the reconcile loop for each resource whose list is given, in the order of :data:`IN_ONE_CALL`; where nothing
    is
    listed at all, in the opposite order.

    :returns: The module's result, with each kind's own in ``kinds``. A kind that fails is the last one.
    :raises ComputeError: When a list is wrong, before anything is changed.
    """
    kinds = {
        name: kind(_params_of(name, kind, params))
        for name, kind in IN_ONE_CALL.items()
        if params[name] is not None or name in params["purge"]
    }
    raise_all([problem for kind in kinds.values() for problem in reconcile.validate(kind)])
    if not any(params[name] for name in kinds):
        # It is all about removing: what stands on something goes before it.
        kinds = dict(reversed(kinds.items()))
    done: dict[str, Item] = {}
    refused: dict[str, str] = {}
    result: Item = {"changed": False, "commands": [], "diff": [], "kinds": done, "warn": []}
    for name, kind in kinds.items():
        if isinstance(kind, InstanceResource):
            kind = _without(kind, params, refused)
            kind.reasons = _restart_reasons(done)
            kind.seeds_changed = {
                entry["name"] for entry in done.get("seeds", {}).get("results", []) if entry["action"] == "update"
            }
        _tell_what_ends(kind, done)
        try:
            found = reconcile.converge(kind, check_mode)
        except Exception as error:
            broken = execution.failure_of(error)
            return {**result, **broken, "msg": " ".join([*refused.values(), broken["msg"]])}
        result["warn"] += found.pop("warn")
        result["diff"] += found.pop("diff")
        result["commands"] += found["commands"]
        result["changed"] = result["changed"] or found["changed"]
        failed: Item = {key: found.pop(key) for key in ("msg", "exception") if key in found}
        errors = {entry["name"]: entry for entry in found["results"] if "error" in entry}
        if errors and all(entry["action"] == "none" for entry in errors.values()) and "exception" not in failed:
            # That is the trouble of these alone, which may be somebody hostile's doing; the others go on.
            refused.update({entry["name"]: entry["error"] for entry in errors.values()})
            failed = {}
        # Of what is as it should be nothing is told: of a hundred instances that would be most of what the controller
        # reads.
        changed = {entry["name"] for entry in found["results"] if entry["action"] != "none"}
        found["results"] = [
            entry
            for entry in found["results"]
            if entry["name"] in changed or entry["restart_required"] or "error" in entry
        ]
        found.update(
            {part: {key: state for key, state in found[part].items() if key in changed} for part in ("before", "after")}
        )
        done[name] = found
        if failed:
            return {**result, **failed, "msg": " ".join([*refused.values(), failed["msg"]])}
    if refused and check_mode:
        result["warn"] += refused.values()  # the run does the rest, so that is what is planned
    elif refused:
        result["msg"] = " ".join(refused.values()) + " (The rest was done.)"
    return result


def _without(kind: InstanceResource, params: Item, refused: dict[str, str]) -> InstanceResource:
    """Give the kind without the instances whose disks were refused: nothing is done with these.

    Says so in what is refused.
    """
    items: list[Item] = params["instances"] or []
    left = []
    for item in items:
        disks = [
            f"compute-{declared.identifier(item)}",
            *(volume["name"] for volume in item.get("volumes") or [] if volume.get("name")),
        ]
        bad = [name for name in disks if name in refused]
        if bad:
            refused[f"instance {item['name']}"] = (
                f"Nothing was done with the instance {item['name']}, which has that disk ({bad[0]})."
            )
        else:
            left.append(item)
    if len(left) == len(items):
        return kind
    others = {**(params["spare"] or {})}
    others["instances"] = [*(others.get("instances") or []), *(item["name"] for item in items if item not in left)]
    return InstanceResource(_params_of("instances", InstanceResource, {**params, "instances": left, "spare": others}))


def _tell_what_ends(kind: Resource, done: dict[str, Item]) -> None:
    """Tell a kind which instances are, or in check mode would be, removed before it: they use nothing any more then."""
    results = done.get("instances", {}).get("results", [])
    gone = [
        entry for entry in results if entry["action"] == "delete" and "id" in entry and "error" not in entry
    ]  # what all share has no id
    if isinstance(kind, InstanceVolumeResource):
        kind.ending = frozenset(entry["name"] for entry in gone)
    elif isinstance(kind, SeedResource):
        kind.ending = frozenset(f"compute-{entry['id']}" for entry in gone)


def _restart_reasons(done: dict[str, Item]) -> dict[str, str]:
    """Say why instances have to be restarted for what was, or in check mode would be, changed of their seeds and
    disks.
    """
    found: dict[str, list[str]] = {}
    for name in ("volumes", "seeds"):
        for entry in done.get(name, {}).get("results", []):
            if entry["restart_required"] and (name == "seeds" or entry["effect"] == "rebuild"):
                found.setdefault(entry["name"], []).append(entry["restart_reason"])
    return {name: "; ".join(reasons) for name, reasons in found.items()}


def _params_of(name: str, kind: type[Resource], params: Item) -> Item:
    """Give the parameters of a kind's own module."""
    own: dict[str, Any] = {option: params.get(option, spec.get("default")) for option, spec in kind.options.items()}
    common = {
        "state": "present",
        "purge": name in params["purge"],
        "spare": (params["spare"] or {}).get(name) or [],
        "root": params["root"],
    }
    return {**own, **common, kind.option: params[name] or []}
