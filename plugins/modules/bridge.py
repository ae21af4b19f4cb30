#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bridge
short_description: Bridges that a node's instances and tunnels are joined to
version_added: 0.1.0
author: ikcloud.compute authors (@ikcloud)
description:
  - Makes Linux bridges, one for each network of the compute service that the node takes part in.
  - The whole list is read by one C(ip) process and changed by one C(ip -batch), whatever its length.
  - A file in C(run/networks) below O(root) holds the lines that make the bridge, for C(ip -batch) and a person to read.
    C(compute-networks.service) replays the files after a reboot. This module installs that unit on a node with systemd.
  - A bridge of ours carries its network in its ifalias. A link of the same name without that mark is never touched; it
    is an error.
  - A bridge with an address has a MAC address that follows from its name and its first address, so that guests find
    their gateway
    when ports come and go.
extends_documentation_fragment:
  - ikcloud.compute.batch
  - ikcloud.compute.bridge
seealso:
  - module: ikcloud.compute.geneve_tunnel
  - module: ikcloud.compute.tap
  - module: ikcloud.compute.nat
"""

EXAMPLES = r"""
- name: The bridge of the network blue, with its gateway address
  ikcloud.compute.bridge:
    bridges:
      - name: br-gnv-fc814e42
        network: blue
        mtu: 1450
        addresses: [192.0.2.1/24]

- name: Exactly these bridges; others that this collection made are removed
  ikcloud.compute.bridge:
    bridges:
      - {name: br-gnv-fc814e42, network: blue}
      - {name: br-gnv-1a2b3c4d, network: green, mtu: 1430, addresses: ["198.51.100.1/24", "2001:db8:88::1/64"]}
    purge: true

- name: Remove one
  ikcloud.compute.bridge:
    bridges:
      - name: br-gnv-1a2b3c4d
    state: absent
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
  sample: {br-gnv-fc814e42: null}
after:
  description: The items as they are now, by name, predicted in check mode; null for one that is gone.
  returned: success
  type: dict
  sample: {br-gnv-fc814e42: {network: blue, mtu: 1450, addresses: [192.0.2.1/24], up: true}}
commands:
  description: The exact commands, in order, as a person would type them; in check mode those that the next run
    executes.
  returned: success
  type: list
  elements: str
  sample:
    - ip link add dev br-gnv-fc814e42 address 02:22:ea:a1:a9:7e type bridge stp_state 0
    - ip link set dev br-gnv-fc814e42 up
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
    - {name: br-gnv-fc814e42, action: create, changed: true, reasons: [], restart_required: false, restart_reason: ""}
diff:
  description: What changes, item by item.
  returned: with C(--diff)
  type: list
  elements: dict
  sample: []
"""

from ansible_collections.ikcloud.compute.plugins.module_utils._core import reconcile
from ansible_collections.ikcloud.compute.plugins.module_utils._network.bridge import BridgeResource


def main() -> None:
    """Run the module."""
    reconcile.main(BridgeResource)


if __name__ == "__main__":
    main()
