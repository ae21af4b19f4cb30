# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of instances share: a module's options with their defaults, and a node that exists only in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance import service
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.instances import Instance, properties
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.resource import InstanceResource
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.steps import StartInstance, StopInstance
from ansible_collections.ikcloud.compute.plugins.module_utils._core.changes import Change, Item, Observed
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._core.reconcile import argument_spec, plan
from ansible_collections.ikcloud.compute.plugins.module_utils._core.steps import Remove, Run, Symlink, Write
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.declared import from_item, paths
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.start_script import parse_script, start_script

ROOT = "/var/lib/compute-service"
LAYOUT = Layout(ROOT)
# With everything that can be declared.
FULL: Item = {
    "name": "web-1",
    "id": "af95e879",
    "cpu": 2,
    "memory": 4096,
    "accel": "kvm",
    "volumes": [{"path": "/srv/data.img", "format": "raw"}, {"name": "data-1"}],
    "nics": [
        {"type": "tap", "mac": "02:00:5e:10:00:01", "mtu": 1430},
        {"type": "user", "hostfwd": ["tcp:127.0.0.1:22101:22", "udp:127.0.0.1:5353:53"]},
        {"type": "socket", "local": "127.0.0.1:23101", "remote": "127.0.0.1:23102"},
        {"type": "socket", "mcast": "230.0.0.1:23100"},
    ],
    "grace": 90,
    "labels": {"networks": ["blue"], "addresses": ["192.168.88.102"], "node": "ik-node-01"},
}


def declared(
    *items: Item, state: str = "present", purge: bool = False, as_root: bool = True, **options: Any
) -> InstanceResource:
    """Give the module's kind with options as Ansible would fill them in."""
    validated = ArgumentSpecValidator(argument_spec(InstanceResource)).validate(
        {"instances": list(items), "state": state, "purge": purge, "root": ROOT, **options}
    )
    assert not validated.error_messages, validated.error_messages
    kind = InstanceResource(validated.validated_parameters)
    kind.as_root = as_root
    return kind


def item(**values: Any) -> Item:
    """Give one instance with the defaults of all it doesn't say."""
    whole: Item = declared({"name": "web-1", **values}).items[values.get("name", "web-1")]
    return whole


def start_text(whole: Item, layout: Layout = LAYOUT, accel: str = "tcg") -> str:
    """Give the ``start`` of an instance with all of its defaults."""
    return start_script(from_item(whole, layout, accel), whole["labels"], paths(whole, layout))


def after(kind: InstanceResource, have: dict[str, Observed]) -> tuple[list[Change], dict[str, Observed]]:
    """Plan, and give the changes with what a node has once they are made."""
    changes = plan(kind, kind.params["instances"], have, kind.absent)
    made: dict[str, Observed] = dict(have)
    for change in changes:
        if change.name in kind.items or change.name in have:
            now = _made(change, made.get(change.name), kind)
            made.pop(change.name, None)
            if now is not None:
                made[change.name] = now
    for change in changes:
        _share(change, kind, made)
    return changes, {
        name: Observed(properties(found.native), found.owned, found.native) for name, found in made.items()
    }


