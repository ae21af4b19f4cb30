# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be declared of an instance; the doc fragment instance explains each."""

from __future__ import annotations

from ..._core.changes import Item

SUBOPTIONS: Item = {
    "name": {"type": "str", "required": True},
    "id": {"type": "str"},
    "cpu": {"type": "int", "default": 1},
    "cpu_max": {"type": "int"},
    "memory": {"type": "int", "default": 1024},
    "memory_max": {"type": "int"},
    "volume": {"type": "str"},
    "volume_format": {"type": "str", "choices": ["qcow2", "raw"], "default": "qcow2"},
    "seed": {"type": "bool", "default": True},
    "volumes": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str"},
            "path": {"type": "str"},
            "format": {"type": "str", "choices": ["qcow2", "raw"], "default": "qcow2"},
        },
    },
    "nics": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "type": {"type": "str", "choices": ["tap", "user", "socket"], "default": "tap"},
            "tap": {"type": "str"},
            "mac": {"type": "str"},
            "mtu": {"type": "int"},
            "hostfwd": {"type": "list", "elements": "str", "default": []},
            "local": {"type": "str"},
            "remote": {"type": "str"},
            "mcast": {"type": "str"},
        },
    },
    "accel": {"type": "str", "choices": ["auto", "kvm", "tcg"], "default": "auto"},
    "cpu_model": {"type": "str"},
    "vnc": {"type": "str", "choices": ["socket", "loopback", "none"], "default": "socket"},
    "vnc_display": {"type": "int"},
    "power": {"type": "str", "choices": ["running", "stopped"], "default": "running"},
    "supervisor": {"type": "str", "choices": ["systemd", "none"], "default": "systemd"},
    "user": {"type": "str", "default": "compute-service"},
    "grace": {"type": "int"},
    "boot_network": {"type": "bool", "default": False},
    "labels": {"type": "dict", "default": {}},
    "restart": {"type": "str", "choices": ["never", "when_required"]},
}
