# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`plan` says what `site` then does, command by command, from bare to less than there was; run as users run them.

The node is this machine in a network namespace, with a root and an /etc of its own, and without instances, which want
systemd.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.ikcloud.compute.plugins.module_utils._core.commands import PACKAGES, missing_tools
from ansible_collections.ikcloud.compute.plugins.module_utils._core.marks import MARK

PROJECT = Path(__file__).resolve().parents[2]
# `ip netns exec` gives a mount namespace, too: what is mounted there, the machine does not see.
COVER = (
    'mount --bind "$1/etc" /etc && { [ ! -d /run/systemd ] || mount --bind "$1/empty" /run/systemd; } && shift && exec'
    ' "$@"'
)
NETWORKS: dict[str, Any] = {
    "blue": {"vni": 88, "cidr": "192.168.88.0/24", "nat": True},
    "green": {"vni": 99, "cidr": "192.168.99.0/24"},
}

ROLES = ("images", "overlay", "compute")
LISTS = (
    "images_images",
    "overlay_bridges",
    "overlay_tunnels",
    "overlay_nats",
    "compute_volumes",
    "compute_seeds",
    "compute_taps",
    "compute_instances",
)


class Node:
    """The node, and the playbooks on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"ikcplan{os.getpid()}"
        self.root = folder / "cs"
        (folder / "empty").mkdir()
        shutil.copytree("/etc", folder / "etc", symlinks=True, ignore_dangling_symlinks=True)
        with (folder / "etc" / "group").open("r+", encoding="utf-8") as groups:
            if "\nkvm:" not in groups.read():
                groups.write("kvm:x:60992:\n")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(folder / "small.qcow2"), "16M"], check=True)
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_become": False,
            "compute_service_root": str(self.root),
            "compute_underlay_address": "10.10.20.101",
        }
        (folder / "hosts.yml").write_text(yaml.safe_dump({"compute_nodes": {"hosts": {"ik-node-01": variables}}}))
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        for line in ("link set lo up", "address add 10.10.20.101/24 dev lo", "route add default dev lo"):
            self.run("ip", *line.split())

    def run(self, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["ip", "netns", "exec", self.name, "sh", "-c", COVER, "sh", str(self.folder), *argv]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            cwd=self.folder,
            check=False,
            timeout=300,
        )

    def play(
        self, playbook: str, declaration: dict[str, Any], *options: str
    ) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        """Give how a playbook of the collection (or one by its path) went, and the record of its tasks."""
        (self.folder / "declaration.json").write_text(json.dumps(declaration))
        records = self.folder / "records"
        shutil.rmtree(records, ignore_errors=True)  # there are none before the first run
        done = self.run(
            *("ansible-playbook", "-i", str(self.folder / "hosts.yml"), "-e", f"@{self.folder / 'declaration.json'}"),
            *(playbook if playbook.endswith(".yml") else f"ikcloud.compute.{playbook}", *options),
            ANSIBLE_COLLECTIONS_PATH=os.environ.get("ANSIBLE_COLLECTIONS_PATH")
            or str(PROJECT / ".venv" / "collections"),
            ANSIBLE_NOCOLOR="1",
            ANSIBLE_CALLBACK_PLUGINS=str(PROJECT / "tests" / "tools" / "callbacks"),
            ANSIBLE_CALLBACKS_ENABLED="record",
            IKCLOUD_RECORD=str(records),
        )
        return done, json.loads(next(records.iterdir()).read_text())

    def plan(self, declaration: dict[str, Any], *options: str, status: int = 0) -> dict[str, Any]:
        path = self.folder / "plan.json"
        done, _record = self.play("plan", declaration, "-e", f"plan_json={path}", *options)
        assert done.returncode == status, done.stdout + done.stderr
        plan = json.loads(path.read_text())
        assert isinstance(plan, dict)
        return plan

    def site(self, declaration: dict[str, Any]) -> dict[str, Any]:
        done, record = self.play("site", declaration)
        assert done.returncode == 0, done.stdout + done.stderr
        return record

    def planned_and_done(self, declaration: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is planned is what is done, and then there is nothing more to do."""
        plan = self.plan(declaration)
        record = self.site(declaration)
        assert [
            line for task in record["tasks"] for line in task["result"].get("commands", []) if task["node"]
        ] == plan["commands"].get("ik-node-01", [])
        assert not self.plan(declaration, "-e", "plan_fail_on_changes=true")["entries"]
        return plan, record

    def links(self) -> set[str]:
        return {link["ifname"] for link in json.loads(self.run("ip", "-j", "link").stdout)}


