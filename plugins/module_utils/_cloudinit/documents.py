# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The three texts that cloud-init reads from a NoCloud seed (cloud-init's documentation: datasources, NoCloud)."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from .._core.names import OWNER, mac_problem, name_problem
from .yaml_text import dump, flow, scalar

Item = dict[str, Any]
# What cloud-init tells a kind of user-data by (its documentation: user-data formats).
USER_DATA_HEADS = (
    "#cloud-config",
    "#!",
    "#include",
    "#part-handler",
    "#cloud-boothook",
    "## template: jinja",
    "Content-Type: multipart/",
    "MIME-Version:",
)
# sshd(8), AUTHORIZED_KEYS FILE FORMAT.
_KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
# What precedes a key: no blanks but in double quotes, a quote in which has a backslash before it (the same page).
_OPTIONS = re.compile(r'((?:[^\s"]|"(?:\\"|[^"])*")+)[ \t]+(.*)')
# What lets somebody in, in cloud-init's words (its documentation: users and groups, set passwords, SSH), and in those
# of a script.
_LOGINS = (
    "ssh_authorized_keys",
    "ssh_import_id",
    "authorized_keys",
    "hashed_passwd",
    "plain_text_passwd",
    "passwd",
    "chpasswd",
    "password",
)
_UNSEEN = ("#include", "Content-Type: multipart/", "MIME-Version:", "#part-handler")
# useradd(8) on Debian: NAME_REGEX of adduser.conf(5), 32 characters.
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
# crypt(5): $id$…; the ids that today's distributions know.
_HASH = re.compile(r"\$(?:y|gy|7|6|5|2[abxy]|sm3)\$[./A-Za-z0-9$=,+-]{8,}")
MAX_INSTANCE_ID = 128
_INSTANCE_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_INSTANCE_ID - 1}}}")
_MTU = (576, 65535)  # RFC 791 section 3.1: what every host must take; 65535: the longest packet of IPv4
_MTU6 = 1280  # RFC 8200 section 5


def texts(item: Item, instance_id: str) -> dict[str, str]:
    """Write a seed's three texts, by their names in it.

    :param item: As declared, already validated.
    :param instance_id: What cloud-init tells a new instance by.
    """
    return {
        "user-data": user_data(item),
        "network-config": network_config(item),
        "meta-data": meta_data(item, instance_id),
    }


def meta_data(item: Item, instance_id: str) -> str:
    """Write the meta-data."""
    return (
        f"# {OWNER} seed {item['name']}\ninstance-id: {scalar(instance_id)}\nlocal-hostname:"
        f" {scalar(item['hostname'] or item['name'])}\n"
    )


def next_instance_id(current: str) -> str:
    """Give the instance-id of an instance that is rebuilt: ``iid-af95e879`` becomes ``iid-af95e879-2``, that
    ``iid-af95e879-3``, and so on.
    """
    counted = re.fullmatch(r"(.+)-([0-9]{1,6})", current)
    stem, suffix = (counted.group(1), f"-{int(counted.group(2)) + 1}") if counted else (current, "-2")
    return stem[: MAX_INSTANCE_ID - len(suffix)] + suffix


def instance_id_of(text: str) -> str:
    """Read the instance-id in meta-data of ours, "" for none."""
    match = re.search(rf'^instance-id: "?({_INSTANCE_ID.pattern})"?$', text, re.MULTILINE)
    return match.group(1) if match else ""


def network_config(item: Item) -> str:
    """Write the network-config, version 2.

    Cards are told by their MAC address: their names change with the machine type.
    """
    lines = [f"# {OWNER} seed {item['name']}", "version: 2"]
    lines += ["ethernets:"] if item["nics"] else ["ethernets: {}"]
    for number, nic in enumerate(item["nics"]):
        lines += [f"  nic{number}:", f'    match: {{macaddress: "{nic["mac"]}"}}', "    dhcp4: false"]
        if nic.get("mtu") is not None:
            lines.append(f"    mtu: {nic['mtu']}")
        if nic.get("addresses"):
            lines.append(f"    addresses: {flow(nic['addresses'])}")
        else:
            lines.append("    optional: true")  # without an address it is never "online"; boot must not wait for it
        if nic.get("gateway"):
            everything = "0.0.0.0/0" if ipaddress.ip_address(nic["gateway"]).version == 4 else "::/0"
            lines += ["    routes:", f"      - {flow({'to': everything, 'via': nic['gateway']})}"]
        if nic.get("nameservers"):
            lines += ["    nameservers:", f"      addresses: {flow(nic['nameservers'])}"]
    return "\n".join(lines) + "\n"


def user_data(item: Item) -> str:
    """Write the user-data: ours, with the user's own merged over it, or the user's own as it stands."""
    own = item.get("user_data")
    if isinstance(own, str):
        return own if own.endswith("\n") else f"{own}\n"
    return f"#cloud-config\n# {OWNER} seed {item['name']}\n{dump(merge(default_user_data(item), own or {}))}"