def _made(change: Change, found: Observed | None, kind: InstanceResource) -> Observed | None:
    now: Instance = (
        replace(found.native, files=dict(found.native.files))
        if found
        else Instance(change.name, change.extra_results["id"], change.extra_results["folder"])
    )
    for step in sorted(change.steps, key=lambda step: step.stage):
        if isinstance(step, Write):
            # What a look at the node would tell: the version of its QEMU's machine type.
            content = step.content.replace("-machine pc ", "-machine pc-i440fx-7.2 ")
            now.files[step.path] = (content, step.mode)
            parsed = parse_script(content)
            if parsed:
                now.name, now.labels, now.written = parsed.name, parsed.labels, parsed.machine
        elif isinstance(step, Remove):
            if step.path == now.folder:
                return None
            now.files = {path: file for path, file in now.files.items() if not path.startswith(step.path)}
        elif isinstance(step, StartInstance):
            now.pid, now.running, now.replaced, now.unit = (
                4711,
                now.written,
                [],
                {"ActiveState": "active"} if step.unit else {},
            )
            kind.loaded |= {step.unit} - {""}
        elif isinstance(step, StopInstance) or (isinstance(step, Run) and step.argv[:2] == ("systemctl", "stop")):
            now.pid, now.running, now.unit = 0, None, {}
            kind.loaded.discard(service.unit(now.id))
        elif isinstance(step, Run) and step.argv[:2] == ("systemctl", "reset-failed"):
            now.unit = {}
    kind.drift.pop(change.name, None)
    return Observed({}, True, now)


def _share(change: Change, kind: InstanceResource, made: dict[str, Observed]) -> None:
    if change.name != service.TEMPLATE:
        return
    for step in change.steps:
        if isinstance(step, Write):
            kind.shared[step.path] = (step.content, step.mode)
        elif isinstance(step, Remove):
            kind.shared.pop(step.path)
        elif isinstance(step, Symlink) or (isinstance(step, Run) and step.argv[1] == "disable"):
            named = (step.path.rpartition("/")[2],) if isinstance(step, Symlink) else step.argv
            if service.TIMER in named:
                kind.timer = isinstance(step, Symlink)
            for found in made.values():
                if service.unit(found.native.id) in named:
                    found.native.enabled = isinstance(step, Symlink)


def commands(changes: list[Change]) -> list[str]:
    """Give the commands in the order in which the loop runs them."""
    steps = sorted(
        ((step.stage, step.text) for change in changes for step in change.steps),
        key=lambda entry: entry[0],
    )
    return [text for _stage, text in steps]


TALK: Item = {
    "name": "web-1",
    "id": "af95e879",
    "cpu": 2,
    "memory": 4096,
    "accel": "kvm",
    "nics": [{"mac": "02:00:5e:10:00:01"}],
}
ALONE: Item = {**TALK, "supervisor": "none"}
FOLDER = f"{ROOT}/run/instances/compute-af95e879"
UNIT = "compute-instance@af95e879.service"
# Its id does not follow from its name, so root writes that down.
RECORD_STEP = f"install -D -m 0644 /dev/stdin {FOLDER}.name"
FOLDER_STEP = f"install -d -m 0750 -o compute-service -g compute-service {FOLDER}"
SHARED = [
    "install -D -m 0644 /dev/stdin /etc/systemd/system/compute-instance@.service",
    "install -D -m 0644 /dev/stdin /etc/systemd/system/compute-console.service",
    "install -D -m 0644 /dev/stdin /etc/systemd/system/compute-console.timer",
    f"install -D -m 0755 /dev/stdin {ROOT}/run/trim-console-logs",
    f"install -D -m 0755 /dev/stdin {ROOT}/run/console",
    f"install -D -m 0755 /dev/stdin {ROOT}/run/qmp",
    f"install -D -m 0755 /dev/stdin {ROOT}/run/vnc",
]


UNITS = "/etc/systemd/system"
ENABLED = f"ln -s {UNITS}/compute-instance@.service {UNITS}/multi-user.target.wants/{UNIT}"
TIMER_ENABLED = f"ln -s {UNITS}/compute-console.timer {UNITS}/timers.target.wants/compute-console.timer"


def running(*items: Item) -> tuple[InstanceResource, dict[str, Observed]]:
    """Give a node where these run, as the module made them."""
    kind = declared(*items)
    _changes, have = after(kind, {})
    return kind, have


def again(before: InstanceResource, *items: Item, **options: Any) -> InstanceResource:
    """Give the next run on the same node."""
    kind = declared(*items, **options)
    kind.shared, kind.timer, kind.loaded = dict(before.shared), before.timer, set(before.loaded)
    return kind
