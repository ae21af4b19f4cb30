# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The small guest's root, picked out of the node's: busybox, dropbear and ping with their libraries, a few kernel
modules.
"""

from __future__ import annotations

from pathlib import Path

from . import tree
from .host import LabError, run
from .initramfs import FILES, find_busybox, module_bytes, module_files

# The card, the seed's filesystem, and the power button with the event device acpid listens on.
MODULES = ("virtio_net", "isofs", "button", "evdev", "virtio_rng", "virtio_balloon", "af_packet")
_LOADER = "ld-linux-x86-64.so.2"
_LIBRARIES = "lib/x86_64-linux-gnu"  # where that loader looks
# busybox's ping can't be told not to fragment. Its shell takes that one all the same, unless the path is given.
_PROGRAMS = ("usr/sbin/dropbear", "usr/bin/dropbearkey", "usr/bin/ping")
_DIRECTORIES = (
    "bin", "dev", "etc/acpi/PWRF", "etc/dropbear", "home", "lib/modules/lab", "lib64", "proc", "root", "run", "sbin",
    "sys", "tmp", "usr/bin", "usr/lib/lab", "usr/sbin", "var/log",
)  # fmt: skip
_TEXTS = {
    "etc/passwd": "root:*:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shells": "/bin/sh\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/issue": "\nikcloud.compute lab, small guest \\n \\l\n\n",
    "etc/acpi/PWRF/00000080": "#!/bin/sh\nexec /sbin/poweroff\n",
    # Every login is root here, but people and playbooks type sudo.
    "usr/bin/sudo": '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nexec "$@"\n',
}
_EXECUTABLE = ("etc/acpi/PWRF/00000080", "usr/bin/sudo")


def pick_small_root(root: Path, target: Path) -> None:
    for directory in _DIRECTORIES:
        (target / directory).mkdir(parents=True)
    (target / "tmp").chmod(0o1777)
    (target / "root").chmod(0o700)
    for name, text in _TEXTS.items():
        tree.write(target, name, text, 0o755 if name in _EXECUTABLE else 0o644)
    tree.copy(target, "etc/inittab", FILES / "small-inittab")
    tree.copy(target, "etc/rcS", FILES / "small-rcS")
    for script in ("seed-reader", "seed-apply"):
        tree.copy(target, f"usr/lib/lab/{script}", FILES / script)
    _busybox(root, target)
    _programs(root, target)
    for index, path in enumerate(module_files(root, MODULES)):
        name = path.name.split(".ko", 1)[0]
        tree.write(target, f"lib/modules/lab/{index:02d}-{name}.ko", module_bytes(path))


def _busybox(root: Path, target: Path) -> None:
    source = find_busybox(root)
    tree.copy(target, "bin/busybox", source)
    # --list-full says which directory each applet belongs in. The binary is static and of this architecture.
    for line in run([source, "--list-full"]).splitlines():
        if line != "bin/busybox":
            tree.link(target, line, "/bin/busybox")


def _programs(root: Path, target: Path) -> None:
    # The root's own loader lists what a program needs, out of the root's own libraries.
    # (/lib64/ld-linux… itself is an absolute link in some releases, and would lead to this machine's.)
    places = [root / _LIBRARIES, root / "usr" / _LIBRARIES]
    loader = next((place / _LOADER for place in places if (place / _LOADER).is_file()), None)
    if loader is None:
        raise LabError("the root has no dynamic loader")
    tree.copy(target, f"lib64/{_LOADER}", loader)
    for program in _PROGRAMS:
        tree.copy(target, program, root / program)
        for line in run([loader, "--library-path", ":".join(map(str, places)), "--list", root / program]).splitlines():
            words = line.split()
            if "=>" in words:
                # Only the name: the loader lists itself by an absolute path.
                tree.copy(target, f"{_LIBRARIES}/{Path(words[0]).name}", Path(words[2]))
