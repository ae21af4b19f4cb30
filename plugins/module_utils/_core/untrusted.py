# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what somebody hostile may have written: QEMU's user owns the instances' folders, and what is in them.

Nothing here follows a link, waits for a pipe, or takes more memory or time than its limits allow. What is beyond
them is a :class:`ComputeError`, for the caller to report for the one instance that it is about.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from itertools import islice
from typing import Any

from .errors import ComputeError

# A `start` has some 2 KiB, cloud-init's user-data some 16 at most clouds.
MAX_TEXT = 1 << 20
# What Ansible, too, can carry on: its own functions call themselves for each level.
MAX_DEPTH = 32
MAX_VALUES = 10_000
# Digits of a number, for which Python takes quadratic time.
MAX_DIGITS = 4000
# An instance's folder has a dozen files.
MAX_ENTRIES = 1000
# A text, or a character that begins, ends or parts values.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{},]', re.DOTALL)


def read_text(path: str, limit: int = MAX_TEXT) -> tuple[str, int] | None:
    """Read a text file and its mode.

    :param limit: The most bytes that it may have.
    :returns: None when it is not there. What is not UTF-8 in it is replaced.
    :raises ComputeError: When it is no plain file, has more bytes, or can't be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        # ELOOP is a link (open(2), O_NOFOLLOW), ENXIO a socket or a device.
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise ComputeError(f"{path} is no plain file.") from None
        raise ComputeError(f"{path} can't be read: {error.strerror}.") from None
    try:
        entry = os.fstat(handle)
        if not stat.S_ISREG(entry.st_mode):
            raise ComputeError(f"{path} is no plain file.")
        with open(handle, "rb", closefd=False) as stream:
            # It may grow while it is read.
            content = stream.read(limit + 1) if entry.st_size <= limit else None
    finally:
        os.close(handle)
    if content is None or len(content) > limit:
        raise ComputeError(f"{path} has more than {limit} bytes.")
    return content.decode("utf-8", "replace"), stat.S_IMODE(entry.st_mode)


def parse_json(
    text: str | bytes,
    what: str,
    *,
    size: int = MAX_TEXT,
    depth: int = MAX_DEPTH,
    values: int = MAX_VALUES,
) -> Any:
    """Parse JSON within limits.

    :param what: What it is called, for the error.
    :param size: The most characters (or bytes) that it may have.
    :param depth: How deep lists and mappings may be nested.
    :param values: How many values it may have in all.
    :raises ComputeError: When it is no JSON, or beyond a limit.
    """
    if len(text) > size:
        raise ComputeError(f"{what} has more than {size} characters.")
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    _check_shape(text, what, depth, values)
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_refuse)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        raise ComputeError(f"{what} is not JSON.") from None
    return value


def _check_shape(text: str, what: str, depth: int, values: int) -> None:
    level, count = 0, 1
    for found in _TOKEN.finditer(text):
        token = found.group()
        if token in ("[", "{"):
            level, count = level + 1, count + 1
        elif token in ("]", "}"):
            level -= 1
        elif token == ",":
            count += 1
        if level > depth:
            raise ComputeError(f"{what} is nested deeper than {depth} levels.")
        if count > values:
            raise ComputeError(f"{what} has more than {values} values.")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number has too many digits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def list_names(folder: str, limit: int = MAX_ENTRIES) -> list[str]:
    """List the names in a folder, in order.

    :param limit: The most that there may be.
    :raises ComputeError: When there are more.
    :raises OSError: When it can't be read.
    """
    with os.scandir(folder) as entries:
        names = [entry.name for entry in islice(entries, limit + 1)]
    if len(names) > limit:
        raise ComputeError(f"{folder} has more than {limit} entries.")
    return sorted(names)


def readable(text: str, most: int = 500) -> str:
    """Return words of a program that is not trusted as a message may hold them: one line, without terminal commands."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:most]).strip()
