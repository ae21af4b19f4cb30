#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: snapshot
short_description: Take, delete and revert to snapshots of instances
version_added: 0.1.0
author: ikcloud.compute authors (@ikcloud)
description:
  - A snapshot is kept inside the disks of the instance, by a name of its own. It has all disks that the guest writes
    to, so that they stay of one time; these
    must be qcow2.
  - Of an instance that runs, or is paused, it has the memory too. QEMU holds the guest while it writes that, a second
    for some hundred MiB.
  - M(ikcloud.compute.instance_info) lists an instance's snapshots. A snapshot is no backup; it goes with the disk (see
    M(ikcloud.compute.backup)).
  - What C(qemu-img snapshot) or QEMU's monitor made under other names is left alone.
options:
  instances:
    description: The instances, by name or by their 8 hex digits. One that is not there is an error, which names those
      that are.
    type: list
    elements: str
    required: true
  name:
    description: The snapshot's name, of C(a-z), C(0-9) and C(-). In the disks it is called C(compute-<id>.<name>).
    type: str
    required: true
  state:
    description:
      - V(present) takes the snapshot where there is none of that name.
      - V(created) takes it now; that there is one of that name already is an error.
      - V(absent) deletes it, also in volumes of this collection that were detached since, unless they are in use, which
        is warned of.
      - V(reverted) has the instance be as it was, each time. What it wrote since is lost.
      - An instance that runs goes on in the snapshot's memory. Where the snapshot has none, see O(restart).
      - One that is off gets its disks back and stays off; the memory of the snapshot is then not used.
    type: str
    choices: [present, created, absent, reverted]
    required: true
  restart:
    description:
      - What to do to revert an instance that runs to a snapshot without memory. V(never) refuses; V(when_required) ends
        it by force and starts it again.
    type: str
    choices: [never, when_required]
    default: never
extends_documentation_fragment: [ikcloud.compute.chosen]
notes:
  - Cards and disks that were plugged in after the snapshot are not known to the memory of it. A disk that it does not
    have is refused; a card needs a restart.
  - While an instance runs, it is not reverted to a memory with a disk that was detached since. While it is off it is,
    without that disk.
seealso:
  - module: ikcloud.compute.backup
  - module: ikcloud.compute.instance_info
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

- name: Take a snapshot
  ikcloud.compute.snapshot:
    instances: [example-1]
    name: before-upgrade
    state: created

- name: Read what snapshots there are
  ikcloud.compute.instance_info:
    names: [example-1]
  register: example_instance

- name: Have it be as it was
  ikcloud.compute.snapshot:
    instances: [example-1]
    name: before-upgrade
    state: reverted

- name: Delete the snapshot
  ikcloud.compute.snapshot:
    instances: [example-1]
    name: before-upgrade
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
  description: The instances with their snapshots as they were, by what they were called in O(instances).
  returned: success
  type: dict
  sample: {"web-1": {"id": "4fd66e29", "power": "stopped", "snapshots": []}}
after:
  description: The same as they are, or in check mode as they would be.
  returned: success
  type: dict
  sample: {"web-1": {"id": "4fd66e29", "power": "stopped", "snapshots": ["before-upgrade"]}}
commands:
  description: The commands that make the change, in their order, as a person would type them. In check mode they are
    those that the real run executes.
  returned: success
  type: list
  elements: str
  sample: ["setpriv --reuid=998 --regid=998 --clear-groups qemu-img snapshot -q -c compute-4fd66e29.before-upgrade
    /…/lib/volumes/compute-4fd66e29.img"]
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
    id: {description: Its 8 hex digits., type: str}
    snapshot: {description: The snapshot's name., type: str}
diff:
  description: What changes, item by item.
  returned: with C(--diff)
  type: list
  elements: dict
"""

from ansible_collections.ikcloud.compute.plugins.module_utils._compute.snapshot.operation import SnapshotOperation
from ansible_collections.ikcloud.compute.plugins.module_utils._core import operation


def main() -> None:
    """Run the module."""
    operation.main(SnapshotOperation)


if __name__ == "__main__":
    main()
