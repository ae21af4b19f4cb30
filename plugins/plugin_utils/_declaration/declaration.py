# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what the user wrote to a :class:`Cloud`: every problem is found before anything is done."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from ...module_utils._cloudinit import documents
from ...module_utils._core.layout import instance_id
from ...module_utils._core.names import mac_address, mac_problem, short_id
from ...module_utils._storage.sizes import SECTOR, likely, read_bytes
from . import ip
from .cross_checks import cloud_problems
from .model import Cloud, DataVolume, Image, Instance, Network, Nic
from .reader import Reader, entries, nearest, shown
from .user_data import cloud_config_problems

IMAGE_KEYS = ("url", "path", "checksum", "format")
NETWORK_KEYS = ("vni", "cidr", "nat", "gateway", "gateway_node", "mtu", "dns", "encapsulation", "nodes", "protect")
VOLUME_KEYS = ("size", "instance", "node")
NIC_KEYS = ("network", "address", "mac")
INSTANCE_KEYS = (
    "image",
    "network",
    "nics",
    "address",
    "mac",
    "node",
    "cpu",
    "cpu_max",
    "memory",
    "memory_max",
    "disk",
    "user",
    "ssh_keys",
    "password_hash",
    "user_data",
    "power",
    "vnc",
    "vnc_display",
    "accel",
    "grace",
    "copy",
    "restart",
    "protect",
)
# The whole declaration's own keys: the argument's name, and the variable's where the argument is not given.
DECLARATION = {
    "images": "cloud_images",
    "networks": "cloud_networks",
    "instances": "cloud_instances",
    "volumes": "cloud_volumes",
    "ssh_keys": "cloud_ssh_keys",
    "user": "cloud_user",
    "encapsulation": "cloud_encapsulation",
    "underlay_mtu": "cloud_underlay_mtu",
    "purge": "cloud_purge",
    "purge_limit": "cloud_purge_limit",
    "purge_volumes": "cloud_purge_volumes",
    "restart": "cloud_restart",
    "restart_serial": "cloud_restart_serial",
}

MAX_VNI = (1 << 24) - 1  # 24 bits: RFC 8926 section 3.4, RFC 7348 section 5
OVERHEAD = {
    4: 50,
    6: 70,
}  # bytes of the outer Ethernet, IP, UDP and GENEVE or VXLAN headers, by IP version of the underlay
MIN_MTU = 576  # RFC 791: what every host must take
MAX_CPUS = 255  # QEMU's pc machine without an IOMMU
MIN_MEMORY, MAX_MEMORY = 16, 16 << 20  # MiB
MIN_DISK, MAX_DISK = 1 << 20, 64 << 40  # bytes
MAX_NICS = 8
DEFAULT_PURGE_LIMIT = 3
_CHECKSUM = re.compile(
    r"sha(?:256:(?:[0-9a-f]{64}|(?:https?|file)://[!-~]+)|512:(?:[0-9a-f]{128}|(?:https?|file)://[!-~]+))"
)
_URL = re.compile(r"(?:https?://[!-~]+|file:///[!-~]+)")
_PATH = re.compile(r"/[A-Za-z0-9/._+@=~:-]+")


def parse(declaration: dict[str, Any], node_names: Sequence[str]) -> tuple[Cloud, list[str]]:
    """Read a declaration.

    :param declaration: Values of any type under the keys of :data:`DECLARATION`; what lacks has its default.
    :param node_names: The compute nodes, in the inventory's order.
    :returns: The cloud, and every problem: a sentence each, with place and way out. The cloud is whole only without
        problems.
    """
    problems: list[str] = []
    common = Reader(
        "cloud",
        {DECLARATION[key][6:]: value for key, value in declaration.items()},
        [name[6:] for name in DECLARATION.values()],
        problems,
    )
    defaults = _login(common, {"user": "ubuntu", "ssh_keys": (), "password_hash": None, "user_data": None})
    encapsulation = common.choice("encapsulation", ("geneve", "vxlan")) or "geneve"
    images = {
        name: _image(name, spec, problems)
        for name, spec in entries("cloud_images", declaration.get("images"), problems).items()
    }
    networks: dict[str, Network] = {}
    declared_networks = entries("cloud_networks", declaration.get("networks"), problems)
    for name, spec in declared_networks.items():
        network = _network(name, spec, node_names, encapsulation, problems)
        if network:
            networks[name] = network
    instances: dict[str, Instance] = {}
    declared_instances = entries("cloud_instances", declaration.get("instances"), problems)
    for name, spec in declared_instances.items():
        instance = _instance(name, spec, list(images), list(declared_networks), node_names, defaults, problems)
        if instance:
            instances[name] = instance
    declared_volumes = entries("cloud_volumes", declaration.get("volumes"), problems)
    volumes = {
        name: _volume(name, spec, list(declared_instances), node_names, problems)
        for name, spec in declared_volumes.items()
    }
    # Only checked here, by the names that users know; the role hands them to the module.
    common.choice("restart", ("never", "when_required"))
    common.integer("restart_serial", 0, 1 << 20, " of instances")
    purge = bool(common.flag("purge"))
    if purge and declaration.get("instances") is None:
        problems.append(
            "cloud_purge is true and cloud_instances is not declared at all, so every instance would count as removed."
            " Look whether the file that declares them is read; if there really are to be none, write"
            " cloud_instances: {}."
        )
    limit = common.integer("purge_limit", 0, 1 << 20, " of instances")
    cloud = Cloud(
        {name: image for name, image in sorted(images.items()) if image},
        dict(sorted(networks.items())),
        dict(sorted(instances.items())),
        {name: volume for name, volume in sorted(volumes.items()) if volume},
        common.integer("underlay_mtu", MIN_MTU + OVERHEAD[6], 65535, " of bytes") or 1500,
        purge,
        DEFAULT_PURGE_LIMIT if limit is None else limit,
        bool(common.flag("purge_volumes")),
    )
    return cloud, [_name_variable(problem) for problem in problems] + cloud_problems(cloud)


