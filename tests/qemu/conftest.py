# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real runs of the instance modules: QEMU emulates an empty machine (64 MiB, no system), which needs no root and no
KVM.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.instances import read_instances
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.resource import InstanceResource
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._core.reconcile import argument_spec, converge
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.qmp.qmp import Qmp

Converge = Callable[..., dict[str, Any]]


@pytest.fixture
def root() -> Iterator[Path]:
    """Give a root (short: sockets stand below it); what still runs below it in the end is ended, by the lock on its
    pidfile.
    """
    with tempfile.TemporaryDirectory(prefix="ikc-") as folder:
        path = Path(folder) / "root"
        (path / "lib/volumes").mkdir(parents=True)
        yield path
        for instance in read_instances(Layout(str(path)), units=False).values():
            if instance.pid > 0:
                os.kill(instance.pid, signal.SIGKILL)


def machine(name: str = "one", **values: Any) -> dict[str, Any]:
    """Give an instance that has nothing, run by whoever runs the tests."""
    user = "root" if os.geteuid() == 0 else "nobody"
    return {
        "name": name,
        "memory": 64,
        "accel": "tcg",
        "seed": False,
        "supervisor": "none",
        "user": user,
        "grace": 1,
        **values,
    }


@pytest.fixture
def run(root: Path) -> Converge:
    """Run the module on the root: ``run([machine()], check=True)``."""

    def call(items: list[dict[str, Any]], check: bool = False, **params: Any) -> dict[str, Any]:
        validated = ArgumentSpecValidator(argument_spec(InstanceResource)).validate(
            {"instances": items, "root": str(root), **params}
        )
        assert not validated.error_messages, validated.error_messages
        return converge(InstanceResource(validated.validated_parameters), check)

    return call


@pytest.fixture
def volume(root: Path) -> Callable[[str], Path]:
    """Make an empty disk for the instance with an id."""

    def make(identifier: str) -> Path:
        path = root / f"lib/volumes/compute-{identifier}.img"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "16M"], check=True)
        return path

    return make


@pytest.fixture
def obliging(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a guest does when it is asked to let go of a device, write to the ejection port, is done for it by QEMU's
    monitor.
    """
    execute = Qmp.execute

    def ejecting(self: Qmp, command: str, arguments: dict[str, Any] | None = None) -> Any:
        done = execute(self, command, arguments)
        if command == "device_del" and arguments:
            devices = execute(self, "query-pci")[0]["devices"]
            slot = next(device["slot"] for device in devices if device["qdev_id"] == arguments["id"])
            execute(
                self, "human-monitor-command", {"command-line": f"o/w 0xae08 {1 << slot}"}
            )  # QEMU's docs/specs/acpi_pci_hotplug
        return done

    monkeypatch.setattr(Qmp, "execute", ejecting)
