# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine the lab runs on: its tools, its distribution, running a command, and saying what goes on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# Tool -> the package that has it, the same on Debian and Ubuntu.
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "grub-mkimage": "grub-common",
    "/usr/lib/grub/i386-pc/boot.img": "grub-pc-bin",
    "mke2fs": "e2fsprogs",
    "sfdisk": "fdisk",
    "genisoimage": "genisoimage",
    "ssh-keygen": "openssh-client",
    "zstd": "zstd",
}
# mmdebstrap needs newuidmap to be root in a namespace; fakeroot keeps a disk's owners right. Both only without root.
TOOLS_WITHOUT_ROOT = {"newuidmap": "uidmap", "fakeroot": "fakeroot"}
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_start = time.monotonic()
# Leads a process group, and hands a request to end on to all of it.
_GROUP = """trap 'trap "" TERM; kill -TERM 0; wait' TERM; "$@" & wait $!"""
# Descriptors of locks that the commands we run hold as well.
inherited: list[int] = []


class LabError(Exception):
    """Something a person can act on: printed without a traceback."""


def say(text: str) -> None:
    print(f"[{time.monotonic() - _start:6.1f} s] {text}", flush=True)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment in which the sbin tools are found by a normal user too, and messages are in English."""
    path = os.environ.get("PATH", "")
    return {**os.environ, "PATH": f"{path}:{PATH}" if path else PATH, "LC_ALL": "C.UTF-8", **(extra or {})}


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    shown: bool = False,
    group: bool = False,
) -> str:
    """Run a command to its end and return its standard output; its failure carries what it said.

    It does not outlive us: it is asked to end when we are interrupted, and by the kernel when we are killed; with
    `group` all that it has started is asked as well. With `shown` it writes to our own output instead.
    """
    args = [str(arg) for arg in argv]
    pipe = None if shown else subprocess.PIPE
    try:
        with subprocess.Popen(
            ["sh", "-c", _GROUP, "sh", *args] if group else args,
            process_group=0 if group else None,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=pipe,
            stderr=pipe,
            text=True,
            errors="replace",
            env=environment(env),
            pass_fds=inherited,
            preexec_fn=end_with_parent,
        ) as process:
            try:
                output, errors = process.communicate(stdin)
            except BaseException:
                _end(process)
                raise
    except FileNotFoundError:
        raise LabError(f"{args[0]} is not installed") from None
    if process.returncode != 0:
        said = (errors or output or "").strip()[-3000:]
        raise LabError(f"{' '.join(args[:6])}… failed with {process.returncode}{':' if said else ''}\n{said}".rstrip())
    return output or ""


def end_with_parent() -> None:
    """Have the kernel end the calling process when the one that started it ends."""
    # prctl(2); the C library's own, since Python has no name for it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(process: subprocess.Popen[str]) -> None:
    """Give it time to clean up: mmdebstrap has mounts and folders of its own."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    process.kill()


def _present(tool: str) -> bool:
    if tool.startswith("/"):
        return Path(tool).exists()
    return shutil.which(tool, path=environment()["PATH"]) is not None


def require_tools() -> None:
    """Every tool is there, or root installs it, or a person is told the exact command."""
    as_root = os.geteuid() == 0
    packages = missing_packages(TOOLS if as_root else {**TOOLS, **TOOLS_WITHOUT_ROOT})
    if packages and as_root:
        install(packages)
    elif packages:
        raise LabError(
            f"tools are missing; install them and run this again:\n  sudo apt-get install -y {' '.join(packages)}"
        )
    if not as_root:
        _require_namespaces()


def missing_packages(tools: Mapping[str, str]) -> list[str]:
    return sorted({package for tool, package in tools.items() if not _present(tool)})


def install(packages: Sequence[str]) -> None:
    say(f"installing {' '.join(packages)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-q"], env=quiet)
    run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages], env=quiet)


def _require_namespaces() -> None:
    """A normal user builds a root in a user namespace, with a range of user ids of its own (subuid(5))."""
    user = pwd.getpwuid(os.geteuid())
    owners = {user.pw_name, str(user.pw_uid)}
    for name, option in (("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")):
        if not _has_range(Path(name), owners):
            raise LabError(
                f"{user.pw_name} has no range of ids in {name}, which building as a normal user needs. Give one that"
                f" nobody else has, such as:\n  sudo usermod {option} 1000000-1065535 {user.pw_name}"
            )
    try:
        run(["unshare", "--user", "--map-root-user", "true"])
    except LabError as error:
        raise LabError(
            "this machine does not let normal users make user namespaces. Allow it (sysctl"
            " kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0), or run this as"
            f" root.\n{error}"
        ) from None


def _has_range(path: Path, owners: set[str]) -> bool:
    """Whether one of the names has 65536 ids or more in a file of subuid(5)'s form."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    ranges = [line.split(":") for line in lines]
    return any(
        len(parts) == 3 and parts[0] in owners and parts[2].strip().isdecimal() and int(parts[2]) >= 65536
        for parts in ranges
    )


def os_release() -> dict[str, str]:
    fields = {}
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        name, separator, value = line.partition("=")
        if separator:
            fields[name] = value.strip("\"'")
    return fields


def architecture() -> str:
    found = run(["dpkg", "--print-architecture"]).strip()
    if found != "amd64":
        raise LabError(f"the vm lab knows how to boot amd64 only, and this machine is {found}")
    return found