def _name_variable(problem: str) -> str:
    return "cloud_" + problem[len("cloud.") :] if problem.startswith("cloud.") else problem


def _login(reader: Reader, defaults: dict[str, Any]) -> dict[str, Any]:
    """Read who can log in and how; what is right there is for the seed's own rules to say."""
    keys = reader.strings("ssh_keys")
    login: dict[str, Any] = {
        "user": reader.text("user") or defaults["user"],
        "ssh_keys": (
            defaults["ssh_keys"] if keys is None else tuple(line for key in keys for line in key.strip().splitlines())
        ),
        "password_hash": reader.text("password_hash", want="text", secret=True),
        "user_data": reader.spec.get("user_data"),
    }
    if login != defaults:  # what is wrong with the defaults is said once, where they stand
        item = {**login, "ssh_keys": login["ssh_keys"] if keys is not None else (), "nics": []}
        found = documents.problems(reader.place, item)
        reader.problems += found or cloud_config_problems(f"{reader.place}.user_data", login["user_data"])
    return login


def _image(name: str, spec: object, problems: list[str]) -> Image | None:
    reader = Reader(f"cloud_images.{name}", spec, IMAGE_KEYS, problems)
    if reader.is_mapping and reader.has("url") == reader.has("path"):
        reader.problems.append(
            f"{reader.place}: give just one of url (http, https, file) and path (a file on the node)."
        )
    url = reader.text("url", _URL, "a URL that begins with https://, http:// or file:///")
    if url and not _url_is_whole(url):
        reader.add("url", f"{shown(url)} is not a whole URL; write https://host/file.")
    path = reader.text("path", _PATH, "an absolute path of letters, digits and . _ - + @ = ~ :")
    if path and ".." in path.split("/"):
        reader.add("path", f"{shown(path)} leads upwards; write it without '..'.")
    checksum = reader.text(
        "checksum",
        _CHECKSUM,
        "'sha256:<64 hex digits>', 'sha512:<128 hex digits>' or 'sha256:<URL of a SHA256SUMS file>'",
    )
    if url and url.startswith("http") and not reader.has("checksum"):
        reader.problems.append(
            f"{reader.place}: checksum is missing; an image from the network is verified, such as checksum:"
            " 'sha256:https://.../SHA256SUMS'."
        )
    return Image(name, url, path, checksum, reader.choice("format", ("qcow2", "raw")))


