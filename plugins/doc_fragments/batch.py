# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """What all modules that take a list share."""

    NODE = r"""
options:
  root:
    description:
      - The folder that holds everything of the compute service on the node, in the layout of C(lib/images),
        C(lib/volumes),
        C(run/instances) and C(run/networks).
    type: path
    default: /var/lib/compute-service
attributes:
  check_mode:
    description: Predicts exactly what the next real run does, and lists its commands.
    support: full
  diff_mode:
    description: Shows each changed item with its commands, and each changed file.
    support: full
  platform:
    description: Debian and Ubuntu, on Linux 5.15 or newer.
    support: full
    platforms: debian
"""

    DOCUMENTATION: str = NODE.replace(
        "options:\n",
        r"""
options:
  state:
    description:
      - V(present) makes the listed items as they are declared; V(absent) removes them, and only
        their names are looked at.
    type: str
    choices: [present, absent]
    default: present
  purge:
    description:
      - Also remove every item of this kind that carries the mark of this collection and is not listed.
      - What the collection did not make is never removed. An empty list with O(purge=true) is valid.
    type: bool
    default: false
  spare:
    description:
      - Names of others of this kind that O(purge) leaves alone, and for which stays what all of a kind share.
    type: list
    elements: str
    default: []
""",
        1,
    )
