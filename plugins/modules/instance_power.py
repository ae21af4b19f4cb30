#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: instance_power
short_description: Start, stop, restart, pause and resume instances
version_added: 0.1.0
author: ikcloud.compute authors (@ikcloud)
description:
  - Acts on instances that are there, by M(ikcloud.compute.instance), for this time. What is declared of them stays as
    it is. So one that was stopped by hand
    runs again after the next run of C(ikcloud.compute.site), and after the node's next boot, unless
      O(ikcloud.compute.instance#module:instances[].power)
    is V(stopped); one that was paused stays paused until then.
  - An instance is powered off by its power button (ACPI). One that has not ended after its grace time is ended by
    force.
options:
  instances:
    description: The instances, by name or by their 8 hex digits. One that is not there is an error, which names those
      that are.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(started) has it run; one that is paused goes on.
      - V(stopped) powers it off.
      - V(restarted) powers it off and starts it again, each time; what waited for a restart takes effect with it. One
        that is off is started.
      - V(paused) holds its processors, with all that is in its memory. It must run.
      - V(resumed) has it go on. Unlike V(started) it does not start one that is off.
    type: str
    choices: [started, restarted, resumed, paused, stopped]
    required: true
  grace:
    description: Seconds that a guest may take to power off before it is forced; V(0) forces it at once. By default the
      instance's own, 60 unless declared.
    type: int
extends_documentation_fragment: [ikcloud.compute.chosen]
seealso:
  - module: ikcloud.compute.instance
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

- name: Pause it
  ikcloud.compute.instance_power:
    instances: [example-1]
    state: paused

- name: Have it go on
  ikcloud.compute.instance_power:
    instances: [example-1]
    state: resumed

- name: Power it off, by force after five seconds
  ikcloud.compute.instance_power:
    instances: [example-1]
    state: stopped
    grace: 5

- name: Remove it
  ikcloud.compute.instance:
    instances:
      - name: example-1
        id: 0a1b2c3d
    state: absent

- name: Remove its volume
  ikcloud.compute.volume:
    volumes:
      - name: compute-0a1b2c3d
    state: absent
"""

RETURN = r"""
before:
  description: The instances as they were, by what they were called in O(instances).
  returned: success
  type: dict
  sample: {"web-1": {"id": "4fd66e29", "power": "running"}}
after:
  description: The instances as they are, or in check mode as they would be.
  returned: success
  type: dict
  sample: {"web-1": {"id": "4fd66e29", "power": "stopped"}}
commands:
  description: The commands that make the change, in their order, as a person would type them. In check mode they are
    those that the real run executes.
  returned: success
  type: list
  elements: str
  sample: ["systemctl stop compute-instance@4fd66e29.service"]
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
    folder: {description: The folder with its scripts and sockets., type: str}
diff:
  description: What changes, item by item.
  returned: with C(--diff)
  type: list
  elements: dict
"""

from ansible_collections.ikcloud.compute.plugins.module_utils._compute.power import PowerOperation
from ansible_collections.ikcloud.compute.plugins.module_utils._core import operation


def main() -> None:
    """Run the module."""
    operation.main(PowerOperation)


if __name__ == "__main__":
    main()