@pytest.fixture
def node() -> Iterator[Node]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if missing_tools(tuple(PACKAGES)) or not Path("/usr/bin/python3").exists():
        pytest.skip("site would install packages here")
    folder = Path(tempfile.mkdtemp(prefix="ikc"))
    made = Node(folder)
    yield made
    subprocess.run(["ip", "netns", "delete", made.name], check=False)
    shutil.rmtree(folder)


def test_from_bare_to_less(node: Node) -> None:
    image = {"path": str(node.folder / "small.qcow2")}
    whole = {
        "cloud_images": {"one": image, "two": image},
        "cloud_networks": NETWORKS,
        "cloud_instances": {},
        "cloud_purge": True,
    }

    first = node.plan(whole, "-e", "plan_fail_on_changes=true", "-e", "plan_markdown=plan.md", status=2)
    assert first["totals"]["create"] == 12 and first["totals"]["live"] == 1  # the sysctl
    assert "| ik-node-01 | + create | image | one |" in (node.folder / "plan.md").read_text()
    assert not node.root.exists()
    node.planned_and_done(whole)
    quiet = [task["task"] for task in node.site(whole)["tasks"] if task["node"]]
    assert len(quiet) <= 9, quiet

    # What was changed by hand is found, and mended.
    bridge = min(link for link in node.links() if link.startswith("br-gnv-"))
    node.run("ip", "link", "set", "dev", bridge, "mtu", "1400")
    plan, _record = node.planned_and_done(whole)
    assert [(entry["name"], entry["change"], entry["reason"]) for entry in plan["entries"]] == [
        (bridge, "live", "mtu is 1400, declared 1450")
    ]

    # Protected, then no longer declared: refused, with nothing changed.
    protected = {**whole, "cloud_networks": {**NETWORKS, "green": {**NETWORKS["green"], "protect": True}}}
    node.site(protected)
    less = {**whole, "cloud_images": {"one": image}, "cloud_networks": {"blue": NETWORKS["blue"]}}
    for playbook in ("plan", "site"):
        done, record = node.play(playbook, less)
        assert done.returncode == 2 and "network green on ik-node-01 is protected" in done.stdout, done.stdout
        assert not [task["task"] for task in record["tasks"] if task["changed"]]
    done, record = node.play("teardown", less)
    assert (
        done.returncode == 2
        and "teardown_protected=true" in done.stdout
        and not [task for task in record["tasks"] if task["changed"]]
    )

    # Unprotected first, it goes: without purge it stays.
    node.site(whole)
    assert not node.plan({**less, "cloud_purge": False})["entries"]
    plan, record = node.planned_and_done(less)
    assert plan["totals"]["destroy"] == len(plan["entries"]) == 3, plan["entries"]
    assert {entry["kind"] for entry in plan["entries"]} == {"bridge", "nat", "image"}
    assert len([link for link in node.links() if link.startswith("br-gnv-")]) == 1

    # From one to another, with the same VNI and the same addresses: refused without purge, with it in one run, and the
    # former bridge goes first.
    other = {**less, "cloud_networks": {"red": {**NETWORKS["blue"], "nat": False}}, "cloud_images": {"three": image}}
    for playbook in ("plan", "site"):
        done, record = node.play(playbook, {**other, "cloud_purge": False})
        assert done.returncode == 2 and "overlaps with 192.168.88.1/24 of the network blue" in done.stdout, done.stdout
        assert not [task["task"] for task in record["tasks"] if task["changed"]]
    former = {link for link in node.links() if link.startswith("br-gnv-")}
    plan, _record = node.planned_and_done(other)
    lines = [line.split()[:5] for line in plan["commands"]["ik-node-01"] if line.startswith("ip link ")]
    assert lines.index(["ip", "link", "delete", "dev", *former]) < next(
        number for number, line in enumerate(lines) if line[2] == "add"
    )
    assert len(json.loads(node.run("ip", "-j", "route", "show", "192.168.88.0/24").stdout)) == 1
    node.planned_and_done({"cloud_instances": {}, "cloud_purge": True})
    assert not [link for link in node.links() if link.startswith(("br-gnv-", "gnv-", "vnet-"))]
    assert not [*node.root.glob("run/networks/*"), *node.root.glob("lib/images/*")]


