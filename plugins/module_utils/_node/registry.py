# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every resource of a node, once: what it is called in a plan's lists, and in which order one stands on the other."""

from __future__ import annotations

from .._cloudinit.seed.resource import SeedResource
from .._compute.instance.resource import InstanceResource
from .._compute.volumes import InstanceVolumeResource
from .._core.reconcile import Resource
from .._network.bridge import BridgeResource
from .._network.firewall.resource import NatResource
from .._network.links import LinkResource
from .._network.persistence import BootFiles
from .._network.tap import TapResource
from .._network.tunnel import TunnelResource
from .._storage.image.resource import ImageResource

RESOURCES: dict[str, type[Resource]] = {
    "images": ImageResource,
    "bridges": BridgeResource,
    "tunnels": TunnelResource,
    "nats": NatResource,
    "volumes": InstanceVolumeResource,
    "seeds": SeedResource,
    "taps": TapResource,
    "instances": InstanceResource,
}
# Those that the module node has; images take long, and have a call of their own.
IN_ONE_CALL = {name: resource for name, resource in RESOURCES.items() if name != "images"}
# What brings them back at boot, by list.
BOOT_FILES: dict[str, BootFiles] = {
    name: resource.boot_files
    for name, resource in RESOURCES.items()
    if issubclass(resource, (LinkResource, NatResource))
}