def default_user_data(item: Item) -> Item:
    """Give the user-data that we would write."""
    user: Item = {"name": item["user"]}
    if item["user"] != "root":
        user.update(
            {
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "groups": "users, sudo",
                "homedir": f"/home/{item['user']}",
                "shell": "/bin/bash",
            }
        )
    user["lock_passwd"] = not item.get("password_hash")
    if item.get("password_hash"):
        user["hashed_passwd"] = item["password_hash"]
    keys = [key.strip() for key in item["ssh_keys"] if not _is_no_key(key)]
    if keys:
        user["ssh_authorized_keys"] = keys
    data: Item = {"hostname": item["hostname"] or item["name"], "users": [user], "ssh_pwauth": False}
    if item["user"] == "root":
        data["disable_root"] = False
    # So that another address or MTU takes effect with a reboot; by default cloud-init sets up the network on first boot
    # only.
    data["updates"] = {"network": {"when": ["boot"]}}
    return data


def can_log_in(item: Item) -> bool:
    """Return whether the user-data, as it is written, has a key or a password for anybody."""
    own = item.get("user_data")
    if isinstance(own, str):
        # What is included or encoded can't be seen here.
        return own.startswith(_UNSEEN) or any(word in own for word in _LOGINS)
    return _has_login(merge(default_user_data(item), own or {}))


def _has_login(data: Any) -> bool:
    if isinstance(data, Mapping):
        return any((key in _LOGINS and bool(value)) or _has_login(value) for key, value in data.items())
    return isinstance(data, (list, tuple)) and any(_has_login(value) for value in data)


def applies_network_at_boot(text: str) -> bool:
    """Tell whether user-data has cloud-init set up the network at each boot (ours does)."""
    place = re.search(r"^updates:\n  network:", text, re.MULTILINE) if text.startswith("#cloud-config") else None
    return place is not None and re.compile(r"\bboot\b").search(text, place.end()) is not None


