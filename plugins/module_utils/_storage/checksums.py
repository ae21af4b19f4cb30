# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checksums as they are declared and as they are published beside images."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

# Hexadecimal digits of each (FIPS 180-4).
LENGTHS = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")
_LINE = re.compile(r"([0-9A-Fa-f]{64,128})(?:[ \t]+\*?(?:\./)?(.+))?")  # sha256sum(1)
_BSD_LINE = re.compile(r"SHA(256|512) \((?:\./)?(.+)\) = ([0-9A-Fa-f]{64,128})")  # sha256sum --tag
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Checksum:
    """A declared checksum.

    :ivar algorithm: ``sha256`` or ``sha512``.
    :ivar digest: Lower-case hexadecimal, "" when it stands at ``url``.
    :ivar url: Where a list of checksums is, "" when it was given itself.
    """

    algorithm: str
    digest: str = ""
    url: str = ""


def parse(text: str) -> Checksum:
    """Read ``sha256:HEX`` or ``sha256:URL``.

    :raises ValueError: With what is wrong.
    """
    algorithm, _colon, rest = text.partition(":")
    if algorithm not in LENGTHS:
        raise ValueError(f"{text!r} does not begin with {' or '.join(f'{name}:' for name in LENGTHS)}")
    if rest.startswith(("http://", "https://", "file://")):
        return Checksum(algorithm, url=rest)
    digest = rest.lower()
    if not _HEX.fullmatch(digest):
        raise ValueError(f"after {algorithm}: comes the checksum in hexadecimal, or the URL of a list of checksums")
    if len(digest) != LENGTHS[algorithm]:
        raise ValueError(f"a {algorithm} checksum has {LENGTHS[algorithm]} hexadecimal digits, this one {len(digest)}")
    return Checksum(algorithm, digest)


def find(text: str, file: str, algorithm: str) -> str:
    """Find a file's checksum in a list such as SHA256SUMS.

    :param text: The list.
    :param file: The file's name in it.
    :raises ValueError: When it is not there, or there twice with different checksums.
    """
    found: set[str] = set()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        plain, tagged = _LINE.fullmatch(line), _BSD_LINE.fullmatch(line)
        name, digest = (
            (tagged.group(2), tagged.group(3)) if tagged else (plain.group(2), plain.group(1)) if plain else ("", "")
        )
        # A list of nothing but one checksum is that of the one file beside it.
        if digest and len(digest) == LENGTHS[algorithm] and (name == file or (not name and len(lines) == 1)):
            found.add(digest.lower())
    if not found:
        raise ValueError(f"there is no {algorithm} checksum of {file} in it")
    if len(found) > 1:
        raise ValueError(f"{file} is in it with {len(found)} different checksums")
    return found.pop()


def hash_file(path: str, algorithms: tuple[str, ...]) -> dict[str, str]:
    """Compute a file's checksums, reading it once.

    :raises OSError: When it can't be read.
    """
    hashes = {algorithm: hashlib.new(algorithm) for algorithm in algorithms}
    with open(path, "rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK):
            for one in hashes.values():
                one.update(chunk)
    return {algorithm: one.hexdigest() for algorithm, one in hashes.items()}
