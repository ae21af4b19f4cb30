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
  - Keeps a list of instances as declared. Each has a folder C(run/instances/compute-<id>) with the scripts C(start),
    which is its whole
    QEMU command to read and to run by hand, and C(stop), which presses its power button and waits.
  - By default systemd runs each instance in the foreground as an unprivileged user, starts it again when QEMU dies, and
    starts it at
    boot. An instance that was powered off from inside stays off until the next run of this module.
  - On a machine without systemd, or for a user other than root, O(instances[].supervisor=none) starts the same command
    with
    C(-daemonize).
  - What is declared is compared with what the running QEMU says over QMP, so that what was changed by hand is seen and
    mended.
  - Memory, processors, network cards and further disks change while the instance runs. What else differs is written
    down at once, and takes effect
    with the next start of the instance. Until then the result has RV(results[].restart_required). See O(restart).
  - The script C(qmp) in the folder has QEMU do one command of its control protocol, such as C(qmp query-status). It is
    how a person makes the
    changes that RV(commands) lists, as the user whom the folder belongs to. Root has C(run/qmp), C(run/console) and
    C(run/vnc) for that, by the instance's name; what stands in the folder QEMU's user could have replaced.
  - The guest's serial console is logged to C(console.log) in the folder. With systemd a timer cuts the log each minute
    to its last
    256 KiB when it has more than 1 MiB; so it holds at most 1 MiB and what a guest says within a minute. Without
      systemd nothing
    bounds it.
  - Removing an instance removes its folder, not its volumes (see M(ikcloud.compute.volume)).
extends_documentation_fragment:
  - ikcloud.compute.batch
  - ikcloud.compute.instance
seealso:
  - module: ikcloud.compute.volume
  - module: ikcloud.compute.seed
  - module: ikcloud.compute.tap
  - module: ikcloud.compute.instance_info
"""

EXAMPLES = r"""
- name: A volume for the instance, and one for its data
  ikcloud.compute.volume:
    volumes:
      - name: compute-0a1b2c3d
        size: 64M
      - name: example-data
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

- name: It gets a second processor and the data volume while it runs
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
        volumes:
          - name: example-data
  register: changed_instance

- name: Power it off at once and remove it
  ikcloud.compute.instance:
    instances:
      - name: example-1
        id: 0a1b2c3d
        grace: 0
    state: absent

- name: Remove its volumes
  ikcloud.compute.volume:
    volumes:
      - name: compute-0a1b2c3d
      - name: example-data
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
  description: The commands that make the change, in their order, as a person would type them. In check mode they are
    those that the real run executes.
  returned: success
  type: list
  elements: str
  sample: ["systemctl start compute-instance@4fd66e29.service"]
results:
  description: An entry for each instance, and one named C(compute-instance@.service) if what they share (systemd's
    units, what starts at boot) changes.
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
      description: In what it differs, such as V(cpu is 4, declared 2).
      type: str
    id:
      description: The instance's 8 hex digits.
      type: str
    folder:
      description: The folder with its scripts, sockets and console log.
      type: str
diff:
  description: What changes, item by item.
  returned: with C(--diff)
  type: list
  elements: dict
"""

from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.resource import InstanceResource
from ansible_collections.ikcloud.compute.plugins.module_utils._core import reconcile


def main() -> None:
    """Run the module."""
    reconcile.main(InstanceResource)


if __name__ == "__main__":
    main()
