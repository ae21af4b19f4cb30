# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Marks on files that have no room for one inside: extended attributes (xattr(7)).

They stay with the file through renames and writes, and go with it. A filesystem without user attributes (tmpfs before
Linux 6.6, some NFS) gets a hidden file beside it, which holds only for the same inode.
"""

from __future__ import annotations

import errno
import json
import os

from .errors import ComputeError
from .steps import Write, remove_file

# Whose it is: "image/bionic", "volume/compute-af95e879".
MARK = "user.ikcloud.compute"
# What an image was found to be when it was verified; JSON, holds as long as its size and mtime stay.
VERIFIED = "user.ikcloud.verified"
# What a volume was made as, JSON; only root can write this one (xattr(7), "Trusted extended attributes").
MADE = "trusted.ikcloud.made"
_UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def sidecar(path: str) -> str:
    """Give the path of the hidden file that holds a file's marks where the filesystem can't."""
    return f"{os.path.dirname(path)}/.{os.path.basename(path)}.marks"


def read_mark(path: str, name: str) -> str:
    """Read a mark, "" for none.

    :param path: The file.
    :param name: :data:`MARK`, :data:`VERIFIED` or :data:`MADE`.
    """
    try:
        return os.getxattr(path, name).decode(errors="replace")
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return _sidecar_marks(path, path).get(name, "")
        return ""


def write_mark(path: str, name: str, value: str, final: str = "") -> None:
    """Set a mark.

    :param path: The file.
    :param final: What the file will be called, when it is under a temporary name as yet.
    :raises ComputeError: When it can't be set.
    """
    try:
        try:
            os.setxattr(path, name, value.encode())
        except PermissionError:
            _set_on_read_only(path, name, value)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise ComputeError(f"{path} can't be marked with {name}: {error.strerror}.") from None
        final = final or path
        marks = {**_sidecar_marks(path, final), name: value, "inode": str(os.stat(path).st_ino)}
        Write(sidecar(final), json.dumps(marks, indent=1, sort_keys=True) + "\n").run()


def forget_marks(path: str) -> None:
    """Remove what stands beside a file that is gone."""
    remove_file(sidecar(path))


def mark_command(path: str, value: str) -> str:
    """Give the command that sets :data:`MARK` by hand (setfattr(1), package attr)."""
    return f"setfattr -n {MARK} -v {value} {path}"


def _set_on_read_only(path: str, name: str, value: str) -> None:
    """Set an attribute of a file whose mode is 0444: xattr(7) asks its owner for write permission, root aside."""
    mode = os.stat(path).st_mode
    os.chmod(path, mode | 0o200)
    try:
        os.setxattr(path, name, value.encode())
    finally:
        os.chmod(path, mode)


def _sidecar_marks(path: str, final: str) -> dict[str, str]:
    try:
        with open(sidecar(final), encoding="utf-8") as stream:
            marks = json.load(stream)
        if isinstance(marks, dict) and marks.get("inode") == str(os.stat(path).st_ino):
            return {str(key): str(value) for key, value in marks.items()}
    except (OSError, ValueError):
        pass  # none there, or half of one: no mark
    return {}