def test_a_part_alone_purges_nothing_so_a_renamed_network_is_refused(node: Node) -> None:
    blue = {"cloud_networks": {"blue": NETWORKS["blue"]}, "cloud_instances": {}, "cloud_purge": True}
    node.site(blue)
    former = node.links()
    for playbook in ("overlay", "compute"):
        done, record = node.play(playbook, {**blue, "cloud_networks": {"red": NETWORKS["blue"]}})
        assert done.returncode == 2 and "overlaps with 192.168.88.1/24 of the network blue" in done.stdout, done.stdout
        assert not [task["task"] for task in record["tasks"] if task["changed"]]
    assert node.links() == former
    assert node.play("overlay", blue)[0].returncode == 0


def test_a_network_with_an_instance_in_it_keeps_its_vni_and_its_addresses(node: Node) -> None:
    node.folder.chmod(0o755)
    add_user(node)
    before = {"cloud_networks": NETWORKS}
    node.site(before)
    # An instance that no declaration knows any more, and that doesn't run.
    root, machine = str(node.root), "compute-0a1b2c3d"
    instance = {
        "name": "web-1",
        "id": "0a1b2c3d",
        "memory": 64,
        "power": "stopped",
        "supervisor": "none",
        "accel": "tcg",
        "labels": {"networks": ["blue"]},
    }
    tasks: list[dict[str, Any]] = [
        {"ikcloud.compute.volume": {"root": root, "volumes": [{"name": machine, "size": "1M"}]}},
        {"ikcloud.compute.seed": {"root": root, "seeds": [{"name": machine, "user_data": "#cloud-config\n"}]}},
        {"ikcloud.compute.instance": {"root": root, "instances": [instance]}},
    ]
    (node.folder / "instance.yml").write_text(
        json.dumps([{"hosts": "compute_nodes", "gather_facts": False, "tasks": tasks}])
    )
    done, _record = node.play(str(node.folder / "instance.yml"), {})
    assert done.returncode == 0, done.stdout + done.stderr
    assert not node.plan(before)["entries"]

    for key, value in (("vni", 89), ("cidr", "192.168.77.0/24")):
        other = {"cloud_networks": {**NETWORKS, "blue": {**NETWORKS["blue"], key: value}}}
        for playbook in ("plan", "site"):
            done, record = node.play(playbook, other)
            told = [line for line in done.stdout.splitlines() if line.startswith("fatal:")]
            assert done.returncode == 2 and len(told) == 1, done.stdout
            assert (
                f"cloud_networks.blue.{key}: {value} is declared and {NETWORKS['blue'][key]} is there" in told[0]
                and "web-1 on ik-node-01" in told[0]
            )
            assert not [task["task"] for task in record["tasks"] if task["changed"]]
    assert not node.plan(before)["entries"]

    # Where nobody is, and where nobody stays, it changes.
    free = {"cloud_networks": {**NETWORKS, "green": {"vni": 100, "cidr": "192.168.66.0/24"}}}
    plan, _record = node.planned_and_done(free)
    assert {entry["kind"] for entry in plan["entries"]} == {"bridge", "nat"}
    purged = {
        "cloud_networks": {"blue": {"vni": 89, "cidr": "192.168.77.0/24"}},
        "cloud_instances": {},
        "cloud_purge": True,
    }
    plan, _record = node.planned_and_done(purged)
    assert "web-1" in [entry["name"] for entry in plan["entries"] if entry["change"] == "destroy"]


