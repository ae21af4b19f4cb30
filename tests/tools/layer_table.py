# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layers of tests: what each runs, what of it `make test` runs, and what its outcome depends on."""

from __future__ import annotations

import enum
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Settings = Mapping[str, str]


class Mode(enum.Enum):
    """How much of a layer is run."""

    SHORT = "short"
    ALL = "all"


def nothing() -> Settings:
    """Return that the short round is the whole layer."""
    return {}


@dataclass(frozen=True)
class Layer:
    """A layer of tests.

    :ivar what: What it does, for who watches it run.
    :ivar commands: What it runs, from the project's folder.
    :ivar depends: The paths whose content can change its outcome (git's pathspecs).
    :ivar short: Give what its short round in `make test` is set to; None where `make test` leaves it out.
    :ivar whole: What all of it is set to.
    :ivar knobs: The variables by which a person runs only some of it.
    :ivar at_once: How many of its commands run side by side.
    :ivar packages: Whether it takes programs from this machine that have to be installed.
    """

    name: str
    what: str
    commands: tuple[tuple[str, ...], ...]
    depends: tuple[str, ...] = (".",)
    short: Callable[[], Settings] | None = field(default=nothing, repr=False)
    whole: Settings = field(default_factory=dict)
    knobs: tuple[str, ...] = ()
    at_once: int = 1
    packages: bool = False

    def settings(self, mode: Mode) -> Settings:
        """Return the variables to run it with; what a person has set goes before them."""
        wanted = self.short() if mode is Mode.SHORT and self.short else self.whole
        return {name: value for name, value in wanted.items() if not os.environ.get(name)}

    def whole_in(self, mode: Mode) -> bool:
        """Return whether all of it is run."""
        return mode is Mode.ALL or self.short is nothing

    def narrowed(self) -> bool:
        """Return whether a person runs only some of it."""
        return any(os.environ.get(name) for name in self.knobs)


def pytest(*words: str) -> tuple[str, ...]:
    """Return the command of a run of pytest."""
    return ("python", "-m", "pytest", "-q", *words)


def turn(parts: int) -> int:
    """Return a number from 1 to ``parts``: of each commit the next one."""
    words = ["git", "rev-list", "--count", "HEAD"]
    count = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout
    return int(count) % parts + 1


# The same walks each time, so that two runs say the same of the same content.
SEED = {"IKCLOUD_SEED": "20261123"}
COLLECTION = ("plugins", "roles", "playbooks", "meta", "requirements*.txt", "tests/tools/venv", "tests/tools/packages")
LAB = (*COLLECTION, "lab", "inventory/lab", "tests/tools/callbacks", "tests/tools/cloud.py")

# What a person can set, how it is written, and an example.
NUMBER = r"[1-9][0-9]{0,8}"
RANGE = rf"{NUMBER}(-{NUMBER}(/{NUMBER})?)?"
KNOBS = {
    "IKCLOUD_POINTS": (rf"{RANGE}(,{RANGE})*", "1-8,50"),
    "IKCLOUD_PAIRS": (NUMBER, "20"),
    "IKCLOUD_SEED": (NUMBER, "7"),
    "IKCLOUD_KILLS": (NUMBER, "2"),
    "IKCLOUD_LANES": (NUMBER, "2"),
    "IKCLOUD_PLAYBOOKS": (NUMBER, "3"),
    "IKCLOUD_PART": (rf"{NUMBER}/{NUMBER}", "1/3"),
}


def wrong_knobs() -> list[str]:
    """Return what a person has set that no test could read, so that nobody waits for a lab first."""
    given = {name: os.environ.get(name) for name in KNOBS}
    return [
        f"{name}={value}: write it as {KNOBS[name][1]}"
        for name, value in given.items()
        if value and not re.fullmatch(KNOBS[name][0], value)
    ]


