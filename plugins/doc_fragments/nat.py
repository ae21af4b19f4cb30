# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The list of the module nat, which the module node takes too."""

    LIST = r"""
options:
  networks:
    description: The networks.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The network's name.
        type: str
        required: true
      id:
        description: 8 hex digits, for the name of the table. Required with C(state=present).
        type: str
      bridge:
        description: The network's bridge on this node. Required with C(state=present). M(ikcloud.compute.bridge) makes
          it.
        type: str
      cidr:
        description: The network's IPv4 addresses, such as V(192.0.2.0/24). Required with C(state=present).
        type: str
      uplink:
        description: The link to the world. That of the IPv4 default route when it isn't given.
        type: str
      masquerade:
        description:
          - Whether the network has a way out, behind the address of the uplink.
          - With V(false) nothing is forwarded from or to it. It is only kept apart from other networks and from the
            node.
        type: bool
        default: true
"""

    DOCUMENTATION: str = LIST
    NODE: str = LIST.replace("    required: true\n    suboptions:", "    suboptions:", 1).replace(
        "  networks:", "  nats:", 1
    )
