# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running the node's tools. No value ever passes through a shell."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .errors import ComputeError

T = TypeVar("T")
R = TypeVar("R")
# What has the tool, on Debian and Ubuntu; the prepare role installs these.
PACKAGES = {
    "ip": "iproute2",
    "bridge": "iproute2",
    "nft": "nftables",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "genisoimage": "genisoimage",
    "systemctl": "systemd",
    "sysctl": "procps",
    "unshare": "util-linux",
}
# An SSH session of a user other than root often lacks the sbin folders.
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))


class TookTooLongError(ComputeError):
    """A command did not end in its time, and was stopped."""


def find_tool(tool: str) -> str | None:
    """Give the path of a tool on this node, or None."""
    return shutil.which(tool, path=PATH)


def missing_tools(tools: Sequence[str]) -> list[str]:
    """Give those of the tools that this node lacks."""
    return [tool for tool in tools if find_tool(tool) is None]


def run(
    argv: Sequence[str],
    stdin: str | None = None,
    timeout: float | None = None,
    check: bool = True,
    handles: Sequence[int] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a command and wait for it.

    :param argv: The command and its arguments; there is no shell.
    :param stdin: Text for its standard input; empty when None.
    :param timeout: Seconds after which it is killed.
    :param check: Whether an exit status other than 0 raises.
    :param handles: Open files that it gets, as ``/dev/fd/<number>``.
    :raises ComputeError: When the tool is missing, fails (with its own words) or takes too long.
    """
    # Root's own may hold what is nobody else's business, and some of these become other users.
    environment = {"LC_ALL": "C", "PATH": PATH}
    try:
        done = subprocess.run(
            list(argv),
            input=stdin or "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=environment,
            check=False,
            pass_fds=handles,
        )
    except FileNotFoundError:
        hint = (
            f"Install the package {PACKAGES[argv[0]]}, or run the role ikcloud.compute.prepare."
            if argv[0] in PACKAGES
            else ""
        )
        raise ComputeError(f"{argv[0]} is not installed on this node.", hint) from None
    except subprocess.TimeoutExpired:
        raise TookTooLongError(f"`{shlex.join(argv)}` did not end within {timeout:g} s and was stopped.") from None
    if check and done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip() or "it said nothing").replace("\n", "; ")
        raise ComputeError(f"`{shlex.join(argv)}` failed with status {done.returncode}: {words}")
    return done


def as_owner(user: int, group: int) -> tuple[str, ...]:
    """Return what a command line begins with that works on a file which another user can write to.

    What that user may not read or write, such as another file that an image's header names, the command can't either.
    """
    if os.geteuid() != 0 or user == 0:
        return ()
    return ("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups")


def typed_as_owner(path: str, *argv: str) -> str:
    """Return a command on a file as root is told to type it: by the rights of its owner, for the reason of
    :func:`as_owner`.
    """
    try:
        entry = os.lstat(path)
    except OSError:
        return shlex.join(argv)
    user = as_owner(entry.st_uid, entry.st_gid)
    with contextlib.suppress(KeyError):
        user = user and ("runuser", "-u", pwd.getpwuid(entry.st_uid).pw_name, "--")
    return shlex.join((*user, *argv))


def run_json(argv: Sequence[str], timeout: float | None = None) -> Any:
    """Run a command that prints JSON, and give what it printed (an empty list for nothing).

    :raises ComputeError: As :func:`run`, and when what it printed is not JSON.
    """
    text = run(argv, timeout=timeout).stdout
    try:
        return json.loads(text) if text.strip() else []
    except ValueError:
        raise ComputeError(f"`{shlex.join(argv)}` did not print JSON.", "Its version may be too old.") from None


def side_by_side(function: Callable[[T], R], items: Sequence[T], workers: int) -> list[R]:
    """Call a function for each item, so many at once; it is for work that waits on other processes.

    :returns: The results, in the items' order.
    """
    if min(workers, len(items)) < 2:
        return [function(item) for item in items]
    # Here, since it takes longer to load than a run that changes nothing takes for everything else.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=min(workers, len(items))) as pool:
        return list(pool.map(function, items))
