# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The seeds of a node as they are on its disk, and in the QEMUs that run."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..._core.commands import run
from ..._core.errors import ComputeError
from ..._core.layout import Layout, instance_id
from ..._core.names import is_marked
from ..._core.steps import Do, Remove, Step, read_plain, remove_file
from ..._storage.disk_files import access_of, remove_unused, unfinished
from ..._storage.qcow2 import is_locked
from ..._system.process import locked_by
from ..documents import applies_network_at_boot, instance_id_of
from ..iso9660 import read_files

# Root's, for QEMU's user to read: what a guest is told that it is must not come from whom it may have taken over.
SEED_MODE = 0o640
# The first boot's users, keys and commands are in the user-data, the password's hash too.
MODES = {"user-data": 0o600, "network-config": 0o644, "meta-data": 0o644}
_END = "-seed.img"


@dataclass(frozen=True)
class Seed:
    """A seed as it is there.

    :ivar files: The texts beside the instance, by their names in the seed (``user-data``); those that are there.
    :ivar modes: Their modes.
    :ivar image: The texts in the image; empty when it is not there or can't be read.
    :ivar trusted: Whether nobody but root could write to the image.
    :ivar instance_id: What the guest was told that it is, by what only root could write; "" for nothing.
    :ivar in_use: Whether a running QEMU has it, or a former one, open.
    :ivar running: The texts in the former one that the running QEMU has still open; None when it has the present one.
    :ivar leftover: Whether an unfinished image is there.
    """

    files: dict[str, str] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    image: dict[str, str] = field(default_factory=dict)
    access: tuple[int, int, int] = (SEED_MODE, 0, 0)
    owned: bool = True
    trusted: bool = True
    instance_id: str = ""
    in_use: bool = False
    running: dict[str, str] | None = None
    leftover: bool = False


def paths_of(layout: Layout, name: str) -> dict[str, str]:
    """Give the files beside the instance by their names in the seed; the least dangerous first, the seed's texts in the
    talk's order.
    """
    files = layout.instance(name)
    return {"network-config": files.network_config, "user-data": files.user_data, "meta-data": files.meta_data}


def read_seeds(layout: Layout, listed: Iterable[str], absent: bool) -> dict[str, Seed]:
    """Read every seed that is ours, and whatever else bears a listed name.

    :param absent: Whether the listed ones are to go.
    :raises ComputeError: When a folder can't be read.
    """
    wanted = set(listed)
    images = {file[: -len(_END)] for file in _names(layout.volumes) if file.endswith(_END) and not file.startswith(".")}
    hidden = {
        file[1 : -len(f"{_END}.new")]
        for file in _names(layout.volumes)
        if file.startswith(".") and file.endswith(f"{_END}.new")
    }
    folders = _names(layout.instances)
    found: dict[str, Seed] = {}
    for name in sorted(images | hidden | folders):
        if instance_id(name) is None:
            continue
        seed = _read(layout, name, name in images, name in hidden, name in wanted, absent)
        if seed and (seed.owned or name in wanted):
            found[name] = seed
    return found


