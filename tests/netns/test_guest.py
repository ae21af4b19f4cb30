# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has this address: asked on one end of a cable that is in a bridge, of a Linux at the other end."""

from __future__ import annotations

import sys

from .conftest import World

ASK = (
    "import sys; from ansible_collections.ikcloud.compute.plugins.module_utils._qemu.guest_agent import address_answers"
    " as ask; print(ask(*sys.argv[1:3], limit=1.0))"
)


def test_an_address_answers_on_its_port_alone(world: World) -> None:
    node, guest = world.node("a"), world.node("g")
    node.ip("link add br0 type bridge")
    node.ip("link set br0 up")
    node.ip(f"link add tap0 type veth peer name eth0 netns {guest.name}")
    node.ip("link add tap1 type veth peer name end1")
    for link in ("tap0", "tap1"):
        node.ip(f"link set {link} master br0 up")
    guest.ip("address add 192.168.88.2/24 dev eth0")

    def ask(link: str, address: str) -> bool:
        return bool(node.run(sys.executable, "-c", ASK, link, address).strip() == "True")

    assert not ask("tap0", "192.168.88.2")  # its card is down
    guest.ip("link set eth0 up")
    assert ask("tap0", "192.168.88.2")
    assert not ask("tap0", "192.168.88.3")
    assert not ask("tap1", "192.168.88.2")
    assert "192.168.88" not in guest.run("ip", "neigh")  # nobody remembers who asked
