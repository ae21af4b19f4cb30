# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The systemd units that keep instances running."""

from __future__ import annotations

import os
import re
from typing import Any

from ..._core.layout import DEFAULT_USER, Layout
from ..._core.names import OWNER
from ..._core.steps import Stage, Symlink, read_plain
from ..._qemu.declared import DEFAULT_GRACE, disks, identifier, paths, volume
from ..._system import systemd
from ..console import console_script, console_text, qmp_path, qmp_text, vnc_script, vnc_text

TEMPLATE = "compute-instance@.service"
WANTS = "multi-user.target.wants"
CONSOLE, TIMER = "compute-console.service", "compute-console.timer"
_UNIT = re.compile(r"compute-instance@([0-9a-f]{8})\.service")
# What a guest's console log may hold before a timer that looks each minute cuts it to its end.
CONSOLE_LIMIT_KIB = 1024
CONSOLE_KEEP_KIB = 256
# ProtectHome= and PrivateTmp= (systemd.exec(5)) hide these from a service.
_HOMES = ("/home/", "/root/", "/run/user/")
_TEMPORARY = ("/tmp/", "/var/tmp/")

_TEMPLATE = """\
# {owner}: runs one instance, compute-<id>. The QEMU command stands in {instances}/compute-<id>/start.
[Unit]
Description=Instance compute-%i
Wants=compute-networks.service
After=compute-networks.service network.target
RequiresMountsFor={root}
# Wanted at boot by a link that systemd may not have read yet: whoever isolates a target is not to stop it for that.
IgnoreOnIsolate=yes
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=exec
User={user}
UMask=0077
WorkingDirectory=/
ExecStart={instances}/compute-%i/start
# Powered off from inside, QEMU ends with 0 and stays off; killed, it comes back.
Restart=on-failure
RestartSec=1
# Presses the power button and waits for the guest; then systemd ends QEMU.
ExecStop={instances}/compute-%i/stop
TimeoutStopSec={timeout}
# By then QEMU's user, whose file the script is, has had its time.
TimeoutStopFailureMode=kill

NoNewPrivileges=yes
# A core would hold the guest's memory.
LimitCORE=0
# Clock, host name and kernel modules are out of reach without capabilities, the kernel's log by QEMU's own sandbox and
# DevicePolicy= below: settings for these would add nothing but time to a start.
CapabilityBoundingSet=
ProtectSystem=strict
ReadWritePaths={instances}/compute-%i {volumes}
ProtectHome={home}
PrivateTmp={private_tmp}
DevicePolicy=closed
DeviceAllow=/dev/kvm rw
DeviceAllow=/dev/net/tun rw
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
# What ProtectKernelTunables= and ProtectControlGroups= do, by fewer mounts, each of which delays a start;
# and other users' processes are hidden.
ProtectProc=invisible
ReadOnlyPaths=/proc /sys
InaccessiblePaths=-/proc/kallsyms -/proc/kcore
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""

_CONSOLE_SERVICE = """\
# {owner}: keeps the guests' console logs small, see {script}.
[Unit]
Description=Cut the console logs of instances
# It ends with its timer: else one that begins while all is removed would be left as failed.
PartOf=compute-console.timer

[Service]
Type=oneshot
ExecStart={script}
TimeoutStartSec=60
NoNewPrivileges=yes
# The script becomes the instances' users, one after the other.
CapabilityBoundingSet=CAP_SETUID CAP_SETGID
ProtectSystem=strict
ReadWritePaths={instances}
ProtectHome={home}
PrivateTmp={private_tmp}
PrivateDevices=yes
PrivateNetwork=yes
"""

_CONSOLE_TIMER = """\
# {owner}: keeps the guests' console logs small, see compute-console.service.
[Unit]
Description=Cut the console logs of instances each minute
# As the instances: wanted by a link that systemd may not have read yet.
IgnoreOnIsolate=yes

[Timer]
OnBootSec=1min
OnUnitInactiveSec=1min
AccuracySec=10s

