#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: geneve_tunnel
short_description: GENEVE or VXLAN tunnels that join a network's bridges across nodes
version_added: 0.1.0
author: ikcloud.compute authors (@ikcloud)
description:
  - Makes tunnel links and joins them to a bridge, so that instances on several nodes share one network over an IP
    underlay.
  - GENEVE links of the kernel are point to point, so a network over N nodes has N-1 of them on each node.
    The tunnel ports of a bridge are isolated from each other before they go up, since a full mesh on plain bridges is a
      loop.
  - What the kernel can't change in place (VNI, port, remote, encapsulation) is changed by deleting the link and making
    it anew,
    which interrupts that network between the two nodes for a moment. RV(results[].reasons) says so.
  - A tunnel of ours that is not listed, and is in the way since it has the same VNI, port and remote, is replaced.
  - A file in C(run/networks) below O(root) holds the lines that make the link; C(compute-networks.service) replays it
    after a reboot.
extends_documentation_fragment:
  - ikcloud.compute.batch
  - ikcloud.compute.geneve_tunnel
seealso:
  - module: ikcloud.compute.bridge
  - name: RFC 8926
    description: Geneve, Generic Network Virtualization Encapsulation.
    link: https://www.rfc-editor.org/rfc/rfc8926
  - name: RFC 7348
    description: Virtual eXtensible Local Area Network (VXLAN).
    link: https://www.rfc-editor.org/rfc/rfc7348
"""

EXAMPLES = r"""
- name: The bridge of the network blue
  ikcloud.compute.bridge:
    bridges:
      - {name: br-gnv-fc814e42, network: blue}

- name: Tunnels of the network blue to two other nodes
  ikcloud.compute.geneve_tunnel:
    tunnels:
      - {name: gnv-0d5e8a1c, network: blue, vni: 88, remote: [192.0.2.102], bridge: br-gnv-fc814e42}
      - {name: gnv-7b3f2e90, network: blue, vni: 88, remote: [192.0.2.103], bridge: br-gnv-fc814e42}
    purge: true

- name: The same where the kernel has no GENEVE
  ikcloud.compute.geneve_tunnel:
    tunnels:
      - name: gnv-0d5e8a1c
        network: blue
        vni: 88
        remote: [192.0.2.102, 192.0.2.103]
        bridge: br-gnv-fc814e42
        encapsulation: vxlan
    purge: true
"""

RETURN = r"""
changed:
  description: Whether something was changed, or would be in check mode.
  returned: always
  type: bool
  sample: true
before:
  description: The items as they were, by name; null for one that was not there. What needs no look has no entry.
  returned: success
  type: dict
  sample: {gnv-0d5e8a1c: null}
after:
  description: The items as they are now, by name, predicted in check mode; null for one that is gone.
  returned: success
  type: dict
  sample:
    gnv-0d5e8a1c:
      {network: blue, encapsulation: geneve, vni: 88, remote: [192.0.2.102], port: 6081, bridge: br-gnv-fc814e42,
        isolated: true, mtu: 1450, up: true}
commands:
  description: The exact commands, in order, as a person would type them; in check mode those that the next run
    executes.
  returned: success
  type: list
  elements: str
  sample:
    - ip link add dev gnv-0d5e8a1c type geneve id 88 remote 192.0.2.102 dstport 6081
    - ip link set dev gnv-0d5e8a1c up
results:
  description: An entry for each item, and for the systemd unit and the like when they change.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: The item's name., type: str, returned: always}
    action: {description: "C(none), C(create), C(update) or C(delete).", type: str, returned: always}
    changed: {description: Whether it was changed., type: bool, returned: always}
    effect: {description: "C(none), C(create), C(live), C(restart), C(rebuild) or C(destroy).", type: str, returned:
      always}
    reasons: {description: What differed., type: list, elements: str, returned: always}
    restart_required: {description: Whether a change waits for a restart., type: bool, returned: always}
    restart_reason: {description: Why a restart is needed., type: str, returned: always}
    error: {description: Why this item failed., type: str, returned: when it failed}
  sample:
    - {name: gnv-0d5e8a1c, action: create, changed: true, reasons: [], restart_required: false, restart_reason: ""}
diff:
  description: What changes, item by item.
  returned: with C(--diff)
  type: list
  elements: dict
  sample: []
"""

from ansible_collections.ikcloud.compute.plugins.module_utils._core import reconcile
from ansible_collections.ikcloud.compute.plugins.module_utils._network.tunnel import TunnelResource


def main() -> None:
    """Run the module."""
    reconcile.main(TunnelResource)


if __name__ == "__main__":
    main()
