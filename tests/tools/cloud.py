#!/usr/bin/env python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's cloud as tests see it: the records of runs (see callbacks/record.py), and how to reach nodes and instances.

As a program: ``cloud.py wait`` until every instance can be logged in to; ``cloud.py ssh web-1 [COMMAND...]``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

from lab.settings import Settings  # noqa: E402  # found by the path that is set above

SITE = "ikcloud.compute.site"
# A Debian guest of `make demo`, in an emulated machine on two cores, has needed 200 s until it can be logged in to.
BOOT_TIMEOUT = 900.0
NODES = ("ik-node-01", "ik-node-02")


def fetch_outside() -> str:
    """Return the command by which an instance gets what the lab serves: for an instance, that is the world outside.

    It is nc, since busybox's wget, which is linked statically, crashes where a shared libc is there too.
    """
    port = os.environ.get("IKCLOUD_LAB_HTTP_PORT") or 22180
    return f"printf 'GET /SHA256SUMS HTTP/1.0\\r\\n\\r\\n' | nc -w 10 10.0.2.2 {port}"


def record_folder() -> Path:
    """Give the folder of the records, IKCLOUD_RECORD."""
    return Path(os.environ.get("IKCLOUD_RECORD") or PROJECT / "build" / "molecule")


def records(playbook: str, check: bool = False) -> list[dict[str, Any]]:
    """Give the records of a playbook's runs, oldest first; converge.yml is site by another name."""
    names = [
        f"*-{name}-{'check' if check else 'run'}.json"
        for name in ((playbook, "converge") if playbook == "site" else (playbook,))
    ]
    return [
        json.loads(path.read_text()) for path in sorted(path for name in names for path in record_folder().glob(name))
    ]


def plan() -> dict[str, Any]:
    """Give what cloud_plan returned in the last run of site."""
    for record in reversed(records("site")):
        for task in record["tasks"]:
            if task["action"] == "cloud_plan" and task["status"] == "ok":
                found: dict[str, Any] = task["result"]
                return found
    raise LookupError(f"no run of site with a plan is recorded in {record_folder()}")


def ssh_config() -> Path:
    """Write the configuration with which ssh reaches nodes and instances by name, and give its path."""
    settings = Settings.from_environment()
    found = plan()
    # A login to a guest of an emulated machine takes seconds: one for all commands. unix(7): a socket's path is short.
    sockets = Path(tempfile.gettempdir()) / f"ikcloud-{os.getuid()}"
    sockets.mkdir(mode=0o700, exist_ok=True)
    lines = ["Host *", "    ControlMaster auto", "    ControlPersist 300", f"    ControlPath {sockets}/%C"]
    # What a reboot or a kill leaves of a connection is noticed.
    lines += ["    ServerAliveInterval 10", "    ServerAliveCountMax 6"]
    for name, instance in found["instances"].items():
        gateway = found["networks"][instance["networks"][0]]["gateway_node"]
        lines += [
            f"Host {name}",
            f"    HostName {instance['addresses'][0]}",
            f"    User {instance['user']}",
            f"    ProxyJump {gateway}",
            f"    IdentityFile {settings.key}",
            "    IdentitiesOnly yes",
            "    BatchMode yes",
            "    ConnectTimeout 30",
            # Host keys are made anew whenever an instance is.
            "    UserKnownHostsFile /dev/null",
            "    StrictHostKeyChecking no",
            "    LogLevel ERROR",
        ]
    path = record_folder() / "ssh_config"
    # ssh_config(5): the first value that is found holds, so ours go first.
    path.write_text("\n".join([*lines, (settings.run / "ssh_config").read_text()]))
    return path


def ssh(host: str, *command: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a command on a node or in an instance; 255 is ssh's own failure, 124 that it took too long."""
    argv = ["ssh", "-F", str(ssh_config()), host, *command]
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 124, "", f"no answer within {timeout:g} s")


def wait_until(what: str, condition: Callable[[], bool], timeout: float = BOOT_TIMEOUT, pause: float = 3) -> None:
    """Wait until something holds.

    :raises TimeoutError: When it does not within ``timeout`` seconds.
    """
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(pause)


def wait_for(name: str, timeout: float = BOOT_TIMEOUT) -> None:
    """Wait until an instance can be logged in to."""
    began = time.monotonic()
    wait_until(f"a login to {name}", lambda: ssh(name, "true").returncode == 0, timeout)
    print(f"{name}: login after {time.monotonic() - began:.0f} s", flush=True)


def playbook(*arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """Run a playbook on the lab, recorded."""
    environment = dict(
        os.environ,
        ANSIBLE_COLLECTIONS_PATH=str(PROJECT / ".venv" / "collections"),
        ANSIBLE_CALLBACK_PLUGINS=str(PROJECT / "tests" / "tools" / "callbacks"),
        ANSIBLE_CALLBACKS_ENABLED="record",
        ANSIBLE_NOCOLOR="1",
        IKCLOUD_RECORD=str(record_folder()),
    )
    # Molecule's own configuration is not for users' runs.
    environment.pop("ANSIBLE_CONFIG", None)
    beside = os.environ.get("IKCLOUD_LAB_INVENTORY")
    inventories = ["-i", str(PROJECT / "inventory" / "lab"), *(["-i", beside] if beside else [])]
    argv = ["ansible-playbook", *inventories, *arguments]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=timeout, env=environment, cwd=PROJECT, check=False
    )


def last(name: str, *arguments: str) -> dict[str, Any]:
    """Run a playbook of the collection (or a file) that must succeed, and give its record."""
    done = playbook(name, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return records(Path(name).stem if name.endswith(".yml") else name.rsplit(".", 1)[-1], "--check" in arguments)[-1]


def commands(record: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Give the commands of each task that lists some, by host and task."""
    found: dict[str, dict[str, list[str]]] = {}
    for task in record["tasks"]:
        if task["node"] and "commands" in task["result"]:
            found.setdefault(task["host"], {}).setdefault(task["task"], []).extend(task["result"]["commands"])
    return found


def main() -> int:
    if sys.argv[1:2] == ["wait"]:
        for name in sorted(plan()["instances"]):
            print(f"waiting for {name} ...", flush=True)
            wait_for(name)
        return 0
    if sys.argv[1:2] == ["ssh"] and len(sys.argv) > 2:
        return subprocess.run(["ssh", "-F", str(ssh_config()), *sys.argv[2:]], check=False).returncode
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
