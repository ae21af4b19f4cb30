#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: instance
short_description: Run virtual machines with QEMU
version_added: 0.1.0
author: ikcloud.compute authors (@ikcloud)
description:
  - Keeps a list of instances as declared. Each has a folder C(run/instances/compute-<id>) with the scripts C(start), which is its whole
    QEMU command to read and to run by hand, and C(stop), which presses its power button and waits.
  - By default systemd runs each instance in the foreground as an unprivileged user, starts it again when QEMU dies, and starts it at
    boot. An instance that was powered off from inside stays off until the next run of this module.
  - On a machine without systemd, or for a user other than root, O(instances[].supervisor=none) starts the same command with
    C(-daemonize).
  - What differs from what runs is written down at once, and takes effect with the next start of the instance. Until then the result has
    RV(results[].restart_required). See O(restart).
  - The guest's serial console is logged to C(console.log) in the folder. With systemd a timer cuts the log each minute to its last
    256 KiB when it has more than 1 MiB; so it holds at most 1 MiB and what a guest says within a minute. Without systemd nothing
    bounds it.
  - Removing an instance removes its folder, not its volumes (see M(ikcloud.compute.volume)).
extends_documentation_fragment: [ikcloud.compute.batch]
options:
  instances:
    description: The instances.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The instance's name, of C(a-z), C(0-9) and C(-).
        type: str
        required: true
      id:
        description:
          - 8 hex digits that stand for the name in files and links. Derived from the name by default.
          - It can't be changed afterwards.
        type: str
      cpu:
        description: Virtual processors.
        type: int
        default: 1
      memory:
        description: Memory in MiB. All that runs must fit in the node's.
        type: int
        default: 1024
      volume:
        description: The path of its disk. By default C(lib/volumes/compute-<id>.img) below O(root).
        type: str
      volume_format:
        description: The format of its disk. QEMU is never left to guess it.
        type: str
        choices: [qcow2, raw]
        default: qcow2
      seed:
        description: Whether it has a cloud-init seed, C(lib/volumes/compute-<id>-seed.img) below O(root) (see M(ikcloud.compute.seed)).
        type: bool
        default: true
      volumes:
        description: More disks.
        type: list
        elements: dict
        default: []
        suboptions:
          path:
            description: The path of an image or a block device.
            type: str
            required: true
          format:
            description: Its format.
            type: str
            choices: [qcow2, raw]
            default: qcow2
      nics:
        description: Network cards, in order.
        type: list
        elements: dict
        default: []
        suboptions:
          type:
            description:
              - V(tap) is a link made by M(ikcloud.compute.tap).
              - V(user) is QEMU's own NAT, which needs no privileges.
              - V(socket) is a cable to other QEMU processes over UDP.
            type: str
            choices: [tap, user, socket]
            default: tap
          tap:
            description: The link's name. By default C(vnet-<id>) for the first card, and C(vnet-) with digits of its own for others.
            type: str
          mac:
            description: The MAC address, in lower case. Derived from the name by default.
            type: str
          mtu:
            description: The MTU that the guest is told. By default 1450 for V(tap), else none.
            type: int
          hostfwd:
            description: For V(user), ports of the node that lead into the guest, each as C(tcp:127.0.0.1:22101:22).
            type: list
            elements: str
            default: []
          local:
            description: For V(socket), our end, as C(127.0.0.1:23101); with O(instances[].nics[].mcast) only the address to send from, by default C(127.0.0.1).
            type: str
          remote:
            description: For V(socket), the other end, as C(127.0.0.1:23102).
            type: str
          mcast:
            description: For V(socket), instead of O(instances[].nics[].remote), a multicast group that any number share, as C(230.0.0.1:23100).
            type: str
      accel:
        description:
          - V(kvm) runs guests on the processor, V(tcg) emulates it.
          - V(auto) tries once whether a tiny guest runs under KVM, when the instance is made, and keeps to the answer.
        type: str
        choices: [auto, kvm, tcg]
        default: auto
      cpu_model:
        description: QEMU's C(-cpu). By default V(host) under KVM and V(max) under TCG.
        type: str
      vnc:
        description:
          - V(socket) has the screen at C(vnc.sock) in the folder, for those who may enter it.
          - V(loopback) has it at C(127.0.0.1), for every user of the node. It has no password.
        type: str
        choices: [socket, loopback, none]
        default: socket
      vnc_display:
        description: For O(instances[].vnc=loopback), the display; its TCP port is 5900 more.
        type: int
      power:
        description: Whether it is to run, now and after a reboot.
        type: str
        choices: [running, stopped]
        default: running
      supervisor:
        description: Who runs QEMU. V(systemd) needs root.
        type: str
        choices: [systemd, none]
        default: systemd
      user:
        description: The user that QEMU runs as. Ignored where the module itself does not run as root.
        type: str
        default: compute-service
      grace:
        description:
          - Seconds that the guest may take to power off before it is forced. 60 by default.
          - With O(state=absent) it counts for this one time; without it the instance's own does.
        type: int
      boot_network:
        description: Boot from the network first.
        type: bool
        default: false
      labels:
        description: What else is to be known of it; kept in C(start) and returned, without a meaning here.
        type: dict
        default: {}
      restart:
        description: As O(restart), for this instance.
        type: str
        choices: [never, when_required]
  restart:
    description:
      - What to do when the QEMU that runs differs from its declaration. V(never) warns and says so in the result.
      - V(when_required) powers the instance off (ACPI first) and starts it again.
    type: str
    choices: [never, when_required]
    default: never
