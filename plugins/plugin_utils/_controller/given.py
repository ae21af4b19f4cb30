# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of one of our playbooks is given: variables and tags. What nobody would heed is refused. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, TemplateError, nodes
from jinja2.defaults import DEFAULT_NAMESPACE
from jinja2.meta import find_undeclared_variables

from .._declaration.declaration import DECLARATION
from .._declaration.reader import nearest
from .._reporting.changes import REGISTERED

Vars = Mapping[str, Any]
# The variables of each playbook beside the inventory's (a test compares this with the playbooks).
PLAYBOOKS: dict[str, tuple[str, ...]] = {
    "backup": ("instances", "backup", "backup_folder", "backup_compress"),
    "compute": (),
    "images": (),
    "overlay": (),
    "pause": ("instances",),
    "plan": ("plan_json", "plan_markdown", "plan_commands", "plan_fail_on_changes"),
    "prepare": (),
    "reboot": ("instances", "grace"),
    "rebuild": ("instances",),
    "restart": (),
    "restore": ("instances", "backup", "backup_folder", "backup_aside"),
    "resume": ("instances",),
    "site": (),
    "snapshot": ("instances", "snapshot"),
    "snapshot_delete": ("instances", "snapshot"),
    "snapshot_revert": ("instances", "snapshot", "restart"),
    "snapshots": ("instances",),
    "start": ("instances",),
    "status": (),
    "stop": ("instances", "grace"),
    "teardown": ("teardown_keep_images", "teardown_protected"),
}
# One value for the whole cloud: that of the first host counts, so another host may not have another.
CLOUD = tuple(DECLARATION.values())
OURS = ("cloud_", "compute_")  # what the names of our variables begin with
RENAME = "A variable that is not for ikcloud.compute needs another name."
INVENTORY = (*CLOUD, "compute_service_root", "compute_underlay_address", "compute_uplink")
# Those that name entries. As text they can only be meant as a choice of entries, which no playbook takes there.
ENTRIES = ("cloud_images", "cloud_networks", "cloud_instances", "cloud_volumes")
# Variables that are true or false and reach no module that says so itself.
FLAGS = {"teardown": ("teardown_keep_images", "teardown_protected")}
# What tasks of the playbooks leave as variables of hosts.
REGISTERS = {*REGISTERED, "cloud_plan", "cloud_selected", "cloud_backup", "compute_node_info", "compute_instance_info"}
# The tags of `site` and `plan`, which are the names of the roles and of the playbooks that do the same.
PARTS = ("prepare", "images", "overlay", "compute")
# What templates call and no host has as a variable, and what each host has its own of.
LOOKUPS = ("lookup", "query", "q")
FUNCTIONS = {*DEFAULT_NAMESPACE, *LOOKUPS, "now", "undef", "omit"}
PER_HOST = {
    "inventory_hostname",
    "inventory_hostname_short",
    "ansible_host",
    "group_names",
    "hostvars",
    "vars",
    "ansible_facts",
}