def test_a_volume_that_would_shrink_is_refused_before_anything_changes(node: Node) -> None:
    node.folder.chmod(0o755)
    add_user(node)
    before = {
        "cloud_networks": {"blue": NETWORKS["blue"]},
        "cloud_volumes": {"data-1": {"size": "2M", "node": "ik-node-01"}},
    }
    node.site(before)
    less = {
        "cloud_networks": {"blue": {**NETWORKS["blue"], "mtu": 1400}},
        "cloud_volumes": {"data-1": {"size": "1M", "node": "ik-node-01"}},
    }
    for playbook in ("plan", "site"):
        done, record = node.play(playbook, less)
        told = [line for line in done.stdout.splitlines() if line.startswith("fatal:")]
        assert done.returncode == 2 and len(told) == 1, done.stdout
        assert "cloud_volumes.data-1.size: 1M is declared, and the volume data-1 on ik-node-01 has 2M" in told[0]
        assert not [task["task"] for task in record["tasks"] if task["changed"]]
    assert not node.plan(before)["entries"]


@pytest.mark.parametrize("forged", ["size", "base"])
def test_what_a_disk_says_of_itself_refuses_that_disk_alone(node: Node, forged: str) -> None:
    """Its header is QEMU's user's to write."""
    node.folder.chmod(0o755)
    add_user(node)
    volumes = {"data-1": {"size": "2M", "node": "ik-node-01"}}
    node.site({"cloud_networks": {"blue": NETWORKS["blue"]}, "cloud_volumes": volumes})
    disk = node.root / "lib/volumes/data-1.img"
    if forged == "size":
        with disk.open("r+b") as stream:
            stream.seek(24)  # QEMU's docs/interop/qcow2.txt, "size"
            stream.write((1 << 50).to_bytes(8, "big"))
    else:
        subprocess.run(
            ["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", str(disk)], check=True
        )
    claim = (
        "it has 1024T, and it was made with 2M"
        if forged == "size"
        else "it stands on /etc/hostname, and it was made on no image"
    )
    more = {
        "cloud_networks": {"blue": {**NETWORKS["blue"], "mtu": 1400}},
        "cloud_volumes": {**volumes, "data-2": {"size": "1M", "node": "ik-node-01"}},
    }
    done, _record = node.play("plan", more)
    assert done.returncode == 0 and f"says that {claim}" in " ".join(done.stdout.split()) + " ".join(
        done.stderr.split()
    ), done.stdout + done.stderr
    done, _record = node.play("site", more)
    told = [line for line in done.stdout.splitlines() if line.startswith("fatal:")]
    assert done.returncode == 2 and len(told) == 1 and "volume data-1: " in told[0] and claim in told[0], done.stdout
    assert (node.root / "lib/volumes/data-2.img").exists()
    (bridge,) = [
        link for link in json.loads(node.run("ip", "-j", "link").stdout) if link["ifname"].startswith("br-gnv-")
    ]
    assert bridge["mtu"] == 1400


