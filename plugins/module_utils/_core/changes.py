# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was observed of an object, and what is to be done about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .errors import ComputeError
from .steps import Step

EFFECTS = {"create": "create", "update": "live", "delete": "destroy"}
Item = dict[str, Any]
PendingSteps = tuple[str, list[Step]]  # an item's name, and its steps


@dataclass
class Observed:
    """One object as it was read from the node.

    :ivar attributes: What can be compared with a declaration, in its words; shown to the user as ``before``.
    :ivar owned: Whether it carries our mark. What does not is never changed or removed.
    :ivar native: What only the kind itself needs to know of it.
    """

    attributes: Item
    owned: bool = True
    native: Any = None


@dataclass
class Change:
    """What is to be done about one item, and why. Without steps there is nothing to do.

    :ivar action: ``none``, ``create``, ``update`` or ``delete``.
    :ivar reasons: For an update, what differs, a phrase each, such as ``mtu is 1500, declared 1450``.
    :ivar restart_reason: Why a restart is pending, or empty.
    :ivar effect: What the change means for what uses the item, where ``action`` does not say it: ``restart``, or
        ``rebuild`` when it is removed and made anew. Otherwise ``create``, ``live`` or ``destroy``, by ``action``.
    :ivar seen: Warnings of what the look at the node showed; where something is done, of what the look after it shows.
    :ivar extra_results: More keys for the item's entry in ``results``.
    :ivar shared: Whether it is about what all items share (:meth:`Resource.shared_changes`).
    :ivar deferred: Whether that was to be removed, and stays for an item that failed.
    :ivar native: What the resource or the operation itself needs to know of it later.
    :ivar refusal: Why it is not done, where that is this item's own trouble: it fails, and the others are done.
    """

    name: str
    action: str = "none"
    before: Item | None = None
    after: Item | None = None
    steps: list[Step] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    restart_reason: str = ""
    warnings: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    extra_results: Item = field(default_factory=dict)
    effect: str = ""
    shared: bool = False
    deferred: bool = False
    refusal: str = ""
    native: Any = None


def entry_of(change: Change, failure: ComputeError | None) -> Item:
    """Return the entry of a module's ``results`` for a change."""
    return {
        "name": change.name,
        "action": change.action if change.steps else "none",
        "changed": bool(change.steps) and failure is None and not change.deferred,
        "effect": (change.effect or EFFECTS.get(change.action, "live")) if change.steps else "none",
        "reasons": change.reasons,
        "restart_required": bool(change.restart_reason),
        "restart_reason": change.restart_reason,
        **({"error": str(failure)} if failure else {}),
        **change.extra_results,
    }
