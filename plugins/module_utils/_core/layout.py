# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where everything stands on a node: the talk's folders, and who owns them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from .errors import ComputeError
from .steps import MakeFolder, Step, user_ids

DEFAULT_ROOT = "/var/lib/compute-service"
KEPT = "kept"
# QEMU's unprivileged user; the role prepare makes it.
DEFAULT_USER = "compute-service"
# QEMU reads "," in an option's value as its end, systemd reads "%" as a specifier, /bin/sh reads most of the rest.
_ROOT = re.compile(r"(?:/[A-Za-z0-9._+@-]+)+")
_INSTANCE = re.compile(r"compute-([0-9a-f]{8})")
# sun_path in unix(7) holds 107 bytes and a NUL; the longest socket of ours is
# /run/instances/compute-xxxxxxxx/console.sock.
MAX_ROOT = 107 - len("/run/instances/compute-00000000/console.sock")


def root_problem(root: object) -> str | None:
    """Say what is wrong with the folder that holds everything, or None: absolute, plain characters, no ``..``, 63 bytes
    at most.
    """
    if not isinstance(root, str) or not _ROOT.fullmatch(root) or os.path.normpath(root) != root:
        return (
            f"root: {root!r} is not usable; give an absolute path of letters, digits and any of . _ + @ -, without '..'"
            " and without a '/' at its end."
        )
    if len(root) > MAX_ROOT:
        return (
            f"root: {root!r} has {len(root)} bytes; at most {MAX_ROOT} leave room for the instances' sockets below it"
            " (unix(7))."
        )
    return None


def instance_id(name: str) -> str | None:
    """Give the 8 hex digits in ``compute-af95e879``, or None for any other name."""
    match = _INSTANCE.fullmatch(name)
    return match.group(1) if match else None


@dataclass(frozen=True)
class InstancePaths:
    """The files of one instance.

    :ivar name: ``compute-<id>``.
    :ivar folder: ``run/instances/compute-<id>``.
    """

    name: str
    folder: str

    def _file(self, name: str) -> str:
        return f"{self.folder}/{name}"

    @property
    def user_data(self) -> str:
        return self._file("cloud_init.cfg")

    @property
    def network_config(self) -> str:
        return self._file("net_1.cfg")

    @property
    def meta_data(self) -> str:
        return self._file("meta_data.cfg")

    @property
    def record(self) -> str:
        """Where root writes down the name of one whose id does not follow from it: beside the folder, which is QEMU's
        user's to write in.
        """
        return f"{self.folder}.name"

    @property
    def pid(self) -> str:
        return self._file(f"{self.name}.pid")

    @property
    def start(self) -> str:
        return self._file("start")

    @property
    def stop(self) -> str:
        return self._file("stop")

    @property
    def qmp_script(self) -> str:
        return self._file("qmp")

    @property
    def qmp(self) -> str:
        return self._file("qmp.sock")

    @property
    def vnc(self) -> str:
        return self._file("vnc.sock")

    @property
    def console(self) -> str:
        return self._file("console.sock")

    @property
    def console_log(self) -> str:
        return self._file("console.log")

    @property
    def written(self) -> tuple[str, ...]:
        """What root writes, and the sockets that QEMU makes: each takes the place of anything but a folder."""
        return (self.start, self.stop, self.qmp_script, self.qmp, self.vnc, self.console, self.agent)

    @property
    def opened(self) -> tuple[str, ...]:
        """What QEMU opens as it starts, which takes for ever where it is a pipe."""
        return (self.pid, self.console_log)

    @property
    def agent(self) -> str:
        return self._file("agent.sock")


