# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What image, volume and seed refuse, and the commands they come to: pure, nothing is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.ikcloud.compute.plugins.module_utils._cloudinit.seed.resource import SeedResource
from ansible_collections.ikcloud.compute.plugins.module_utils._compute.volumes import BlockNode, InstanceVolumeResource
from ansible_collections.ikcloud.compute.plugins.module_utils._core.changes import Observed
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.reconcile import (
    Resource,
    argument_spec,
    plan,
    validate,
)
from ansible_collections.ikcloud.compute.plugins.module_utils._storage import qcow2
from ansible_collections.ikcloud.compute.plugins.module_utils._storage.image.images import Image
from ansible_collections.ikcloud.compute.plugins.module_utils._storage.image.resource import ImageResource
from ansible_collections.ikcloud.compute.plugins.module_utils._storage.volume.volumes import Volume
from hypothesis import given
from hypothesis import strategies as st

GOLDEN = Path(__file__).parents[2] / "golden" / "storage"
ROOT = "/var/lib/compute-service"
ID = "compute-af95e879"
SUM = f"sha256:{'a' * 64}"
BIONIC = {
    "name": "bionic",
    "url": "https://cloud-images.ubuntu.com/bionic/current/bionic-server-cloudimg-amd64.img",
    "checksum": "sha256:https://cloud-images.ubuntu.com/bionic/current/SHA256SUMS",
}
CIRROS = {
    "name": "cirros",
    "url": "https://download.cirros-cloud.net/0.5.1/cirros-0.5.1-x86_64-disk.img",
    "checksum": SUM,
}
HOSTILE = ["../x", "a b", "a;b", "$(x)", "a\n", "-a", "a,b", "a%b", "{{ x }}", "ä", "", "A", "a/b", "a" * 64, "a'b"]


@pytest.fixture(autouse=True)
def _as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)


def kind(of: type[Resource], **params: Any) -> Resource:
    result = ArgumentSpecValidator(argument_spec(of)).validate({"root": ROOT, **params})
    assert not result.error_messages, result.error_messages
    return of(result.validated_parameters)


def refused(of: type[Resource], item: dict[str, Any]) -> str:
    one = kind(of, **{of.option: [item]})
    return " ".join(validate(one))


def commands(one: Resource, have: dict[str, Observed] | None = None) -> str:
    changes = plan(one, one.params[one.option], have or {}, one.params["state"] == "absent")
    steps = sorted(
        ((step.stage, step.text) for change in changes for step in change.steps),
        key=lambda entry: entry[0],
    )
    return "".join(f"{text}\n" for _stage, text in steps)


DECLARED = {
    "images": (ImageResource, {"images": [BIONIC, CIRROS, {"name": "local", "path": "/srv/a b.img", "format": "raw"}]}),
    "volumes": (
        InstanceVolumeResource,
        {
            "volumes": [
                {"name": ID, "image": "bionic", "size": "10G"},
                {"name": "whole", "image": "bionic", "copy": True, "size": "10G"},
                {"name": "data-1", "size": "1T"},
            ]
        },
    ),
    "seeds": (SeedResource, {"seeds": [{"name": ID, "hostname": "web-1"}]}),
}


