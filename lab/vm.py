# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes of the kind vm: QEMU machines, made by the collection's own modules (up.yml, down.yml)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from . import webserver
from .host import LabError, run, say
from .images import Image, build_images
from .pidfile import holder, stop
from .playbook import play
from .recipes import GUESTS
from .settings import Settings, node_index, underlay_address

# What QEMU's user networking hands out on its side; the nodes see this machine's loopback as the gateway.
ADDRESS, GATEWAY, NAMESERVER = "10.0.2.15/24", "10.0.2.2", "10.0.2.3"
# Of the organization-local scope (RFC 2365); it never leaves 127.0.0.1.
MULTICAST = "239.192.20.88"
Items = list[dict[str, Any]]


def identifier(name: str) -> str:
    """The 8 hex digits by which the modules call a node: its number, for a person to find."""
    return f"{node_index(name):08d}"


def mac(name: str, card: int) -> str:
    return f"02:1b:c1:0d:{card:02x}:{node_index(name):02x}"


def underlay(name: str, settings: Settings) -> dict[str, str]:
    """The card between the nodes.

    Two are two ends of a UDP pair, which no host firewall for multicast can be in the way of.
    """
    if settings.nodes != 2:
        return {"type": "socket", "mcast": f"{MULTICAST}:{settings.underlay_port}", "local": "127.0.0.1"}
    mine, other = node_index(name) - 1, 2 - node_index(name)
    return {
        "type": "socket",
        "local": f"127.0.0.1:{settings.underlay_port + mine}",
        "remote": f"127.0.0.1:{settings.underlay_port + other}",
    }


def declaration(
    settings: Settings, image: Image, bases: Mapping[str, str], ports: Mapping[str, int], key: str
) -> dict[str, Items]:
    """What up.yml hands to the modules.

    :param image: The node's image as it is built now.
    :param bases: The images that the running nodes' disks stand on, by node: these stay.
    :param key: The public SSH key.
    """
    volumes: Items = []
    seeds: Items = []
    instances: Items = []
    for name, port in ports.items():
        compute = f"compute-{identifier(name)}"
        volumes.append({"name": compute, "image": bases.get(name, image.full_name)})
        inside = {
            "mac": mac(name, 1),
            "addresses": [ADDRESS],
            "gateway": GATEWAY,
            "nameservers": [NAMESERVER],
            "mtu": 1500,
        }
        between = {"mac": mac(name, 2), "addresses": [f"{underlay_address(node_index(name))}/24"], "mtu": 1500}
        seeds.append({"name": compute, "hostname": name, "user": "root", "ssh_keys": [key], "nics": [inside, between]})
        forward = {"type": "user", "mac": mac(name, 1), "hostfwd": [f"tcp:127.0.0.1:{port}:22"]}
        cards = [forward, {"mac": mac(name, 2), **underlay(name, settings)}]
        size = {
            "cpu": settings.cpus,
            "memory": settings.memory,
            "accel": settings.accel,
            "cpu_model": settings.cpu_model,
        }
        instances.append(
            {
                "name": name,
                "id": identifier(name),
                **size,
                "nics": cards,
                "vnc": "none",
                "supervisor": "none",
                "user": "root",
                "grace": 40,
            }
        )
    images = [{"name": image.full_name, "path": str(image.path), "checksum": f"sha256:{image.sha256}"}]
    return {"lab_images": images, "lab_volumes": volumes, "lab_seeds": seeds, "lab_instances": instances}


class Machines:
    """The nodes of one lab. `root` is the compute service's folder for them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.root = settings.run
        self._web = webserver.Service(settings.run, settings.http_port)

    def require(self) -> None:
        """Nothing beyond the tools."""

    def build(self) -> list[Image]:
        images = build_images(self.settings.cache, self.settings.distribution)
        return [images[name] for name in GUESTS]

    def serve(self, images: list[Image]) -> None:
        self._web.start(images, "127.0.0.1")

    def serving(self) -> int | None:
        return self._web.pid()

    def running(self, name: str) -> int | None:
        return holder(self._folder(name) / f"compute-{identifier(name)}.pid")

    def holds_port(self, name: str) -> bool:
        return self.running(name) is not None

    def console(self, name: str) -> Path:
        return self._folder(name) / "console.log"

    def found(self) -> list[str]:
        """The nodes that are there, running or not."""
        return sorted(
            f"ik-node-{int(path.name[-8:]):02d}"
            for path in (self.root / "run" / "instances").glob(f"compute-{'[0-9]' * 8}")
        )

    def fresh(self, names: Iterable[str]) -> list[str]:
        image = self._image()
        return [
            name
            for name in names
            if self._base(name) != image.full_name and not (self.running(name) and self._base(name))
        ]

    def start(self, ports: Mapping[str, int], key: str) -> None:
        image = self._image()
        bases: dict[str, str] = {}
        outdated: Items = []
        for name in ports:
            base = self._base(name)
            if self.running(name) is not None and base:
                bases[name] = base
                say(
                    f"{name} is"
                    f" running{'' if base == image.full_name else ' (from an older image; `down` and `up` renew it)'}"
                )
            elif base not in ("", image.full_name):
                outdated.append({"name": f"compute-{identifier(name)}"})
        play(
            "up",
            self.root,
            self.settings.run,
            {**declaration(self.settings, image, bases, ports, key), "lab_outdated": outdated},
        )

    def variables(self) -> dict[str, str]:
        return {}

    def remove(self) -> None:
        self._web.stop()
        if not (self.root / "lib").exists() and not self.found():
            return
        try:
            play("down", self.root, self.settings.run, {})
        except LabError as error:
            say(f"{error}; ending the machines by signals")
        for name in self.found():
            stop(self._folder(name) / f"compute-{identifier(name)}.pid")
            if self.running(name) is not None:
                raise LabError(f"{name}: process {self.running(name)} does not end")

    def _image(self) -> Image:
        return build_images(self.settings.cache, self.settings.distribution, ("node",))["node"]

    def _folder(self, name: str) -> Path:
        return self.root / "run" / "instances" / f"compute-{identifier(name)}"

    def _base(self, name: str) -> str:
        """The name of the image that a node's disk stands on, "" when it has no disk."""
        disk = self.root / "lib" / "volumes" / f"compute-{identifier(name)}.img"
        if not disk.exists():
            return ""
        # --force-share: QEMU has it locked.
        return Path(
            json.loads(run(["qemu-img", "info", "--force-share", "--output=json", disk])).get("backing-filename", "")
        ).stem