@dataclass(frozen=True)
class Run:
    """What a run is given.

    :ivar playbook: Which of ours it is; "" for a playbook of the user's own, in which nothing is checked here.
    :ivar extra: The variables of ``-e``.
    :ivar typed: Those of them that are written as ``-e name=value`` in a command of our playbooks alone.
    :ivar defined: The names of all variables that the playbook sees, wherever they come from.
    :ivar hosts: The variables of each host of the group, as they are written: not templated.
    :ivar tags: Of ``--tags``.
    :ivar skipped: Of ``--skip-tags``.
    :ivar inherited: The tags that all tasks of the playbook have from where it is imported.
    :ivar alone: Whether the command runs our playbooks alone, so that no tag is another's.
    """

    playbook: str = ""
    extra: Vars = field(default_factory=dict)
    typed: frozenset[str] = frozenset()
    hosts: Mapping[str, Vars] = field(default_factory=dict)
    tags: Sequence[str] = ("all",)
    skipped: Sequence[str] = ()
    inherited: Sequence[str] = ()
    alone: bool = True
    defined: Collection[str] = ()

    @property
    def in_parts(self) -> bool:
        """Tell whether ``site`` or ``plan`` goes through some of its roles only."""
        return self.playbook in ("site", "plan") and (not self._all_tags() or not set(PARTS).isdisjoint(self.skipped))

    def _all_tags(self) -> bool:
        return "all" in self.tags or not set(self.tags).isdisjoint(self.inherited)

    def problems(self) -> list[str]:
        """Give every reason to refuse the run, each with a way out."""
        if self.playbook not in PLAYBOOKS:
            return []
        extra = [self._extra(name) for name in self.extra]
        slips = [
            f"{name} in the variables of {host}: there is no such variable. {_meant(name, INVENTORY)} {RENAME}"
            for name, host in self._unknown(lambda name: bool(_slip(name, INVENTORY))).items()
        ]
        return [*filter(None, [*extra, self._choice()]), *slips, *self._tags()]

    def warnings(self) -> list[str]:
        """Name the inventory's variables that begin like ours and are not near to any: they may be somebody else's."""
        if self.playbook not in PLAYBOOKS:
            return []
        unknown = self._unknown(lambda name: name.startswith(OURS) and not _slip(name, INVENTORY))
        if not unknown:
            return []
        close = {name: difflib.get_close_matches(name, INVENTORY, n=1, cutoff=0.8) for name in unknown}
        listed = [
            f"{name} of {host}{f' (did you mean {close[name][0]}?)' if close[name] else ''}"
            for name, host in unknown.items()
        ]
        return [
            f"Nothing heeds these variables of the inventory, which are none of ikcloud.compute's: {', '.join(listed)}."
            f" {nearest(None, INVENTORY)}"
        ]

    def _extra(self, name: str) -> str:
        mine = PLAYBOOKS[self.playbook]
        if name in ENTRIES and isinstance(self.extra[name], str) and "{" not in self.extra[name]:
            return (
                f"-e {name}={self.extra[name]}: {name} is the declaration, a mapping of names; it chooses nothing."
                f" {self._whole()}"
            )
        if name in mine or name in INVENTORY or name.startswith("ansible_"):
            return ""
        if name == "_raw_params":
            return f"-e {self.extra[name]}: write name=value; what has blanks in it goes in quotes."
        owners = [playbook for playbook, names in PLAYBOOKS.items() if name in names]
        if owners:
            problem = (
                f"-e {name}: {self.playbook} has no such variable; {', '.join(owners)}"
                f" {'have' if owners[1:] else 'has'} it."
            )
            if name == "instances":
                problem += f" {self._whole()}"
            return problem
        known = (*mine, *INVENTORY)
        if name.startswith(OURS) or _slip(name, known):
            return f"-e {name}: there is no such variable. {_meant(name, known)} {RENAME}"
        used = (_mentions(value, name) for host in self.hosts.values() for key, value in host.items() if key != name)
        if name in self.typed and not any(used):
            return (
                f"-e {name}: {self.playbook} has no such variable, and nothing in the inventory uses it."
                f" {_meant(name, known)} What is meant for something else goes into a file: -e @file.yml."
            )
        return ""

    def _choice(self) -> str:
        """Refuse to remove everything where somebody has chosen instances, in the inventory or in a playbook of their
        own.
        """
        if self.playbook != "teardown" or "instances" not in self.defined or "instances" in self.extra:
            return ""
        return (
            f"There is a variable instances, and teardown has none. {self._whole()} If the variable is for something"
            " else, give it another name."
        )

    def _whole(self) -> str:
        if "instances" in PLAYBOOKS[self.playbook]:
            return "The variable that chooses instances is instances."
        return (
            f"{self.playbook} is for the whole cloud, never for some instances of it; nothing was changed. "
            "To remove an instance, take it out of cloud_instances and run ikcloud.compute.site with cloud_purge: true."
        )

    def _unknown(self, wanted: Callable[[str], bool]) -> dict[str, str]:
        """Give what the inventory has of unknown variables, each with the first host that has it."""
        known = {*self.extra, *INVENTORY, *REGISTERS}
        found: dict[str, str] = {}
        for host, variables in self.hosts.items():
            for name in variables:
                if name not in known and name not in found and wanted(name):
                    found[name] = host
        return dict(sorted(found.items()))

    def _tags(self) -> list[str]:
        if self._all_tags() or not self.alone:  # a playbook of the user's own may have tags of its own
            return []
        if self.playbook in ("site", "plan"):
            return [
                f"--tags {tag}: {self.playbook} has no such tag. {nearest(tag, PARTS)}"
                for tag in self.tags
                if tag not in PARTS
            ]
        return [f"--tags {','.join(self.tags)}: {self.playbook} has no tags, it does one thing; run it without."]


def differing(names: Iterable[str], hosts: Mapping[str, Vars], templated: Callable[[str, str], Any]) -> list[str]:
    """Check that all hosts have the same declaration.

    :param hosts: The variables of each host, as they are written; hosts of one group share the very objects.
    :param templated: Gives a host's variable templated; asked only of what may differ between hosts, for it takes long.
    :returns: For each variable that differs a problem that names two hosts.
    """
    problems = []
    templates = _Templates()
    for name in names:
        having = [host for host, variables in hosts.items() if name in variables]
        lacking = [host for host in hosts if host not in having]
        where = (
            "Declare it once, in group_vars/compute_nodes.yml or where else all nodes have it, and not in host_vars."
        )
        if having and lacking:
            problems.append(f"{name}: {having[0]} has it and {lacking[0]} has not; it is one for all nodes. {where}")
            continue
        doubtful = [host for host in having[1:] if not templates.same(name, hosts[having[0]], hosts[host])]
        first = templated(having[0], name) if doubtful else None
        for host in doubtful:
            if templated(host, name) != first:
                written = templates.alike(hosts[having[0]][name], hosts[host][name])
                why = " It is written the same for both, and a variable in its template differs." if written else ""
                problems.append(f"{name}: {having[0]} has another than {host}; it is one for all nodes.{why} {where}")
                break
    return problems


