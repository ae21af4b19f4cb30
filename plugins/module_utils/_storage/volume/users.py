# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the resource volume asks of those who use volumes, whoever they are: storage itself knows no virtual machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from ..._core.steps import Step


class OnlineResize(Protocol):
    """A way to grow a volume while it is in use.

    :ivar before: What has to be ended first, such as an interrupted copy of the volume.
    """

    @property
    def before(self) -> Sequence[Step]: ...

    def step(self, size: int, path: str) -> Step:
        """Return the step that grows it to ``size`` bytes."""


class VolumeUsers(Protocol):
    """Those who use volumes. All of these read the node."""

    def online_resize(self, name: str, path: str) -> OnlineResize | None:
        """Find a way to grow a volume that somebody has open; None for none."""

    def users(self, names: Iterable[str]) -> dict[str, str]:
        """Return which running instance has a volume open, by volume; "" where that can't be told."""

    def deleted(self, names: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Find volumes whose files were deleted while a running instance has them open: their data are lost with it.

        :returns: By volume, the instance, and where the data can be read still (proc(5), fd).
        """