@pytest.mark.parametrize("case", DECLARED)
def test_commands_on_a_bare_node(case: str) -> None:
    of, params = DECLARED[case]
    assert commands(kind(of, **params)) == (GOLDEN / f"{case}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(name: str) -> None:
    assert "images[0].name: " in refused(ImageResource, {**CIRROS, "name": name})
    assert "volumes[0].name: " in refused(InstanceVolumeResource, {"name": name, "size": "1G"})
    assert "volumes[0].image: " in refused(InstanceVolumeResource, {"name": "data-1", "image": name})
    assert "seeds[0].name: " in refused(SeedResource, {"name": name})


def test_a_seed_that_could_not_be_read_back_is_refused() -> None:
    assert not refused(SeedResource, {"name": ID, "user_data": f"#cloud-config\nx: {'a' * 1_000_000}\n"})
    words = refused(SeedResource, {"name": ID, "user_data": f"#cloud-config\nx: {'a' * 2_000_000}\n"})
    assert words.startswith("seeds[0]: a text of the seed would have 2000") and "at most 1048576 are read back" in words


@given(st.text())
def test_any_name(name: str) -> None:
    """What is taken can't be anything but a name below its folder."""
    if not refused(InstanceVolumeResource, {"name": name, "size": "1G"}):
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and name[0] != "-"


IMAGES: list[tuple[dict[str, Any], str]] = [
    ({"url": None}, "images[0]: give either a url or a path."),
    ({"path": "/a"}, "images[0]: give either a url or a path."),
    ({"checksum": None}, "images[0].checksum: a download needs one"),
    ({"checksum": "md5:00"}, "images[0].checksum: 'md5:00' does not begin with"),
    ({"checksum": "sha256:http://a b/c"}, "images[0].checksum: "),
    ({"checksum": "sha256:https://u:p@a/c"}, "a user name or a password"),
    ({"url": "ftp://a/b"}, "images[0].url: 'ftp://a/b' is not a URL of http, https or file"),
    ({"url": "https://a/b c"}, "images[0].url"),
    ({"url": "https://a/b\n"}, "images[0].url"),
    ({"url": "https://user:secret@a/b"}, "images[0].url: a URL with a user name or a password is not taken"),
    ({"url": "https://a"}, "names no file on a server"),
    ({"url": "https:///b"}, "names no file on a server"),
    ({"url": "https://a:99999/b"}, "is not a URL"),
    ({"url": "file://other/b"}, "does not name a file on the node"),
    ({"url": None, "path": "a.img"}, "is not the absolute path of a file"),
    ({"url": None, "path": "/a/../b"}, "is not the absolute path of a file"),
    ({"url": None, "path": "/a\nb"}, "is not the absolute path of a file"),
    ({"url": "https://a/b;c'd.img", "checksum": "sha256:https://a/S"}, "can't be looked up in a list"),
]


@pytest.mark.parametrize(("change", "words"), IMAGES)
def test_images_that_are_refused(change: dict[str, Any], words: str) -> None:
    said = refused(ImageResource, {**CIRROS, **change})
    assert words in said and "secret" not in said


VOLUMES: list[tuple[dict[str, Any], str]] = [
    ({"size": None, "image": None}, "volumes[0].size: an empty volume needs a size"),
    ({"image": None, "copy": True}, "volumes[0].copy: there is no image to copy"),
    ({"size": "10"}, "volumes[0].size: '10' is not a whole number of sectors"),
    ({"size": "ten"}, "volumes[0].size: 'ten' is not a size"),
    ({"size": "-1G"}, "volumes[0].size"),
    ({"name": "compute-af95e879-seed"}, "ends in '-seed'"),
]


@pytest.mark.parametrize(("change", "words"), VOLUMES)
def test_volumes_that_are_refused(change: dict[str, Any], words: str) -> None:
    assert words in refused(InstanceVolumeResource, {"name": ID, "image": "bionic", "size": "10G", **change})


def test_the_same_name_twice() -> None:
    one = kind(InstanceVolumeResource, volumes=[{"name": ID, "size": "1G"}] * 2)
    assert "volumes[1]" in validate(one)[0] and "volumes[0]" in validate(one)[0]


def volume(**other: Any) -> Observed:
    header = qcow2.Header("qcow2", 10 << 30, f"{ROOT}/lib/images/bionic.img", "qcow2")
    return Observed(
        {"path": f"{ROOT}/lib/volumes/{ID}.img"}, native=Volume(header, **{"access": (0o640, 0, 0), **other})
    )


def test_growing() -> None:
    one = kind(InstanceVolumeResource, volumes=[{"name": ID, "image": "bionic", "size": "20G"}], owner="root")
    assert commands(one, {ID: volume()}) == f"qemu-img resize -q -f qcow2 {ROOT}/lib/volumes/{ID}.img 20G\n"
    live = commands(
        one,
        {
            ID: volume(
                locked=True,
                resize=BlockNode(("runuser", "-u", "compute-service", "--", "/i/qmp"), "/i/qmp.sock", "#block1"),
            )
        },
    )
    assert (
        live
        == """runuser -u compute-service -- /i/qmp block_resize '{"node-name": "#block1", "size": 21474836480}'\n"""
    )
    assert commands(one, {ID: volume(locked=True)}) == ""


@given(st.integers(1, 1 << 40), st.integers(1, 1 << 40))
def test_never_smaller(have: int, want: int) -> None:
    header = qcow2.Header("qcow2", have * 512)
    one = kind(InstanceVolumeResource, volumes=[{"name": ID, "size": str(want * 512)}], owner="root")
    found = {ID: Observed({}, native=Volume(header))}
    if want < have:
        with pytest.raises(ComputeError, match="never shrinks"):
            commands(one, found)
    else:
        assert bool(commands(one, found)) is (want > have)


def test_absent_and_purge() -> None:
    gone = kind(InstanceVolumeResource, volumes=[{"name": ID}], state="absent")
    assert commands(gone, {ID: volume(), "other": volume()}) == f"rm -f {ROOT}/lib/volumes/{ID}.img\n"
    assert (
        commands(kind(InstanceVolumeResource, volumes=[], purge=True), {ID: volume()})
        == f"rm -f {ROOT}/lib/volumes/{ID}.img\n"
    )
    image = Observed({}, native=Image(qcow2.Header("qcow2", 512), part=True))
    purge = commands(kind(ImageResource, images=[], purge=True), {"bionic": image})
    assert purge.splitlines() == [
        f"rm -f {ROOT}/lib/images/{name}" for name in ("bionic.img", ".bionic.img.part", ".bionic.img.part.json")
    ]


def test_foreign_is_an_error() -> None:
    for of, item in (
        (InstanceVolumeResource, {"name": "data-1", "size": "1G"}),
        (ImageResource, CIRROS),
        (SeedResource, {"name": ID}),
    ):
        with pytest.raises(ComputeError, match="did not make"):
            commands(kind(of, **{of.option: [item]}), {item["name"]: Observed({}, owned=False)})


def test_a_mark_is_advised_only_where_it_is_what_lacks() -> None:
    kind = InstanceVolumeResource({"root": ROOT, "owner": "", "volumes": []})
    for volume, advised in (
        (Volume(None, spoilt="It is no qcow2 image any more."), False),
        (Volume(None, spoilt="It bears no mark.", unmarked=True), True),
    ):
        words = kind.refusal("data-1", Observed({}, native=volume))
        assert volume.spoilt in words and ("setfattr" in words) == advised and "restore a backup" in words
