"""The machine the lab runs on: its tools, its distribution, running a command, and saying what goes on."""

from __future__ import annotations

import os
import shutil
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
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_start = time.monotonic()


class LabError(Exception):
    """Something a person can act on: printed without a traceback."""


def say(text: str) -> None:
    print(f"[{time.monotonic() - _start:6.1f} s] {text}", flush=True)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment in which the sbin tools are found by a normal user too, and messages are in English."""
    path = os.environ.get("PATH", "")
    return {**os.environ, "PATH": f"{path}:{PATH}" if path else PATH, "LC_ALL": "C.UTF-8", **(extra or {})}


def run(argv: Sequence[str | Path], *, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return its standard output; its failure carries what it said."""
    args = [str(arg) for arg in argv]
    done = subprocess.run(args, input=stdin, text=True, capture_output=True, env=environment(env), check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-3000:]
        raise LabError(f"{' '.join(args[:6])}… failed with {done.returncode}:\n{said}")
    return done.stdout


def _present(tool: str) -> bool:
    if tool.startswith("/"):
        return Path(tool).exists()
    return shutil.which(tool, path=environment()["PATH"]) is not None


def require_tools() -> None:
    """Every tool is there, or root installs it, or a person is told the exact command."""
    wanted = TOOLS if os.geteuid() == 0 else {**TOOLS, **TOOLS_WITHOUT_ROOT}
    packages = sorted({package for tool, package in wanted.items() if not _present(tool)})
    if not packages:
        return
    if os.geteuid() != 0:
        raise LabError(f"tools are missing; install them and run this again:\n  sudo apt-get install -y {' '.join(packages)}")
    say(f"installing {' '.join(packages)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-q"], env=quiet)
    run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages], env=quiet)


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