class _Templates:
    """Knows which variables the templates in a value refer to.

    Each object is searched once, and each text parsed once.
    """

    def __init__(self) -> None:
        self.environment = Environment(extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"])
        every: Any = _Every()
        self.environment.filters = self.environment.tests = every
        self.objects: dict[int, tuple[Any, frozenset[str]]] = {}  # with the object, so that its id stays its own
        self.texts: dict[str, frozenset[str]] = {}

    @staticmethod
    def alike(one: Any, other: Any) -> bool:
        """Tell whether two values are written the same."""
        return one is other or bool(one == other)

    def same(self, name: str, one: Vars, other: Vars) -> bool:
        """Tell whether a variable surely is the same for two hosts: as it is written, and all that its templates refer
        to.
        """
        if not self.alike(one[name], other[name]):
            return False
        todo, seen = set(self.names(one[name])), {name}
        while todo:
            word = todo.pop()
            seen.add(word)
            if word in FUNCTIONS and word not in one and word not in other:
                continue
            if word in PER_HOST or word not in one or word not in other or not self.alike(one[word], other[word]):
                return False
            todo |= self.names(one[word]) - seen
        return True

    def names(self, value: Any) -> frozenset[str]:
        """Give the variables that the templates in a value refer to."""
        if id(value) not in self.objects:
            self.objects[id(value)] = value, frozenset().union(*map(self._parsed, _templates_in(value)))
        return self.objects[id(value)][1]

    def _parsed(self, text: str) -> frozenset[str]:
        if text not in self.texts:
            try:
                tree = self.environment.parse(text)
                names = find_undeclared_variables(tree)
            except (TemplateError, RecursionError):
                names = {"vars"}  # it may refer to anything
            else:
                if any(
                    _may_read_any(node)
                    for node in tree.find_all(
                        (nodes.Call, nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
                    )
                ):
                    names.add("vars")
            self.texts[text] = frozenset(names)
        return self.texts[text]


class _Every(dict[str, Callable[..., str]]):
    """Has filters and tests of all names: those of Ansible and of collections are unknown here."""

    def get(self, key: str, default: Any = None) -> Callable[..., str]:
        return lambda *values, **options: ""


def _may_read_any(node: nodes.Node) -> bool:
    """Tell whether a part of a template reads variables that it does not name: ``lookup("file", ...)`` does not."""
    if not isinstance(node, nodes.Call):
        return True
    if not isinstance(node.node, nodes.Name) or node.node.name not in LOOKUPS:
        return False
    kind = node.args[0].value if node.args and isinstance(node.args[0], nodes.Const) else None
    return not isinstance(kind, str) or kind.rpartition(".")[2] in ("vars", "varnames", "template")


def _templates_in(value: Any) -> set[str]:
    """Give the texts in a value that hold a template."""
    found: set[str] = set()
    todo = [value]
    while todo:
        entry = todo.pop()
        if isinstance(entry, str):
            if "{{" in entry or "{%" in entry:
                found.add(entry)
        elif isinstance(entry, Mapping):
            todo += entry.values()
        elif isinstance(entry, (list, tuple)):
            todo += entry
    return found


def _slip(name: str, known: Iterable[str]) -> str:
    """Give the known name from which one letter makes this one: another, missing, too many, or swapped; "" for none."""
    name = name.lower()
    for word in known:
        same = [one == other for one, other in zip(name, word)]
        at = same.index(False) if False in same else len(same)
        rest, other = name[at:], word[at:]
        swapped = rest[:2] == other[1::-1] and rest[2:] == other[2:]
        if len(name) > 3 and (rest[1:] == other[1:] or rest[1:] == other or rest == other[1:] or swapped):
            return word
    return ""


def _meant(name: str, known: Sequence[str]) -> str:
    meant = _slip(name, known)
    return f"Did you mean {meant}?" if meant else nearest(name, known)


def _mentions(value: Any, name: str) -> bool:
    """Tell whether a template in the value has the name in it."""
    if isinstance(value, str):
        return "{" in value and re.search(rf"\b{re.escape(name)}\b", value) is not None
    if isinstance(value, Mapping):
        return any(_mentions(entry, name) for entry in value.values())
    return isinstance(value, (list, tuple)) and any(_mentions(entry, name) for entry in value)