def merge(ours: Item, theirs: Mapping[str, Any]) -> Item:
    """Merge user-data over ours.

    Dictionaries are merged key by key. Of ``users``, an entry with a name that is there already is merged over that
    one, others are appended. Whatever else, lists too, replaces ours.
    """
    merged = dict(ours)
    for key, value in theirs.items():
        have = merged.get(key)
        if key == "users" and isinstance(have, list) and isinstance(value, list):
            merged[key] = _merge_users(have, value)
        elif isinstance(have, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(dict(have), value)
        else:
            merged[key] = value
    return merged


def _merge_users(ours: list[Any], theirs: list[Any]) -> list[Any]:
    users = list(ours)
    index = {user["name"]: number for number, user in enumerate(users) if isinstance(user, Mapping) and "name" in user}
    for user in theirs:
        name = user.get("name") if isinstance(user, Mapping) else None
        if isinstance(name, str) and name in index:
            users[index[name]] = merge(dict(users[index[name]]), user)
        else:
            users.append(user)
    return users


def problems(where: str, item: Item) -> list[str]:
    """Say what is wrong with a seed, apart from its own name.

    :param where: ``seeds[3]``.
    """
    found: list[str | None] = []
    if item.get("hostname") is not None:
        found.append(name_problem(f"{where}.hostname", item["hostname"]))
    if not _USER.fullmatch(item["user"]):
        found.append(
            f"{where}.user: {item['user']!r} is not a user name; use a-z, 0-9, '_' and '-', beginning with a letter or"
            " '_', 32 characters at most."
        )
    found += [_key_problem(f"{where}.ssh_keys[{number}]", key) for number, key in enumerate(item["ssh_keys"])]
    if item.get("password_hash") and not _HASH.fullmatch(item["password_hash"]):
        found.append(
            f"{where}.password_hash: it is not a hash such as `mkpasswd -m yescrypt` or `openssl passwd -6` prints"
            " ($y$… or $6$…)."
        )
    if item.get("instance_id") is not None and not _INSTANCE_ID.fullmatch(item["instance_id"]):
        found.append(
            f"{where}.instance_id: {item['instance_id']!r} is not usable; use letters, digits, '.', '_' and '-', 128 at"
            " most."
        )
    found.append(_user_data_problem(f"{where}.user_data", item.get("user_data")))
    macs: dict[str, int] = {}
    for number, nic in enumerate(item["nics"]):
        place = f"{where}.nics[{number}]"
        found += _nic_problems(place, nic)
        if nic.get("mac") in macs:
            found.append(
                f"{place}.mac: {nic['mac']} stands already at {where}.nics[{macs[nic['mac']]}].mac; each card has its"
                " own."
            )
        macs.setdefault(nic.get("mac"), number)
    return [problem for problem in found if problem]


def _key_problem(where: str, key: str) -> str | None:
    """Say what is wrong with a public key; never with more of its text than its type, since it might be a private
    one.
    """
    if "PRIVATE KEY" in key:
        return (
            f"{where}: this is a private key. Give the public one, from the file that ends in .pub, and take the"
            " private one out of here."
        )
    if any((ord(character) < 32 and character != "\t") or ord(character) == 127 for character in key):
        return f"{where}: this is not one line of an SSH public key, such as 'ssh-ed25519 AAAA… me@here'."
    if _is_no_key(key):
        return None
    parts = key.split(None, 2)
    if parts[0] not in _KEY_TYPES:
        after_options = _OPTIONS.fullmatch(key.strip())
        rest = after_options.group(2).split(None, 2) if after_options else []
        parts = rest if rest and rest[0] in _KEY_TYPES else parts
    if len(parts) < 2:
        return f"{where}: this is not one line of an SSH public key, such as 'ssh-ed25519 AAAA… me@here'."
    if parts[0] not in _KEY_TYPES:
        return f"{where}: the key's type is none of {', '.join(_KEY_TYPES)}; give the line of the .pub file as it is."
    try:
        fields = _fields(base64.b64decode(parts[1], validate=True))
    except (binascii.Error, ValueError):
        fields = []
    if len(fields) < 2 or fields[0] != parts[0].encode():
        return f"{where}: the {parts[0]} key is broken or cut off; give the line of the .pub file as it is."
    return None


def _is_no_key(line: str) -> bool:
    """Return whether a line of keys is blank or a comment, as sshd(8) takes it."""
    return not line.strip() or line.lstrip().startswith("#")


def _fields(blob: bytes) -> list[bytes]:
    """Split a key into its fields, each with its length before it (RFC 4253 section 6.6, RFC 4251 section 5)."""
    fields = []
    while blob:
        length = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + length:
            raise ValueError("a field is cut off")
        fields.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    return fields


def _user_data_problem(where: str, data: Any) -> str | None:
    if data is None:
        return None
    if isinstance(data, str):
        if not data.startswith(USER_DATA_HEADS):
            return (
                f"{where}: text must begin with one of {', '.join(USER_DATA_HEADS[:4])}…, for cloud-init to know what"
                " it is; or give a dictionary."
            )
        return (
            f"{where}: it has a NUL byte, or half of a surrogate pair."
            if "\0" in data or not _is_unicode(data)
            else None
        )
    if not isinstance(data, Mapping):
        return (
            f"{where}: give a dictionary, which is merged over what the collection writes, or text, which replaces it."
        )
    try:
        dump(data)
    except ValueError as error:
        return f"{where}: {error}."
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _nic_problems(where: str, nic: Item) -> list[str | None]:
    found: list[str | None] = [mac_problem(f"{where}.mac", nic.get("mac"))]
    interfaces = []
    for number, text in enumerate(nic.get("addresses") or []):
        place = f"{where}.addresses[{number}]"
        try:
            if "/" not in text:
                raise ValueError
            interface = ipaddress.ip_interface(text)
        except ValueError:
            found.append(f"{place}: {text!r} is not an address with its prefix length, such as 192.168.88.102/24.")
            continue
        interfaces.append(interface)
        network = interface.network
        if (
            network.version == 4
            and network.prefixlen < 31
            and interface.ip in (network.network_address, network.broadcast_address)
        ):
            found.append(f"{place}: {text} is the network's own or its broadcast address; a guest can't have it.")
    if len(interfaces) == len(nic.get("addresses") or []):
        found.append(_gateway_problem(f"{where}.gateway", nic.get("gateway"), interfaces))
    for number, text in enumerate(nic.get("nameservers") or []):
        if _address(text) is None:
            found.append(f"{where}.nameservers[{number}]: {text!r} is not an IP address.")
    mtu, least = nic.get("mtu"), _MTU6 if any(interface.version == 6 for interface in interfaces) else _MTU[0]
    if mtu is not None and not least <= mtu <= _MTU[1]:
        found.append(f"{where}.mtu: {mtu} is out of range; {least} to {_MTU[1]}.")
    return found


def _gateway_problem(where: str, gateway: str | None, interfaces: list[Any]) -> str | None:
    if gateway is None:
        return None
    address = _address(gateway)
    if address is None:
        return f"{where}: {gateway!r} is not an IP address."
    if any(address == interface.ip for interface in interfaces):
        return f"{where}: {gateway} is the guest's own address."
    # A link-local gateway of IPv6 is on every link (RFC 4291 section 2.5.6).
    if not any(address in interface.network for interface in interfaces) and not (
        address.version == 6 and address.is_link_local
    ):
        return (
            f"{where}: {gateway} is in none of the networks of the card's addresses, so the guest could not reach it."
        )
    return None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
