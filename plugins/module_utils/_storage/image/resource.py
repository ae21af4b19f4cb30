# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Base images, as the module image takes them."""

from __future__ import annotations

import json
import os
import re
import shlex
import urllib.parse

from ..._core.changes import Change, Item, Observed
from ..._core.errors import ComputeError
from ..._core.layout import Layout
from ..._core.marks import MARK, VERIFIED, mark_command, write_mark
from ..._core.names import name_problem
from ..._core.reconcile import Resource
from ..._core.steps import Do, MakeFolder, Remove, Stage, Step
from .. import checksums
from ..disk_files import access_steps, remove_unused
from ..download import Space
from .images import IMAGE_MODE, Fetch, Image, file_name, part_of, read_images, source_of

# RFC 3986: what may stand in a URL; no blank, no quote, no bracket.
_URL = re.compile(r"[A-Za-z0-9._~:/?@!$&'()*+,;=%-]+")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~@-]*")


class ImageResource(Resource):
    """Read-only files in ``lib/images``."""

    noun = "image"
    option = "images"
    suboptions = {
        "name": {"type": "str", "required": True},
        "url": {"type": "str"},
        "path": {"type": "str"},
        "checksum": {"type": "str"},
        "format": {"type": "str", "choices": ["qcow2", "raw"], "default": "qcow2"},
    }
    options = {"timeout": {"type": "int", "default": 30}}
    tools = ("qemu-img",)
    workers = 4

    def __init__(self, params: Item) -> None:
        super().__init__(params)
        self.layout = Layout(self.root)
        self.timeout = float(params.get("timeout") or 30)
        self.owner = "root" if os.geteuid() == 0 else ""
        self._space = Space(self.layout.images)

    def validate_item(self, index: int, item: Item) -> list[str]:
        where = f"images[{index}]"
        url, path, checksum = item.get("url"), item.get("path"), item.get("checksum")
        found = [name_problem(f"{where}.name", item["name"])]
        if (url is None) == (path is None):
            found.append(f"{where}: give either a url or a path.")
        if url is not None:
            found.append(_url_problem(f"{where}.url", url))
            if checksum is None and not url.startswith("file://"):
                found.append(
                    f"{where}.checksum: a download needs one; give sha256: and the checksum, or sha256: and the URL of"
                    " its list of checksums."
                )
        if path is not None and (not path.startswith("/") or os.path.normpath(path) != path or not path.isprintable()):
            found.append(f"{where}.path: {path!r} is not the absolute path of a file.")
        if checksum is not None:
            found.append(self._checksum_problem(f"{where}.checksum", item))
        return [problem for problem in found if problem]

    def _checksum_problem(self, where: str, item: Item) -> str | None:
        try:
            parsed = checksums.parse(item["checksum"])
        except ValueError as error:
            return f"{where}: {error}."
        if not parsed.url:
            return None
        problem = _url_problem(where, parsed.url)
        if not problem and (item.get("url") or item.get("path")) and not _FILE_NAME.fullmatch(file_name(item)):
            return (
                f"{where}: the image's file name {file_name(item)!r} can't be looked up in a list; give the checksum"
                " itself."
            )
        return problem

    def validate_list(self, items: list[Item]) -> list[str]:
        if self.timeout < 1:
            return ["timeout: give at least 1 second."]
        return []

    def observe(self, items: list[Item]) -> dict[str, Observed]:
        absent = self.params["state"] == "absent"
        listed = {item["name"]: item for item in items}
        found: dict[str, Observed] = {}
        for name, image in read_images(self.layout, listed, absent, self.params["purge"], self.timeout).items():
            path = self.layout.image(name)
            props: Item = {"path": path, "unfinished": True}
            if image.header:
                props = self._attributes(path, image.header.format, image.checksum, f"{image.access[0]:04o}")
            elif not image.part:
                props = {"path": path, "broken": True}
            found[name] = Observed(props, image.owned, image)
        return found

    observe_without_tools = observe  # reading needs no tool

    def _attributes(self, path: str, image_format: str, checksum: str, mode: str = f"{IMAGE_MODE:04o}") -> Item:
        return {"path": path, "format": image_format, "checksum": checksum, "mode": mode}

    def change(self, item: Item, have: Observed | None) -> Change:
        if have is not None and have.native.problem:
            raise ComputeError(have.native.problem)
        if have is None or have.native.header is None:
            return self._create(item)
        return self._update(item, have, have.native)

    def _create(self, item: Item) -> Change:
        name, path = item["name"], self.layout.image(item["name"])
        part = part_of(path)
        url, source = source_of(item)
        fetch = Fetch(item, path, self._space, self.timeout)
        get = f"wget -c -O {part} {shlex.quote(url)}" if url else f"cp --reflink=auto {shlex.quote(source)} {part}"
        steps: list[Step] = [Do(get, fetch.get, stage=Stage.CREATE)]
        if item.get("checksum"):
            steps.append(Do(_checksum_command(item, part), fetch.check_sum, stage=Stage.CREATE))
        steps += [
            Do(f"qemu-img info --output=json -f {item['format']} {part}", fetch.check_format, stage=Stage.CREATE),
            Do(mark_command(part, f"image/{name}"), fetch.mark, stage=Stage.CREATE),
            Do(f"chmod {IMAGE_MODE:04o} {part}", lambda: os.chmod(part, IMAGE_MODE), stage=Stage.CREATE),
            Do(f"mv -nT {part} {path}", fetch.finish, stage=Stage.CREATE),
        ]
        after = self._attributes(path, item["format"], item.get("checksum") or "unknown")
        return Change(name, "create", None, after, steps, extra_results={"path": path, "virtual_size": None})

    def _update(self, item: Item, have: Observed, image: Image) -> Change:
        name, path = item["name"], self.layout.image(item["name"])
        header = image.header
        if header is None or header.format != item["format"]:
            raise ComputeError(
                f"image {name} is there as {header.format if header else 'unknown'}, declared is format"
                f" {item['format']}.",
                "Declare what it is.",
            )
        if header.backing_file or header.data_file:
            raise ComputeError(
                f"image {name}: {path} does not hold all of its data itself.", "Declare another one under a new name."
            )
        steps, reasons = access_steps(path, image.access, IMAGE_MODE, self.owner)
        if not image.marked:
            steps.append(Do(mark_command(path, f"image/{name}"), lambda: write_mark(path, MARK, f"image/{name}")))
            reasons.append("it was there, with the declared content, without our mark")
        if image.update is not None and image.update != image.record:
            record = json.dumps(image.update)
            steps.append(
                Do(
                    f"setfattr -n {VERIFIED} -v {shlex.quote(record)} {path}",
                    lambda: write_mark(path, VERIFIED, record),
                )
            )
            reasons.append("it was verified anew")
        if image.part:
            steps += _remove_part(path)
            reasons.append("a part of a download was left over")
        after = self._attributes(path, header.format, image.checksum)
        return Change(
            name,
            "update" if steps else "none",
            have.attributes,
            after,
            steps,
            reasons,
            extra_results={"path": path, "virtual_size": header.virtual_size},
        )

    def remove(self, name: str, have: Observed) -> Change:
        path, image = self.layout.image(name), have.native
        steps: list[Step] = [] if image.header is None and image.part else [remove_unused(path, self.layout.volumes)]
        if image.part:
            steps += _remove_part(path)
        warnings = []
        if image.users:
            users = ", ".join(os.path.basename(user) for user in image.users)
            warnings.append(f"image {name} is the base of {users} now; it is removed only once these are gone.")
        return Change(name, "delete", have.attributes, None, steps, warnings=warnings)

    def shared_changes(self, changes: list[Change], have: dict[str, Observed]) -> list[Change]:
        creating = [change for change in changes if change.action == "create"]
        if creating:
            creating[0].steps.insert(0, MakeFolder(self.layout.images))
        return []

    def missing_prerequisites(self, changes: list[Change], check_mode: bool) -> list[str]:
        if check_mode or self.params["state"] == "absent":
            return []
        creating = {change.name for change in changes if change.action == "create"}
        sources = [
            (index, item, source_of(item)[1])
            for index, item in enumerate(self.params["images"])
            if item["name"] in creating
        ]
        return [
            f"images[{index}]: {path}, which image {item['name']} is to be copied from, is not a file on this node;"
            " copy it there first."
            for index, item, path in sources
            if path and not os.path.isfile(path)
        ]