def test_a_user_or_group_of_somebody_else_s_is_left_alone(node: Node) -> None:
    """By the playbooks and by the role alone, in check mode too; what is marked as meant for us is taken, and goes with
    teardown.
    """
    passwd, group = node.folder / "etc" / "passwd", node.folder / "etc" / "group"
    role = {"role": "ikcloud.compute.prepare", "prepare_root": str(node.root)}
    (node.folder / "role.yml").write_text(
        yaml.safe_dump([{"hosts": "compute_nodes", "gather_facts": False, "roles": [role]}])
    )
    alone = str(node.folder / "role.yml")

    def refused(runs: list[tuple[str, ...]], *words: str) -> None:
        before = passwd.read_text(), group.read_text()
        for playbook, *options in runs:
            done, record = node.play(playbook, {"cloud_networks": NETWORKS}, *options)
            assert done.returncode == 2 and all(word in done.stdout for word in words), done.stdout + done.stderr
            assert not [task["task"] for task in record["tasks"] if task["changed"]]
        assert (passwd.read_text(), group.read_text()) == before and not node.root.exists()

    with group.open("a", encoding="utf-8") as stream:
        stream.write("compute-service:x:60993:\n")
    refused(
        [("site", "--check")],
        "There is a group compute-service without a user of that name",
        "groupmod --new-name OTHER compute-service",
    )
    with passwd.open("a", encoding="utf-8") as stream:
        stream.write("compute-service:x:60993:60993:Backup robot:/srv/robot:/bin/bash\n")
    mark = "usermod --comment ikcloud.compute compute-service"
    rename = "usermod --login OTHER compute-service; groupmod --new-name OTHER compute-service"
    refused([("prepare",), ("site",), (alone,), (alone, "--check")], "Backup robot", rename, mark)
    assert node.play("teardown", {})[0].returncode == 0 and "Backup robot" in passwd.read_text()
    assert node.run(*mark.split()).returncode == 0
    node.site({"cloud_networks": NETWORKS})
    assert node.play("teardown", {})[0].returncode == 0 and "compute-service" not in passwd.read_text()


def add_user(node: Node) -> None:
    """Make QEMU's user known on the node, which its prepare does where there is none."""
    for file, line in (
        ("passwd", "compute-service:x:60993:60993:ikcloud.compute:/:/usr/sbin/nologin"),
        ("group", "compute-service:x:60993:"),
    ):
        with (node.folder / "etc" / file).open("a", encoding="utf-8") as stream:
            stream.write(f"{line}\n")


def variables_of(number: int, images: list[dict[str, str]]) -> dict[str, Any]:
    """Give the variables of all three roles: one network, and one instance with its disk, its seed and its port."""
    bridge, identifier, address = f"br-gnv-0000000{number}", f"{number:08x}", "192.168.88.1"
    machine = f"compute-{identifier}"
    return {
        "images_images": images,
        "overlay_bridges": [{"name": bridge, "network": f"net-{number}", "addresses": [f"{address}/24"]}],
        "overlay_tunnels": [
            {
                "name": f"gnv-{identifier}",
                "network": f"net-{number}",
                "vni": 88,
                "remote": ["10.10.20.102"],
                "bridge": bridge,
                "encapsulation": "vxlan",
            }
        ],
        "overlay_nats": [
            {"name": f"net-{number}", "id": identifier, "bridge": bridge, "cidr": "192.168.88.0/24", "uplink": "lo"}
        ],
        "compute_volumes": [{"name": machine, "image": "base"}],
        "compute_seeds": [{"name": machine, "user_data": "#cloud-config\n"}],
        "compute_taps": [
            {"name": f"vnet-{identifier}", "bridge": bridge, "owner": "root", "instance": f"web-{number}"}
        ],
        "compute_instances": [
            {
                "name": f"web-{number}",
                "id": identifier,
                "memory": 64,
                "power": "stopped",
                "supervisor": "none",
                "accel": "tcg",
            }
        ],
    }


