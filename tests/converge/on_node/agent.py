# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on a node: the collection's modules and Ansible's own, a process for each call as Ansible has it, with its own
Python, but loaded once.

A line of JSON in is a call, a line of JSON out its answer. Beside running a module it can watch it, and kill it at a
point (watch.py); and take a picture of the node (picture.py).
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import sys
import traceback
from typing import Any

import picture
import watch
from ansible.module_utils import basic

MODULES = "ansible_collections.ikcloud.compute.plugins.modules"
Answer = dict[str, Any]


def module_name(action: str) -> str:
    """Give the Python name of a module: ``ikcloud.compute.bridge``, ``ansible.builtin.user``."""
    collection, _dot, name = action.rpartition(".")
    return f"{MODULES}.{name}" if collection == "ikcloud.compute" else f"ansible.modules.{name}"


def run_module(call: dict[str, Any]) -> None:
    """Be the module's process: it prints its result and ends."""
    arguments = {
        **call["arguments"],
        "_ansible_check_mode": call["check"],
        "_ansible_no_log": False,
        "_ansible_remote_tmp": "/tmp",
    }
    basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()
    basic._ANSIBLE_PROFILE = "legacy"
    importlib.import_module(module_name(call["action"])).main()


def in_process(call: dict[str, Any]) -> Answer:
    """Run a module in a process of its own and wait for that process alone: what it has started may live on, as with
    Ansible.
    """
    streams = {name: os.memfd_create(name) for name in ("result", "errors", "notes")}
    # Threads write notes at the same time, and a memfd has no lock for its position as a file has (f_mode's
    # FMODE_ATOMIC_POS): one went over another.
    fcntl.fcntl(streams["notes"], fcntl.F_SETFL, os.O_APPEND)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(streams["result"], 1)
            os.dup2(streams["errors"], 2)
            watch.begin(streams["notes"], call.get("kill"), bool(call.get("watch")))
            run_module(call)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    _pid, status = os.waitpid(pid, 0)
    said = {}
    for name, handle in streams.items():
        os.lseek(handle, 0, os.SEEK_SET)
        with os.fdopen(handle, "rb") as stream:
            said[name] = stream.read().decode(errors="replace")
    notes = [json.loads(line) for line in said["notes"].splitlines()]
    return {
        "status": os.waitstatus_to_exitcode(status),
        "result": said["result"],
        "errors": said["errors"],
        "notes": notes,
    }


def main() -> None:
    """Answer calls until there are none."""
    for action in sys.argv[1:]:
        importlib.import_module(module_name(action))
    # A collection in a child would write to all that it shares with this process, which is to copy it; and no child
    # lives long.
    gc.disable()
    gc.freeze()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        call = json.loads(line)
        try:
            answer = {"picture": picture.take(call["picture"])} if "picture" in call else in_process(call)
        except Exception:  # whatever it is, the test is told, and the agent answers the next call
            answer = {"broken": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
