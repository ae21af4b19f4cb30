# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, identifiers and marks: everything that must come out the same on every run and every machine."""

from __future__ import annotations

import hashlib
import re

# Every object that we make on a node begins its mark (a link's ifalias, a file's first line) with this.
OWNER = "ikcloud.compute"
# The line of a file that keeps what else is to be known of a thing, as JSON.
LABELS = "# labels: "
# IFNAMSIZ in linux/if.h is 16 with the closing NUL.
MAX_LINK_NAME = 15
# RFC 1123 section 2.1: a host name's label; an instance's name is its guest's host name.
MAX_NAME = 63
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")


def short_id(kind: str, name: str) -> str:
    """Give the 8 hex digits that stand for a named thing.

    :param kind: The kind of thing, so that a network and an instance of one name differ.
    :param name: The name in the declaration.
    :returns: The first 8 hex digits of SHA-256 (FIPS 180-4) of ``kind/name``.
    """
    return hashlib.sha256(f"{kind}/{name}".encode()).hexdigest()[:8]


def fits(name: str, identifier: str) -> bool:
    """Tell whether a name that somebody claims may be that of the instance with these digits: nobody can claim another
    one's.
    """
    return name_problem("name", name) is None and short_id("instance", name) == identifier


def mac_address(name: str) -> str:
    """Give the stable MAC address of a named port.

    :param name: What the port is called, such as ``web-1/0``.
    :returns: A unicast, locally administered address (IEEE 802c: first octet 02), lower-case.
    """
    digest = hashlib.sha256(f"mac/{name}".encode()).digest()
    return "02:" + ":".join(f"{octet:02x}" for octet in digest[:5])


def mark(kind: str, name: str) -> str:
    """Give the ifalias that says whose a link is: ``ikcloud.compute/network/blue``."""
    return f"{OWNER}/{kind}/{name}"


def is_marked(text: str | None) -> bool:
    """Tell whether an ifalias or a file's text carries our mark."""
    return bool(text) and str(text).startswith((f"{OWNER}/", f"# {OWNER}", f"#!/bin/sh\n# {OWNER}"))


def name_problem(what: str, name: object, longest: int = MAX_NAME) -> str | None:
    """Say what is wrong with a name, or None.

    :param what: Where the name stands, such as ``instances[3].name``.
    :param name: The value found there.
    :param longest: The most characters that may be.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return (
            f"{what}: {name!r} is not a valid name; use a-z, 0-9 and '-', beginning and ending with a letter or digit."
        )
    if len(name) > longest:
        return f"{what}: {name!r} has {len(name)} characters; at most {longest} fit."
    return None


def link_problem(what: str, name: object) -> str | None:
    """Say what is wrong with the name of a network link, or None (the kernel takes 15 characters)."""
    return name_problem(what, name, MAX_LINK_NAME)


def mac_problem(what: str, mac: object) -> str | None:
    """Say what is wrong with a MAC address, or None: lower-case, colons, unicast."""
    if not isinstance(mac, str) or not _MAC.fullmatch(mac):
        return f"{what}: {mac!r} is not a MAC address; write it in lower case, such as 02:00:5e:10:00:01."
    if int(mac[:2], 16) & 1:
        return f"{what}: {mac!r} is a multicast address; the first octet must be even."
    return None
