#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node
short_description: Bring a node to what is declared for it, all kinds in one call
version_added: 0.1.0
author: ikcloud.compute authors (@ikcloud)
description:
  - Makes the bridges, tunnels, networks' ways out, volumes, seeds, taps and instances of a node what the lists say, in
    this order, as
    the modules of these names do one by one. The roles of this collection use it, since each task on a node costs more
      than its work.
  - All lists are checked before the first change. A kind that fails ends the call; the kinds before it are done, and
    the next run goes on.
  - C(invocation) comes back empty, for the lists of many instances would be most of what the controller reads. With
    C(-vvv), and where the lists are
    refused, it has them.
  - A list that is not given is not looked at, unless O(purge) names it.
  - Where nothing is listed and O(purge) is all there is to do, the order is the opposite one, for what stands on
    something goes before it.
extends_documentation_fragment:
  - ikcloud.compute.batch.node
  - ikcloud.compute.bridge.node
  - ikcloud.compute.geneve_tunnel.node
  - ikcloud.compute.nat.node
  - ikcloud.compute.volume.node
  - ikcloud.compute.seed.node
  - ikcloud.compute.tap.node
  - ikcloud.compute.instance.node
options:
  purge:
    description:
      - The kinds of which every item that carries the mark of this collection and is not listed is removed, too.
      - What the collection did not make is never removed.
    type: list
    elements: str
    choices: [bridges, tunnels, nats, volumes, seeds, taps, instances]
    default: []
  rebuild:
    description:
      - Names (C(compute-ID)) of listed volumes and seeds of instances that are rebuilt, as the modules
        M(ikcloud.compute.volume) and
        M(ikcloud.compute.seed) take them. The instances that run have to be restarted then, see O(restart).
    type: list
    elements: str
    default: []
  seed_secrets:
    description: Filled by the collection, from O(seeds), on the way to the node. Given in a task it is refused.
    type: str
  spare:
    description: Names, by kind, of others that O(purge) leaves alone.
    type: dict
    default: {}
    suboptions:
      bridges:
        description: Those of O(bridges).
        type: list
        elements: str
        default: []
      tunnels:
        description: Those of O(tunnels).
        type: list
        elements: str
        default: []
      nats:
        description: Those of O(nats).
        type: list
        elements: str
        default: []
      volumes:
        description: Those of O(volumes).
        type: list
        elements: str
        default: []
      seeds:
        description: Those of O(seeds).
        type: list
        elements: str
        default: []
      taps:
        description: Those of O(taps).
        type: list
        elements: str
        default: []
      instances:
        description: Those of O(instances).
        type: list
        elements: str
        default: []
seealso:
  - module: ikcloud.compute.bridge
  - module: ikcloud.compute.geneve_tunnel
  - module: ikcloud.compute.nat
  - module: ikcloud.compute.volume
  - module: ikcloud.compute.seed
  - module: ikcloud.compute.tap
  - module: ikcloud.compute.instance
  - module: ikcloud.compute.cloud_plan
    description: Compiles the declaration of a cloud into these lists.
  - module: ikcloud.compute.node_info
"""

EXAMPLES = r"""
- name: A network and the disk of an instance, and no other bridges of ours
  ikcloud.compute.node:
    bridges:
      - {name: br-gnv-fc814e42, network: blue, addresses: [192.0.2.1/24]}
    taps:
      - {name: vnet-0a1b2c3d, bridge: br-gnv-fc814e42, owner: root}
    volumes:
      - {name: data-2, size: 1G}
    purge: [bridges]
"""

RETURN = r"""
commands:
  description:
    - The exact commands, in order, as a person would type them; in check mode those that the next run executes.
    - Where something fails, those that were executed.
  returned: always
  type: list
  elements: str
  sample:
    - ip link add dev br-gnv-fc814e42 address 02:22:ea:a1:a9:7e type bridge stp_state 0
    - ip link set dev br-gnv-fc814e42 up
kinds:
  description:
    - What the module of each kind returns, by the names of the lists that were looked at; without its C(diff), with
      C(before) and C(after) only of
      what is changed, and with C(results) only of that, of what failed, and of what waits for a restart.
  returned: always
  type: dict
  sample:
    bridges:
      changed: true
      before: {br-gnv-fc814e42: {network: blue, mtu: 1500, addresses: [192.0.2.1/24], up: true}}
      after: {br-gnv-fc814e42: {network: blue, mtu: 1450, addresses: [192.0.2.1/24], up: true}}
      commands: [ip link set dev br-gnv-fc814e42 mtu 1450]
      results:
        - {name: br-gnv-fc814e42, action: update, changed: true, effect: live, reasons: ["mtu is 1500, declared 1450"],
          restart_required: false}
diff:
  description: What changes, item by item.
  returned: with C(--diff)
  type: list
  elements: dict
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ikcloud.compute.plugins.module_utils._core import execution
from ansible_collections.ikcloud.compute.plugins.module_utils._core.changes import Item
from ansible_collections.ikcloud.compute.plugins.module_utils._node.resources import argument_spec, converge_all


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    # Ansible adds all lists itself where there is no invocation, as where they are refused; ansible-playbook shows it
    # from -vvv on.
    untold: Item = {} if module._verbosity >= 3 else {"invocation": {}}
    execution.finish(module, lambda: {**converge_all(module.params, module.check_mode), **untold})


if __name__ == "__main__":
    main()
