#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node_info
short_description: Read what a compute node is and has
version_added: 0.1.0
author: ikcloud.compute authors (@ikcloud)
description:
  - Reads in one call all that M(ikcloud.compute.cloud_plan) and the role P(ikcloud.compute.prepare#role) want to know
    of a node,
    whatever the number of objects on it.
  - It works on a bare node and as any user. What can't be read is null or empty; it never fails for what is missing.
options:
  root:
    description: The folder that holds everything of the compute service on the node.
    type: path
    default: /var/lib/compute-service
attributes:
  check_mode:
    description: Makes no difference; nothing is changed.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
  platform:
    description: Debian and Ubuntu, on Linux 5.15 or newer.
    support: full
    platforms: debian
seealso:
  - module: ikcloud.compute.cloud_plan
  - module: ikcloud.compute.instance_info
"""

EXAMPLES = r"""
- name: Read the node
  ikcloud.compute.node_info:
  register: example_node

- name: Say what it lacks
  ansible.builtin.debug:
    msg: "{{ example_node.node.hostname }} lacks {{ example_node.node.missing_packages | join(' ') }}"
  when: example_node.node.missing_packages | length > 0
"""

RETURN = r"""
node:
  description: The node.
  returned: success
  type: dict
  contains:
    hostname:
      description: Its host name.
      type: str
    cpus:
      description: Its processors.
      type: int
    memory_mb:
      description: Its memory in MiB.
      type: int
    memory_limit_mb:
      description: MiB that a QEMU can be started with at most, its memory and swap; null where the kernel refuses
        nothing (C(vm.overcommit_memory=1)).
      type: int
    memory_available_mb:
      description: Its memory in MiB that is not in use, as the kernel reckons.
      type: int
    root:
      description: The option O(root).
      type: str
    disk_total_mb:
      description: The size of the file system of O(root), or of where it is going to be, in MiB.
      type: int
    disk_free_mb:
      description: What is free of it for others than root.
      type: int
    kernel:
      description: The kernel's release.
      type: str
    geneve:
      description: Whether the kernel has GENEVE; null if it has no list of its modules, as in a container.
      type: bool
    vxlan:
      description: Whether the kernel has VXLAN, likewise.
      type: bool
    kvm:
      description: Whether there is C(/dev/kvm). That says little; M(ikcloud.compute.instance) tries it.
      type: bool
    qemu:
      description: QEMU's version; null if it is not installed.
      type: str
    missing_tools:
      description: Programs that the modules need and that are not there.
      type: list
      elements: str
    missing_packages:
      description: The packages of Debian and Ubuntu that have them.
      type: list
      elements: str
    user_ready:
      description: Whether the user C(compute-service) is there, with its own group, and in the group C(kvm) if that is
        there.
      type: bool
    user_group_due:
      description: The id of that user's group where it is not there, as after a run that was killed; else null.
      type: int
    user_error:
      description: Why somebody else's user or group C(compute-service) stands in the way of that user, and what to do;
        null where none does.
      type: str
    user_processes:
      description: What runs as that user outside of the instances, where the user is ours, each with C(pid) and
        C(name). It keeps the user from being removed.
      type: list
      elements: dict
    folders_ready:
      description: Whether O(root) has all its folders, root's and with mode 0755.
      type: bool
    folders_due:
      description: Why folders are to be made or put right, by their paths below O(root), such as C(run/instances).
      type: dict
    uplink:
      description: The link of the default route; null if there is none.
      type: str
    routes:
      description:
        - The IPv4 routes of the main table that do not lead over links of ours, each with C(to), C(via) (null for none)
          and C(link).
      type: list
      elements: dict
    name_servers:
      description: The addresses of the name servers that the node asks, without those on the node itself.
      type: list
      elements: str
    client:
      description: The address from which this SSH session comes, as the node sees it; null for no such session.
      type: str
    machine:
      description: A digest of machine id and boot id, the same for two names of one machine; null where the node does
        not say.
      type: str
    underlay_addresses:
      description: The addresses, with their prefix lengths, of all links that are not ours.
      type: list
      elements: str
    networks:
      description:
        - By network, its C(bridge) with C(mtu), C(up) and C(addresses), and its C(tunnels) by name, each with C(kind),
          C(vni), C(remote), C(mtu)
          and C(up).
      type: dict
    recorded:
      description: By network, the C(vni) and the C(cidr) that it was declared with last, as far as its files on the
        node say, whatever the kernel has.
      type: dict
    tunnels:
      description: The names of all our tunnels.
      type: list
      elements: str
    taps:
      description: By link, its C(instance), C(bridge), C(mtu) and C(up).
      type: dict
    images:
      description: By base image, its C(format), its C(virtual_size) and its file's C(size) in bytes, and whether it is
        C(ours).
      type: dict
    volumes:
      description: By volume of ours, the image that is its C(base), its C(virtual_size) in bytes, null where it has no
        header of qcow2
        and at most what it was made with, and the bytes that its file takes (C(allocated)).
      type: dict
    seeds:
      description: The instances (C(compute-) and digits) that have a seed.
      type: list
      elements: str
    kept_bases:
      description: The images that volumes which were kept aside stand on.
      type: list
      elements: str
    boot_files:
      description: The files that bring links and NAT back at boot.
      type: list
      elements: str
    protected:
      description: C(instances) and C(networks) whose label says that they are not to be removed.
      type: dict
    instances:
      description:
        - By instance, its C(id), C(labels), C(cpu), C(memory) and C(memory_max) in MiB, the data C(volumes) that it
          has, C(supervisor), and whether
          it is C(running) and C(enabled) to start at boot. Where what QEMU's user can write of it can't be believed,
            C(error) says so.
      type: dict
  sample:
    hostname: ik-node-01
    cpus: 2
    memory_mb: 2970
    missing_packages: []
    images: {bionic: {format: qcow2, virtual_size: 2361393152, size: 389349376}}
    instances:
      web-1: {id: 4fd66e29, labels: {networks: [blue], addresses: [192.168.88.2]}, cpu: 2, memory: 4096, running: true,
        enabled: true, supervisor: systemd}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import DEFAULT_ROOT, Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._node.node import read_node


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={"root": {"type": "path", "default": DEFAULT_ROOT}}, supports_check_mode=True)
    try:
        node = read_node(Layout(module.params["root"]))
    except ComputeError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, node=node)


if __name__ == "__main__":
    main()
