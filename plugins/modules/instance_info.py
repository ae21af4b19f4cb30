#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: instance_info
short_description: Read the instances of a node
version_added: 0.1.0
author: ikcloud.compute authors (@ikcloud)
description:
  - Reads what instances are on a node, asked of their files, the kernel, systemd (once) and QEMU itself.
  - It starts no process for an instance.
options:
  names:
    description: The instances to read. All of them by default. One that is not there is left out.
    type: list
    elements: str
    default: []
  console_lines:
    description: How many of the last lines of the console log to return.
    type: int
    default: 0
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
  - module: ikcloud.compute.instance
"""

EXAMPLES = r"""
- name: Read all instances of the node
  ikcloud.compute.instance_info:
  register: example_instances

- name: Say which of them wait for a restart
  ansible.builtin.debug:
    msg: "{{ example_instances.instances | selectattr('restart_required') | map(attribute='name') | list }}"

- name: Read what one of them said last
  ikcloud.compute.instance_info:
    names: [example-1]
    console_lines: 20
"""

RETURN = r"""
machine:
  description: A digest of machine id and boot id, the same for two names of one machine; null where the node does not
    say.
  returned: success
  type: str
instances:
  description: The instances, by name in order; always a list.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
    id:
      description: Its 8 hex digits.
      type: str
    labels:
      description: What else was declared of it, such as its node, networks and addresses.
      type: dict
    addresses:
      description: Its addresses, of the labels.
      type: list
      elements: str
    power:
      description: One of V(running), V(paused) (by an operator, or QEMU after an error of its disk), V(stopping) and
        V(stopped).
      type: str
    state:
      description: What QEMU says of the guest, such as V(running) or V(io-error); null if it does not run or does not
        answer.
      type: str
    pid:
      description: QEMU's process; null if it does not run.
      type: int
    unit:
      description: The state of its systemd unit, such as V(active) or V(failed); null if there is no systemd.
      type: str
    enabled:
      description: Whether it starts at boot.
      type: bool
    supervisor:
      description: V(systemd) or V(none).
      type: str
    cpu:
      description: Its processors, while it runs those that are plugged in at this moment.
      type: int
    cpu_max:
      description: How many processors it has room for.
      type: int
    memory:
      description: Its memory in MiB, while it runs what the guest is asked to do with.
      type: int
    memory_max:
      description: Up to how many MiB its memory can grow without a restart.
      type: int
    accel:
      description: V(kvm) or V(tcg).
      type: str
    cpu_model:
      description: QEMU's C(-cpu).
      type: str
    nics:
      description: Its cards, each with C(type), C(mac), C(mtu) and where it leads.
      type: list
      elements: dict
    disks:
      description: Its disks, each with C(path), C(format), C(readonly), C(virtual_size) and C(actual_size) in bytes
        (null if they can't be read).
      type: list
      elements: dict
    folder:
      description: The folder with its scripts and sockets.
      type: str
    console:
      description: The socket of its serial console.
      type: str
    console_log:
      description: What its serial console said.
      type: str
    vnc:
      description: Where its screen is; V(none) if it has none.
      type: str
    qmp:
      description: The socket of QEMU's control protocol.
      type: str
    restart_required:
      description: Whether the QEMU that runs differs from what is written down for its next start, as far as that can
        be believed (see RV(instances[].error)).
      type: bool
    restart_reason:
      description: In what it differs.
      type: str
    error:
      description:
        - What is wrong with what QEMU's user can write of it, such as a C(start) without our mark or a link in the
          place of its console log, and
          why its QEMU does not answer, or not as QEMU does; empty if nothing is.
        - The rest is then as far as it can be believed. P(ikcloud.compute.compute#role) writes its files anew if it is
          declared.
      type: str
    snapshots:
      description: Its snapshots, oldest first, each with C(name), C(created) (UTC), and whether it has C(memory), of
        C(memory_bytes).
      type: list
      elements: dict
    console_tail:
      description: The last lines of the console log.
      returned: with O(console_lines)
      type: list
      elements: str
  sample:
    - name: web-1
      id: 4fd66e29
      power: running
      addresses: [192.168.88.2]
      cpu: 2
      memory: 4096
      restart_required: false
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.instances import (
    Instance,
    pending,
    read_instances,
)
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.snapshot.snapshots import (
    own_snapshots,
    read_snapshots,
)
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import DEFAULT_ROOT, InstancePaths, Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu import argv
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.qmp import qmp
from ansible_collections.ikcloud.compute.plugins.module_utils._storage import qcow2
from ansible_collections.ikcloud.compute.plugins.module_utils._system import reach
from ansible_collections.ikcloud.compute.plugins.module_utils._system.process import locked_by

# How much of the end of a console log is looked at.
TAIL_BYTES = 65536


def describe(instance: Instance, layout: Layout, console_lines: int) -> dict[str, Any]:
    """Give all that is known of an instance."""
    where = layout.instance(f"compute-{instance.id}")
    running = instance.running if instance.running is not None else instance.written
    about = argv.describe(running)
    # What start says is not what a restart would bring, where that can't be believed.
    reasons = pending(instance, running if instance.trouble else instance.written)
    state, silent = _state(instance, where) if instance.pid else (None, "")
    addresses = instance.labels.get("addresses")
    misplaced = [
        f"{path} is not a file of ours, and QEMU can't use what is there: site, start and restart remove it."
        for path in instance.misplaced
    ]
    entry: dict[str, Any] = {
        "name": instance.name,
        "id": instance.id,
        "labels": instance.labels,
        "addresses": addresses if isinstance(addresses, list) else [],
        "power": "paused" if state not in (None, "running") and instance.power == "running" else instance.power,
        "state": state,
        "pid": instance.pid or None,
        "unit": instance.unit.get("ActiveState"),
        "enabled": instance.enabled,
        **about,
        "disks": [{**disk, **_sizes(disk["path"], layout)} for disk in about["disks"]],
        "folder": instance.folder,
        "console": where.console,
        "console_log": where.console_log,
        "qmp": where.qmp,
        "restart_required": bool(reasons),
        "restart_reason": "; ".join(reasons),
        "error": " ".join(
            phrase for phrase in (instance.trouble, instance.qmp_unresponsive or silent, *misplaced) if phrase
        ),
        "snapshots": _snapshots(instance.id, about["disks"], layout),
    }
    if console_lines > 0:
        entry["console_tail"] = _tail(where.console_log, console_lines, layout)
    return entry


def _state(instance: Instance, where: InstancePaths) -> tuple[str | None, str]:
    """Ask QEMU for its run state.

    :returns: The state, and why there is none; "" too when it has ended meanwhile.
    """
    try:
        return qmp.status(where.qmp, timeout=5), ""
    except ComputeError as error:
        return None, error.message if locked_by(where.pid) == instance.pid else ""


def _sizes(path: str, layout: Layout) -> dict[str, int | None]:
    try:
        header, size = qcow2.read_untrusted(path, layout.root)
        return {"virtual_size": header.virtual_size, "actual_size": size}
    except (OSError, ValueError, ComputeError):
        return {"virtual_size": None, "actual_size": None}


def _snapshots(identifier: str, disks: list[dict[str, Any]], layout: Layout) -> list[dict[str, Any]]:
    try:
        held = read_snapshots(disks[0]["path"], layout.root) if disks else {}
    except ComputeError:
        return []  # a broken image: whoever uses it is told
    return [snapshot.facts(name) for name, snapshot in own_snapshots(identifier, held).items()]


def _tail(path: str, lines: int, layout: Layout) -> list[str]:
    try:
        with qcow2.plain_file(path, layout.root) as (stream, entry):
            stream.seek(max(0, entry.st_size - TAIL_BYTES))
            text = stream.read(TAIL_BYTES).decode(errors="replace")
    except OSError:
        return []
    return text.replace("\r", "").rstrip("\n").split("\n")[-lines:]


def main() -> None:
    """Run the module."""
    spec = {"names": {"type": "list", "elements": "str", "default": []}, "console_lines": {"type": "int", "default": 0}}
    module = AnsibleModule(
        argument_spec={**spec, "root": {"type": "path", "default": DEFAULT_ROOT}}, supports_check_mode=True
    )
    names = set(module.params["names"])
    try:
        layout = Layout(module.params["root"])
        found = [
            instance
            for name, instance in sorted(read_instances(layout, talk=True).items())
            if instance.owned and (not names or name in names)
        ]
        with ThreadPoolExecutor(max_workers=8) as pool:
            entries = list(pool.map(lambda instance: describe(instance, layout, module.params["console_lines"]), found))
    except ComputeError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, instances=entries, machine=reach.machine())


if __name__ == "__main__":
    main()
