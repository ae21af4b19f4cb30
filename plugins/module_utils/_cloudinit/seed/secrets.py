# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A seed's secrets as one opaque text.

Ansible keeps an argument out of the node's journal and out of results only as a whole option with ``no_log``, and masks
its value wherever that appears in the result. Of a mapping it would mask each word (an instance named like one of them
too), so the secrets travel as one text that appears nowhere else. It is no JSON to look at, since Ansible before 2.19
makes data again of text that begins with a brace.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..._core.errors import ComputeError

Item = dict[str, Any]
SECRETS = ("user_data", "password_hash")
_HEAD = "ikcloud-secrets-1:"


def pack(secrets: Any) -> str:
    """Return plain data as an opaque text. It is not encrypted.

    :raises ComputeError: When it has something in it that JSON has no words for.
    """
    try:
        text = json.dumps(secrets, default=_text_of, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ComputeError(f"user_data can't be passed on: {error}.") from None
    return _HEAD + base64.b64encode(text.encode()).decode()


def unpack(text: str) -> Any:
    """Read what :func:`pack` has made.

    :raises ComputeError: When the text is none of its.
    """
    try:
        if text.startswith(_HEAD):
            return json.loads(base64.b64decode(text[len(_HEAD) :], validate=True))
    except (ValueError, RecursionError):
        pass
    raise ComputeError(
        "seed_secrets: this is not what the collection has packed.", "The collection fills it; leave it out."
    )


def split(seed: Mapping[str, Any]) -> tuple[Item, Item]:
    """Return a seed's secrets, and the seed without them.

    :raises ComputeError: When they are none.
    """
    secrets = {key: seed[key] for key in SECRETS if seed.get(key) is not None}
    if not isinstance(secrets.get("password_hash", ""), str):
        raise ComputeError("password_hash: the value is not text.", "Put it in quotes.")
    return secrets, {key: value for key, value in seed.items() if key not in SECRETS}


def opened(seeds: Sequence[Mapping[str, Any]], packed: str) -> list[Item]:
    """Return seeds with the secrets that came apart from them.

    :param packed: Those of each seed, in the order of the list; "" when they are in the seeds.
    :raises ComputeError: When they don't belong together.
    """
    apart = unpack(packed) if packed else [{}] * len(seeds)
    if not isinstance(apart, list) or len(apart) != len(seeds) or not all(isinstance(entry, dict) for entry in apart):
        raise ComputeError(
            "seed_secrets: it has not one entry for each of seeds.", "The collection fills it; leave it out."
        )
    result = []
    for seed, more in zip(seeds, apart):
        open_ones, rest = split(seed)
        result.append({**dict.fromkeys(SECRETS), **rest, **split(more)[0], **open_ones})
    return result


def _text_of(value: Any) -> str:
    # YAML makes dates of what looks like one; to a module they come as text, as Ansible writes them.
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise TypeError(f"a {type(value).__name__} is neither text, number, list nor mapping")
