# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What root made of a disk, written down where QEMU's user, who owns the disk and may write anything into its header,
can't write.

Where a filesystem or a container can't have such a record there is none, and the header is believed.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, replace

from .._core.errors import ComputeError
from .._core.marks import MADE, read_mark, write_mark
from .qcow2 import Header


@dataclass(frozen=True)
class Made:
    """What a disk was made as.

    :ivar size: Bytes, as the guest sees it.
    :ivar base: The path of the image that it stands on, "" for none.
    :ivar base_format: That image's format.
    """

    size: int
    base: str = ""
    base_format: str = ""


def record(path: str, header: Header, final: str = "") -> None:
    """Write down what a disk is, while it is still root's.

    :param final: What the file will be called, when it is under a temporary name as yet.
    """
    _write(path, Made(header.virtual_size, header.backing_file, header.backing_format), final)


def record_growth(path: str, size: int) -> None:
    """Write down that a disk has grown.

    :param size: Bytes.
    """
    made = read_made(path)
    if made:
        _write(path, replace(made, size=size))


def read_made(path: str) -> Made | None:
    """Read what a disk was made as, None where that is not written down."""
    try:
        return Made(**json.loads(read_mark(path, MADE)))
    except (ValueError, TypeError):
        return None


def _write(path: str, made: Made, final: str = "") -> None:
    # Who is not root has no disks but its own.
    if os.geteuid() == 0:
        with contextlib.suppress(ComputeError):
            write_mark(path, MADE, json.dumps(asdict(made)), final)
