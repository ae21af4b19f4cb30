# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A web server on 127.0.0.1 that can do ranges, and everything that servers do wrong."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Web:
    """What is served, how, and what was asked for.

    :ivar files: By path.
    :ivar cut: End an answer after so many bytes of the file, although more were promised; as often as ``cuts`` says.
    :ivar pause: Seconds between pieces of ``piece`` bytes.
    :ivar answers: Status codes to give first, before anything else.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    validators: bool = True
    honest: bool = True
    length: bool = True
    cut: int = 0
    cuts: int = 0
    pause: float = 0
    piece: int = 65536
    answers: list[int] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    most: int = 0
    url: str = ""
    _active: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, path: str) -> list[dict[str, str]]:
        """Give the headers of the requests for a path."""
        return [headers for asked, headers in self.requests if asked == path]

    def serve(self) -> ThreadingHTTPServer:
        """Begin to serve, on a port of its own."""
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        return server

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self._active.add(id(request))
            self.most = max(self.most, len(self._active))
        try:
            self._answer(request)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            request.close_connection = True
            self._leave(request)

    def _leave(self, request: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self._active.discard(id(request))

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path
        self.requests.append((path, {key.lower(): value for key, value in request.headers.items()}))
        if self.answers or path in self.redirects or path not in self.files:
            status = self.answers.pop(0) if self.answers else 302 if path in self.redirects else 404
            request.send_response(status)
            if path in self.redirects:
                request.send_header("Location", self.redirects[path])
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        data = self.files[path]
        etag = f'"{hashlib.sha256(data).hexdigest()[:8]}"'
        start = self._start(request, data, etag)
        if start is None:
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(data)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if self.length:
            request.send_header("Content-Length", str(len(data) - start))
        request.send_header("Connection", "close")
        if self.validators:
            request.send_header("ETag", etag)
        request.end_headers()
        self._send(request, data, start)

    def _start(self, request: BaseHTTPRequestHandler, data: bytes, etag: str) -> int | None:
        asked = request.headers.get("Range")
        if not self.ranges or not asked:
            return 0
        condition = request.headers.get("If-Range")
        if condition and condition != etag and self.honest:
            return 0
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        return start if start < len(data) else None

    def _send(self, request: BaseHTTPRequestHandler, data: bytes, start: int) -> None:
        end = len(data)
        if self.cuts > 0:
            self.cuts -= 1
            end = min(end, start + self.cut)
        for begin in range(start, end, self.piece):
            if begin + self.piece >= end:
                # Before it is sent: whoever has the last piece may come with the next request before we get on.
                self._leave(request)
            request.wfile.write(data[begin : min(begin + self.piece, end)])
            if self.pause:
                request.wfile.flush()
                time.sleep(self.pause)
