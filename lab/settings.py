# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the lab keeps its things and how big its nodes are: defaults, each overridable by an environment variable."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .distribution import Distribution, find_distribution

KINDS = ("vm", "container")
MAX_NODES = 20


def _text(name: str, default: str) -> str:
    return os.environ.get(name) or default


def _number(name: str, default: int, least: int = 1, most: int = 1 << 30) -> int:
    value = os.environ.get(name)
    if not value:
        return default
    if not value.isdecimal() or not least <= int(value) <= most:
        raise SystemExit(f"lab: {name} must be a whole number from {least} to {most}, not {value!r}")
    return int(value)


def _one_of(name: str, *choices: str) -> str:
    """The environment's choice; the first when it makes none."""
    value = _text(name, choices[0])
    if value not in choices:
        raise SystemExit(f"lab: {name} must be one of {', '.join(choices)}, not {value!r}")
    return value


def cache_dir() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(_text("IKCLOUD_LAB_CACHE", str(Path(home) / "ikcloud-compute-lab"))).absolute()


def node_name(index: int) -> str:
    """The name of a node, counted from 1."""
    return f"ik-node-{index:02d}"


def node_index(name: str) -> int:
    return int(name.rsplit("-", 1)[-1])


def underlay_address(index: int) -> str:
    return f"10.10.20.{100 + index}"


@dataclass(frozen=True)
class Settings:
    """Everything a person can turn. Ports are the first of a range, one per node."""

    cache: Path
    run: Path
    kind: str
    distribution: Distribution
    nodes: int
    memory: int  # MiB per node
    cpus: int  # per node
    cpu_model: str
    accel: str
    ssh_port: int
    http_port: int
    underlay_port: int
    boot_timeout: int  # seconds until SSH must answer

    @classmethod
    def from_environment(cls) -> Settings:
        cache = cache_dir()
        return cls(
            cache=cache,
            run=Path(_text("IKCLOUD_LAB_RUN", str(cache / "run"))).absolute(),
            kind=_one_of("IKCLOUD_LAB_KIND", *KINDS),
            distribution=find_distribution(_text("IKCLOUD_LAB_DISTRIBUTION", "")),
            nodes=_number("NODES", 2, most=MAX_NODES),
            memory=_number("IKCLOUD_LAB_MEMORY", 3072),
            # Emulated, of two, QEMU 7.2 was seen to interrupt one that held the scheduler's lock with interrupts off,
            # and the node hung for good (TCG's SVM left V_INTR_MASKING's effect behind after a #VMEXIT); with one there
            # is nobody to send it such interrupts. Two are no faster.
            cpus=_number("IKCLOUD_LAB_CPUS", 2 if os.environ.get("IKCLOUD_LAB_ACCEL") == "kvm" else 1),
            cpu_model=_text("IKCLOUD_LAB_CPU_MODEL", "max"),
            accel=_one_of("IKCLOUD_LAB_ACCEL", "tcg", "kvm", "auto"),
            ssh_port=_number("IKCLOUD_LAB_SSH_PORT", 22101, most=65000),
            http_port=_number("IKCLOUD_LAB_HTTP_PORT", 22180, most=65535),
            underlay_port=_number("IKCLOUD_LAB_UNDERLAY_PORT", 22201, most=65000),
            boot_timeout=_number("IKCLOUD_LAB_BOOT_TIMEOUT", 300),
        )

    @property
    def key(self) -> Path:
        return self.run / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.run / "known_hosts"

    def node_names(self) -> list[str]:
        return [node_name(index) for index in range(1, self.nodes + 1)]
