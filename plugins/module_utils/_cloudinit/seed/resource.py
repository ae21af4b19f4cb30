# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What cloud-init reads, as the module seed takes it."""

from __future__ import annotations

import hashlib

from ..._core.changes import Change, Item, Observed
from ..._core.layout import DEFAULT_USER, Layout, instance_folder_steps, instance_id, misplaced, owner_or_none
from ..._core.reconcile import Resource
from ..._core.steps import Remove, Step, Write, primary_group
from ..._core.untrusted import MAX_TEXT
from ..._storage.disk_files import access_steps, belongs_to, finish_step, unfinished
from .. import documents
from .secrets import opened
from .seeds import MODES, SEED_MODE, Seed, boot_reason, build_step, paths_of, read_seeds, removal_steps


class SeedResource(Resource):
    """NoCloud images in ``lib/volumes`` and the files that they were made from."""

    noun = "seed"
    option = "seeds"
    suboptions = {
        "name": {"type": "str", "required": True},
        "hostname": {"type": "str"},
        "user": {"type": "str", "default": "ubuntu"},
        "ssh_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
        "password_hash": {"type": "str", "no_log": True},
        "user_data": {"type": "raw"},
        "nics": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "mac": {"type": "str"},
                "addresses": {"type": "list", "elements": "str", "default": []},
                "gateway": {"type": "str"},
                "nameservers": {"type": "list", "elements": "str", "default": []},
                "mtu": {"type": "int"},
            },
        },
        "instance_id": {"type": "str"},
    }
    options = {
        "owner": {"type": "str", "default": DEFAULT_USER},
        "rebuild": {"type": "list", "elements": "str", "default": []},
        "seed_secrets": {"type": "str", "no_log": True},
    }
    tools = ("genisoimage",)
    workers = 8  # half of the time they wait for the disk

    def __init__(self, params: Item) -> None:
        super().__init__({**params, "seeds": opened(params["seeds"], params.get("seed_secrets") or "")})
        self.layout = Layout(self.root)
        self.owner = owner_or_none(params.get("owner") or "")
        self.group = primary_group(self.owner) if self.owner else ""
        self.rebuild = frozenset(params.get("rebuild") or ())
        self.ending: frozenset[str] = (
            frozenset()
        )  # seeds whose instances check mode finds running, and that the run removes before

    def validate_item(self, index: int, item: Item) -> list[str]:
        where = f"seeds[{index}]"
        found = documents.problems(where, item)
        if instance_id(item["name"]) is None:
            found.insert(
                0,
                f"{where}.name: {item['name']!r} is not 'compute-' and the instance's id of 8 hex digits, such as"
                " compute-af95e879.",
            )
        if not found:
            longest = max(len(text.encode(errors="replace")) for text in documents.texts(item, "iid").values())
            if longest > MAX_TEXT:
                found.append(
                    f"{where}: a text of the seed would have {longest} bytes; at most {MAX_TEXT} are read back from the"
                    " node. Declare less user_data."
                )
        return found

    def after_apply(self) -> None:
        self.rebuild = frozenset()

    def observe(self, items: list[Item]) -> dict[str, Observed]:
        absent = self.params["state"] == "absent"
        found: dict[str, Observed] = {}
        for name, seed in read_seeds(self.layout, {item["name"] for item in items}, absent).items():
            path = self.layout.seed(name)
            props = (
                self._attributes(path, seed.image, f"{seed.access[0]:04o}")
                if seed.image
                else {"path": path, "unfinished": True}
            )
            found[name] = Observed(props, seed.owned, seed)
        return found

    observe_without_tools = observe  # reading needs no tool

    def _attributes(self, path: str, texts: dict[str, str], mode: str) -> Item:
        digests = {name: f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}" for name, text in texts.items()}
        return {
            "path": path,
            "instance_id": documents.instance_id_of(texts.get("meta-data", "")),
            **digests,
            "mode": mode,
        }

    def change(self, item: Item, have: Observed | None) -> Change:
        name = item["name"]
        seed: Seed = have.native if have else Seed()
        path, folder = self.layout.seed(name), self.layout.instance(name).folder
        kept = seed.instance_id
        if kept and name in self.rebuild:
            kept = documents.next_instance_id(kept)
        wanted_id = item.get("instance_id") or kept or f"iid-{instance_id(name)}"
        texts = documents.texts(item, wanted_id)
        steps: list[Step] = instance_folder_steps(folder, self.owner, not seed.files)
        reasons = [f"the folder {folder} has another mode or owner"] if steps and seed.files else []
        for text, file in paths_of(self.layout, name).items():
            if (seed.files.get(text), seed.modes.get(text)) == (texts[text], MODES[text]):
                continue
            steps += [Remove(path, tree=True) for path in misplaced([file])]
            # User-data may hold a password's hash or what the user put there, in what was there before too: no diff
            # shows it.
            # For another mode it is written anew too: a chmod might follow a link that QEMU's user laid there
            # meanwhile.
            steps.append(Write(file, texts[text], MODES[text], secret=text == "user-data"))
            if seed.files.get(text) == texts[text]:
                reasons.append(f"{file}: mode is {seed.modes[text]:04o}, not {MODES[text]:04o}")
            else:
                reasons.append(f"{file} differs" if text in seed.files else f"{file} is missing")
        differing = [text for text in texts if seed.image.get(text) != texts[text]] + sorted(
            set(seed.image) - set(texts)
        )
        own = "root" if self.owner else ""
        # A new file, not a chown: who had the former one open to write to it could go on with that.
        handed = bool(seed.image and self.owner and not belongs_to(seed.access, own, self.group))
        if differing or handed:
            begin = Write(unfinished(path), "", mode=SEED_MODE, owner=own, secret=True, group=self.group)
            steps += [begin, build_step(self.layout, name, texts), finish_step(path, replace=True)]
            reasons += [f"{text} in the seed differs" for text in differing] if seed.image else []
            reasons += [f"{path} is not root's, for the group {self.group} to read"] if handed else []
        else:
            changed, why = access_steps(path, seed.access, SEED_MODE, "")
            steps += changed
            reasons += why
            if seed.leftover:
                steps.append(Remove(unfinished(path)))
                reasons.append("an unfinished one was left over")
        creating = have is None or not seed.image
        change = Change(
            name,
            "create" if creating else "update" if steps else "none",
            have.attributes if have else None,
            steps=steps,
        )
        change.reasons = [] if creating else reasons
        change.after = self._attributes(path, texts, f"{SEED_MODE:04o}")
        change.extra_results = {"path": path, "instance_id": wanted_id}
        if name in self.rebuild and not creating:
            change.effect = "rebuild"
            change.reasons.insert(0, f"its instance is rebuilt: instance_id is {wanted_id}")
        self._say_when(change, item, seed, texts, differing)
        return change

    def _say_when(self, change: Change, item: Item, seed: Seed, texts: dict[str, str], differing: list[str]) -> None:
        """Say when a guest takes up what has changed."""
        name = item["name"]
        if not documents.can_log_in(item):
            replaced = (
                "; text as user_data replaces what the collection writes"
                if isinstance(item.get("user_data"), str)
                else ""
            )
            change.warnings.append(
                f"seed {name}: it has neither an SSH key nor a password, so nobody will be able to log in{replaced}."
            )
        seen = seed.running if seed.running is not None else seed.image
        if not seen or (not differing and seed.running is None):
            return
        stale = [text for text in texts if seen.get(text) != texts[text]]
        at_boot = documents.applies_network_at_boot(texts["user-data"])
        if seed.in_use:
            change.restart_reason = boot_reason(seen, texts)
        new = documents.instance_id_of(seen.get("meta-data", "")) != documents.instance_id_of(texts["meta-data"])
        later = [text for text in stale if text == "user-data" or (text == "network-config" and not at_boot)]
        if differing and later and not new:
            change.warnings.append(
                f"seed {name}: {' and '.join(later)} take effect in a guest that has not booted yet; in one that has,"
                " cloud-init runs its first boot again only with another instance_id."
            )

    def remove(self, name: str, have: Observed) -> Change:
        used = have.native.in_use and name not in self.ending
        warnings = (
            [f"seed {name} is in use by a running QEMU now; it is removed only once that has ended."] if used else []
        )
        return Change(name, "delete", have.attributes, None, removal_steps(self.layout, name), warnings=warnings)
