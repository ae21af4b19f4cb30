# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """What the modules share that act on instances which are there."""

    DOCUMENTATION = r"""
options:
  root:
    description: The folder that holds everything of the compute service on the node.
    type: path
    default: /var/lib/compute-service
attributes:
  check_mode:
    description: Predicts exactly what the next real run does, and lists its commands.
    support: full
  diff_mode:
    description: Shows each changed instance with its commands.
    support: full
  platform:
    description: Debian and Ubuntu, on Linux 5.15 or newer.
    support: full
    platforms: debian
"""

    RETURN = r"""
"""