_LIST = (
    Layer(
        "lint",
        "style, types, documentation, and Ansible's own checks",
        (
            ("tests/tools/sanity",),
            ("ansible-lint", "--offline", "--strict"),  # online it installs the collection into the user's home
            ("env", "MYPYPATH=.venv/collections", "mypy", "-p", "ansible_collections.ikcloud.compute.plugins"),
            ("mypy", "lab"),
            ("env", "MYPYPATH=tests/tools:.", "mypy", "tests/tools"),
            ("env", "MYPYPATH=tests/bench:.", "mypy", "tests/bench"),
            ("ruff", "check", "."),
            ("ruff", "format", "--check", "."),
            ("yamllint", "--strict", "."),
            ("python", "tests/tools/imports.py"),
            ("antsibull-changelog", "lint"),
            ("antsibull-docs", "lint-collection-docs", "--plugin-docs", "--validate-collection-refs", "self", "."),
        ),
        at_once=2,
    ),
    Layer(
        "unit",
        "the logic, without root and without a node",
        (pytest("--numprocesses", "2", "--dist", "worksteal", "tests/unit"),),
    ),
    Layer("artifact", "what users install, built and used from an empty folder", (("tests/tools/artifact",),)),
    Layer(
        "real",
        "modules and playbooks with this machine's kernel, qemu-img and QEMU, in namespaces and folders of their own",
        (pytest("--numprocesses", "3", "--dist", "worksteal", "tests/netns", "tests/storage", "tests/qemu"),),
        (
            *COLLECTION,
            "tests/netns",
            "tests/storage",
            "tests/qemu",
            "tests/tools/callbacks",
            "tests/tools/machine_id.py",
        ),
        packages=True,
    ),
    Layer(
        "refusals",
        "what a playbook is given and refuses, before anything changes",
        (pytest("--numprocesses", "2", "--dist", "worksteal", "tests/refusals"),),
        (*COLLECTION, "tests/refusals", "tests/tools/callbacks", "tests/tools/machine_id.py"),
        short=lambda: {"IKCLOUD_PART": f"{turn(3)}/3"},
        knobs=("IKCLOUD_PART",),
        packages=True,
    ),
    Layer(
        "examples",
        "the documentation's examples, on nodes that are containers",
        (("tests/tools/examples",),),
        (*LAB, "tests/examples", "tests/tools/examples"),
        packages=True,
    ),
    Layer(
        "playbooks",
        "the playbooks that act on instances, and what comes of them in the guest",
        (pytest("tests/lifecycle/test_playbooks.py", "tests/lifecycle/test_cloud_init.py"),),
        (*LAB, "tests/lifecycle"),
        packages=True,
    ),
    Layer(
        "secrets",
        "what a run leaves of secrets: in the nodes' journals and files, on the screen, in what callbacks hear",
        (pytest("tests/lifecycle/test_secrets.py"),),
        (*LAB, "tests/lifecycle"),
        short=None,
        packages=True,
    ),
    Layer(
        "hostile",
        "what QEMU's user does to its own folder, on nodes with systemd: it stops nobody but its own instance",
        (pytest("tests/lifecycle/test_hostile.py"),),
        (*LAB, "tests/lifecycle"),
        short=None,
        packages=True,
    ),
    Layer(
        "guests",
        "guests that are changed, restarted and rebuilt while somebody is logged in",
        (pytest("tests/lifecycle/test_live_in_lab.py"),),
        (*LAB, "tests/lifecycle"),
        short=None,
        packages=True,
    ),
    Layer(
        "pairs",
        "from one random declaration to the next, and edits by hand: site does what plan lists",
        (pytest("tests/converge/test_by_hand.py", "tests/converge/test_plan_is_done.py"),),
        (*LAB, "tests/converge"),
        short=lambda: {"IKCLOUD_PAIRS": "40", "IKCLOUD_PLAYBOOKS": "1", **SEED},
        whole=SEED,
        knobs=("IKCLOUD_PAIRS", "IKCLOUD_PLAYBOOKS"),
        packages=True,
    ),
    Layer(
        "kill",
        "site killed at every step, on the nodes and on the controller: the next run fixes it",
        (pytest("tests/converge/test_killed.py", "tests/converge/test_killed_controller.py"),),
        (*LAB, "tests/converge"),
        short=lambda: {"IKCLOUD_POINTS": f"{turn(10)}-999/10", "IKCLOUD_KILLS": "1"},
        knobs=("IKCLOUD_POINTS", "IKCLOUD_KILLS"),
        packages=True,
    ),
    Layer(
        "debian13",
        "playbooks, kills, pairs and guests once more on nodes of Debian 13",
        (("tests/tools/debian13",),),
        (*LAB, "tests/lifecycle", "tests/converge", "tests/tools/debian13"),
        short=lambda: {"IKCLOUD_SHORT": "1"},
        knobs=("IKCLOUD_POINTS", "IKCLOUD_PAIRS"),
        packages=True,
    ),
    Layer(
        "molecule",
        "the cloud on two machines with kernels of their own: GENEVE, NAT, reboot, teardown",
        (("tests/tools/molecule",),),
        (*LAB, "molecule", "tests/examples", "tests/tools/molecule", "tests/tools/*.yml"),
        short=None,
    ),
)
LAYERS = {layer.name: layer for layer in _LIST}