[Install]
WantedBy=timers.target
"""

_TRIM = """\
#!/bin/sh
# {owner}: cuts each console log over {limit} KiB to its last {keep} KiB. QEMU appends to the file it has open, so
# the file is cut in place; what a guest says in the instant between may be lost.
script=$(realpath "$0")
cd {instances} || exit 0
if [ $# -eq 0 ]; then
  # A folder belongs to the user whom its QEMU runs as: what is done there is done as that user,
  # who can gain nothing by it.
  stat -c '%u %g' compute-* 2>/dev/null | sort -u | while read -r user group; do
    setpriv --reuid="$user" --regid="$group" --clear-groups "$script" own </dev/null
  done
  exit 0
fi
find . -maxdepth 2 ! -name . ! -user "$(id -u)" -prune -o -type f -name console.log -size +{limit}k -print |
while read -r log; do
  # What stands there may be a pipe, which would be waited for.
  rm -f "$log.end"
  tail -c {keep}k "$log" >"$log.end"
  : >"$log"
  cat "$log.end" >>"$log"
  rm -f "$log.end"
done
"""


def unit(name: str) -> str:
    """Give the systemd unit of the instance with these 8 hex digits."""
    return f"compute-instance@{name}.service"


def is_ours(name: str) -> bool:
    """Tell whether a unit is one of those that run as the instances' users."""
    return name == CONSOLE or bool(_UNIT.fullmatch(name))


def id_of(name: str) -> str:
    """Give the 8 hex digits of an instance's unit."""
    match = _UNIT.fullmatch(name)
    return match.group(1) if match else ""


def enable_steps(ids: list[str], timer: bool, stage: Stage) -> list[Symlink]:
    """Give the links that have instances, and the timer, start at boot: those that ``systemctl enable`` makes.

    It would have systemd read all of its units again besides, 0.1 s and more, which a boot does by itself.
    """
    links = (
        [Symlink(f"{systemd.UNIT_FOLDER}/timers.target.wants/{TIMER}", f"{systemd.UNIT_FOLDER}/{TIMER}", stage=stage)]
        if timer
        else []
    )
    return [
        *links,
        *(
            Symlink(f"{systemd.UNIT_FOLDER}/{WANTS}/{unit(name)}", f"{systemd.UNIT_FOLDER}/{TEMPLATE}", stage=stage)
            for name in ids
        ),
    ]


def trim_script(layout: Layout) -> str:
    """Give the path of the script that keeps console logs small."""
    return f"{layout.root}/run/trim-console-logs"


def _inside(path: str, folders: tuple[str, ...]) -> bool:
    return f"{path}/".startswith(folders)


def shared_files(layout: Layout) -> dict[str, tuple[str, int]]:
    """Give the files that all instances of a node share: path to (text, mode)."""
    words: dict[str, Any] = {
        "owner": OWNER,
        "root": layout.root,
        "instances": layout.instances,
        "volumes": layout.volumes,
        "user": DEFAULT_USER,
        "timeout": _stop_timeout(DEFAULT_GRACE),
        "home": "read-only" if _inside(layout.root, _HOMES) else "yes",
        "private_tmp": "no" if _inside(layout.root, _TEMPORARY) else "yes",
        "script": trim_script(layout),
        "limit": CONSOLE_LIMIT_KIB,
        "keep": CONSOLE_KEEP_KIB,
    }
    return {
        f"{systemd.UNIT_FOLDER}/{TEMPLATE}": (_TEMPLATE.format(**words), 0o644),
        f"{systemd.UNIT_FOLDER}/{CONSOLE}": (_CONSOLE_SERVICE.format(**words), 0o644),
        f"{systemd.UNIT_FOLDER}/{TIMER}": (_CONSOLE_TIMER.format(**words), 0o644),
        trim_script(layout): (_TRIM.format(**words), 0o755),
        console_script(layout): (console_text(layout), 0o755),
        qmp_path(layout): (qmp_text(layout), 0o755),
        vnc_script(layout): (vnc_text(layout), 0o755),
    }


def _stop_timeout(grace: float) -> int:
    # The stop script waits for the guest, then 5 s each after SIGTERM and SIGKILL.
    return int(grace) + 30


def stop_limit(name: str) -> float:
    """Give the seconds after which an instance that systemd stops is to be gone: its unit's, and some for systemd.

    They stand in root's files. QEMU's user can write the script that the unit runs to stop it, and so have systemd wait
    that long, and once more.

    :param name: Its 8 hex digits.
    """
    set_to = re.search(r"^TimeoutStopSec=([0-9]{1,6})$", (read_plain(drop_in_path(name)) or ("", 0))[0], re.MULTILINE)
    return float(set_to.group(1) if set_to else _stop_timeout(DEFAULT_GRACE)) + 15


def drop_in_path(name: str) -> str:
    """Give the path of what differs for one instance from the template unit."""
    return f"{systemd.UNIT_FOLDER}/{unit(name)}.d/ikcloud-compute.conf"


def left_over_drop_in(name: str) -> bool:
    """Tell whether the folder of an instance's drop-in is there with nothing in it."""
    try:
        return not os.listdir(os.path.dirname(drop_in_path(name)))
    except OSError:
        return False


def drop_in(item: dict[str, Any], layout: Layout) -> str:
    """Give the text of what differs for one instance from the template unit (user, grace, disks elsewhere); "" when
    nothing does.
    """
    lines = []
    if item["user"] != DEFAULT_USER:
        lines.append(f"User={item['user']}")
    grace = DEFAULT_GRACE if item.get("grace") is None else item["grace"]
    if grace != DEFAULT_GRACE:
        lines.append(f"TimeoutStopSec={_stop_timeout(grace)}")
    for path in [volume(item, layout), *(disk.path for disk in disks(item, layout))]:
        if path.startswith("/dev/"):
            lines.append(f"DeviceAllow={path} rw")
        elif not path.startswith((f"{layout.volumes}/", f"{paths(item, layout).folder}/")):
            lines.append(f"ReadWritePaths={path}")
    if not lines:
        return ""
    return (
        f"# {OWNER}: what differs for the instance {item['name']} (compute-{identifier(item)}).\n[Service]\n"
        + "".join(f"{line}\n" for line in lines)
    )


def hidden_path(path: str, layout: Layout) -> bool:
    """Tell whether the unit's ProtectHome= or PrivateTmp= hides a disk's path from QEMU."""
    folders = [group for group in (_HOMES, _TEMPORARY) if _inside(path, group) and not _inside(layout.root, group)]
    return bool(folders)


def serves(layout: Layout) -> bool:
    """Tell whether the node's template unit runs the instances below this root (there is one for a node), or is not
    there yet.
    """
    try:
        with open(f"{systemd.UNIT_FOLDER}/{TEMPLATE}", encoding="utf-8", errors="replace") as stream:
            return f"ExecStart={layout.instances}/compute-%i/start\n" in stream.read()
    except OSError:
        return True


def enabled_ids() -> set[str]:
    """Give the instances that start at boot, by the links that `systemctl enable` makes, too."""
    try:
        names = os.listdir(f"{systemd.UNIT_FOLDER}/{WANTS}")
    except OSError:
        return set()
    return {match.group(1) for match in map(_UNIT.fullmatch, names) if match}


def running_ids(known: dict[str, dict[str, str]]) -> set[str]:
    """Give the instances that systemd runs, or is about to start or to stop, whether there are files of them or not.

    :param known: As :func:`loaded` gives it.
    """
    running = (name for name, state in known.items() if state["ActiveState"] not in ("inactive", "failed"))
    return {match.group(1) for match in map(_UNIT.fullmatch, running) if match}


def timer_enabled() -> bool:
    """Tell whether the console logs are looked after from boot on."""
    return os.path.lexists(f"{systemd.UNIT_FOLDER}/timers.target.wants/{TIMER}")


def loaded() -> dict[str, dict[str, str]]:
    """Ask systemd once which of our units it has in its memory, as :func:`systemd.loaded` does."""
    return systemd.loaded([unit("*"), CONSOLE, TIMER])
