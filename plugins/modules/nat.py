#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nat
short_description: The way out of a network, and its isolation
version_added: 0.1.0
author: ikcloud.compute authors (@ikcloud)
description:
  - Gives the instances of a network access to the world through the node's uplink, and keeps them from everything else.
  - Each network has one nftables table of its own, C(inet ikcloud_ID), loaded in one transaction from a file in
    C(run/networks) below
    O(root). C(compute-networks.service) replays the file after a reboot.
  - From the network only its own addresses are let out, and only by the uplink; only answers come back. Networks never
    reach each other.
    Of the node itself the instances reach nothing but ICMP echo of their gateway.
  - UDP to the ports of GENEVE and VXLAN (6081 and 4789) is dropped, since a guest could else send into other networks'
    tunnels with the node's address.
  - TCP's maximum segment size is clamped to the path's MTU.
  - The table that the kernel has is compared with what the file makes of it, so that a rule which was added or removed
    by hand is noticed and mended.
  - IPv4 forwarding is turned on with the first such network, in C(/etc/sysctl.d/60-ikcloud-compute.conf) too. With the
    last one it
    becomes what it was before, unless somebody else needs it by then.
  - A warning names the table of somebody else (Docker, ufw, firewalld) that drops forwarded packets. An accept in our
    table can't overrule it.
extends_documentation_fragment:
  - ikcloud.compute.batch
  - ikcloud.compute.nat
seealso:
  - module: ikcloud.compute.bridge
"""

EXAMPLES = r"""
- name: The bridge of the network blue, with its gateway address
  ikcloud.compute.bridge:
    bridges:
      - {name: br-gnv-fc814e42, network: blue, addresses: [192.0.2.1/24]}

- name: A way out for the network blue
  ikcloud.compute.nat:
    networks:
      - {name: blue, id: fc814e42, bridge: br-gnv-fc814e42, cidr: 192.0.2.0/24, uplink: eth0}

- name: Keep the network blue closed
  ikcloud.compute.nat:
    networks:
      - {name: blue, id: fc814e42, bridge: br-gnv-fc814e42, cidr: 192.0.2.0/24, masquerade: false}

- name: Remove it
  ikcloud.compute.nat:
    networks:
      - name: blue
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
  sample: {blue: null}
after:
  description: The items as they are now, by name, predicted in check mode; null for one that is gone.
  returned: success
  type: dict
  sample: {blue: {id: fc814e42, bridge: br-gnv-fc814e42, cidr: 192.0.2.0/24, uplink: eth0, masquerade: true}}
commands:
  description: The exact commands, in order, as a person would type them; in check mode those that the next run
    executes.
  returned: success
  type: list
  elements: str
  sample:
    - install -D -m 0644 /dev/stdin /var/lib/compute-service/run/networks/50-nat-blue.nft
    - nft -f /var/lib/compute-service/run/networks/50-nat-blue.nft
    - sysctl -w net.ipv4.ip_forward=1
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
    - {name: blue, action: create, changed: true, reasons: [], restart_required: false, restart_reason: ""}
diff:
  description: What changes, item by item.
  returned: with C(--diff)
  type: list
  elements: dict
  sample: []
"""

from ansible_collections.ikcloud.compute.plugins.module_utils._core import reconcile
from ansible_collections.ikcloud.compute.plugins.module_utils._network.firewall.resource import NatResource


def main() -> None:
    """Run the module."""
    reconcile.main(NatResource)


if __name__ == "__main__":
    main()
