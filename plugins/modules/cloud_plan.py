#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin: the code is in plugins/action/cloud_plan.py and plugins/plugin_utils/, and runs on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: cloud_plan
short_description: Compile the declaration of a cloud into lists for each node
version_added: 0.1.0
author:
  - ikcloud.compute authors (@ikcloud)
description:
  - Reads the declaration of images, networks and instances, checks it as a whole, places the instances on nodes,
    allocates their addresses,
    and gives for each node the lists that the other modules of this collection take.
  - It runs on the controller, once for all nodes, connects to none and changes nothing.
  - Every problem of the declaration is named in one message, each with its place and a way out, before anything is
    changed anywhere.
  - An instance that lives on a node stays there and keeps its addresses. A new one goes to the node it names, else to
    the one with the fewest instances
    that has memory for it; it gets the address it names, else the first free one of its network.
  - Of a node that is not in this run (C(--limit)) or was not reached nobody knows what lives there. So with such a
    node, instances that are neither pinned
    to a node nor seen on one are left out of the run, with a warning; everything else goes on.
  - Images, networks and instances are mappings by name, or lists of mappings that each have a C(name). YAML itself
    drops the first of two equal
    keys of a mapping (Ansible warns of it, or fails with C(DUPLICATE_YAML_DICT_KEY=error)); in a list, a name that
      stands twice is refused.
notes:
  - Each option that is not given is read from the inventory variable named in its description, so that the task needs
    none of them.
  - The nodes are the hosts of the group, with their variables C(compute_underlay_address) (by default C(ansible_host),
    where it is an IP address)
    and C(compute_uplink).
  - When an instance has C(user_data) or a C(password_hash), the result is kept off the screen and out of callback
    plugins, as with C(no_log). In what is
    registered they stand encrypted, as C(secrets) of each seed, which the modules M(ikcloud.compute.seed) and
      M(ikcloud.compute.node) take in the same
    run. Its key goes with the run.
requirements:
  - netaddr, on the controller
