# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads that go on where they were interrupted, with the standard library (RFC 9110: sections 13.1.5 If-Range, 14
Range).
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from typing import IO, Any

from .._core.errors import ComputeError
from .._core.steps import remove_file

_CHUNK = 1 << 18
_TRIES = 3  # in a row that got no further
_PAUSE = 1.0  # seconds before the first of them
_RETRIED = (408, 425, 429, 500, 502, 503, 504)  # RFC 9110 and RFC 6585: may go well another time
_MAX_LIST = 4 << 20  # bytes of a list of checksums
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_MIB = 1 << 20


class _Interrupted(Exception):
    """It may go on at the next try."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects within HTTP, and from HTTPS only to HTTPS."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        allowed = ("https:",) if req.full_url.lower().startswith("https:") else ("http:", "https:")
        if not newurl.lower().startswith(allowed):
            raise ComputeError(
                f"{req.full_url} redirects to {newurl}, which is not followed.", "Give the URL of the file itself."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, timeout: float, headers: dict[str, str]) -> http.client.HTTPResponse:
    """Send a request, through the proxy that the environment names (http_proxy, https_proxy, no_proxy)."""
    request = urllib.request.Request(
        url, headers={"User-Agent": "ikcloud.compute", "Accept-Encoding": "identity", **headers}
    )
    response = urllib.request.build_opener(_Redirects).open(request, timeout=timeout)
    if not isinstance(response, http.client.HTTPResponse):
        raise ComputeError(f"{url}: only http and https are downloaded.")
    return response


def _failure(url: str, error: Exception) -> Exception:
    """Give the error that stands for what urllib raised: one to try again, or one for the user."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        if error.code in _RETRIED:
            return _Interrupted(f"the server answers {error.code} {error.reason}")
        return ComputeError(f"{url}: the server answers {error.code} {error.reason}.", "Check the URL.")
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return ComputeError(
            f"{url}: the server's certificate is not trusted: {reason.verify_message}.",
            "Install the package ca-certificates, or your own CA.",
        )
    if isinstance(reason, TimeoutError):
        return _Interrupted("the server was silent for too long")
    if isinstance(error, http.client.IncompleteRead):
        return _Interrupted("the connection ended early")
    return _Interrupted(str(getattr(reason, "strerror", None) or reason))


def read_text(url: str, timeout: float) -> str:
    """Download a short text, such as a list of checksums.

    :raises ComputeError: When that is not possible, or it is longer than 4 MiB.
    """
    if url.startswith("file://"):
        return _read_local(url)
    tries = 0
    while True:
        try:
            with _open(url, timeout, {}) as response:
                data = response.read(_MAX_LIST + 1)
            break
        except (OSError, http.client.HTTPException) as error:
            failure = _failure(url, error)
            tries += 1
            if isinstance(failure, ComputeError):
                raise failure from None
            if tries == _TRIES:
                raise ComputeError(
                    f"{url} can't be downloaded: {failure}.",
                    "Check the URL, the network and the proxy's environment variables.",
                ) from None
        time.sleep(_PAUSE * tries)
    if len(data) > _MAX_LIST:
        raise ComputeError(f"{url} is too long for a list of checksums.")
    return data.decode(errors="replace")


def _read_local(url: str) -> str:
    path = urllib.request.url2pathname(url[len("file://") :])
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(_MAX_LIST)
    except OSError as error:
        raise ComputeError(f"{path} can't be read: {error.strerror}.") from None