@dataclass(frozen=True)
class Layout:
    """The paths below one root.

    :ivar root: Such as ``/var/lib/compute-service``.
    :raises ComputeError: When the root can't be used.
    """

    root: str = DEFAULT_ROOT

    def __post_init__(self) -> None:
        problem = root_problem(self.root)
        if problem:
            raise ComputeError(problem)

    @property
    def images(self) -> str:
        return f"{self.root}/lib/images"

    @property
    def volumes(self) -> str:
        return f"{self.root}/lib/volumes"

    @property
    def instances(self) -> str:
        return f"{self.root}/run/instances"

    @property
    def networks(self) -> str:
        return f"{self.root}/run/networks"

    @property
    def folders(self) -> tuple[str, ...]:
        """All folders, for the role prepare: root-owned, readable by everybody (an instance's own is not)."""
        return (
            self.root,
            f"{self.root}/lib",
            self.images,
            self.volumes,
            f"{self.root}/run",
            self.instances,
            self.networks,
        )

    def image(self, name: str) -> str:
        """Give the path of the base image of that name."""
        return f"{self.images}/{name}.img"

    def volume(self, name: str) -> str:
        """Give the path of a volume; an instance's own is called ``compute-<id>``."""
        return f"{self.volumes}/{name}.img"

    def seed(self, name: str) -> str:
        """Give the path of the NoCloud seed of the instance ``compute-<id>``."""
        return f"{self.volumes}/{name}-seed.img"

    @property
    def kept(self) -> str:
        """Where volumes are moved whose instances are purged."""
        return f"{self.volumes}/{KEPT}"

    @property
    def backups(self) -> str:
        """Where backups of instances stand, unless they are put elsewhere."""
        return f"{self.root}/lib/backups"

    def instance(self, name: str) -> InstancePaths:
        """Give the paths of the instance ``compute-<id>``."""
        return InstancePaths(name, f"{self.instances}/{name}")

    def network(self, file: str) -> str:
        """Give the path of a file that boot replays, such as ``10-br-gnv-fc814e42.ip``."""
        return f"{self.networks}/{file}"


def owner_or_none(owner: str) -> str:
    """Give the owner that files are to get: as declared for root, "" (whoever runs) for anybody else, who can't give
    files away.
    """
    return owner if os.geteuid() == 0 else ""


def instance_folder_steps(path: str, owner: str, creating: bool) -> list[Step]:
    """List what makes an instance's folder as it has to be: mode 0750, of QEMU's user, who makes its sockets and
    pidfile there.

    Two modules write there, and either may come first. So that check mode names the commands of the real run, the step
    belongs to the creation of the module's own files, whether the folder is there or not; else it is listed only where
    the folder has another mode or owner.

    :param path: The folder, :attr:`InstancePaths.folder`.
    :param owner: QEMU's user, or "" (see :func:`owner_or_none`).
    :param creating: Whether the caller's own files are not there yet.
    """
    step = MakeFolder(path, mode=0o750, owner=owner)
    return [step] if creating or folder_drift(path, 0o750, owner) else []


def misplaced(paths: Iterable[str], plain: Collection[str] = ()) -> list[str]:
    """Return those of an instance's files where QEMU's user has put something that they can't replace.

    :param paths: A folder is in their way.
    :param plain: Whatever is no plain file that its owner may write to is in their way.
    """
    modes = {path: _mode(path) for path in (*paths, *plain)}
    # A plain file that its owner can't write to is in the way of what is to open it, too.
    usable = {path for path in plain if stat.S_ISREG(modes[path]) and modes[path] & stat.S_IWUSR}
    return [
        path for path, mode in modes.items() if mode and (stat.S_ISDIR(mode) or (path in plain and path not in usable))
    ]


def _mode(path: str) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0


def folder_drift(path: str, mode: int, owner: str) -> str:
    """Say in what an existing folder (or file) differs from a mode and an owner; "" when it doesn't, or is not there.

    Reads only its inode.
    """
    try:
        entry = os.lstat(path)
    except OSError:
        return ""
    if stat.S_IMODE(entry.st_mode) != mode:
        return f"mode of {path} is {stat.S_IMODE(entry.st_mode):04o}, not {mode:04o}"
    if owner:
        try:
            wanted = user_ids(owner)
        except ComputeError:
            return f"{path} does not belong to {owner}"
        if (entry.st_uid, entry.st_gid) != wanted:
            return f"{path} does not belong to {owner}"
    return ""
