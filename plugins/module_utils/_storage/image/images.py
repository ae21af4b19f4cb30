# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The base images of a node: what they are, how one is fetched and what makes it fit to be one."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..._core.commands import run_json
from ..._core.errors import ComputeError
from ..._core.layout import Layout
from ..._core.marks import MARK, VERIFIED, read_mark, write_mark
from ..._core.steps import remove_file
from .. import checksums, qcow2
from ..checksums import Checksum, hash_file
from ..disk_files import access_of, put_in_place
from ..download import Download, Space, read_text

IMAGE_MODE = 0o444
_FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file
_QEMU_IMG_SECONDS = 120

Item = dict[str, Any]


def part_of(path: str) -> str:
    """Give the hidden name that an image is downloaded under: ``.bionic.img.part``."""
    return f"{os.path.dirname(path)}/.{os.path.basename(path)}.part"


def source_of(item: Item) -> tuple[str, str]:
    """Give an image's URL and its path on the node; one of them is empty. ``file://`` is a path."""
    url = item.get("url") or ""
    if url.startswith("file://"):
        return "", urllib.request.url2pathname(urllib.parse.urlsplit(url).path)
    return url, item.get("path") or ""


def file_name(item: Item) -> str:
    """Give the name that an image has where it comes from, which is how a list of checksums calls it."""
    url, path = source_of(item)
    return os.path.basename(urllib.parse.unquote(urllib.parse.urlsplit(url).path) if url else path)


def declared(item: Item) -> str:
    """Give what tells one declaration of an image from another. A digest: a URL may hold what is nobody's business."""
    return hashlib.sha256("\n".join((*source_of(item), item.get("checksum") or "")).encode()).hexdigest()[:16]


def expected(item: Item, timeout: float) -> Checksum | None:
    """Find out what checksum an image has to have, downloading the list that it stands in.

    :returns: None when none is declared.
    :raises ComputeError: When the list can't be had or does not have it.
    """
    if not item.get("checksum"):
        return None
    checksum = checksums.parse(item["checksum"])
    if not checksum.url:
        return checksum
    try:
        return Checksum(
            checksum.algorithm, checksums.find(read_text(checksum.url, timeout), file_name(item), checksum.algorithm)
        )
    except ValueError as error:
        raise ComputeError(
            f"image {item['name']}: {checksum.url}: {error}.", "Check the two URLs, or give the checksum itself."
        ) from None


@dataclass(frozen=True)
class Image:
    """A base image as it is there.

    :ivar header: None for one that was never finished, and for what can't be read.
    :ivar record: What was recorded when it was verified: checksums, ``size``, ``mtime_ns``, ``declared``.
    :ivar update: What the record has to be, where it isn't; then it was verified anew just now.
    :ivar problem: Why it can't be what is declared.
    :ivar users: The volumes that stand on it; looked at only when it is to go.
    :ivar part: Whether a part of a download is there.
    """

    header: qcow2.Header | None = None
    access: tuple[int, int, int] = (IMAGE_MODE, 0, 0)
    owned: bool = True
    marked: bool = True
    record: Mapping[str, Any] | None = None
    update: Mapping[str, Any] | None = None
    problem: str = ""
    users: tuple[str, ...] = ()
    part: bool = False

    @property
    def checksum(self) -> str:
        """Its recorded checksum, such as ``sha256:…``, "" for none."""
        record = self.update or self.record or {}
        return next((f"{name}:{record[name]}" for name in checksums.LENGTHS if record.get(name)), "")