class Space:
    """The free space of a folder, shared out between the downloads that run side by side."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._left: dict[str, int] = {}

    def reserve(self, who: str, need: int) -> None:
        """Set ``need`` bytes aside, beside what the others still need.

        :raises ComputeError: When they are not there.
        """
        with self._lock:
            status = os.statvfs(self._folder)
            others = sum(left for name, left in self._left.items() if name != who)
            free = status.f_bavail * status.f_frsize - others
            if need > free:
                beside = " beside the other downloads" if others else ""
                words = (
                    f"{who} needs {need / _MIB:.0f} MiB, {self._folder} has {max(0, free) / _MIB:.0f} MiB free{beside}."
                )
                raise ComputeError(words, "Make room there, or set the root to a larger disk.")
            self._left[who] = need

    def used(self, who: str, count: int) -> None:
        """Take note that bytes were written."""
        with self._lock:
            self._left[who] = max(0, self._left.get(who, 0) - count)

    def release(self, who: str) -> None:
        """Give back what was set aside."""
        with self._lock:
            self._left.pop(who, None)


class Download:
    """One download into ``part``.

    Beside it, in ``part.json``, stands what it is a part of, so that a later run can ask for the rest of just that. Its
    size is how far it has come: that is what a progress display reads.

    :param who: What to call it in messages.
    :param timeout: Seconds that the server may be silent.
    :param algorithms: The checksums to compute on the way.
    """

    def __init__(
        self, who: str, url: str, part: str, space: Space, timeout: float, algorithms: tuple[str, ...]
    ) -> None:
        self.who = who
        self.url = url
        self.part = part
        self.note = f"{part}.json"
        self.resumed = False
        self._space = space
        self._timeout = timeout
        self._algorithms = algorithms

    def run(self) -> dict[str, str]:
        """Download, resuming what is there of it.

        :returns: The checksums.
        :raises ComputeError: When it can't be had. What has come is kept for the next run, except when the disk is
            full.
        """
        tries, furthest = 0, self._size()
        try:
            while True:
                try:
                    return self._attempt()
                except _Interrupted as error:
                    words = str(error)
                size = self._size()
                tries = 0 if size > furthest else tries + 1
                furthest = max(furthest, size)
                if tries >= _TRIES:
                    kept = f" {size / _MIB:.1f} MiB of it are here, the next run goes on from there." if size else ""
                    raise ComputeError(
                        f"{self.url} can't be downloaded: {words}.{kept}",
                        "Check the URL, the network and the proxy's environment variables.",
                    )
                time.sleep(_PAUSE * tries)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self.discard()
                raise ComputeError(
                    f"{self.who}: the disk of {os.path.dirname(self.part)} became full during the download.",
                    "Make room there.",
                ) from None
            raise ComputeError(f"{self.part} can't be written: {error.strerror}.") from None
        finally:
            self._space.release(self.who)

    def discard(self) -> None:
        """Remove what has come so far."""
        remove_file(self.part)
        remove_file(self.note)

    def _size(self) -> int:
        try:
            return os.stat(self.part).st_size
        except FileNotFoundError:
            return 0

    def _noted(self) -> dict[str, Any]:
        try:
            with open(self.note, encoding="utf-8") as stream:
                noted = json.load(stream)
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) and noted.get("url") == self.url else {}

    def _attempt(self) -> dict[str, str]:
        noted = self._noted()
        have = self._size() if noted else 0
        if have and have == noted.get("total"):
            return self._whole()  # all was there; only the end of the run was missing
        hashes = {name: hashlib.new(name) for name in self._algorithms}
        if have:
            self._hash_part(hashes)
        headers = {"Range": f"bytes={have}-"} if have else {}
        # Only a strong validator may be used for that (RFC 9110 section 13.1.5).
        validator = noted.get("etag") or noted.get("last_modified")
        if have and validator:
            headers["If-Range"] = validator
        try:
            with _open(self.url, self._timeout, headers) as response:
                return self._receive(response, have, noted, hashes)
        except urllib.error.HTTPError as error:
            if error.code == 416 and have:  # the remote is shorter now: another file
                self.discard()
                raise _Interrupted("the server has changed the file") from None
            raise _failure(self.url, error) from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            raise _failure(self.url, error) from None

    def _whole(self) -> dict[str, str]:
        hashes = {name: hashlib.new(name) for name in self._algorithms}
        self._hash_part(hashes)
        self.resumed = True
        return {name: one.hexdigest() for name, one in hashes.items()}

    def _hash_part(self, hashes: dict[str, Any]) -> None:
        with open(self.part, "rb", buffering=0) as stream:
            while chunk := stream.read(1 << 20):
                for one in hashes.values():
                    one.update(chunk)

    def _receive(
        self, response: http.client.HTTPResponse, have: int, noted: dict[str, Any], hashes: dict[str, Any]
    ) -> dict[str, str]:
        total = None
        if response.status == 206:
            match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if (
                not match
                or int(match.group(1)) != have
                or (noted.get("total") or int(match.group(3))) != int(match.group(3))
            ):
                self.discard()
                raise _Interrupted("the server gave another part than was asked for")
            total = int(match.group(3))
            self.resumed = True
        elif response.status == 200:
            # No ranges here, or another file than before: from the beginning.
            have, hashes, self.resumed = 0, {name: hashlib.new(name) for name in self._algorithms}, False
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
        else:
            raise ComputeError(f"{self.url}: the server answers {response.status} {response.reason}.", "Check the URL.")
        if total is not None:
            self._space.reserve(self.who, total - have)
        with open(self.part, "r+b" if have else "wb", buffering=0) as stream:
            if not have:
                os.fchmod(stream.fileno(), 0o600)
                self._take_note(response, total)
            stream.seek(have)
            size = self._copy(response, stream, hashes, have)
        if total is not None and size != total:
            raise _Interrupted(f"it is truncated: it ended after {size} of {total} bytes")
        return {name: one.hexdigest() for name, one in hashes.items()}

    def _copy(self, response: http.client.HTTPResponse, stream: IO[bytes], hashes: dict[str, Any], size: int) -> int:
        while True:
            try:
                chunk = response.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _failure(self.url, error) from None
            if not chunk:
                return size
            left = memoryview(chunk)
            while left:
                left = left[stream.write(left) or 0 :]
            for one in hashes.values():
                one.update(chunk)
            size += len(chunk)
            self._space.used(self.who, len(chunk))

    def _take_note(self, response: http.client.HTTPResponse, total: int | None) -> None:
        etag = response.headers.get("ETag", "")
        noted = {
            "url": self.url,
            "total": total,
            "etag": "" if etag.startswith("W/") else etag,
            "last_modified": response.headers.get("Last-Modified", ""),
        }
        handle = os.open(self.note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(noted, stream)
