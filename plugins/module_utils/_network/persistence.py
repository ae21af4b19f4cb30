# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What brings links and NAT back after a reboot: the files in ``run/networks``, the script that replays them, its
unit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from .._core.changes import Change
from .._core.commands import run
from .._core.errors import ComputeError
from .._core.layout import Layout
from .._core.names import is_marked
from .._core.steps import Remove, Run, Stage, Step, Symlink, Write

UNIT = "compute-networks.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
WANTS_LINK = f"/etc/systemd/system/multi-user.target.wants/{UNIT}"
# sd_booted(3): this folder is there if and only if systemd runs the machine.
SYSTEMD_RUNS = "/run/systemd/system"
SYSCTL_FILE = "/etc/sysctl.d/60-ikcloud-compute.conf"

# Stages of all network modules: files before what they describe, deletions before creations (a tunnel's VNI is free
# again), the removal of files after that of what they describe, systemd last.

UP = f"""#!/bin/sh
# ikcloud.compute: brings back this node's links and NAT from the files beside it, in the order of their names.
# {UNIT} runs it at boot. It may be run again at any time: what is there already stays.
cd "$(dirname "$0")" || exit 1
failed=0
for file in [0-9]*.ip; do
    [ -e "$file" ] || continue
    link=${{file#??-}}
    link=${{link%.ip}}
    if [ -e "/sys/class/net/$link" ]; then
        grep -v -e '^link add ' -e '^tuntap add ' "$file" | ip -batch - || failed=1
    else
        ip -batch "$file" || failed=1
    fi
done
for file in [0-9]*.fdb; do
    [ -e "$file" ] || continue
    bridge -batch "$file" || failed=1
done
for file in [0-9]*.nft; do
    [ -e "$file" ] || continue
    nft -f "$file" || failed=1
done
if [ -e {SYSCTL_FILE} ]; then
    sysctl -q -p {SYSCTL_FILE} || failed=1
fi
exit $failed
"""

_BRIDGE_OF = re.compile(r'^(?:link set dev \S+ master (\S+)|\s+iifname "(\S+)" drop)$', re.MULTILINE)


