# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random declarations, each a step from the one before: valid, but for what is protected and leaves, which is
refused.
"""

from __future__ import annotations

import random
from typing import Any

from nodes import IMAGE

Declaration = dict[str, Any]
NODES = ("ik-node-01", "ik-node-02")
IMAGES = ("one", "two", "three")
# blue and blau are one network by two names: same VNI, same addresses.
NETWORKS = {
    "blue": (88, "192.168.88.0/24"),
    "blau": (88, "192.168.88.0/24"),
    "green": (99, "192.168.99.0/24"),
    "red": (0xABCDEF, "10.77.0.0/16"),
}
# What red may be instead as long as nobody is in it.
OTHER_RED = (0xABCDEE, "10.78.0.0/16")
TWINS = {"blue": "blau", "blau": "blue"}
INSTANCES = ("web-1", "web-2", "web-3", "db", "cache")


class Declarations:
    """A walk through declarations.

    What can't be changed by a run stays as long as it may be there: an instance's node and image, and its disk grows
    only. So do its cards: these guests have no system, and a guest without one lets go of no card while it runs. And a
    network keeps its VNI and its addresses while instances are in it; red gets others now and then when none is.

    :ivar seed: What makes the walk the same again.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.there: set[str] = set()  # the networks that are declared, or left over without purge
        self.before = self.there
        self.protected: set[str] = set()  # what the last one protects; names of networks and of instances differ
        self.fixed: dict[str, dict[str, Any]] = {}  # of instances
        self.disks: dict[str, int] = {}  # MiB
        self.cards: dict[str, list[dict[str, Any]]] = {}  # of the instances that may be there
        self.cards_before = self.cards
        self.networks = NETWORKS
        self.networks_before = self.networks

    def some(self, names: Any, least: int, most: int) -> list[str]:
        names = list(names)
        return sorted(self.random.sample(names, self.random.randint(least, min(most, len(names)))))

    def maybe(self, chance: float) -> bool:
        return self.random.random() < chance

    def next(self) -> Declaration:
        """Give the next one."""
        purge = self.maybe(0.7)
        self.cards_before = {name: list(cards) for name, cards in self.cards.items()}
        self.networks_before = self.networks
        if not any(card["network"] == "red" for cards in self.cards.values() for card in cards):
            self.networks = {**NETWORKS, "red": self.random.choice([NETWORKS["red"], OTHER_RED])}
        networks = self.some(NETWORKS, 1, 3)
        networks = [name for name in networks if TWINS.get(name) not in networks or name == "blue"]
        if not purge:
            networks = [name for name in networks if TWINS.get(name) not in self.there]
        instances = [
            name
            for name in self.some(INSTANCES, 0, 4 if networks else 0)
            if {card["network"] for card in self.cards.get(name, [])} <= {*networks}
        ]
        images = set(self.some(IMAGES, 0, 2))
        declared = {name: self.instance(name, networks) for name in instances}
        images |= {spec["image"] for spec in declared.values()}
        # Protected things leave with a purge, which is refused; left over without one they could not be unprotected any
        # more.
        purge = purge or not self.protected <= {*networks, *instances}
        if purge:
            self.cards = {name: cards for name, cards in self.cards.items() if name in instances}
        described = {name: self.network(name) for name in networks}
        self.protected = {name for name, spec in [*described.items(), *declared.items()] if spec.get("protect")}
        self.before = self.there
        self.there = {*networks} | (set() if purge else self.there)
        return {
            "cloud_encapsulation": "vxlan",
            "cloud_purge": purge,
            "cloud_purge_limit": len(INSTANCES),
            "cloud_purge_volumes": self.maybe(0.6),
            "cloud_restart": self.random.choice(["never", "when_required"]),
            "cloud_user": self.random.choice(["ubuntu", "debian"]),
            "cloud_images": {name: {"path": IMAGE} for name in sorted(images)},
            "cloud_networks": described,
            "cloud_instances": declared,
        }

    def refused(self) -> None:
        """Stay at the one before, with nothing protected: the last one was refused."""
        self.there, self.protected, self.cards, self.networks = (
            self.before,
            set(),
            self.cards_before,
            self.networks_before,
        )

    def network(self, name: str) -> dict[str, Any]:
        vni, cidr = self.networks[name]
        spec: dict[str, Any] = {"vni": vni, "cidr": cidr, "nat": self.maybe(0.5)}
        if self.maybe(0.3):
            spec["mtu"] = self.random.choice([1280, 1400, 1450])
        if self.maybe(0.5):
            spec["gateway_node"] = self.random.choice(NODES)
        if self.maybe(0.3):
            spec["nodes"] = self.some(NODES, 1, 2)
        if self.maybe(0.3):
            spec["dns"] = ["9.9.9.9"]
        if self.maybe(0.15):
            spec["protect"] = True
        return spec

    def instance(self, name: str, networks: list[str]) -> dict[str, Any]:
        fixed = self.fixed.setdefault(name, {"node": self.random.choice(NODES), "image": self.random.choice(IMAGES)})
        number = INSTANCES.index(name)
        spec: dict[str, Any] = {
            **fixed,
            "accel": "tcg",
            "grace": int(self.maybe(0.1)),
            "memory": self.random.choice([32, 48, 64]),
        }
        cards = self.cards.setdefault(name, [])
        chosen = [
            network for network in self.some(networks, 1, 2) if network not in [card["network"] for card in cards]
        ]
        for network in chosen if not cards else chosen[: int(self.maybe(0.4))]:
            mac = {"mac": f"02:00:00:0{len(cards)}:0{number}:{self.random.randint(16, 99)}"} if self.maybe(0.2) else {}
            cards.append({"network": network, **mac})
        if len(cards) > 1 or cards[0].get("mac") or self.maybe(0.5):
            spec["nics"] = [dict(card) for card in cards]
            for nic in spec["nics"]:
                if self.maybe(0.5):
                    nic["address"] = self.networks[nic["network"]][1].rsplit(".", 1)[0] + f".{50 + number}"
        else:
            spec["network"] = cards[0]["network"]
        if name in self.disks or self.maybe(0.4):
            self.disks[name] = self.disks.get(name, 2) + self.random.choice([0, 0, 1])
            spec["disk"] = f"{self.disks[name]}M"
        for key, values in (
            ("cpu", [1, 2]),
            ("vnc", ["socket", "none"]),
            ("power", ["running", "running", "stopped"]),
            ("restart", ["never", "when_required"]),
            ("user", ["admin"]),
            ("protect", [False, False, True]),
            ("user_data", [{"packages": ["nginx"]}]),
            (
                "ssh_keys",
                [["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7u5ZQzQxGJ1lF2R1nWmXk0iW0bqkPjv0o8kqB3xY6e me@here"]],
            ),
        ):
            if self.maybe(0.35):
                spec[key] = self.random.choice(values)
        return spec
