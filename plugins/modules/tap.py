#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tap
short_description: Ports of instances on a bridge
version_added: 0.1.0
author: ikcloud.compute authors (@ikcloud)
description:
  - Makes tap links that QEMU opens as an instance's network card, and joins them to a bridge.
  - A tap belongs to QEMU's unprivileged user, so that QEMU needs no privilege to open it. The owner can't be changed in
    place.
    The link is made anew for that, but never while an instance has it open; then RV(results[].restart_required) is
      true.
  - The ports are never isolated from each other, so the instances of a network on one node see each other.
  - A file in C(run/networks) below O(root) holds the lines that make the link; C(compute-networks.service) replays it
    after a reboot.
extends_documentation_fragment:
  - ikcloud.compute.batch
  - ikcloud.compute.tap
seealso:
  - module: ikcloud.compute.bridge
  - module: ikcloud.compute.instance
"""

EXAMPLES = r"""
- name: The bridge of the network blue
  ikcloud.compute.bridge:
    bridges:
      - {name: br-gnv-fc814e42, network: blue}

- name: The ports of two instances
  ikcloud.compute.tap:
    taps:
      - {name: vnet-af95e879, bridge: br-gnv-fc814e42, instance: web-1}
      - {name: vnet-5c0d9b12, bridge: br-gnv-fc814e42, instance: web-2}

- name: Remove the port of an instance
  ikcloud.compute.tap:
    taps:
      - name: vnet-5c0d9b12
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
  sample: {vnet-af95e879: null}
after:
  description: The items as they are now, by name, predicted in check mode; null for one that is gone.
  returned: success
  type: dict
  sample: {vnet-af95e879: {instance: web-1, bridge: br-gnv-fc814e42, mtu: 1450, owner: compute-service, isolated: false,
    up: true}}
commands:
  description: The exact commands, in order, as a person would type them; in check mode those that the next run
    executes.
  returned: success
  type: list
  elements: str
  sample:
    - ip tuntap add dev vnet-af95e879 mode tap user compute-service
    - ip link set dev vnet-af95e879 up
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
    - {name: vnet-af95e879, action: create, changed: true, reasons: [], restart_required: false, restart_reason: ""}
diff:
  description: What changes, item by item.
  returned: with C(--diff)
  type: list
  elements: dict
  sample: []
"""

from ansible_collections.ikcloud.compute.plugins.module_utils._core import reconcile
from ansible_collections.ikcloud.compute.plugins.module_utils._network.tap import TapResource


def main() -> None:
    """Run the module."""
    reconcile.main(TapResource)


if __name__ == "__main__":
    main()
