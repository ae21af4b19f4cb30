"""A node's NoCloud seed, of the same form as the seeds the collection writes for its instances."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .host import run


@dataclass(frozen=True)
class Interface:
    mac: str
    address: str
    mtu: int = 1500
    gateway: str = ""
    nameserver: str = ""


def user_data(name: str, user: str, public_key: str) -> str:
    # JSON is YAML, and needs no quoting rules of our own.
    body = {"hostname": name, "users": [{"name": user, "ssh_authorized_keys": [public_key]}], "ssh_pwauth": False}
    return f"#cloud-config\n{json.dumps(body, indent=2)}\n"


def network_config(interfaces: list[Interface]) -> str:
    ethernets = {}
    for number, interface in enumerate(interfaces, start=1):
        card: dict[str, object] = {
            "match": {"macaddress": interface.mac},
            "mtu": interface.mtu,
            "dhcp4": False,
            "addresses": [interface.address],
        }
        if interface.gateway:
            card["routes"] = [{"to": "0.0.0.0/0", "via": interface.gateway}]
        if interface.nameserver:
            card["nameservers"] = {"addresses": [interface.nameserver]}
        ethernets[f"net_{number}"] = card
    return json.dumps({"version": 2, "ethernets": ethernets}, indent=2) + "\n"


def write_seed(directory: Path, name: str, user_text: str, network_text: str, target: Path) -> None:
    texts = {
        "user-data": user_text,
        "meta-data": json.dumps({"instance-id": name, "local-hostname": name}) + "\n",
        "network-config": network_text,
    }
    for file, text in texts.items():
        (directory / file).write_text(text, encoding="utf-8")
    paths = [directory / file for file in texts]
    run(["genisoimage", "-quiet", "-output", target, "-volid", "cidata", "-joliet", "-rock", *paths])
