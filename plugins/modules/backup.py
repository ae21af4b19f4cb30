#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup
short_description: Back up the disks of instances to files, and restore them
version_added: 0.1.0
author: ikcloud.compute authors (@ikcloud)
description:
  - A backup is one qcow2 file on the node, C(<folder>/<instance>/<name>.qcow2), with all that the instance's own disk
    holds; it needs neither the base image
    nor this collection to be read. Further disks of the instance are not in it, which is warned of.
  - Of an instance that runs, QEMU copies the disk as it is at one moment while the guest goes on. To that guest a
    restored disk is as after a power failure.
  - A file appears under its name when it is whole, checked and on the disk. What an interrupted run has left, in QEMU
    too, the next one clears away.
  - The room for it is asked for first, unless O(compress=true), where nobody can tell how much that is. It belongs to
    root, mode 0600.
  - Other runs of this collection that change the node are refused until it has ended.
options:
  instances:
    description: The instances, by name or by their 8 hex digits. One that is not there is an error, which names those
      that are, unless O(state=absent).
    type: list
    elements: str
    required: true
  name:
    description: The backup's name, of C(a-z), C(0-9) and C(-).
    type: str
    required: true
  state:
    description:
      - V(present) makes the backup where there is none of that name.
      - V(created) makes it now; that there is one of that name already is an error.
      - V(absent) removes the file, also of an instance that is not there any more.
      - V(restored) puts the backup in the place of the instance's disk, each time. The instance must be off, and stays
        off. That disk may be broken or lost;
        where it does not say any more which image it stands on, that is the one in the instance's label C(image),
          unless its label C(copy) is true.
    type: str
    choices: [present, created, absent, restored]
    required: true
  folder:
    description:
      - The folder on the node that has the backups, by default C(lib/backups) below O(root). It is not removed by
        C(ikcloud.compute.teardown) as long as it
        holds any.
      - If the instance runs, C(lib/volumes) must have room for one more copy meanwhile, unless it is the same
        filesystem and that shares blocks.
    type: path
  compress:
    description: Whether to compress, which takes several times as long.
    type: bool
    default: false
  aside:
    description: Whether V(restored) keeps the disk that was there, with its snapshots, in C(lib/volumes/kept).
    type: bool
    default: true
extends_documentation_fragment: [ikcloud.compute.chosen]
seealso:
  - module: ikcloud.compute.snapshot
  - module: ikcloud.compute.instance_power
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

- name: Back it up while it runs
  ikcloud.compute.backup:
    instances: [example-1]
    name: nightly
    state: created

- name: Power it off
  ikcloud.compute.instance_power:
    instances: [example-1]
    state: stopped
    grace: 0

- name: Restore its disk
  ikcloud.compute.backup:
    instances: [example-1]
    name: nightly
    state: restored
    aside: false

- name: Remove the backup
  ikcloud.compute.backup:
    instances: [example-1]
    name: nightly
    state: absent

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
before:
  description: The instances with their backups as they were, by what they were called in O(instances).
  returned: success
  type: dict
  sample: {"web-1": {"id": "4fd66e29", "power": "stopped", "backups": []}}
after:
  description: The same as they are, or in check mode as they would be.
  returned: success
  type: dict
  sample: {"web-1": {"id": "4fd66e29", "power": "stopped", "backups": ["nightly"]}}
commands:
  description: The commands that make the change, in their order, as a person would type them. In check mode they are
    those that the real run executes.
  returned: success
  type: list
  elements: str
  sample: ["mv -nT /var/lib/compute-service/lib/backups/web-1/.nightly.qcow2.new
    /var/lib/compute-service/lib/backups/web-1/nightly.qcow2"]
results:
  description: An entry for each instance.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: What it was called in O(instances)., type: str}
    action: {description: V(update) or V(none)., type: str}
    changed: {description: Whether anything was done., type: bool}
    reasons: {description: "Why, a phrase each.", type: list, elements: str}
    id: {description: "Its 8 hex digits, empty for one that is not there any more.", type: str}
    backup: {description: The backup's name., type: str}
    path: {description: Its file., type: str}
diff:
  description: What changes, item by item.
  returned: with C(--diff)
  type: list
  elements: dict
"""

from ansible_collections.ikcloud.compute.plugins.module_utils._compute.backup.operation import BackupOperation
from ansible_collections.ikcloud.compute.plugins.module_utils._core import operation


def main() -> None:
    """Run the module."""
    operation.main(BackupOperation)


if __name__ == "__main__":
    main()
