# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running the lab's own playbooks, with the collection of this very checkout."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .host import LabError, run, say

_HERE = Path(__file__).parent


def play(name: str, root: Path, work: Path, variables: Mapping[str, Any]) -> None:
    """Run lab/<name>.yml on this machine, its output shown.

    :param root: The compute service's folder, which `lab_root` is.
    :param work: Where the variables and a path to the collection are put.
    """
    program = _ansible_playbook()
    collection = work / "collections" / "ansible_collections" / "ikcloud" / "compute"
    if not collection.is_symlink() or collection.readlink() != _HERE.parent:
        collection.parent.mkdir(parents=True, exist_ok=True)
        collection.unlink(missing_ok=True)
        collection.symlink_to(_HERE.parent)
    given = work / f"{name}.json"
    given.write_text(json.dumps({"lab_root": str(root), **variables}, indent=2) + "\n", encoding="utf-8")
    _wait_for_modules(root)
    settings = {"ANSIBLE_CONFIG": str(_HERE / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(work / "collections")}
    try:
        # Whatever a caller has set for its own plays (molecule does) is not for these.
        run(
            [*_without_ansible(), program, "-i", "localhost,", "-e", f"@{given}", _HERE / f"{name}.yml"],
            env=settings,
            shown=True,
        )
    except LabError:
        raise LabError(f"lab/{name}.yml did not get through: see above. Run this again once it is mended") from None


def _without_ansible() -> list[str]:
    names = sorted(
        name
        for name in os.environ
        if name.startswith("ANSIBLE_") and name not in ("ANSIBLE_CONFIG", "ANSIBLE_COLLECTIONS_PATH")
    )
    return ["env", *(f"--unset={name}" for name in names)]


def _ansible_playbook() -> str:
    """The one beside the Python that runs us, as in a virtual environment, or else any."""
    beside = Path(sys.executable).parent / "ansible-playbook"
    found = str(beside) if beside.exists() else shutil.which("ansible-playbook")
    if found is None:
        raise LabError(f"{beside} is not there. Run `make venv`, then this with .venv/bin/python, or `make lab-up`")
    return found


def lock_path(root: Path) -> str:
    """Give what the collection's modules lock (plugins/module_utils/_core/lock.py): a file of root's, or for others the
    folder itself.
    """
    digest = hashlib.sha256(f"lock/{os.path.realpath(root)}".encode()).hexdigest()
    return f"/run/ikcloud-compute-{digest[:8]}.lock" if os.geteuid() == 0 else str(root)


def _wait_for_modules(root: Path) -> None:
    """A module that a killed run left working holds the lock (flock(2)); its work is short."""
    root.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(lock_path(root), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("what an interrupted run began is still at work; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)
