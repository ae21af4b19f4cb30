# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The list of the module tap, which the module node takes too."""

    LIST = r"""
options:
  taps:
    description: The taps.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The link's name, 15 characters at most, such as V(vnet-af95e879).
        type: str
        required: true
      bridge:
        description: The bridge that the tap is a port of. Required with C(state=present). M(ikcloud.compute.bridge)
          makes it.
        type: str
      mtu:
        description: The MTU in bytes, the same as the bridge's.
        type: int
        default: 1450
      owner:
        description: The user that QEMU runs as. The role C(prepare) makes the default one.
        type: str
        default: compute-service
      instance:
        description: The instance whose port it is, for its mark; the tap's name when it isn't given.
        type: str
"""

    DOCUMENTATION: str = LIST
    NODE: str = LIST.replace("    required: true\n    suboptions:", "    suboptions:", 1)