def _names(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise ComputeError(f"{folder} can't be read: {error.strerror}.") from None


def _read(layout: Layout, name: str, has_image: bool, leftover: bool, listed: bool, absent: bool) -> Seed | None:
    path = layout.seed(name)
    leaving = absent or not listed
    files: dict[str, str] = {}
    modes: dict[str, int] = {}
    for text, file in paths_of(layout, name).items():
        found = read_plain(file)
        if found:
            files[text], modes[text] = found
    if not has_image and not files and not leftover:
        return None
    image = _image(path) if has_image else {}
    # The network-config is written first, so that one that was killed there is known again.
    marked = (image.get("meta-data"), files.get("meta-data"), files.get("network-config"))
    owned = any(is_marked(text) for text in marked) or not (has_image or files)
    trusted = has_image and _is_roots(path)
    # QEMU's user may take our mark off what is its own, which is then no reason to refuse the node's list.
    owned = owned or (listed and not absent and not (trusted if has_image else _is_roots(layout.instance(name).folder)))
    beside = paths_of(layout, name)["meta-data"]
    told = image.get("meta-data", "") if trusted else files.get("meta-data", "") if _is_roots(beside) else ""
    known = instance_id_of(told) if is_marked(told) else ""
    if not has_image:
        return Seed(files, modes, owned=owned, instance_id=known, leftover=leftover)
    in_use, running = _running(layout, name, path)
    return Seed(
        files,
        modes,
        image,
        access_of(path),
        owned,
        trusted,
        known,
        in_use or (leaving and is_locked(path)),
        running,
        leftover,
    )


def _is_roots(path: str) -> bool:
    """Tell whether a file belongs to whoever runs this, which is root but in tests, or to root."""
    try:
        return os.lstat(path).st_uid in (0, os.geteuid())
    except OSError:
        return False


def _image(path: str) -> dict[str, str]:
    try:
        return {file: data.decode(errors="replace") for file, data in read_files(path).items()}
    except (OSError, ValueError):
        return {}  # no image that cloud-init could read either


def _running(layout: Layout, name: str, path: str) -> tuple[bool, dict[str, str] | None]:
    """Look whether the instance's QEMU runs, and with which seed.

    It locks the image that it has open; when it runs and this one is not locked, it may have one that was replaced
    since, which can still be read through /proc (proc(5), fd).
    """
    pid = locked_by(layout.instance(name).pid)
    if not pid:
        return False, None
    if is_locked(path):
        return True, None
    try:
        links = [f"/proc/{pid}/fd/{number}" for number in os.listdir(f"/proc/{pid}/fd")]
        for link in links:
            if os.readlink(link) == f"{path} (deleted)":
                return True, _image(link)
    except OSError:
        pass  # gone meanwhile, or another user's
    return False, None


def build_step(layout: Layout, name: str, texts: Mapping[str, str]) -> Step:
    """Have genisoimage build the image under its hidden name, from what the files beside the instance hold.

    It is what cloud-localds calls, in a fifth of the time. The label and the two extensions are what cloud-init looks
    for (its documentation, "NoCloud"). It gets these texts in files of its own in memory: the folder beside is QEMU's
    user's, who could lay a link there to what only root reads, and so get it into the seed.
    """
    hidden = unfinished(layout.seed(name))

    def argv(places: Mapping[str, str]) -> list[str]:
        # A path that is given to memory is a link, which would go into the image as such.
        options = [
            "-quiet",
            "-output",
            hidden,
            "-volid",
            "cidata",
            "-joliet",
            "-rock",
            "-follow-links",
            "-graft-points",
        ]
        return ["genisoimage", *options, *(f"{text}={places[text]}" for text in MODES)]

    def build() -> None:
        handles: dict[str, int] = {}
        try:
            for text, content in texts.items():
                handles[text] = handle = os.memfd_create(text)
                os.fchmod(handle, MODES[text])  # the modes stand in the image, too
                with open(handle, "w", encoding="utf-8", newline="", closefd=False) as stream:
                    stream.write(content)
            run(
                argv({text: f"/dev/fd/{handle}" for text, handle in handles.items()}),
                timeout=60,
                handles=tuple(handles.values()),
            )
        except ComputeError:
            remove_file(hidden)
            raise
        finally:
            for handle in handles.values():
                os.close(handle)

    return Do(shlex.join(argv(paths_of(layout, name))), build)


def boot_reason(seen: dict[str, str], texts: dict[str, str]) -> str:
    """Say why a guest has to boot to take up a seed, or "": what only a first boot reads is no reason.

    :param seen: The texts in the seed that its QEMU has open.
    :param texts: Those that it is to have.
    """
    at_boot = applies_network_at_boot(texts.get("user-data", ""))
    stale = [
        text
        for text in ("meta-data", "network-config")
        if seen.get(text) != texts.get(text) and (text == "meta-data" or at_boot)
    ]
    return f"{' and '.join(stale)}: cloud-init reads the seed at boot, QEMU has the former one open" if stale else ""


def pending_seed(layout: Layout, name: str) -> str:
    """Say why an instance that runs has to boot to take up its seed, or ""."""
    path = layout.seed(name)
    if not os.path.exists(path):
        return ""
    try:
        _in_use, running = _running(layout, name, path)
    except ComputeError:
        return ""  # not ours to look at
    return boot_reason(running, _image(path)) if running is not None else ""


def removal_steps(layout: Layout, name: str) -> list[Step]:
    """List the removal of a seed and its files.

    The text is the same whatever of these is there, and whether the instance's folder went before.
    """
    path, files = layout.seed(name), layout.instance(name)
    others = [unfinished(path), *paths_of(layout, name).values()]

    def remove_others() -> None:
        for other in others:
            Remove(other, tree=True).run()

    def remove_folder() -> None:
        try:
            os.rmdir(files.folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise

    return [
        remove_unused(path, layout.volumes),
        Do(f"rm -f {' '.join(shlex.quote(other) for other in others)}", remove_others),
        Do(f"rmdir --ignore-fail-on-non-empty {shlex.quote(files.folder)}", remove_folder),
    ]
