# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a recipe to a disk in the cache: the root's tar unpacked, the recipe's files laid over it, a disk made."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from . import tree
from .cache import build_once, digest, locked, sha256_of
from .disk import write_disk
from .distribution import Distribution
from .host import LabError, require_tools, run, say
from .initramfs import FILES, kernel_version, write_initramfs
from .recipes import CONTAINER, RECIPES, Recipe
from .roots import build_root, root_key
from .small import pick_small_root

_HERE = Path(__file__).parent
# What a disk's contents are decided by: change one of these files and the disks are built anew, from the same root.
_SOURCES = ("disk.py", "images.py", "initramfs.py", "recipes.py", "small.py", "tree.py")


@dataclass(frozen=True)
class Image:
    name: str
    path: Path
    sha256: str

    @property
    def full_name(self) -> str:
        """With the hash of what it is built from."""
        return self.path.stem


def image_key(recipe: Recipe, distribution: Distribution) -> str:
    texts = [(_HERE / name).read_text(encoding="utf-8") for name in _SOURCES]
    texts += [path.read_text(encoding="utf-8") for path in sorted(FILES.iterdir())]
    return digest(recipe.name, root_key(recipe.root, distribution), *texts)


def build_images(cache: Path, distribution: Distribution, names: tuple[str, ...] = ()) -> dict[str, Image]:
    """The images of these names (all, when none is named), built where they are missing."""
    wanted = [RECIPES[name] for name in names or tuple(RECIPES)]
    with locked(cache / "lock", "the images"):
        missing = [recipe for recipe in wanted if not _path(recipe, distribution, cache).exists()]
        if missing:
            require_tools()
        return {recipe.name: _build(recipe, distribution, cache) for recipe in wanted}


def build_tree(cache: Path, distribution: Distribution) -> Path:
    """The root of the nodes of kind container, unpacked; nobody writes in it, since they have it as an overlay's lower
    layer.
    """
    recipe = CONTAINER
    target = cache / "images" / f"{recipe.name}-{image_key(recipe, distribution)}"
    with locked(cache / "lock", "the images"):
        if not target.exists():
            tar = build_root(recipe.root, distribution, cache)

            def build(temp: Path, work: Path) -> None:
                temp.mkdir(mode=0o755)
                _unpack(tar, temp, [])
                _lay_over(recipe, temp)

            began = time.monotonic()
            build_once(target, cache / "work" / f"tree-{recipe.name}", build)
            say(f"{recipe.name}: root unpacked in {time.monotonic() - began:.0f} s")
    return target


def _unpack(tar: Path, root: Path, prefix: list[str]) -> None:
    run(
        [
            *prefix,
            "tar",
            "--extract",
            "--numeric-owner",
            "--same-permissions",
            "--exclude=./dev/*",
            f"--file={tar}",
            f"--directory={root}",
        ]
    )


def _path(recipe: Recipe, distribution: Distribution, cache: Path) -> Path:
    return cache / "images" / f"{recipe.name}-{image_key(recipe, distribution)}.qcow2"


def _build(recipe: Recipe, distribution: Distribution, cache: Path) -> Image:
    target = _path(recipe, distribution, cache)
    if not target.exists():
        tar = build_root(recipe.root, distribution, cache)
        began = time.monotonic()
        say(f"{recipe.name}: making its disk…")

        def build(temp: Path, work: Path) -> None:
            _make_disk(recipe, tar, temp, work)

        build_once(target, cache / "work" / f"image-{recipe.name}", build)
        say(f"{recipe.name}: disk made in {time.monotonic() - began:.0f} s, {target.stat().st_size >> 20} MiB")
    # The checksum stands beside the image, since 200 MB take a second to read; it is written after the image.
    checksum = target.with_suffix(".sha256")
    if not checksum.exists():
        temp = checksum.with_suffix(".tmp")
        temp.write_text(sha256_of(target), encoding="ascii")
        temp.rename(checksum)
    return Image(recipe.name, target, checksum.read_text(encoding="ascii"))


def _make_disk(recipe: Recipe, tar: Path, temp: Path, work: Path) -> None:
    root = work / "root"
    root.mkdir()
    # Without root, fakeroot remembers between its two runs who owns what in the unpacked tree.
    memory = work / "owners"
    memory.touch()
    unpack, owner = ([], []) if os.geteuid() == 0 else (
        ["fakeroot", "-s", str(memory), "--"],
        ["fakeroot", "-i", str(memory), "--"],
    )  # fmt: skip
    _unpack(tar, root, unpack)
    version = kernel_version(root)
    kernel = work / "vmlinuz"
    kernel.write_bytes((root / "boot" / f"vmlinuz-{version}").read_bytes())
    initrd = work / "initrd"
    write_initramfs(root, initrd)
    if recipe.picked:
        picked = work / "picked"
        pick_small_root(root, picked)
        root = picked
        owner = [] if os.geteuid() == 0 else ["fakeroot", "--"]
    else:
        _lay_over(recipe, root)
    for old in [path for path in (root / "boot").glob("*") if not path.is_dir()]:
        tree.inside(root, f"boot/{old.name}")  # the kernel, its symbols and its config are not needed twice
    kernel.rename(tree.inside(root, "boot/vmlinuz-lab"))
    initrd.rename(tree.inside(root, "boot/initrd-lab"))
    write_disk(root, recipe.size, recipe.cmdline, work, temp, recipe.compressed, owner)


def _lay_over(recipe: Recipe, root: Path) -> None:
    for pattern in recipe.removed:
        for path in root.glob(pattern):
            tree.inside(root, str(path.relative_to(root)))
    # An empty machine-id is filled in at boot; a missing one would make systemd apply every preset.
    tree.write(root, "etc/machine-id", "")
    tree.write(root, "etc/fstab", "")
    for name, source in recipe.files.items():
        tree.copy(root, name, FILES / source)
    for unit in recipe.masked:
        tree.link(root, f"etc/systemd/system/{unit}", "/dev/null")
    for unit, wanted_by in recipe.enabled.items():
        places = ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
        found = next((place for place in places if (root / place / unit).exists()), None)
        if found is None:
            raise LabError(f"image {recipe.name}: unit {unit} to enable is not in the root")
        tree.link(root, f"etc/systemd/system/{wanted_by}.wants/{unit}", f"/{found}/{unit}")
    for name, goal in recipe.links.items():
        tree.link(root, name, goal)