def play_roles(node: Node, variables: dict[str, Any], *options: str) -> list[str]:
    """Run the roles with purge, and give the commands in the order in which they were listed."""
    purge = {f"{role}_purge": True for role in ROLES}
    everything = {**variables, **purge, **{f"{role}_root": str(node.root) for role in ROLES}}
    book = [
        {
            "hosts": "compute_nodes",
            "gather_facts": False,
            "vars": everything,
            "roles": [f"ikcloud.compute.{role}" for role in ROLES],
        }
    ]
    path = node.folder / "roles.yml"
    path.write_text(json.dumps(book))
    done, record = node.play(str(path), {}, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for task in record["tasks"] for line in task["result"].get("commands", [])]


def test_check_mode_lists_what_is_done_and_nothing_twice(node: Node) -> None:
    node.folder.chmod(0o755)
    add_user(node)
    base = {"name": "base", "path": str(node.folder / "small.qcow2")}
    one = variables_of(1, [base, {**base, "name": "unused"}])
    other = variables_of(2, [base, {**base, "name": "new"}])
    nothing = {**{name: [] for name in LISTS}, "images_images": [base]}
    for variables in (one, other, nothing):
        predicted = play_roles(node, variables, "--check")
        once = [
            line for line in predicted if not line.startswith("install -d ")
        ]  # a seed and its instance both see to their folder
        assert len(once) == len(set(once)), once
        assert play_roles(node, variables) == predicted != []
        assert play_roles(node, variables) == []
    assert not [link for link in node.links() if link.startswith(("br-gnv-", "gnv-", "vnet-"))]
    assert [path.name for path in node.root.glob("lib/*/*.img")] == ["base.img"]
    assert not [*node.root.glob("run/instances/*"), *node.root.glob("run/networks/*")]


def test_a_role_purges_nothing_by_a_list_that_was_forgotten(node: Node) -> None:
    """It would have everything removed."""
    for name in LISTS:
        given = {other: [] for other in LISTS if other != name}
        role = name.partition("_")[0]
        root = {f"{role}_root": str(node.root)}
        book = [
            {
                "hosts": "compute_nodes",
                "gather_facts": False,
                "vars": {**given, **root, f"{role}_purge": True},
                "roles": [f"ikcloud.compute.{role}"],
            }
        ]
        (node.folder / "role.yml").write_text(json.dumps(book))
        done, record = node.play(str(node.folder / "role.yml"), {})
        assert (
            done.returncode == 2
            and f"{role}_purge removes all that is not listed: set {name} too, to [] for none." in done.stdout
        ), done.stdout
        assert not [task["task"] for task in record["tasks"] if task["changed"]] and not node.root.exists()


def test_teardown_goes_on_without_what_a_disk_without_a_mark_stands_on(node: Node) -> None:
    """QEMU's user can take the mark off its own disk."""
    node.folder.chmod(0o755)
    add_user(node)
    base = {"name": "base", "path": str(node.folder / "small.qcow2")}
    play_roles(node, variables_of(1, [base, {**base, "name": "other"}]))
    disk = node.root / "lib/volumes/compute-00000001.img"
    os.removexattr(disk, MARK)
    done, _record = node.play("teardown", {})
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("fatal:") and "All else is removed" in line]
    assert done.returncode == 2
    assert f"image base: {node.root}/lib/images/base.img is the base of {disk}" in told
    assert f"setfattr -n {MARK} -v volume/compute-00000001 {disk}" in told
    assert f"below {node.root} is kept: lib/images, lib/volumes." in told
    assert sorted(str(path.relative_to(node.root)) for path in node.root.rglob("*") if not path.is_dir()) == [
        "lib/images/base.img", "lib/volumes/compute-00000001.img"
    ]  # fmt: skip
    assert (
        not [link for link in node.links() if link.startswith(("br-gnv-", "gnv-", "vnet-"))]
        and not (node.root / "run").exists()
    )
    os.setxattr(disk, MARK, b"volume/compute-00000001")
    done, _record = node.play("teardown", {})
    assert done.returncode == 0 and not node.root.exists(), done.stdout + done.stderr
