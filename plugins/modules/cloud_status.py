#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin: the code is in plugins/action/cloud_status.py and plugins/plugin_utils/, and runs on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: cloud_status
short_description: Show the nodes, networks and instances of a cloud
version_added: 0.1.0
author:
  - ikcloud.compute authors (@ikcloud)
description:
  - Puts what the nodes said of themselves beside the declaration, and shows it as tables, with the commands to log in
    to each instance.
  - It runs on the controller, once for all nodes, connects to none and changes nothing.
  - The commands to log in lead over the node that has the gateway of an instance's network, since only that one has an
    address there. They are made from the
    variables with which Ansible reaches the node (C(ansible_host), C(ansible_port), C(ansible_user),
      C(ansible_ssh_private_key_file) and
    C(ansible_ssh_common_args)). An instance none of whose networks has a gateway has no such command.
notes:
  - Register M(ikcloud.compute.node_info) and M(ikcloud.compute.instance_info) on the nodes first. With only one of the
    two, less is shown.
  - Users and addresses of declared instances are those of the declaration, and of the plan where
    M(ikcloud.compute.cloud_plan) was registered as
    C(cloud_plan) in this play. What the instances' own files say, which QEMU's user can write, counts for what is not
      declared.
requirements:
  - netaddr, on the controller
options:
  group:
    description: The inventory group of the compute nodes.
    type: str
    default: compute_nodes
  node_info:
    description: The variable under which M(ikcloud.compute.node_info) was registered on the nodes in this play.
    type: str
    default: compute_node_info
  instance_info:
    description: The variable under which M(ikcloud.compute.instance_info) was registered on the nodes in this play.
    type: str
    default: compute_instance_info
  width:
    description: The columns that a table may take, by default those of the terminal. Commands are never cut.
    type: int
  display:
    description: Whether to show the tables, rather than only return them.
    type: bool
    default: true
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
  - module: ikcloud.compute.cloud_plan
  - module: ikcloud.compute.node_info
  - module: ikcloud.compute.instance_info
"""

EXAMPLES = r"""
- name: Read what the nodes have
  ikcloud.compute.node_info:
  register: compute_node_info

- name: Read their instances
  ikcloud.compute.instance_info:
  register: compute_instance_info

- name: Show all of it
  ikcloud.compute.cloud_status:
  run_once: true
"""

RETURN = r"""
table:
  description: The tables as text.
  returned: success
  type: str
nodes:
  description: The nodes, in the inventory's order.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: ik-node-01, address: 192.0.2.101, instances: 1, memory: 16000, memory_used: 1024, disk_free: 40960, state:
      ready, login: ssh root@192.0.2.101}
networks:
  description: The networks, by name.
  returned: success
  type: list
  elements: dict
  sample:
    - {network: blue, vni: 88, cidr: 192.168.88.0/24, gateway: 192.168.88.1, gateway_node: ik-node-01, nat: true, nodes:
      [ik-node-01], declared: true}
instances:
  description: The instances, by name; those that are declared and not there too.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: Its name., type: str}
    id: {description: Its 8 hex digits., type: str}
    node: {description: Where it lives., type: str}
    power: {description: "As M(ikcloud.compute.instance_info) says; V(absent) or V(unknown) for one that was not
      found.", type: str}
    networks: {description: Its networks., type: list, elements: str}
    addresses: {description: "Its addresses, in the same order.", type: list, elements: str}
    cpu: {description: Its processors., type: int}
    memory: {description: Its memory in MiB., type: int}
    declared: {description: Whether it is declared., type: bool}
    restart_required: {description: Whether a change waits for a restart., type: bool}
    login: {description: The command that logs in; empty if there is none., type: str}
    no_login: {description: Why there is none although it runs; empty otherwise., type: str}
    log: {description: The command that follows what its serial console says; empty if there is none., type: str}
    console: {description: The command that joins its serial console; empty if it does not run., type: str}
    screen: {description: The command that makes its screen a VNC port of the controller; empty if it does not run or
      has none., type: str}
    error: {description: As M(ikcloud.compute.instance_info) says; empty if nothing is wrong., type: str}
    note: {description: What else is to be said of it., type: str}
missing_nodes:
  description: Nodes of the group of which nothing is known in this run.
  returned: success
  type: list
  elements: str
"""
