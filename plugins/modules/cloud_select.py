#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin: the code is in plugins/action/cloud_select.py and plugins/plugin_utils/_controller/selection.py, and
# runs on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: cloud_select
short_description: Find the nodes of some instances
version_added: 0.1.0
author:
  - ikcloud.compute authors (@ikcloud)
description:
  - Takes the names that a person gave and says which node has which of these instances. What is not there is one error,
    which names what is.
  - The playbooks C(ikcloud.compute.start), C(stop), C(reboot), C(pause), C(resume), C(snapshot), C(snapshots),
    C(snapshot_revert), C(snapshot_delete),
    C(backup) and C(restore) begin with it.
  - It runs on the controller, once for all nodes, connects to none and changes nothing.
notes:
  - Register M(ikcloud.compute.instance_info) on the nodes first.
options:
  instances:
    description:
      - Names, 8 hex digits that stand for one, or patterns such as C(web-*), each of which has to match something. A
        list, or a text with commas.
      - Required unless O(snapshots=true), which then takes all.
    type: raw
  group:
    description: The inventory group of the compute nodes.
    type: str
    default: compute_nodes
  instance_info:
    description: The variable under which M(ikcloud.compute.instance_info) was registered on the nodes in this play.
    type: str
    default: compute_instance_info
  snapshots:
    description: Whether to show a table of these instances' snapshots.
    type: bool
    default: false
attributes:
  check_mode:
    description: Makes no difference; nothing is changed.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
  platform:
    description: Runs on the controller.
    support: full
    platforms: posix
seealso:
  - module: ikcloud.compute.instance_power
  - module: ikcloud.compute.snapshot
  - module: ikcloud.compute.backup
"""

EXAMPLES = r"""
- name: A volume for the instance
  ikcloud.compute.volume:
    volumes:
      - name: compute-0a1b2c3d
        size: 64M

- name: An instance
  ikcloud.compute.instance:
    instances:
      - name: example-1
        id: 0a1b2c3d
        memory: 64
        seed: false
        accel: tcg
        power: stopped

- name: Read the instances
  ikcloud.compute.instance_info:
  register: compute_instance_info

- name: Find those that are meant
  ikcloud.compute.cloud_select:
    instances: example-*
  register: cloud_selected
  run_once: true

- name: Start those that this node has
  ikcloud.compute.instance_power:
    instances: "{{ cloud_selected.nodes[inventory_hostname] }}"
    state: started

- name: Remove the instance, at once
  ikcloud.compute.instance:
    instances:
      - name: example-1
        id: 0a1b2c3d
        grace: 0
    state: absent

- name: Remove its volume
  ikcloud.compute.volume:
    volumes:
      - name: compute-0a1b2c3d
    state: absent
"""

RETURN = r"""
nodes:
  description: For each node of the group, the names of the instances that are meant and that it has.
  returned: success
  type: dict
  sample: {ik-node-01: [web-1], ik-node-02: []}
"""