def unit_text(layout: Layout) -> str:
    """Give the unit that replays the files at boot.

    It comes after nftables.service, whose start, restart and reload flush every table (on Debian), and is run again
    after those (PartOf=, ReloadPropagatedFrom= in systemd.unit(5)). It waits for no network: links and rules need no
    uplink. Instances order themselves after it.
    """
    return f"""# ikcloud.compute: links and NAT of the compute service.
[Unit]
Description=Links and NAT of the compute service
After=systemd-sysctl.service nftables.service
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service
RequiresMountsFor={layout.root}
# Wanted at boot by a link that systemd may not have read yet: whoever isolates a target is not to stop it for that.
IgnoreOnIsolate=yes

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={layout.network("up")}
ExecReload={layout.network("up")}

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class BootFiles:
    """What the files of one resource in ``run/networks`` are called: the order of their names is that of the boot.

    :ivar prefix: What stands before the object's name, such as ``10-``; ``suffixes`` what stands after it.
    """

    prefix: str
    suffixes: tuple[str, ...] = (".ip",)

    def name_in(self, file: str) -> str:
        """Return the object's name in a file's; "" for a file of something else."""
        for suffix in self.suffixes if file.startswith(self.prefix) else ():
            if file.endswith(suffix):
                return file[len(self.prefix) : -len(suffix)]
        return ""


@dataclass
class Boot:
    """What is there of it.

    :ivar files: The text of each file in ``run/networks``, by its name.
    :ivar up_runs: Whether ``up`` may be executed.
    :ivar systemd: Whether systemd runs this machine; without it there is no unit, but the files are kept.
    :ivar unit: The unit file's text, None when there is none.
    :ivar enabled: Whether the unit is started at boot.
    :ivar stale: Whether systemd has it otherwise than its file has it by now; as far as it was asked.
    """

    layout: Layout
    files: dict[str, str] = field(default_factory=dict)
    up_runs: bool = False
    systemd: bool = False
    unit: str | None = None
    enabled: bool = False
    stale: bool = False

    def names(self, prefix: str) -> dict[str, list[str]]:
        """Give the objects that have files of a prefix such as ``10-``: name to file names."""
        found: dict[str, list[str]] = {}
        for file in sorted(self.files):
            if file.startswith(prefix):
                found.setdefault(file[len(prefix) :].rpartition(".")[0], []).append(file)
        return found

    def after(self, changes: Iterable[Change]) -> dict[str, str]:
        """Give the files as they are when the changes are made."""
        files = dict(self.files)
        for step in (step for change in changes for step in change.steps):
            if isinstance(step, (Write, Remove)) and os.path.dirname(step.path) == self.layout.networks:
                if isinstance(step, Write):
                    files[os.path.basename(step.path)] = step.content
                else:
                    files.pop(os.path.basename(step.path), None)
        return files

    def bridge_changes(self, changes: Iterable[Change], prefix: str, there: Iterable[str]) -> list[Change]:
        """List what the module ``bridge`` has to do for the unit: it is there as long as there is a bridge of ours.

        One module alone is in charge, since check mode on a bare node must not announce the unit once for each kind.
        What stands on bridges that others made keeps the unit too.

        :param there: The links of this node; a file whose bridge is gone is about to be removed.
        """
        after = self.after(changes)
        ours = self.names(prefix)
        others = [
            text
            for file, text in after.items()
            if not file.startswith(prefix) and (bridges_in(text) - set(ours)) & set(there)
        ]
        if others or any(file.startswith(prefix) for file in after):
            return self.make()
        return self.drop()

    def other_changes(self, changes: Iterable[Change], prefix: str, foreign: Iterable[str]) -> list[Change]:
        """List what any other module has to do for it, only where it works on bridges that others made.

        :param prefix: The caller's files, such as ``30-``.
        :param foreign: Bridges on this node that are not ours.
        """
        after = self.after(changes)
        foreign = set(foreign)
        if any(file.startswith(prefix) and bridges_in(text) & foreign for file, text in after.items()):
            return self.make()
        return [] if any(file[0].isdigit() for file in after) else self.drop()

    def make(self) -> list[Change]:
        """List what is missing of ``up`` and of the unit."""
        steps: list[Step] = []
        if self.files.get("up") != UP or not self.up_runs:
            steps.append(Write(self.layout.network("up"), UP, mode=0o755, stage=Stage.FILES))
        if self.systemd:
            if self.unit is not None and not is_marked(self.unit):
                raise ComputeError(f"{UNIT_FILE} is there and ikcloud.compute did not make it.", "Rename that unit.")
            self._refuse_another_root()
            text = unit_text(self.layout)
            if self.unit != text:
                steps.append(Write(UNIT_FILE, text, stage=Stage.FILES))
            again = Run(("systemctl", "daemon-reload"), stage=Stage.FINISH)
            # A new one it finds by itself.
            if self.stale or self.unit not in (None, text):
                steps.append(again)
            if not self.enabled:
                # Started, as it is after a reboot (replaying what is there changes nothing), and first, so that one
                # that is enabled was started.
                steps.append(Run(("systemctl", "start", UNIT), stage=Stage.FINISH))
                # What `systemctl enable` does, but for having systemd read all of its units again.
                steps.append(Symlink(WANTS_LINK, UNIT_FILE, stage=Stage.FINISH))
                # Of one that it knows it shows whether that is enabled as it first saw it.
                steps += [again] if self.unit is not None else []
        new = self.unit is None if self.systemd else "up" not in self.files
        return (
            [Change(UNIT, "create" if new else "update", steps=steps, reasons=[] if new else ["it differs"])]
            if steps
            else []
        )

    def _refuse_another_root(self) -> None:
        """One root per node: links carry no root, and the unit replays but one."""
        served = re.search(r"^ExecStart=(.*)/run/networks/up$", self.unit or "", re.MULTILINE)
        if served and served.group(1) != self.layout.root:
            raise ComputeError(
                f"The networks of this node belong to the root {served.group(1)}, not to {self.layout.root}.",
                "Use that root, or tear that one down first.",
            )

    def drop(self) -> list[Change]:
        """List what removes ``up`` and the unit, when they are there and ours."""
        steps: list[Step] = []
        if self.unit is not None and is_marked(self.unit):
            self._refuse_another_root()
            if self.systemd:
                # It has systemd read its units again, so that it forgets this one even if the run is killed before the
                # last step.
                steps.append(Run(("systemctl", "disable", "--now", UNIT), stage=Stage.FINISH))
            steps.append(Remove(UNIT_FILE, stage=Stage.FINISH))
            if self.systemd:
                steps.append(Run(("systemctl", "daemon-reload"), stage=Stage.FINISH))
        if "up" in self.files:
            steps.append(Remove(self.layout.network("up"), stage=Stage.FINISH))
        return [Change(UNIT, "delete", steps=steps)] if steps else []


def bridges_in(text: str) -> set[str]:
    """Give the bridges that a file's lines attach something to."""
    return {first or second for first, second in _BRIDGE_OF.findall(text)}


def read_boot(layout: Layout) -> Boot:
    """Read all of it."""
    boot = Boot(
        layout, systemd=os.path.isdir(SYSTEMD_RUNS), unit=read_text(UNIT_FILE), enabled=os.path.islink(WANTS_LINK)
    )
    try:
        entries = sorted(
            entry.name for entry in os.scandir(layout.networks) if entry.is_file() and not entry.name.startswith(".")
        )
    except FileNotFoundError:
        return boot
    boot.files = {name: read_text(layout.network(name)) or "" for name in entries}
    boot.up_runs = os.access(layout.network("up"), os.X_OK)
    return boot


def is_stale(enabled: bool) -> bool:
    """Ask systemd whether it has to read the unit again: a run that was killed has left that, or somebody who edited
    it.

    :param enabled: Whether it is, by its link; that systemd shows as it first saw it, too.
    """
    argv = ["systemctl", "show", "--property=NeedDaemonReload,UnitFileState", UNIT]
    said = run(argv, timeout=60, check=False).stdout.splitlines()
    return "NeedDaemonReload=yes" in said or (enabled and "UnitFileState=disabled" in said)


def read_text(path: str) -> str | None:
    """Read a small text file; None when it is not there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except FileNotFoundError:
        return None