def _url_is_whole(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # a port or an IPv6 host that is none
        return False
    return bool((parts.hostname or parts.scheme == "file") and parts.path.strip("/") and port != 0)


def _network(
    name: str, spec: object, node_names: Sequence[str], encapsulation: str, problems: list[str]
) -> Network | None:
    reader = Reader(f"cloud_networks.{name}", spec, NETWORK_KEYS, problems)
    reader.require("vni", "cidr")
    vni = reader.integer("vni", 0, MAX_VNI)
    nat = bool(reader.flag("nat"))
    gateway_node = reader.known("gateway_node", node_names, "node in the group")
    chosen = reader.choice("encapsulation", ("geneve", "vxlan"))
    mtu = reader.integer("mtu", MIN_MTU, 65535 - OVERHEAD[4], " of bytes")
    dns = reader.strings("dns")
    for index, server in enumerate(dns or ()):
        if ip.parse_address(server) is None:
            reader.add(f"dns[{index}]", f"{shown(server)} is not an IP address.")
    nodes = reader.strings("nodes") or ()
    for index, node in enumerate(nodes):
        if node not in node_names:
            reader.add(f"nodes[{index}]", f"there is no node {shown(node)} in the group. {nearest(node, node_names)}")
    cidr = _cidr(reader)
    wants_gateway, gateway = _gateway(reader, cidr)
    if not wants_gateway and nat:
        reader.add("nat", "it needs a gateway; remove gateway: false.")
    if not wants_gateway and reader.has("gateway_node"):
        reader.add("gateway_node", "it has no use with gateway: false; remove one of the two.")
    if cidr is None or vni is None:
        return None
    if gateway_node is None and wants_gateway and node_names:
        gateway_node = node_names[0]
    return Network(
        name,
        short_id("network", name),
        vni,
        cidr,
        nat,
        gateway,
        gateway_node if wants_gateway else None,
        mtu,
        dns,
        chosen or encapsulation,
        tuple(sorted(set(nodes))),
        bool(reader.flag("protect")),
    )


def _cidr(reader: Reader) -> Any:
    value = reader.spec.get("cidr")
    if value is None:
        return None
    cidr = ip.parse_cidr(value)
    if cidr is None:
        reader.add("cidr", f"{shown(value)} is not a network; write address and prefix, such as 192.168.88.0/24.")
        return None
    problem = ""
    if cidr.version != 4:
        problem = "only IPv4 networks are supported so far."
    elif cidr.ip != cidr.network:
        problem = f"{value} has host bits set; the network is {cidr.cidr}."
    elif not 8 <= cidr.prefixlen <= 30:
        problem = f"{value} has a prefix of {cidr.prefixlen}; from /8 (large) to /30 (two hosts) is possible."
    elif (
        cidr.first >> 24 in (0, 127) or cidr.last >> 28 >= 0xE or cidr.first >> 16 == 0xA9FE
    ):  # RFC 6890: this host, loopback, multicast and above, link-local
        problem = f"{value} is reserved for other purposes; take a private one, such as 192.168.88.0/24."
    if problem:
        reader.add("cidr", problem)
        return None
    return cidr


def _gateway(reader: Reader, cidr: Any) -> tuple[bool, Any]:
    value = reader.spec.get("gateway")
    if value is False or (isinstance(value, str) and value.lower() in ("false", "no")):
        return False, None
    if value is None or value is True:
        return True, ip.first_host(cidr) if cidr is not None else None
    address = ip.parse_address(value)
    if address is None:
        reader.add("gateway", f"{shown(value)} is neither an IP address nor false.")
    elif cidr is not None and not ip.is_host(cidr, address):
        reader.add("gateway", f"{value} is not a host's address in {cidr}; these are {ip.host_range(cidr)}.")
    return True, address


def _instance(
    name: str,
    spec: object,
    images: list[str],
    networks: list[str],
    node_names: Sequence[str],
    defaults: dict[str, Any],
    problems: list[str],
) -> Instance | None:
    reader = Reader(f"cloud_instances.{name}", spec, INSTANCE_KEYS, problems)
    before = len(problems)
    reader.require("image")
    image = reader.known("image", images, "image")
    nics = _nics(name, reader, networks)
    node = reader.known("node", node_names, "node in the group")
    cpu = reader.integer("cpu", 1, MAX_CPUS, " of CPUs")
    memory = _memory(reader, "memory")
    disk = _disk(reader, "disk")
    login = _login(reader, defaults)
    options = {
        "vnc": reader.choice("vnc", ("socket", "loopback", "none")),
        "vnc_display": reader.integer("vnc_display", 0, 999),
        "accel": reader.choice("accel", ("auto", "kvm", "tcg")),
        "grace": reader.integer("grace", 0, 86400, " of seconds"),
        "restart": reader.choice("restart", ("never", "when_required")),
        "cpu_max": reader.integer("cpu_max", 1, MAX_CPUS, " of CPUs"),
        "memory_max": _memory(reader, "memory_max"),
    }
    for key, declared, default in (("cpu", cpu, 1), ("memory", memory, 1024)):
        most = options[f"{key}_max"]
        if isinstance(most, int) and most < (declared or default):
            reader.add(
                f"{key}_max",
                f"{most} is less than {key}, {declared or default}; declare at least that, or leave it out.",
            )
    if options["vnc"] == "loopback" and not reader.has("vnc_display"):
        reader.add(
            "vnc_display", "it is missing; vnc: loopback needs a display of its own on the node, 0 for TCP port 5900."
        )
    power = reader.choice("power", ("running", "stopped")) or "running"
    copy = reader.flag("copy")
    protect = bool(reader.flag("protect"))
    if len(problems) > before or image is None:
        return None
    return Instance(
        name=name,
        id=short_id("instance", name),
        image=image,
        nics=nics,
        node=node,
        cpu=cpu or 1,
        memory=memory or 1024,
        disk=disk,
        power=power,
        copy=copy,
        protect=protect,
        options={key: value for key, value in options.items() if value is not None},
        **login,
    )


def _volume(
    name: str, spec: object, instances: list[str], node_names: Sequence[str], problems: list[str]
) -> DataVolume | None:
    reader = Reader(f"cloud_volumes.{name}", spec, VOLUME_KEYS, problems)
    reader.require("size")
    size = _disk(reader, "size")
    instance = reader.known("instance", instances, "instance")
    if instance is None and reader.has("instance"):
        problems[-1] += " To keep the volume without one, leave `instance` out."
    node = reader.known("node", node_names, "node in the group")
    if instance_id(name) or name.endswith("-seed"):
        reader.problems.append(f"{reader.place}: an instance's own disk or seed has such a name; choose another.")
    return None if size is None else DataVolume(name, size, instance, node)


def _memory(reader: Reader, key: str) -> int | None:
    value = reader.spec.get(key)
    if value is None:
        return None
    size = read_bytes(value, plain="M")
    guess = likely(value, MIN_MEMORY << 20, MAX_MEMORY << 20, plain="M")
    if size is None or size % (1 << 20):
        reader.add(
            key,
            f"{shown(value)} is not an amount of memory; write MiB as a number, such as 4096, or with a unit, such as"
            f" 4G.{guess}",
        )
        return None
    mebibytes = size >> 20
    if not MIN_MEMORY <= mebibytes <= MAX_MEMORY:
        hint = guess if mebibytes < MIN_MEMORY else ""
        reader.add(key, f"{shown(value)} is {mebibytes} MiB; from {MIN_MEMORY} to {MAX_MEMORY} MiB are possible.{hint}")
        return None
    return mebibytes


def _disk(reader: Reader, key: str) -> int | None:
    value = reader.spec.get(key)
    if value is None:
        return None
    size = read_bytes(value)
    guess = likely(value, MIN_DISK, MAX_DISK)
    if size is None:
        reader.add(key, f"{shown(value)} is not a size; write it as 10G (K, M, G, T of 1024).{guess}")
    elif not MIN_DISK <= size <= MAX_DISK:
        unit = "" if str(value).strip()[-1:].isalpha() else " Write the unit: 10G."
        hint = unit + (guess if size < MIN_DISK else "")
        reader.add(key, f"{shown(value)} is {size} bytes; from 1M to 64T are possible.{hint}")
        return None
    elif size % SECTOR:
        reader.add(key, f"{shown(value)} is not a whole number of sectors of 512 bytes; write the unit: 10G.")
        return None
    return size


def _nics(name: str, reader: Reader, networks: list[str]) -> tuple[Nic, ...]:
    if not reader.has("nics"):
        reader.require("network")
        return _nic(f"{name}/0", reader, networks)
    for key in NIC_KEYS:
        if reader.has(key):
            reader.add(key, "it can't stand beside nics; put it into an entry of nics.")
    listed = reader.spec["nics"]
    if not isinstance(listed, (list, tuple)) or not 1 <= len(listed) <= MAX_NICS:
        reader.add("nics", f"{shown(listed)} is not a list of 1 to {MAX_NICS} mappings with network, address and mac.")
        return ()
    nics: list[Nic] = []
    for index, spec in enumerate(listed):
        nic_reader = Reader(f"{reader.place}.nics[{index}]", spec, NIC_KEYS, reader.problems)
        nic_reader.require("network")
        for nic in _nic(f"{name}/{index}", nic_reader, networks):
            twice = [number for number, other in enumerate(nics) if other.network == nic.network]
            if twice:
                nic_reader.add(
                    "network", f"{nic.network} stands already at {reader.place}.nics[{twice[0]}]; one card per network."
                )
            nics.append(nic)
    return tuple(nics)


def _nic(port: str, reader: Reader, networks: list[str]) -> tuple[Nic, ...]:
    network = reader.known("network", networks, "network")
    address = reader.spec.get("address")
    parsed = ip.parse_address(address)
    if address is not None and parsed is None:
        reader.add(
            "address", f"{shown(address)} is not an IP address; write it without prefix, such as 192.168.88.102."
        )
    mac = reader.spec.get("mac")
    problem = mac_problem(f"{reader.place}.mac", mac) if mac is not None else None
    if problem and isinstance(mac, int):
        problem += " Put it in quotes: YAML reads digits and colons as a number."
    if problem:
        reader.problems.append(problem)
    if network is None or problem or (address is not None and parsed is None):
        return ()
    return (Nic(network, str(parsed) if parsed is not None else None, mac if mac is not None else mac_address(port)),)