def _remove_part(path: str) -> list[Step]:
    return [Remove(part_of(path)), Remove(f"{part_of(path)}.json")]


def _url_problem(where: str, url: str) -> str | None:
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname if parts.port != 0 else None
    except ValueError:
        return f"{where}: {url!r} is not a URL."
    if not _URL.fullmatch(url) or parts.scheme not in ("http", "https", "file"):
        return f"{where}: {url!r} is not a URL of http, https or file; write blanks and the like as %20."
    if parts.username is not None or parts.password is not None:
        return (
            f"{where}: a URL with a user name or a password is not taken, since it would be seen in results and logs."
        )
    if parts.scheme == "file" and (parts.netloc not in ("", "localhost") or not parts.path.startswith("/")):
        return f"{where}: {url!r} does not name a file on the node, such as file:///var/tmp/image.img."
    if parts.scheme != "file" and (not host or parts.path in ("", "/")):
        return f"{where}: {url!r} names no file on a server."
    return None


def _checksum_command(item: Item, part: str) -> str:
    """Give the command that compares a checksum by hand."""
    checksum = checksums.parse(item["checksum"])
    if not checksum.url:
        return f"echo '{checksum.digest}  {part}' | {checksum.algorithm}sum -c"
    find = f'awk -v n={file_name(item)} \'$2 == n || $2 == "*" n {{print $1 "  {part}"}}\''
    return f"wget -qO- {shlex.quote(checksum.url)} | {find} | {checksum.algorithm}sum -c"
