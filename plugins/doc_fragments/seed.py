# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The list of the module seed, which the module node takes too."""

    LIST = r"""
options:
  seeds:
    description: The seeds.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The instance, C(compute-) and its id of 8 hex digits.
        type: str
        required: true
      hostname:
        description: The guest's host name; by default O(seeds[].name).
        type: str
      user:
        description: The user to make in the guest, who may use sudo without a password.
        type: str
        default: ubuntu
      ssh_keys:
        description: The public SSH keys that this user logs in with, each a line of a C(.pub) file.
        type: list
        elements: str
        default: []
      password_hash:
        description:
          - The hash of a password for the user at the console, as C(openssl passwd -6) prints it. Without one there is
            no password.
          - It does not open SSH.
          - It is a secret, as O(seeds[].user_data) is.
        type: str
      user_data:
        description:
          - A dictionary is merged over the user-data that the collection writes, key by key. In C(users) an entry with
            the name of O(seeds[].user)
            is merged over that user, and further ones are added; any other list replaces ours.
          - Text that begins with V(#cloud-config), V(#!), V(#include) or another of cloud-init's heads replaces the
            collection's user-data;
            then O(seeds[].user), O(seeds[].ssh_keys) and O(seeds[].password_hash) are not looked at.
          - It is a secret. It stands neither in the node's journal nor in what the module returns, also in check mode,
            with C(--diff) and with C(-vvv).
        type: raw
      nics:
        description: The guest's network cards.
        type: list
        elements: dict
        default: []
        suboptions:
          mac:
            description: The card's MAC address, in lower case.
            type: str
          addresses:
            description: Its addresses with their prefix lengths, such as V(192.168.88.102/24).
            type: list
            elements: str
            default: []
          gateway:
            description: The default route's gateway, in the network of one of the addresses.
            type: str
          nameservers:
            description: The addresses of name servers.
            type: list
            elements: str
            default: []
          mtu:
            description: The largest packet in bytes. Behind a tunnel it has to be smaller than 1500.
            type: int
      instance_id:
        description:
          - What cloud-init tells a new instance by. Another one has the guest run its first boot again, making its SSH
            host keys anew.
          - By default the one that an existing seed has, otherwise V(iid-) and the instance's id.
        type: str
"""

    DOCUMENTATION: str = (
        LIST
        + r"""
  seed_secrets:
    description: Filled by the collection, from O(seeds), on the way to the node. Given in a task it is refused.
    type: str
  rebuild:
    description:
      - Names of listed seeds that get the next instance-id, so that the guest takes itself for a new one.
        C(iid-af95e879) is followed by C(iid-af95e879-2).
      - The seed itself keeps it, so that later runs without this option leave it as it is. Where
        O(seeds[].instance_id) is given, that counts.
    type: list
    elements: str
    default: []
  owner:
    description:
      - The user that QEMU runs as. The seeds are root's, for this user's group to read; the instances'
        folders belong to this user.
      - Not looked at when the module does not run as root, or when it is empty.
    type: str
    default: compute-service
"""
    )
    NODE: str = LIST.replace("    required: true\n    suboptions:", "    suboptions:", 1)
