"""A small HTTP server for the guest images, with Range so that an interrupted download goes on where it stopped.

It listens on 127.0.0.1 only; the nodes reach it as 10.0.2.2, which is what user networking calls the host's loopback.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

from . import pidfile
from .host import LabError, environment
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
        name = self.path.split("?", 1)[0].lstrip("/")
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


def serve(directory: Path, port: int, pid: Path) -> None:
    """The server process itself: `python3 -m lab serve`, started by `up`."""
    held = pidfile.take(pid)
    try:
        Handler.directory = directory
        with Server(("127.0.0.1", port), Handler) as server:
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


def start(directory: Path, port: int, pid: Path, log: Path) -> bool:
    """Start the server in the background unless it runs; returns whether it was started."""
    if pidfile.holder(pid) is not None:
        return False
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "lab", "serve", str(directory), str(port), str(pid)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            cwd=Path(__file__).parent.parent,
            env=environment(),
        )
    if not pidfile.wait_until(lambda: pidfile.holder(pid) is not None or process.poll() is not None, 10):
        raise LabError(f"the image server did not start: see {log}")
    if not pidfile.wait_until(lambda: process.poll() is not None, 0.5):
        return True
    raise LabError(f"the image server ended at once, is port {port} taken? See {log}")
