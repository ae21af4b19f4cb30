# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nodes have that is not declared any more: what of it goes, what stays, and what refuses the whole. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...module_utils._core.layout import instance_id
from ...module_utils._node.registry import BOOT_FILES, RESOURCES
from .._declaration.model import Cloud
from .node_lists import Compiler, tap_name, tunnel_name

Item = dict[str, Any]


@dataclass(frozen=True)
class Purge:
    """The purge of one run.

    :ivar infos: What node_info returned, by node; only those that were reached.
    :ivar lists: What is declared, by node and kind.
    :ivar left_out: The declared instances that this run leaves alone; what may be theirs stays.
    """

    cloud: Cloud
    infos: Mapping[str, Mapping[str, Any]]
    lists: Mapping[str, Mapping[str, list[Item]]]
    compiler: Compiler
    left_out: Mapping[str, str]

    def problems(self) -> list[str]:
        """Say why nothing may be removed: each reason with its way out."""
        if not self.cloud.purge:
            return []
        problems = []
        leaving: list[str] = []
        for node, info in self.infos.items():
            protected = _mapping(info.get("protected"))
            names = [name for name in _names(info.get("instances")) if name not in self.cloud.instances]
            leaving += [f"{name} on {node}" for name in names]
            problems += [
                self._protected("instance", name, node) for name in names if name in _names(protected.get("instances"))
            ]
        networks = {
            name: node
            for node, info in self.infos.items()
            for name in _names(_mapping(info.get("protected")).get("networks"))
        }
        problems += [
            self._protected("network", name, node)
            for name, node in sorted(networks.items())
            if name not in self.cloud.networks
        ]
        lost = self._lost_volumes()
        count = len(leaving) + len(lost)
        if count > self.cloud.purge_limit:
            counted = [
                f"{len(names)} {what} ({', '.join(names[:10])}{', ...' if len(names) > 10 else ''})"
                for what, names in (("instances", leaving), ("data volumes with all that is on them", lost))
                if names
            ]
            problems.append(
                f"cloud_purge would remove {' and '.join(counted)}, cloud_purge_limit allows {self.cloud.purge_limit}"
                " at once. Look whether the declaration is whole; if they really are to go, run once with -e"
                f" cloud_purge_limit={count}."
            )
        return problems

    def _lost_volumes(self) -> list[str]:
        """Give the data volumes whose data go: none where they are kept aside."""
        leaving = (
            {node: purge.get("volumes", []) for node, purge in self.by_node().items()}
            if self.cloud.purge_volumes
            else {}
        )
        return [f"{name} on {node}" for node, names in leaving.items() for name in names if not instance_id(name)]

    def _protected(self, kind: str, name: str, node: str) -> str:
        return (
            f"The {kind} {name} on {node} is protected (protect: true) and not declared any more; cloud_purge removes"
            f" nothing. Take it back into cloud_{kind}s to keep it. To remove it, take it back with protect: false, run"
            " site, and then remove it from the declaration."
        )

    def by_node(self) -> dict[str, Item]:
        """Give what is purged, by node.

        :returns: For each node that is reached an empty mapping, or the names that go by kind (``instances`` with their
            ids), ``spare`` with the names of each kind that are not listed and stay all the same, ``aside`` (whether
            volumes are kept), and ``aside_names``.
        """
        return {node: self._on(node, self.infos.get(node, {})) if self.cloud.purge else {} for node in self.lists}

    def _on(self, node: str, info: Mapping[str, Any]) -> Item:
        there = self._there(info)
        spare = self._spare(node)
        lists = self.lists[node]
        leaving: dict[str, list[Any]] = {}
        for kind, names in there.items():
            stay = {item["name"] for item in lists[kind]} | spare.get(kind, set())
            gone = sorted(names - stay)
            if kind == "images":
                gone = [name for name in gone if name not in self._bases_that_stay(info, leaving.get("volumes", []))]
            if gone:
                leaving[kind] = gone
        if not leaving:
            return {}
        instances = _mapping(info.get("instances"))
        ids = {name: str(_mapping(instances.get(name)).get("id")) for name in leaving.get("instances", [])}
        result: Item = {
            **leaving,
            "spare": {kind: sorted(names) for kind, names in spare.items()},
            "aside": not self.cloud.purge_volumes,
        }
        result["aside_names"] = {
            volume: name for volume, name in self._owners(info).items() if volume in leaving.get("volumes", [])
        }
        if "images" in leaving:
            result["images"] = [{"name": name} for name in leaving["images"]]
        if ids:
            result["instances"] = [{"name": name, "id": identifier} for name, identifier in ids.items()]
        return result

    def _owners(self, info: Mapping[str, Any]) -> dict[str, str]:
        """Give the names of the instances whose volumes are there; where a run was killed and the instance is gone, its
        first card's port still says.
        """
        taps = {
            f"compute-{tap[len('vnet-') :]}": str(_mapping(spec).get("instance"))
            for tap, spec in _mapping(info.get("taps")).items()
        }
        instances = {
            f"compute-{_mapping(spec).get('id')}": name for name, spec in _mapping(info.get("instances")).items()
        }
        return {**taps, **{volume: name for volume, name in instances.items() if name != volume}}

    def _there(self, info: Mapping[str, Any]) -> dict[str, set[str]]:
        """Give what is there and ours, by kind, in the order in which it goes."""
        links = {
            "bridges": {
                str(_mapping(spec).get("bridge"))
                for spec in _mapping(info.get("networks")).values()
                if _mapping(spec).get("bridge")
            }
        }
        links.update(
            {"tunnels": set(_names(info.get("tunnels"))), "taps": set(_names(info.get("taps"))), "nats": set()}
        )
        for file in _names(info.get("boot_files")):
            for kind, files in BOOT_FILES.items():
                links[kind] |= {name for name in [files.name_in(file)] if name}
        there = {
            **links,
            "instances": set(_names(info.get("instances"))),
            "seeds": set(_names(info.get("seeds"))),
            "volumes": set(_names(info.get("volumes"))),
            "images": {
                str(name) for name, image in _mapping(info.get("images")).items() if _mapping(image).get("ours")
            },
        }
        return {kind: there[kind] for kind in reversed(RESOURCES)}

    def _spare(self, node: str) -> dict[str, set[str]]:
        """Give what is not listed and stays: what may belong to an instance that is left out, and tunnels to nodes that
        are missing.
        """
        spare: dict[str, set[str]] = {kind: set() for kind in ("instances", "taps", "seeds", "volumes", "tunnels")}
        for name in self.left_out:
            instance = self.cloud.instances[name]
            spare["instances"].add(name)
            spare["taps"] |= {tap_name(instance, index) for index in range(len(instance.nics))}
            spare["seeds"].add(f"compute-{instance.id}")
            spare["volumes"].add(f"compute-{instance.id}")
        spare["volumes"] |= set(self.cloud.volumes) - set(self.compiler.homes)
        missing = [name for name, other in self.compiler.nodes.items() if other.missing]
        for network in self.cloud.networks.values() if missing else ():
            if node in self.compiler.hosts(network):
                spare["tunnels"] |= {tunnel_name(network, node, other) for other in missing}
        return {kind: names for kind, names in spare.items() if names}

    def _bases_that_stay(self, info: Mapping[str, Any], leaving: list[str]) -> set[str]:
        gone = set(leaving) if self.cloud.purge_volumes else set()
        used = {
            str(_mapping(spec).get("base")) for name, spec in _mapping(info.get("volumes")).items() if name not in gone
        }
        return used | set(_names(info.get("kept_bases")))

    def warnings(self) -> list[str]:
        """Say which images stay because of disks that are kept."""
        found = []
        for node, purge in self.by_node().items():
            info = self.infos.get(node, {})
            listed = {item["name"] for item in self.lists[node]["images"]}
            stay = (
                sorted((self._there(info)["images"] - listed) & self._bases_that_stay(info, purge.get("volumes", [])))
                if self.cloud.purge
                else []
            )
            if stay:
                found.append(
                    f"Not declared any more, and left on {node} because disks stand on it: image {', '.join(stay)}."
                )
        return found


def read_infos(nodes: object) -> dict[str, Mapping[str, Any]]:
    """Give what node_info returned, by node, of those that were reached."""
    return {
        str(node): spec["info"]
        for node, spec in _mapping(nodes).items()
        if isinstance(spec, Mapping) and isinstance(spec.get("info"), Mapping)
    }


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _names(value: object) -> list[str]:
    """Give the names in a list, or in a mapping by name."""
    return [str(name) for name in value] if isinstance(value, (list, tuple, Mapping)) else []