seealso:
  - module: ikcloud.compute.volume
  - module: ikcloud.compute.seed
  - module: ikcloud.compute.tap
  - module: ikcloud.compute.instance_info
"""

EXAMPLES = r"""
- name: A volume for the instance
  ikcloud.compute.volume:
    volumes:
      - name: compute-0a1b2c3d
        size: 64M

- name: Run an instance
  ikcloud.compute.instance:
    instances:
      - name: example-1
        id: 0a1b2c3d
        memory: 64
        seed: false
        accel: tcg
        nics:
          - type: user

- name: It may have two processors from its next start on
  ikcloud.compute.instance:
    instances:
      - name: example-1
        id: 0a1b2c3d
        cpu: 2
        memory: 64
        seed: false
        accel: tcg
        nics:
          - type: user
  register: changed_instance

- name: Power it off at once and remove it, then its volume
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
before:
  description: The instances as they were, by name; null for one that was not there.
  returned: success
  type: dict
  sample: {"web-1": null}
after:
  description: The instances as they are, or in check mode as they would be.
  returned: success
  type: dict
  sample: {"web-1": {"id": "4fd66e29", "cpu": 2, "memory": 4096, "accel": "kvm", "power": "running"}}
commands:
  description: The commands that make the change, in their order, as a person would type them. In check mode they are those that the real run executes.
  returned: success
  type: list
  elements: str
  sample: ["systemctl start compute-instance@4fd66e29.service"]
results:
  description: An entry for each instance, and one named C(compute-instance@.service) if what they share (systemd's units, what starts at boot) changes.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The instance's name.
      type: str
    action:
      description: What was done, one of V(none), V(create), V(update) and V(delete).
      type: str
    changed:
      description: Whether anything was.
      type: bool
    reasons:
      description: What differed, a phrase each.
      type: list
      elements: str
    restart_required:
      description: Whether the QEMU that runs differs from the declaration.
      type: bool
    restart_reason:
      description: In what it differs, such as V(cpu is 2, declared 4).
      type: str
    id:
      description: The instance's 8 hex digits.
      type: str
    folder:
      description: The folder with its scripts, sockets and console log.
      type: str
diff:
  description: What changes, as shown with C(--diff).
  returned: success
  type: list
  elements: dict
"""

from ansible_collections.ikcloud.compute.plugins.module_utils import engine
from ansible_collections.ikcloud.compute.plugins.module_utils.instance_kind import InstanceKind


def main() -> None:
    """Run the module."""
    engine.main(InstanceKind)


if __name__ == "__main__":
    main()
