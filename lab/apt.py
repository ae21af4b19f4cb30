# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's own apt sources and settings, so that a root is built from the same mirror the host itself uses,
of the host's release or of another one.

Only the distribution's entries count: its suites, its components, its keyring. What a person added beside them
(a vendor's repository) would make images differ from one machine to the next, and is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .distribution import Distribution
from .host import LabError, run

COMPONENTS = {"main", "contrib", "non-free", "non-free-firmware", "restricted", "universe", "multiverse"}
# What follows the release in the names of its suites.
_POCKETS = ("", "-updates", "-security", "/updates")
KEYRINGS = {"debian-archive-keyring", "ubuntu-archive-keyring"}
# How the host reaches its mirror: these are carried over, whatever else it has set is not.
SETTINGS = ("Acquire::http::", "Acquire::https::", "Acquire::Check-Valid-Until", "Acquire::Check-Date")


@dataclass(frozen=True)
class Source:
    types: tuple[str, ...]
    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""

    def lines(self, distribution: Distribution) -> list[str]:
        """Return the entry as one-line sources, of the distribution's suites only, and of the wanted release instead of
        the host's.
        """
        if "deb" not in self.types or not self.components or not set(self.components) <= COMPONENTS:
            return []
        if self.signed_by and Path(self.signed_by).stem not in KEYRINGS:
            return []
        ours = {f"{distribution.host_suite}{pocket}": f"{distribution.suite}{pocket}" for pocket in _POCKETS}
        option = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        components = " ".join(self.components)
        return [
            f"deb {option}{uri} {ours[suite]} {components}"
            for uri in self.uris
            for suite in self.suites
            if suite in ours
        ]


def parse_one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        kind, _hash, rest = line.partition("#")[0].strip().partition(" ")
        rest = rest.strip()
        if kind != "deb" or not rest:
            continue
        signed_by = ""
        if rest.startswith("["):
            options, _bracket, rest = rest[1:].partition("]")
            for option in options.split():
                name, _sign, value = option.partition("=")
                if name == "signed-by":
                    signed_by = value
        words = rest.split()
        if len(words) >= 2:
            yield Source((kind,), (words[0],), (words[1],), tuple(words[2:]), signed_by)


def parse_deb822(text: str) -> Iterator[Source]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for paragraph in "\n".join(lines).split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if line[:1].isspace() and name:
                fields[name] += f" {line.strip()}"
            elif ":" in line:
                name, _sign, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if fields.get("enabled", "yes").lower() in {"no", "false", "0"} or "uris" not in fields:
            continue
        yield Source(
            tuple(fields.get("types", "deb").split()),
            tuple(fields["uris"].split()),
            tuple(fields.get("suites", "").split()),
            tuple(fields.get("components", "").split()),
            fields.get("signed-by", ""),
        )


def _files(directory: Path) -> Iterable[Source]:
    for path in [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))]:
        if path.suffix == ".list" and path.is_file():
            yield from parse_one_line(path.read_text(encoding="utf-8"))
        elif path.suffix == ".sources" and path.is_file():
            yield from parse_deb822(path.read_text(encoding="utf-8"))


def distribution_sources(distribution: Distribution, directory: Path = Path("/etc/apt")) -> list[str]:
    lines = [line for source in _files(directory) for line in source.lines(distribution)]
    if not lines:
        raise LabError(
            f"no apt source of {distribution.host_suite} itself found under {directory}: the images are built from"
            " those"
        )
    return list(dict.fromkeys(lines))


def settings() -> list[str]:
    """The host's proxy, certificates and clock tolerance, as apt.conf lines."""
    return [line for line in run(["apt-config", "dump"]).splitlines() if line.startswith(SETTINGS) and '""' not in line]
