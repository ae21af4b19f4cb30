# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small HTTP server for the guest images, with Range so that an interrupted download goes on where it stopped.

For virtual machines it listens on 127.0.0.1; they reach it as 10.0.2.2, which is what user networking calls the host's
loopback. For containers it listens on that very address in the lab's own network namespace.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

from . import pidfile
from .daemon import Daemon
from .host import say
from .images import Image

_CHUNK = 1 << 20


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """The first and last byte of a single `bytes=` range; None for one that is not satisfiable."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        begin, end = max(size - int(last), 0), size - 1
    else:
        begin, end = int(first), min(int(last), size - 1) if last else size - 1
    return (begin, end) if begin <= end < size else None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    directory: Path

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        # apt asks for /./Packages.
        name = posixpath.normpath(self.path.split("?", 1)[0]).lstrip("/")
        listed = sorted(path.name for path in self.directory.iterdir() if not path.name.endswith(".tmp"))
        if name == "":
            self._text("".join(f"{entry}\n" for entry in listed), body=body)
        elif name in listed:
            with (self.directory / name).open("rb") as stream:
                self._file(stream, body=body)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _text(self, text: str, *, body: bool) -> None:
        data = text.encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def _file(self, stream: BinaryIO, *, body: bool) -> None:
        size = os.fstat(stream.fileno()).st_size
        etag = f'"{os.fstat(stream.fileno()).st_mtime_ns:x}-{size:x}"'
        first, last = 0, size - 1
        header = self.headers.get("Range")
        # If-Range: a client that has part of an older file gets the whole of the new one.
        partial = header is not None and self.headers.get("If-Range", etag) == etag
        if partial:
            found = parse_range(header or "", size)
            if found is None:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            first, last = found
        self.send_response(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK)
        if partial:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", etag)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if not body:
            return
        stream.seek(first)
        left = last - first + 1
        while left > 0 and (data := stream.read(min(_CHUNK, left))):
            self.wfile.write(data)
            left -= len(data)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # Without this a server restarted at once cannot have its port back.
    allow_reuse_address = True


def serve(directory: Path, address: str, port: int, pid: Path) -> None:
    """The server process itself: `python3 -m lab serve`, started by `up`."""
    Handler.directory = directory
    with Server((address, port), Handler) as server:
        held = pidfile.take(pid)
        try:
            server.serve_forever()
        finally:
            os.close(held)


def publish(images: list[Image], directory: Path) -> None:
    """Links to the cached images under plain names, and SHA256SUMS as distributions write it."""
    directory.mkdir(parents=True, exist_ok=True)
    for image in images:
        link = directory / f"{image.name}.qcow2"
        temp = directory / f"{image.name}.tmp"
        temp.unlink(missing_ok=True)
        temp.symlink_to(image.path)
        temp.rename(link)
    temp = directory / "SHA256SUMS.tmp"
    temp.write_text("".join(f"{image.sha256} *{image.name}.qcow2\n" for image in images), encoding="ascii")
    temp.rename(directory / "SHA256SUMS")


class Service:
    """The server of one lab, in the background."""

    def __init__(self, run: Path, port: int) -> None:
        self._directory = run / "images"
        self._daemon = Daemon(run, "webserver")
        self._port = port

    def start(self, images: list[Image], address: str, prefix: Sequence[str] = ()) -> None:
        """Publish the images, and start the server unless it runs, with words before its command such as
        nsenter(1)'s.
        """
        publish(images, self._directory)
        if self._daemon.start(
            ["serve", str(self._directory), address, str(self._port), str(self._daemon.pidfile)], prefix
        ):
            say(f"serving the guest images on {address}:{self._port} (10.0.2.2 in the nodes)")

    def pid(self) -> int | None:
        return self._daemon.pid()

    def stop(self) -> None:
        self._daemon.stop()
