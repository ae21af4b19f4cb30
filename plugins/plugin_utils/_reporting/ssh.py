# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands with which a person logs in, from the variables with which Ansible does."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Connections to which `ssh` has no part.
LOCAL = ("local", "ansible.builtin.local")
SSH = (
    "ssh",
    "ansible.builtin.ssh",
    "smart",
    "paramiko",
    "ansible.netcommon.paramiko",
    "paramiko_ssh",
    "ansible.builtin.paramiko_ssh",
)


@dataclass(frozen=True)
class Target:
    """How a node is reached by SSH.

    :ivar options: What else ``ssh`` is told, such as ``-i KEY``.
    :ivar local: Whether it is this machine.
    """

    host: str
    user: str = ""
    port: int = 22
    options: tuple[str, ...] = ()
    local: bool = False

    @property
    def address(self) -> str:
        """``root@10.10.20.101``."""
        return f"{self.user}@{self.host}" if self.user else self.host

    def argv(self) -> list[str]:
        """Give the command that logs in to the node itself; nothing for this machine."""
        return (
            []
            if self.local
            else ["ssh", *self.options, *(["-p", str(self.port)] if self.port != 22 else []), self.address]
        )


def target(name: str, host: Mapping[str, Any]) -> Target | None:
    """Read how Ansible reaches a host. None where that is not SSH.

    :param host: The host's variables: ansible_host, _port, _user, _connection, _ssh_private_key_file, _ssh_common_args
        and _ssh_extra_args.
    """
    connection = str(host.get("ansible_connection") or "ssh")
    if connection in LOCAL:
        return Target(name, local=True)
    if connection not in SSH:
        return None
    options: list[str] = []
    key = _first(host, "ansible_ssh_private_key_file", "ansible_private_key_file")
    if key:
        options += ["-i", str(key)]
    for variable in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
        try:
            options += shlex.split(str(host.get(variable) or ""))
        except ValueError:  # a quote that is not closed; ssh would not take it either
            return None
    port = str(_first(host, "ansible_port", "ansible_ssh_port") or 22)
    return Target(
        str(_first(host, "ansible_host", "ansible_ssh_host") or name),
        str(_first(host, "ansible_user", "ansible_ssh_user") or ""),
        int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 22,
        tuple(options),
    )


def _first(host: Mapping[str, Any], *names: str) -> Any:
    return next((host[name] for name in names if name in host and host[name] is not None), None)


def login(gateway: Target, user: str, address: str) -> str:
    """Give the command that logs in to an instance by way of the node that has an address in its network.

    With ``-J``, ssh(1) gives the jump host no option but ``-F``, so the others (a key, say) need a ProxyCommand.
    """
    guest = f"{user}@{address}"
    if gateway.local:
        return shlex.join(["ssh", guest])
    if not gateway.options or (len(gateway.options) == 2 and gateway.options[0] == "-F"):
        host = f"[{gateway.host}]" if ":" in gateway.host else gateway.host
        jump = f"{gateway.user}@{host}" if gateway.user else host
        return shlex.join(
            ["ssh", *gateway.options, "-J", f"{jump}:{gateway.port}" if gateway.port != 22 else jump, guest]
        )
    words = [word.replace("%", "%%") for word in gateway.argv()]  # ssh_config(5), TOKENS
    proxy = shlex.join([*words[:-1], "-W", "%h:%p", words[-1]])
    return shlex.join(["ssh", "-o", f"ProxyCommand={proxy}", guest])


def on_node(node: Target, command: list[str]) -> str:
    """Give the command that runs another one on a node, with a terminal."""
    if node.local:
        return shlex.join(command)
    argv = node.argv()
    return shlex.join([argv[0], "-t", *argv[1:], shlex.join(command)])


def with_socket(node: Target, port: int, path: str, command: list[str]) -> str:
    """Give the command that runs another one on a node and has a unix socket there as a TCP port of this machine; empty
    for a node that is this machine.
    """
    if node.local:
        return ""
    argv = node.argv()
    return shlex.join([argv[0], "-t", "-L", f"{port}:{path}", *argv[1:], shlex.join(command)])
