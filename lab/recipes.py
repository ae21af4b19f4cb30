# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes into each image: packages, files beside them, units that a test machine does not need."""

from __future__ import annotations

from dataclasses import dataclass, field

from .host import LabError

KERNELS = {"debian": ("linux-image-cloud-amd64",), "ubuntu": ("linux-image-virtual", "linux-modules-extra-virtual")}
# In every root: an init, a way in, and busybox for the initramfs.
_COMMON = (
    "ca-certificates", "dbus", "e2fsprogs", "iproute2", "iputils-ping", "kmod", "openssh-server", "procps",
    "python3", "sudo", "systemd-sysv", "udev", "wget", "netcat-openbsd", "busybox-static",
)  # fmt: skip
# Timers and one-shots that cost seconds under TCG and mean nothing on a disk that lives for an hour.
_IDLE_UNITS = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "fstrim.timer", "systemd-pstore.service", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
    "getty@tty1.service", "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount", "modprobe@fuse.service", "modprobe@drm.service",
    "modprobe@efi_pstore.service", "systemd-binfmt.service",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """One disk. `root` names the package set it is made from, so that two disks can share one."""

    name: str
    root: str
    size: int  # MiB, of the filesystem and so of the virtual disk as published
    cmdline: str
    files: dict[str, str] = field(default_factory=dict)  # path in the image -> file under lab/files
    masked: tuple[str, ...] = ()
    enabled: dict[str, str] = field(default_factory=dict)  # unit -> the target that wants it
    links: dict[str, str] = field(default_factory=dict)  # path in the image -> what it points to
    removed: tuple[str, ...] = ()
    picked: bool = False  # only what lab/small.py picks out of the root, not the whole of it
    compressed: bool = True


def packages(root: str, distribution: str) -> tuple[str, ...]:
    if distribution not in KERNELS:
        raise LabError(f"the images are built from Debian or Ubuntu, not {distribution}")
    kernel = KERNELS[distribution]
    sets: dict[str, tuple[str, ...]] = {
        "node": (
            *_COMMON, "curl", "dropbear-bin", "ethtool", "genisoimage", "nftables", "python3-apt",
            "qemu-system-x86", "qemu-utils", "socat", "tcpdump", "uuid-runtime",
        ),
        "debian": (
            *_COMMON, "cloud-guest-utils", "cloud-init", "fdisk", "libpam-systemd", "netplan.io", "qemu-guest-agent",
            "systemd-resolved",
        ),
    }  # fmt: skip
    return (*kernel, *sets[root])


# Host keys and the machine id belong to one machine: each boot of a fresh disk makes its own.
_IDENTITY = ("etc/ssh/ssh_host_*", "etc/machine-id", "var/lib/dbus/machine-id", "etc/hostname", "etc/resolv.conf")

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="node",
            root="node",
            size=10240,
            # No renaming of cards by udev, which would go on while the seed is applied.
            cmdline="console=tty0 console=ttyS0 mitigations=off quiet systemd.show_status=0 net.ifnames=0",
            files={
                "usr/lib/lab/seed-reader": "seed-reader",
                "usr/lib/lab/seed-apply": "seed-apply",
                "usr/lib/lab/node-setup": "node-setup",
                "etc/systemd/system/lab-seed.service": "lab-seed.service",
                "etc/ssh/sshd_config.d/lab.conf": "sshd-lab.conf",
                "etc/systemd/journald.conf.d/lab.conf": "journald-lab.conf",
            },
            masked=(
                *_IDLE_UNITS,
                "systemd-networkd.service",
                "systemd-networkd.socket",
                "systemd-networkd-wait-online.service",
                "nftables.service",
                "networking.service",
            ),
            enabled={"lab-seed.service": "multi-user.target"},
            removed=_IDENTITY,
            compressed=False,
        ),
        Recipe(
            name="debian",
            root="debian",
            size=2048,
            cmdline="console=tty0 console=ttyS0",
            files={
                "etc/cloud/cloud.cfg.d/90_lab.cfg": "cloud-lab.cfg",
                "etc/sysctl.d/90-lab-ping.conf": "sysctl-ping.conf",
            },
            masked=(*_IDLE_UNITS, "systemd-networkd-wait-online.service"),
            enabled={"systemd-networkd.service": "multi-user.target", "systemd-resolved.service": "multi-user.target"},
            links={"etc/resolv.conf": "../run/systemd/resolve/stub-resolv.conf"},
            removed=_IDENTITY,
        ),
        Recipe(
            name="small",
            root="node",
            size=128,
            cmdline="console=tty0 console=ttyS0 mitigations=off quiet",
            picked=True,
        ),
    )
}
# Not a disk: see images.build_tree. The kernel is this machine's, and what a seed brings is written beforehand.
CONTAINER = Recipe(
    name="container",
    root="node",
    size=0,
    cmdline="",
    files={
        "etc/ssh/sshd_config.d/lab.conf": "sshd-lab.conf",
        "etc/systemd/journald.conf.d/lab.conf": "journald-lab.conf",
    },
    masked=RECIPES["node"].masked,
    removed=(*_IDENTITY, "boot/*"),
)
GUESTS = ("debian", "small")