options:
  images:
    description:
      - The base images, which every node gets, by default C(cloud_images).
      - Keys of an entry are C(url) (http, https or file) or C(path) (a file on the node), C(checksum) (C(sha256:) or
        C(sha512:), and the digits or
        the URL of a list; required for http and https), and C(format) (C(qcow2) or C(raw)).
    type: raw
  networks:
    description:
      - The overlay networks, by default C(cloud_networks).
      - Required keys of an entry are C(vni) (0 to 16777215) and C(cidr) (IPv4). Another value for either is refused
        while instances are in the network,
        running or not, that neither leave it nor are removed in the same run.
      - C(nat) (false) gives the instances a way out, through the C(gateway) (the network's first address; false for
        none) on the
        C(gateway_node) (the group's first).
      - C(dns) lists the name servers, by default 8.8.8.8 and 1.1.1.1 where there is NAT.
      - C(mtu) is by default what the underlay leaves, 50 bytes less than its own, or 70 over IPv6.
      - C(encapsulation) is C(geneve) or C(vxlan).
      - C(nodes) lists nodes where the network is to exist even if no instance there uses it.
    type: raw
  instances:
    description:
      - The instances, by default C(cloud_instances).
      - Required keys of an entry are C(image) and C(network); in place of C(network), C(address) and C(mac), C(nics)
        lists several cards with these keys.
      - C(node) pins it to a node. C(cpu) (1), C(memory) (1024, in MiB, or with a unit) and C(disk) (the image's size)
        say how large it is.
        Sizes are written as V(10G), V(10GB), V(1.5 GiB) and the like; K, M, G and T are powers of 1024 in each of
          these.
        A C(disk) that is less than what is there is refused, unless it is made anew in this run (O(rebuild)).
      - C(cpu_max) and C(memory_max) say up to what C(cpu) and C(memory) can grow while it runs (see
        M(ikcloud.compute.instance)).
      - C(user), C(ssh_keys), C(password_hash) and C(user_data) say how to log in, and what cloud-init does.
      - C(power) is C(running) or C(stopped). C(vnc), C(vnc_display), C(accel), C(grace), C(copy) and C(restart) are
        those of M(ikcloud.compute.instance) and
        M(ikcloud.compute.volume).
      - C(protect) (false), which networks have too, keeps O(purge) from removing it once it is not declared any more.
    type: raw
  volumes:
    description:
      - Data volumes, which outlive the instances that have them, by default C(cloud_volumes).
      - The required key of an entry is C(size), which only grows. C(instance) is the one that has it; another one, or
        none, takes it away and gives it
        while they run (unmount it in the guest before).
      - A volume stays on the node where it is. A new one is made on the C(node) that it names, else where its instance
        is.
      - While an instance has it, it can't be removed from the declaration.
    type: raw
  ssh_keys:
    description: The public keys of instances that declare none themselves, by default C(cloud_ssh_keys).
    type: list
    elements: str
  user:
    description: The user of instances that declare none themselves, by default C(cloud_user), else C(ubuntu).
    type: str
  encapsulation:
    description: That of networks that declare none themselves, by default C(cloud_encapsulation), else C(geneve).
    type: str
    choices: [geneve, vxlan]
  underlay_mtu:
    description: The bytes that the links between the nodes carry in a packet, by default C(cloud_underlay_mtu), else
      1500.
    type: int
  purge:
    description:
      - Whether instances that are not declared are going to be removed, by default C(cloud_purge), else false.
      - Unless they are, their memory and addresses count as taken.
      - The same goes for networks and images. What has C(protect) is refused; what may belong to an instance on a node
        that is missing is left alone.
      - Without it a network whose addresses a former one's bridge still has on its gateway node, as one that was
        renamed, is refused.
    type: bool
  purge_limit:
    description:
      - How many instances may be removed in one run, by default C(cloud_purge_limit), else 3. More are refused before
        anything changes.
      - With O(purge_volumes) data volumes count, too.
    type: int
  purge_volumes:
    description:
      - Whether the disks of instances that O(purge) removes, and data volumes that are not declared any more, are
        removed with all that is on them, by
        default C(cloud_purge_volumes), else false.
      - Otherwise they are kept in C(lib/volumes/kept), and so are the images that they stand on.
    type: bool
  restart:
    description: What P(ikcloud.compute.compute#role) does with changes that need a restart, by default
      C(cloud_restart); it is only checked here.
    type: str
    choices: [never, when_required]
  restart_serial:
    description: How many instances of a node are restarted at a time, 0 for all, by default C(cloud_restart_serial); it
      is only checked here.
    type: int
  rebuild:
    description:
      - Instances that are to get a new disk from their image and run their first boot again, as a list or with commas;
        see the playbook
        C(ikcloud.compute.rebuild).
      - One that is not declared, has C(protect), or lives on a node that is missing is refused.
    type: raw
  group:
    description: The inventory group of the compute nodes.
    type: str
    default: compute_nodes
  node_info:
    description: The variable under which M(ikcloud.compute.node_info) was registered on the nodes in this play.
    type: str
    default: compute_node_info
  nodes:
    description:
      - Nodes by name, over and above those of the group, each with C(underlay_address), C(uplink) and C(info) (what
        M(ikcloud.compute.node_info) returned as
        C(node); an empty mapping for a bare node; without it, the node counts as missing).
    type: dict
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
  - module: ikcloud.compute.node_info
  - module: ikcloud.compute.cloud_status
"""

EXAMPLES = r"""
- name: Read what the nodes have
  ikcloud.compute.node_info:
  register: compute_node_info

- name: Compile cloud_images, cloud_networks and cloud_instances of the inventory
  ikcloud.compute.cloud_plan:
  run_once: true
  register: cloud

- name: Compile a declaration that stands here, for two nodes that are bare
  ikcloud.compute.cloud_plan:
    images:
      debian: {path: /srv/images/debian.qcow2}
    networks:
      blue: {vni: 88, cidr: 192.168.88.0/24, nat: true}
    instances:
      web-1: {image: debian, network: blue, cpu: 2, memory: 4096, disk: 10G}
      web-2: {image: debian, network: blue, address: 192.168.88.102, node: ik-node-02}
    ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEE me"]
    nodes:
      ik-node-01: {underlay_address: 192.0.2.101, info: {}}
      ik-node-02: {underlay_address: 192.0.2.102, info: {}}
  run_once: true
  register: example
"""

RETURN = r"""
nodes:
  description:
    - By node, the lists C(images), C(bridges), C(tunnels), C(nats), C(volumes), C(seeds), C(taps) and C(instances), as
      the modules take them.
    - A node that is missing has no entry.
  returned: success
  type: dict
  sample: {ik-node-02: {bridges: [{name: br-gnv-e48b86b2, network: blue, mtu: 1450, addresses: [], labels: {vni: 88}}]}}
instances:
  description: By instance, its id, node, addresses and size.
  returned: success
  type: dict
  sample: {web-2: {id: c6bc635a, node: ik-node-02, image: debian, user: ubuntu, cpu: 1, memory: 1024, power: running,
    networks: [blue],
    addresses: [192.168.88.102], macs: ["02:c5:8e:3d:a0:27"]}}
networks:
  description: By network, its id, bridge, gateway, the nodes where it exists and the instances in it.
  returned: success
  type: dict
  sample: {blue: {id: e48b86b2, bridge: br-gnv-e48b86b2, vni: 88, cidr: 192.168.88.0/24, mtu: 1450, nat: true, gateway:
    192.168.88.1,
    gateway_node: ik-node-01, encapsulation: geneve, nodes: [ik-node-01, ik-node-02], instances: [web-1, web-2]}}
volumes:
  description: By data volume, its node, the instance that has it, and its size in bytes.
  returned: success
  type: dict
  sample: {data-1: {node: ik-node-02, instance: web-2, size: 21474836480}}
missing_nodes:
  description: Nodes of the group that are not in this run, or were not reached.
  returned: success
  type: list
  elements: str
left_out:
  description: By instance, or C(volume) and its name, why it is left out of this run.
  returned: success
  type: dict
  sample: {web-1: it may live on ik-node-02}
purge:
  description:
    - By node, what is not declared any more and goes with O(purge), by kind; empty where nothing does.
    - C(spare) has the names of what is not listed and stays all the same, C(aside) says whether disks are kept,
      C(aside_names) whose they are.
  returned: success
  type: dict
  sample: {ik-node-01: {}, ik-node-02: {instances: [{name: web-9, id: 0a1b2c3d}], volumes: [compute-0a1b2c3d], aside:
    true}}
rebuild:
  description:
    - By node, what O(rebuild) takes there (empty without it), the lists C(volumes), C(seeds), C(taps) and C(instances)
      of these instances, their C(names)
      (C(compute-ID)), and C(aside) and C(aside_names) as in RV(purge).
  returned: success
  type: dict
  sample: {ik-node-01: {names: [compute-4fd66e29], aside: true, aside_names: {compute-4fd66e29: web-1}}, ik-node-02:
    {names: []}}
undeclared:
  description: Instances that were found on a node and are not declared, with the node.
  returned: success
  type: dict
undeclared_volumes:
  description: Data volumes that were found on a node and are not declared, with the node.
  returned: success
  type: dict
notes:
  description:
    - What the reports of the playbooks C(plan) and C(site) say too, a sentence each. A node with less memory
      than its running instances may grow to (C(memory_max)), or with less free disk than its volumes may still take,
        and routes that lose a part.
  returned: success
  type: list
  elements: str
counts:
  description: How many of each there are, over all nodes.
  returned: success
  type: dict
  sample: {nodes: 2, missing_nodes: 0, networks: 1, left_out: 0, images: 2, bridges: 2, tunnels: 2, nats: 1, volumes: 2,
    seeds: 2, taps: 2, instances: 2}
"""
