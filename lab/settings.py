"""Where the lab keeps its things and how big its nodes are: defaults, each overridable by an environment variable."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


def _text(name: str, default: str) -> str:
    return os.environ.get(name) or default


def _number(name: str, default: int) -> int:
    value = os.environ.get(name)
    if not value:
        return default
    try:
        return int(value)
    except ValueError:
        raise SystemExit(f"{name} must be a whole number, not {value!r}") from None


def cache_dir() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(_text("IKCLOUD_LAB_CACHE", str(Path(home) / "ikcloud-compute-lab"))).absolute()


@dataclass(frozen=True)
class Settings:
    """Everything a person can turn. Ports are the first of a range, one per node."""

    cache: Path
    run: Path
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
            nodes=_number("NODES", 2),
            memory=_number("IKCLOUD_LAB_MEMORY", 3072),
            cpus=_number("IKCLOUD_LAB_CPUS", 2),
            cpu_model=_text("IKCLOUD_LAB_CPU_MODEL", "max"),
            accel=_text("IKCLOUD_LAB_ACCEL", "tcg,thread=multi"),
            ssh_port=_number("IKCLOUD_LAB_SSH_PORT", 22101),
            http_port=_number("IKCLOUD_LAB_HTTP_PORT", 22180),
            underlay_port=_number("IKCLOUD_LAB_UNDERLAY_PORT", 22201),
            boot_timeout=_number("IKCLOUD_LAB_BOOT_TIMEOUT", 300),
        )

    @property
    def key(self) -> Path:
        return self.run / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.run / "known_hosts"

    def node_names(self) -> list[str]:
        return [f"ik-node-{index:02d}" for index in range(1, self.nodes + 1)]
