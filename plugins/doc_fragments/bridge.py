# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The list of the module bridge, which the module node takes too."""

    LIST = r"""
options:
  bridges:
    description: The bridges.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The bridge's name, 15 characters at most, such as V(br-gnv-fc814e42).
        type: str
        required: true
      network:
        description: The network that it belongs to, for its mark. Required with C(state=present).
        type: str
      mtu:
        description:
          - The MTU in bytes. It is set explicitly, since the kernel does not fit it in every order of events.
          - GENEVE and VXLAN take 50 bytes of the underlay's MTU, 70 over IPv6.
        type: int
        default: 1450
      addresses:
        description:
          - The bridge's own addresses with prefix length, exactly these. The first node of a network has the gateway
            address here.
          - They are added and removed live.
        type: list
        elements: str
        default: []
      labels:
        description: What else is to be known of its network; kept in its file and read by M(ikcloud.compute.node_info),
          without a meaning here.
        type: dict
        default: {}
"""

    DOCUMENTATION: str = LIST
    NODE: str = LIST.replace("    required: true\n    suboptions:", "    suboptions:", 1)
