# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The distribution that nodes and guests are built from: this machine's own release, or another one on the same
mirror.
"""

from __future__ import annotations

from dataclasses import dataclass

from .host import LabError, os_release

# The releases beside the host's own that the collection supports (see README.md), by distribution.
SUPPORTED = {"debian": ("bookworm", "trixie"), "ubuntu": ("jammy", "noble")}


@dataclass(frozen=True)
class Distribution:
    """
    :ivar id: ``debian`` or ``ubuntu``, as os-release(5) calls it.
    :ivar suite: What the mirror calls the release, such as ``trixie``.
    :ivar host_suite: The suite of the host, whose apt sources are read.
    """

    id: str
    suite: str
    host_suite: str

    def __str__(self) -> str:
        return f"{self.id.capitalize()} {self.suite}"


def find_distribution(suite: str = "") -> Distribution:
    """Return the distribution of a suite; without one, the host's own release."""
    release = os_release()
    name, host_suite = release.get("ID", ""), release.get("VERSION_CODENAME", "")
    if name not in SUPPORTED or not host_suite:
        raise LabError(
            f"the images are built from Debian or Ubuntu, and this machine runs {release.get('PRETTY_NAME') or name}"
        )
    choices = dict.fromkeys((host_suite, *SUPPORTED[name]))
    if suite and suite not in choices:
        raise LabError(
            f"DISTRIBUTION={suite} is not a supported release of {name.capitalize()}, this machine's distribution, from"
            f" whose mirror the nodes are built; choose one of {', '.join(choices)}"
        )
    return Distribution(name, suite or host_suite, host_suite)
