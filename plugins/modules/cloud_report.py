#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin: the code is in plugins/action/cloud_report.py and plugins/plugin_utils/, and runs on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: cloud_report
short_description: Show what a run of the cloud's roles changed, or would change
version_added: 0.1.0
author:
  - ikcloud.compute authors (@ikcloud)
description:
  - Gathers what the tasks of this collection's roles registered on all nodes, and shows an entry for each change of a
    resource, with its reason,
    and their totals.
  - It runs on the controller, once for all nodes, connects to none, and changes nothing but the files that it is told
    to write.
  - The playbook C(ikcloud.compute.plan) runs the tasks of C(ikcloud.compute.site) in check mode and ends with it.
options:
  group:
    description: The inventory group of the compute nodes.
    type: str
    default: compute_nodes
  planned:
    description: Whether the tasks ran in check mode. Then each entry is shown, otherwise only the totals.
    type: bool
    default: false
  json:
    description: Also write all of it as JSON into this file on the controller. Its folder must be there.
    type: path
  markdown:
    description: Also write it as Markdown, for a comment on a merge request, into this file on the controller. Its
      folder must be there.
    type: path
  commands:
    description: Whether to show the commands too. They are always in the files.
    type: bool
    default: false
  fail_on_changes:
    description:
      - Fail when there is anything to change, after showing and writing it, so that a pipeline notices a cloud that is
        not as it is declared.
      - A restart that is only pending is no change; it is in the totals.
    type: bool
    default: false
  display:
    description: Whether to show it, rather than only return it.
    type: bool
    default: true
  only_validate:
    description:
      - Only look whether the other options can be used, and in a playbook of this collection what its run is given, and
        do nothing else.
      - Where nodes were read before, one machine under two names is refused.
    type: bool
    default: false
attributes:
  check_mode:
    description: Makes no difference; the files are written too.
    support: full
  diff_mode:
    description: The changes themselves are what it shows.
    support: none
  platform:
    description: Runs on the controller.
    support: full
    platforms: posix
seealso:
  - module: ikcloud.compute.cloud_plan
  - module: ikcloud.compute.cloud_status
"""

EXAMPLES = r"""
- name: Read the nodes
  ikcloud.compute.node_info:
  register: compute_node_info

- name: Compile the declaration
  ikcloud.compute.cloud_plan:
  register: cloud_plan
  run_once: true

- name: See what making the images would take
  ansible.builtin.import_role:
    name: ikcloud.compute.images
  vars:
    images_images: "{{ cloud_plan.nodes[inventory_hostname].images }}"
  check_mode: true

- name: Show it
  ikcloud.compute.cloud_report:
    planned: true
  run_once: true
"""

RETURN = r"""
differs:
  description: Whether there is anything to change, or was.
  returned: success
  type: bool
totals:
  description: The number of entries by kind of change, C(create), C(live), C(restart), C(rebuild), C(destroy), and
    C(pending) for restarts that wait.
  returned: success
  type: dict
  sample: {create: 2, live: 0, restart: 0, rebuild: 0, destroy: 0, pending: 0}
entries:
  description: The changes, in the order of nodes and tasks.
  returned: success
  type: list
  elements: dict
  sample:
    - {node: ik-node-01, kind: bridge, name: br-gnv-fc814e42, change: live, reason: "mtu is 1500, declared 1450"}
commands:
  description: By node, the commands in the order in which they are run.
  returned: success
  type: dict
  sample: {ik-node-01: [ip link set dev br-gnv-fc814e42 mtu 1450]}
nodes:
  description: The nodes that are in it as a whole.
  returned: success
  type: list
  elements: str
missing_nodes:
  description: The nodes of which nothing, or not all, is known, and why.
  returned: success
  type: dict
  sample: {ik-node-02: not reached}
notes:
  description: What else is to be said.
  returned: success
  type: list
  elements: str
text:
  description: What is shown.
  returned: success
  type: str
"""
