# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small initramfs: busybox, the few kernel modules that reach an ext4 root on virtio, and files/initramfs-init.

The distribution's own is 30 MB and takes the loader and udev some 15 s to get through under TCG; this one is 3 MB.
"""

from __future__ import annotations

import gzip
import lzma
import re
import stat
import subprocess
from pathlib import Path

from .host import LabError, environment

ROOT_MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")
FILES = Path(__file__).parent / "files"


def kernel_version(root: Path) -> str:
    versions = sorted(path.name for path in (root / "lib/modules").iterdir() if (path / "modules.dep").exists())
    if not versions:
        raise LabError("the root has no kernel modules: its kernel package did not install")
    return versions[-1]


def module_files(root: Path, wanted: tuple[str, ...]) -> list[Path]:
    """The modules' files in the order to insert them. A name that is built into the kernel has none."""
    base = root / "lib/modules" / kernel_version(root)
    needs: dict[str, list[str]] = {}
    paths: dict[str, str] = {}
    for line in (base / "modules.dep").read_text(encoding="utf-8").splitlines():
        path, _colon, rest = line.partition(":")
        name = _module_name(path)
        paths[name] = path
        needs[name] = [_module_name(need) for need in rest.split()]
    order: list[str] = []

    def visit(name: str) -> None:
        if name in paths and name not in order:
            for need in needs[name]:
                visit(need)
            order.append(name)

    for name in wanted:
        visit(name.replace("-", "_"))
    return [base / paths[name] for name in order]


def _module_name(path: str) -> str:
    return re.sub(r"\.ko(\.\w+)?$", "", path.rsplit("/", 1)[-1]).replace("-", "_")


def module_bytes(path: Path) -> bytes:
    """A module's contents, decompressed: busybox's insmod does not do it."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dc"], input=data, capture_output=True, env=environment(), check=True).stdout
    return data


def find_busybox(root: Path) -> Path:
    for place in ("bin/busybox", "usr/bin/busybox"):
        if (root / place).is_file():
            return root / place
    raise LabError("the root has no busybox: package busybox-static")


def write_initramfs(root: Path, target: Path) -> None:
    modules = module_files(root, ROOT_MODULES)
    entries: list[tuple[str, int, bytes]] = [
        (name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "proc", "sys", "root", "modules")
    ]
    entries.append(("bin/busybox", stat.S_IFREG | 0o755, find_busybox(root).read_bytes()))
    entries.append(("bin/sh", stat.S_IFLNK | 0o777, b"busybox"))
    entries.append(("init", stat.S_IFREG | 0o755, (FILES / "initramfs-init").read_bytes()))
    for index, path in enumerate(modules):
        entries.append((f"modules/{index:02d}-{_module_name(path.name)}.ko", stat.S_IFREG | 0o644, module_bytes(path)))
    # Compressed, since the loader reads it through the BIOS a few sectors at a time.
    target.write_bytes(gzip.compress(cpio(entries), compresslevel=6, mtime=0))


def cpio(entries: list[tuple[str, int, bytes]]) -> bytes:
    """The kernel's `newc` format, every file owned by root."""
    archive = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        archive += b"070701" + b"".join(b"%08X" % value for value in fields) + encoded
        archive += b"\0" * (-len(archive) % 4)
        archive += data
        archive += b"\0" * (-len(archive) % 4)
    return bytes(archive)