def read_images(
    layout: Layout, listed: Mapping[str, Item], absent: bool, purge: bool, timeout: float
) -> dict[str, Image]:
    """Read every image that is ours, and whatever else bears a listed name.

    That an image is still what it was verified to be is told by its size and mtime, which were recorded then; only
    where they differ, or the declaration does, it is read as a whole.

    :raises ComputeError: When the folder can't be read, or a list of checksums not be had.
    """
    try:
        files = {entry.name for entry in os.scandir(layout.images) if not entry.is_dir()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ComputeError(f"{layout.images} can't be read: {error.strerror}.") from None
    names = {file[: -len(".img")] for file in files if file.endswith(".img") and not file.startswith(".")}
    parts = {file[1 : -len(".img.part")] for file in files if file.startswith(".") and file.endswith(".img.part")}
    paths = [layout.image(name) for name in names if (absent and name in listed) or (purge and name not in listed)]
    users = qcow2.users_of(paths, layout.volumes) if paths else {}
    found: dict[str, Image] = {}
    for name in sorted(names | parts):
        if name not in names:
            found[name] = Image(part=True)
            continue
        path = layout.image(name)
        image = _read(
            path, name, None if absent else listed.get(name), tuple(users.get(path, ())), name in parts, timeout
        )
        if image.owned or name in listed:
            found[name] = image
    return found


def _read(path: str, name: str, item: Item | None, users: tuple[str, ...], part: bool, timeout: float) -> Image:
    marked = read_mark(path, MARK) == f"image/{name}"
    try:
        header, access = qcow2.read_header(path), access_of(path)
    except (ComputeError, OSError) as error:
        return Image(
            owned=marked, marked=marked, problem=f"{error} Its volumes may be lost. Put back the image that was there."
        )
    record = _record(path)
    if item is None or os.path.islink(path):
        return Image(header, access, marked, marked, record, users=users, part=part)
    if marked and record and _still(path, record) and record.get("declared") == declared(item):
        return Image(header, access, True, True, record, part=part)
    update, problem = _verify_again(path, item, record if marked else None, timeout)
    if not marked and problem:
        return Image(header, access, owned=False, marked=False)
    return Image(header, access, True, marked, record, update, problem, part=part)


def _record(path: str) -> dict[str, Any] | None:
    try:
        record = json.loads(read_mark(path, VERIFIED))
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _still(path: str, record: Mapping[str, Any]) -> bool:
    entry = os.stat(path)
    return (entry.st_size, entry.st_mtime_ns) == (record.get("size"), record.get("mtime_ns"))


def _verify_again(
    path: str, item: Item, record: Mapping[str, Any] | None, timeout: float
) -> tuple[dict[str, Any] | None, str]:
    """Compare an image that is there with what is declared, by content; give its new record or the reason why it can't
    be the same.
    """
    name = item["name"]
    known = dict(record) if record and _still(path, record) else {}
    if record and not known:
        before = {algorithm: record[algorithm] for algorithm in checksums.LENGTHS if record.get(algorithm)}
        known = dict(hash_file(path, tuple(before)))
        if known != before:
            return (
                None,
                (
                    f"image {name}: {path} is not what it was when it was verified; the volumes that stand on it may be"
                    " corrupt. Put back what was there, or remove these volumes and the image."
                ),
            )
    wanted = expected(item, timeout) or _local(item)
    if wanted is None:
        if record is None:
            return None, f"image {name}: {path} is there without our mark, and there is nothing to compare it with."
        return make_record(path, known, item), ""
    if wanted.algorithm not in known:
        known.update(hash_file(path, (wanted.algorithm,)))
    if known[wanted.algorithm] != wanted.digest:
        return (
            None,
            (
                f"image {name} is there with {wanted.algorithm}:{known[wanted.algorithm]}, declared is"
                f" {wanted.algorithm}:{wanted.digest}. An image is never replaced, since volumes stand on it. Declare"
                " the new one under a new name, and remove this one when no volume needs it any more."
            ),
        )
    return make_record(path, known, item), ""


def _local(item: Item) -> Checksum | None:
    """Give the checksum of the file that an image was copied from, if that is still there."""
    path = source_of(item)[1]
    return Checksum("sha256", hash_file(path, ("sha256",))["sha256"]) if path and os.path.isfile(path) else None


def make_record(path: str, digests: Mapping[str, Any], item: Item) -> dict[str, Any]:
    """Give the record of an image that was verified."""
    entry = os.stat(path)
    known = {name: digests[name] for name in checksums.LENGTHS if digests.get(name)}
    return {**known, "size": entry.st_size, "mtime_ns": entry.st_mtime_ns, "declared": declared(item)}


class Fetch:
    """The fetching of one image, step by step: :meth:`get`, :meth:`check_sum`, :meth:`check_format`, :meth:`finish`.

    :param path: Where the image is to be.
    :param timeout: Seconds that a server may be silent.
    """

    def __init__(self, item: Item, path: str, space: Space, timeout: float) -> None:
        self._item = item
        self._path = path
        self._part = part_of(path)
        self._url, self._source = source_of(item)
        self._timeout = timeout
        self._space = space
        self._wanted: Checksum | None = None
        self._digests: dict[str, str] = {}
        self._download: Download | None = None

    def get(self) -> None:
        """Download or copy the image to its hidden name.

        :raises ComputeError: When that is not possible.
        """
        self._wanted = expected(self._item, self._timeout)
        algorithms = tuple(sorted({"sha256", *([self._wanted.algorithm] if self._wanted else [])}))
        if not self._url:
            self._copy(algorithms)
            return
        self._download = Download(
            f"image {self._item['name']}", self._url, self._part, self._space, self._timeout, algorithms
        )
        self._digests = self._download.run()
        if self._download.resumed and not self._fits():
            # The server may have joined parts of two files; one clean try tells.
            self._download.discard()
            self._digests = self._download.run()

    def _fits(self) -> bool:
        return self._wanted is None or self._digests[self._wanted.algorithm] == self._wanted.digest

    def _copy(self, algorithms: tuple[str, ...]) -> None:
        try:
            self._space.reserve(f"image {self._item['name']}", os.stat(self._source).st_size)
            remove_file(self._part)
            with (
                open(self._source, "rb") as source,
                open(self._part, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as target,
            ):
                copy_content(source.fileno(), target.fileno())
            self._digests = hash_file(self._part, algorithms)
        except OSError as error:
            remove_file(self._part)
            raise ComputeError(
                f"image {self._item['name']}: {self._source} can't be copied: {error.strerror}."
            ) from None
        finally:
            self._space.release(f"image {self._item['name']}")

    def check_sum(self) -> None:
        """Compare the checksum.

        :raises ComputeError: When it is another one; then nothing is kept.
        """
        if not self._fits():
            # A list at a fixed URL changes with its images: during a long download too.
            self._wanted = expected(self._item, self._timeout)
        if self._wanted and not self._fits():
            self._discard()
            have, wanted = (
                f"{self._wanted.algorithm}:{digest}"
                for digest in (self._digests[self._wanted.algorithm], self._wanted.digest)
            )
            where = f" (from {checksums.parse(self._item['checksum']).url})" if "://" in self._item["checksum"] else ""
            raise ComputeError(
                f"what {self._url or self._source} gave has {have}, declared is {wanted}{where}. It was thrown away.",
                "Check the URL and the checksum; if both are right, the file was changed on its way or at its source.",
            )

    def check_format(self) -> None:
        """Look whether it is fit to be a base image.

        :raises ComputeError: When it isn't; then nothing is kept.
        """
        try:
            check_image(self._part, self._item["format"])
        except ComputeError as error:
            self._discard()
            # The hidden name means nothing to who reads this.
            words = error.message.replace(self._part, "it")
            raise ComputeError(
                f"image {self._item['name']}: what {self._url or self._source} gave can't be used: {words}", error.hint
            ) from None

    def mark(self) -> None:
        """Mark it as ours, with what it was found to be."""
        write_mark(self._part, MARK, f"image/{self._item['name']}", self._path)
        write_mark(self._part, VERIFIED, json.dumps(make_record(self._part, self._digests, self._item)), self._path)

    def finish(self) -> None:
        """Put it in place for good."""
        put_in_place(self._part, self._path)
        remove_file(f"{self._part}.json")

    def _discard(self) -> None:
        remove_file(self._part)
        remove_file(f"{self._part}.json")


def check_image(path: str, image_format: str) -> None:
    """Look whether a file holds a whole image of this format, with nothing of it elsewhere.

    Our own reader comes first: qemu-img opens what a hostile header names.

    :raises ComputeError: With what is wrong.
    """
    header = qcow2.read_header(path)
    if header.format != image_format:
        raise ComputeError(
            f"it is {'qcow2' if header.format == 'qcow2' else 'no qcow2 image'}, declared is format {image_format}.",
            "Check the URL and the format.",
        )
    if header.backing_file:
        raise ComputeError(
            f"it stands on another file, {header.backing_file!r}.",
            "Flatten it with `qemu-img convert` where that file is.",
        )
    if header.data_file:
        raise ComputeError("its data are in another file.", "Flatten it with `qemu-img convert` where that file is.")
    if header.encrypted:
        raise ComputeError("it is encrypted.", "Convert it to one that is not.")
    if header.corrupt:
        raise ComputeError("it is marked as corrupt.", "Get it anew from where it was made.")
    info = run_json(["qemu-img", "info", "--output=json", "-f", image_format, path], timeout=_QEMU_IMG_SECONDS)
    if (
        info.get("backing-filename")
        or info.get("format") != image_format
        or (image_format == "qcow2" and info.get("virtual-size") != header.virtual_size)
    ):
        raise ComputeError(
            f"qemu-img takes it for something else: {info.get('format')} of {info.get('virtual-size')} bytes.",
            "Get it anew from where it was made.",
        )


def copy_content(source: int, target: int) -> None:
    """Copy an open file to another: sharing its blocks where the filesystem can, inside the kernel where that can, else
    by hand.

    :raises OSError: When it can't be read or written.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
    try:
        while os.copy_file_range(source, target, 1 << 30):
            pass
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        os.lseek(source, 0, os.SEEK_SET)
        os.lseek(target, 0, os.SEEK_SET)
        with open(source, "rb", closefd=False) as reader, open(target, "wb", closefd=False) as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
