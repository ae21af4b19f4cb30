# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declarations that tests begin with, and hypothesis strategies for valid and for arbitrary ones."""

from __future__ import annotations

import copy
from typing import Any

from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.plugin_utils._declaration.declaration import (
    IMAGE_KEYS,
    INSTANCE_KEYS,
    NETWORK_KEYS,
)
from ansible_collections.ikcloud.compute.plugins.plugin_utils._planning.planner import make_plan
from hypothesis import strategies as st

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEE me"
TALK: dict[str, Any] = {
    "images": {
        "bionic": {
            "url": "https://images.example.com/bionic.img",
            "checksum": "sha256:https://images.example.com/SHA256SUMS",
        }
    },
    "networks": {"blue": {"vni": 88, "cidr": "192.168.88.0/24", "nat": True}},
    "instances": {
        "web-1": {"image": "bionic", "network": "blue", "cpu": 2, "memory": 4096, "disk": "10G"},
        "web-2": {"image": "bionic", "network": "blue", "address": "192.168.88.102", "node": "ik-node-02"},
    },
    "ssh_keys": [KEY],
}
NODES: dict[str, Any] = {
    "ik-node-01": {"underlay_address": "10.10.20.101", "info": {}},
    "ik-node-02": {"underlay_address": "10.10.20.102", "info": {}},
    "ik-node-03": {"underlay_address": "10.10.20.103", "info": {}},
}


def talk(**changes: Any) -> dict[str, Any]:
    """Give the talk's declaration with changes: ``talk(**{"instances.web-1.cpu": 4})``; None removes a key, a whole
    entry too.
    """
    declaration = copy.deepcopy(TALK)
    for path, value in changes.items():
        *folders, last = path.split(".")
        spec = declaration
        for folder in folders:
            spec = spec.setdefault(folder, {})
        if value is None:
            spec.pop(last, None)
        else:
            spec[last] = value
    return declaration


def two_nodes(**infos: Any) -> dict[str, Any]:
    """Give the talk's two nodes, with ``info`` by ``n1`` and ``n2`` (None: missing)."""
    return {
        name: (
            {**spec, "info": infos.get(short, {})}
            if infos.get(short, {}) is not None
            else {"underlay_address": spec["underlay_address"]}
        )
        for short, (name, spec) in zip(("n1", "n2"), copy.deepcopy(NODES).items())
    }


def refusal(declaration: Any, nodes: Any = None) -> str:
    """Give the message with which a declaration is refused; an empty one when it isn't."""
    try:
        make_plan(declaration, two_nodes() if nodes is None else nodes)
    except ComputeError as error:
        return str(error)
    return ""


def infos_of(plan: dict[str, Any]) -> dict[str, Any]:
    """Give what node_info would say of each node once a plan is carried out."""
    return {
        name: {
            "instances": {
                item["name"]: {
                    "id": item["id"],
                    "labels": item["labels"],
                    "memory": item["memory"],
                    "running": item["power"] == "running",
                }
                for item in lists["instances"]
            },
            "tunnels": [item["name"] for item in lists["tunnels"]],
        }
        for name, lists in plan["nodes"].items()
    }


def carried_out(nodes: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """Give the nodes as they are once a plan is carried out."""
    infos = infos_of(plan)
    return {name: {**spec, "info": infos.get(name, spec.get("info"))} for name, spec in nodes.items()}


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,6}[a-z0-9]", fullmatch=True)
NODE_NAMES = [f"node-{number}" for number in range(1, 6)]


@st.composite
def clouds(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw a valid declaration and its bare nodes."""
    count = draw(st.integers(1, 5))
    names = NODE_NAMES[:count]
    nodes = {name: {"underlay_address": f"10.10.20.{number}", "info": {}} for number, name in enumerate(names, 101)}
    networks: dict[str, Any] = {}
    vnis = draw(st.lists(st.integers(0, (1 << 24) - 1), min_size=4, max_size=4, unique=True))
    for number, name in enumerate(draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))):
        spec: dict[str, Any] = {"vni": vnis[number], "cidr": f"192.168.{number}.0/{draw(st.integers(24, 26))}"}
        spec.update(
            draw(
                st.fixed_dictionaries(
                    {}, optional={"nat": st.booleans(), "encapsulation": st.sampled_from(["geneve", "vxlan"])}
                )
            )
        )
        if draw(st.booleans()):
            spec["gateway_node"] = draw(st.sampled_from(names))
        elif not spec.get("nat") and draw(st.booleans()):
            spec["gateway"] = False
        if draw(st.booleans()):
            spec["nodes"] = draw(st.lists(st.sampled_from(names), max_size=2))
        networks[name] = spec
    instances: dict[str, Any] = {}
    used: set[str] = set()
    for name in draw(st.lists(NAMES, max_size=12, unique=True)):
        nics = []
        for network in draw(st.lists(st.sampled_from(sorted(networks)), min_size=1, max_size=3, unique=True)):
            nic: dict[str, Any] = {"network": network}
            address = networks[network]["cidr"].rpartition(".")[0] + f".{draw(st.integers(2, 40))}"
            if draw(st.booleans()) and address not in used:
                used.add(address)
                nic["address"] = address
            nics.append(nic)
        spec = {"image": "img"}
        spec.update(nics[0] if len(nics) == 1 and draw(st.booleans()) else {"nics": nics})
        spec.update(
            draw(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "node": st.sampled_from(names),
                        "cpu": st.integers(1, 8),
                        "memory": st.sampled_from([128, 2048, "1G"]),
                        "disk": st.sampled_from(["10G", 1 << 30]),
                        "power": st.sampled_from(["running", "stopped"]),
                        "vnc": st.sampled_from(["socket", "none"]),
                        "accel": st.sampled_from(["auto", "kvm", "tcg"]),
                        "grace": st.integers(0, 100),
                        "copy": st.booleans(),
                        "restart": st.sampled_from(["never", "when_required"]),
                        "user_data": st.sampled_from([{"packages": ["nginx"]}, "#cloud-config\n", "#!/bin/sh\n"]),
                        "user": st.sampled_from(["debian", "me"]),
                    },
                )
            )
        )
        instances[name] = spec
    return {
        "images": {"img": {"path": "/srv/img.qcow2"}},
        "networks": networks,
        "instances": instances,
        "ssh_keys": [KEY],
    }, nodes


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        [
            "bionic",
            "blue",
            "web-1",
            "192.168.88.0/24",
            "192.168.88.7",
            "10G",
            "../x",
            "{{ x }}",
            "a\nb",
            "-x",
            "a,b",
            "%i",
            "::1",
            "ik-node-01",
            KEY,
            "\u0663",
            "9" * 5000,
            "\ud800",
        ]
    ),
)
WORDS = st.one_of(
    st.sampled_from([*INSTANCE_KEYS, *NETWORK_KEYS, *IMAGE_KEYS, "name", "blue", "bionic", "web-1"]),
    st.text(max_size=5),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORDS, inner, max_size=6)),
    max_leaves=25,
)
