# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The list of the module geneve_tunnel, which the module node takes too."""

    LIST = r"""
options:
  tunnels:
    description: The tunnels.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The link's name, 15 characters at most, such as V(gnv-0d5e8a1c).
        type: str
        required: true
      network:
        description: The network that it belongs to, for its mark. Required with C(state=present).
        type: str
      vni:
        description: The virtual network identifier, 0 to 16777215 (RFC 8926). Required with C(state=present).
        type: int
      remote:
        description:
          - The IPv4 or IPv6 addresses of the other ends in the underlay. Required with C(state=present).
          - Exactly one with O(tunnels[].encapsulation=geneve). A kernel has one VXLAN link for each VNI, so all its
            remotes are listed there.
        type: list
        elements: str
      bridge:
        description: The bridge that the link is a port of. Required with C(state=present). M(ikcloud.compute.bridge)
          makes it.
        type: str
      mtu:
        description: The MTU in bytes, the same as the bridge's.
        type: int
        default: 1450
      encapsulation:
        description: V(vxlan) is for kernels without GENEVE. All nodes of a network need the same.
        type: str
        choices: [geneve, vxlan]
        default: geneve
      port:
        description: The UDP port in the underlay; 6081 for GENEVE and 4789 for VXLAN when it isn't given.
        type: int
"""

    DOCUMENTATION: str = LIST
    NODE: str = LIST.replace("    required: true\n    suboptions:", "    suboptions:", 1)
