# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A root of a distribution as a tar file: mmdebstrap from the host's own mirror, kernel included."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from . import apt
from .cache import build_once, digest
from .distribution import Distribution
from .host import LabError, architecture, run, say
from .recipes import packages

# Nothing here reads documentation, and a guest's first boot reads fewer blocks without it.
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*")
# Bump when what this file does to a root changes in a way the other parts of its hash do not show.
_REVISION = "1"


def root_key(root: str, distribution: Distribution) -> str:
    return digest(_REVISION, root, distribution.suite, architecture(), *packages(root, distribution.id), *_EXCLUDED)


def build_root(root: str, distribution: Distribution, cache: Path) -> Path:
    """The path of the root's tar file, built if it is not there."""
    target = cache / "roots" / f"{root}-{root_key(root, distribution)}.tar"
    wanted = packages(root, distribution.id)

    def build(temp: Path, work: Path) -> None:
        scratch = _scratch(cache)
        say(f"{root}: building a root of {distribution} with {len(wanted)} packages (one to two minutes)…")
        began = time.monotonic()
        sources = apt.distribution_sources(distribution)
        as_root = os.geteuid() == 0
        try:
            run(
                [
                    # As root it mounts /proc and the like in what it unpacks: where nobody else sees it, and it ends
                    # with it.
                    *(["unshare", "--mount", "--propagation", "slave"] if as_root else []),
                    "mmdebstrap",
                    f"--mode={'root' if as_root else 'unshare'}",
                    "--variant=minbase",
                    "--format=tar",
                    f"--include={','.join(wanted)}",
                    *[f"--aptopt={line}" for line in apt.settings()],
                    *[f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED],
                    distribution.suite,
                    str(temp),
                    *sources,
                ],
                # The disk gets an initramfs of a few MB made by lab/initramfs.py instead of the distribution's.
                env={"INITRD": "No", "TMPDIR": str(scratch)},
                # mmdebstrap itself waits for its children, whatever it is told.
                group=True,
            )
        finally:
            # Empty, unless it was killed.
            with contextlib.suppress(OSError):
                scratch.rmdir()
        say(f"{root}: root built in {time.monotonic() - began:.0f} s, {temp.stat().st_size >> 20} MiB")

    build_once(target, cache / "work" / f"root-{root}", build)
    return target


def _scratch(cache: Path) -> Path:
    """An empty folder to unpack in, the same for each build, so that what a killed one left is found and removed.

    Not in the cache: a normal user's home folder is mostly closed to the other ids that the user's namespace has.
    """
    path = Path(os.environ.get("TMPDIR") or "/var/tmp") / f"ikcloud-lab-{os.geteuid()}-{digest(str(cache))[:8]}"
    if os.path.lexists(path):
        if path.is_symlink() or path.stat().st_uid != os.geteuid():
            raise LabError(f"{path} is somebody else's: remove it, or set TMPDIR to another folder")
        left = list(path.iterdir())
        if left and os.geteuid() != 0:
            # What belongs to those other ids is removed only from within such a namespace, and what is ours only from
            # outside.
            with contextlib.suppress(LabError):
                run(["mmdebstrap", "--unshare-helper", "find", *left, "-mindepth", "1", "-delete"])
        run(["rm", "-rf", "--one-file-system", *left])
        path.rmdir()
    path.mkdir(mode=0o755)
    return path
