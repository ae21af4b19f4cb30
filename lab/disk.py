# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bootable qcow2 from a directory, without root, loop devices or mounting anything.

MBR with one ext4 partition at 1 MiB; GRUB's boot.img in the first 440 bytes, its core image in the gap behind it.
"""

from __future__ import annotations

import os
from pathlib import Path

from .host import LabError, run

GRUB = Path("/usr/lib/grub/i386-pc")
SECTOR = 512
PARTITION_START = 2048  # sectors
# Only what GRUB's ext2 driver reads, and spelled out, since mke2fs's default set differs from release to release.
EXT4_FEATURES = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,"
    "dir_nlink,extra_isize"
)
_ROOT = "(hd0,msdos1)"


def write_disk(
    root: Path, size: int, cmdline: str, work: Path, target: Path, compressed: bool, owner: list[str]
) -> None:
    """`root` holds /boot/vmlinuz-lab and /boot/initrd-lab. `owner` is the prefix under which the directory's files
    belong to root (fakeroot's, for a normal user)."""
    raw = work / "disk.raw"
    with raw.open("wb") as stream:
        stream.truncate(size << 20)
    run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", raw], stdin=f"label: dos\n{PARTITION_START},,L,*\n")
    offset = PARTITION_START * SECTOR
    blocks = ((size << 20) - offset) // 4096
    run(
        [
            *owner, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "root", "-m", "1", "-O", EXT4_FEATURES,
            "-E", f"offset={offset},lazy_itable_init=1,nodiscard", "-d", root, raw, str(blocks),
        ]
    )  # fmt: skip
    _install_grub(raw, cmdline, work)
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
    if compressed:
        # zstd, because a guest in a node reads its base image under TCG, and inflates every cluster it reads.
        convert += ["-c", "-o", "compression_type=zstd"]
    run([*convert, raw, target])


def _install_grub(raw: Path, cmdline: str, work: Path) -> None:
    # linux16, not linux: the latter moves the kernel's whole 54 MB work area byte by byte, which takes 3 s under TCG,
    # and 90 s at a reboot, when TCG has to throw away what it had translated there.
    config = work / "grub.cfg"
    config.write_text(
        f"linux16 {_ROOT}/boot/vmlinuz-lab root=/dev/vda1 rw {cmdline}\ninitrd16 {_ROOT}/boot/initrd-lab\nboot\n",
        encoding="utf-8",
    )
    core = work / "core.img"
    run(
        [
            "grub-mkimage", "-O", "i386-pc", "-d", GRUB, "-o", core, "-p", f"{_ROOT}/boot/grub", "-c", config,
            "biosdisk", "part_msdos", "ext2", "linux16",
        ]
    )  # fmt: skip
    image = core.read_bytes()
    if len(image) > (PARTITION_START - 1) * SECTOR:
        raise LabError("GRUB's core image does not fit in front of the partition")
    boot = (GRUB / "boot.img").read_bytes()[:440]
    descriptor = os.open(raw, os.O_WRONLY)
    try:
        os.pwrite(descriptor, boot, 0)
        os.pwrite(descriptor, image, SECTOR)
    finally:
        os.close(descriptor)
