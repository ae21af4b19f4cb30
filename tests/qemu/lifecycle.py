# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests share of what is done to instances that are there."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.backup.operation import BackupOperation
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.backup.steps import JOB, CopyDisk
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance.instances import read_instances
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.instance_operation import InstanceOperation
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.power import PowerOperation
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.snapshot.operation import SnapshotOperation
from ansible_collections.ikcloud.compute.plugins.module_utils._core import execution
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._core.names import short_id
from ansible_collections.ikcloud.compute.plugins.module_utils._core.operation import perform
from ansible_collections.ikcloud.compute.plugins.module_utils._core.steps import Step
from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.qmp.qmp import Qmp

Volume = Callable[[str], Path]
ID = short_id("instance", "one")


def act(kind: type[InstanceOperation], root: Path, state: str, check: bool = False, **params: Any) -> dict[str, Any]:
    """Run a module that acts on instances as Ansible would."""
    given = {"instances": ["one"], "state": state, "root": str(root), **params}
    validated = ArgumentSpecValidator(kind.spec).validate(given)
    assert not validated.error_messages, validated.error_messages
    return perform(kind(validated.validated_parameters), check)


def power(root: Path, state: str, check: bool = False, **params: Any) -> dict[str, Any]:
    return act(PowerOperation, root, state, check, **params)


def snapshot(root: Path, state: str, check: bool = False, **params: Any) -> dict[str, Any]:
    return act(SnapshotOperation, root, state, check, **{"name": "clean", **params})


def backup(root: Path, state: str, check: bool = False, **params: Any) -> dict[str, Any]:
    return act(BackupOperation, root, state, check, **{"name": "nightly", **params})


def both(call: Callable[..., dict[str, Any]], root: Path, state: str, **params: Any) -> dict[str, Any]:
    """Check mode, then the real run, which does what was said."""
    predicted = call(root, state, check=True, **params)
    done = call(root, state, **params)
    assert "msg" not in done, done["msg"]
    assert (done["changed"], done["commands"], done["after"]) == (
        predicted["changed"],
        predicted["commands"],
        predicted["after"],
    )
    return done


def refused(call: Callable[..., dict[str, Any]], root: Path, state: str, **params: Any) -> str:
    """Return why an instance is refused: check mode warns of that, and the real run, in which nothing changes,
    fails.
    """
    predicted = call(root, state, check=True, **params)
    done = call(root, state, **params)
    assert "msg" not in predicted and not predicted["changed"] and not done["changed"]
    reason = str(done["results"][0]["error"])
    assert reason in predicted["warn"][-1] and reason in done["msg"]
    return reason


def pid(root: Path) -> int:
    return read_instances(Layout(str(root)), units=False)["one"].pid


def socket_of(root: Path) -> str:
    return f"{root}/run/instances/compute-{ID}/qmp.sock"


def write(disk: Path, pattern: int, at: str = "0") -> None:
    """Write a MiB of a byte into a disk that no QEMU has open."""
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", f"write -P {pattern} {at} 1M", str(disk)], check=True, capture_output=True
    )


def holds(disk: Path, pattern: int, at: str = "0") -> bool:
    """Tell whether a disk has that byte there, asked while its QEMU may run."""
    done = subprocess.run(
        ["qemu-io", "-U", "-r", "-f", "qcow2", "-c", f"read -P {pattern} {at} 1M", str(disk)],
        check=False,
        capture_output=True,
        text=True,
    )
    return "Pattern verification failed" not in done.stdout and done.returncode == 0


def write_running(root: Path, pattern: int, disk: Path | None = None) -> None:
    """Write a MiB into a disk of the QEMU that runs, its own if none is given, as its guest would."""
    place = "virtio0" if disk is None else f"-d /machine/peripheral/disk-{short_id('disk', str(disk))}/virtio-backend"
    with Qmp(socket_of(root)) as qmp:
        answer = qmp.execute("human-monitor-command", {"command-line": f'qemu-io {place} "write -P {pattern} 0 1M"'})
        qmp.execute("human-monitor-command", {"command-line": f'qemu-io {place} "flush"'})  # others read the file
    assert "rror" not in str(answer), answer


def backup_left_running(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Kill a backup while QEMU copies, which goes on with it."""

    def begin(step: CopyDisk) -> None:
        with Qmp(step.socket) as qmp:
            qmp.execute(step.command, {**step.arguments, "speed": 1024})
        raise Killed

    with patch.context() as short:
        short.setattr(CopyDisk, "run", begin)
        with pytest.raises(Killed):
            backup(root, "created")
    with Qmp(socket_of(root)) as qmp:
        assert [job["id"] for job in qmp.execute("query-jobs")] == [JOB]


class Killed(BaseException):
    """As if the module had been killed."""


def killed_after(patch: pytest.MonkeyPatch, number: int) -> None:
    """Have the run end after so many steps."""
    left = number

    def step(name: str, steps: list[Step]) -> tuple[str, ComputeError | None]:
        nonlocal left
        for one in steps:
            if left == 0:
                raise Killed
            left -= 1
            one.run()
        return name, None

    patch.setattr(execution, "_apply_item", step)


def before_step(patch: pytest.MonkeyPatch, start: str, action: Callable[[], Any]) -> None:
    """Have something happen before the one step whose text begins with that."""
    really = execution._apply_item

    def step(name: str, steps: list[Step]) -> tuple[str, ComputeError | None]:
        (place,) = [number for number, one in enumerate(steps) if one.text.startswith(start)]
        before = really(name, steps[:place])
        action()
        return before if before[1] else really(name, steps[place:])

    patch.setattr(execution, "_apply_item", step)
