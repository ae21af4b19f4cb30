# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text that only this run of Ansible can read: what is registered, or heard by a callback plugin, tells nobody
anything.

The key is a file in the folder that Ansible makes on the controller for each run, for its user alone, and removes at
the run's end. It is a file because the tasks are processes of their own, which share nothing else.
"""

from __future__ import annotations

import contextlib
import os
import tempfile

from ansible import constants

from ...module_utils._core.errors import ComputeError

# Without it there is no ansible-core either; the import check of ansible-test alone imports this where it is not.
with contextlib.suppress(ImportError):
    from cryptography.fernet import Fernet, InvalidToken

_NAME = "ikcloud.compute-key"


def hide(text: str) -> str:
    """Return the text encrypted (Fernet, by the library of ansible-vault)."""
    return str(Fernet(_key()).encrypt(text.encode()).decode())


def reveal(hidden: str) -> str:
    """Read what :func:`hide` made in this run.

    :raises ComputeError: When the text is another's, or of another run.
    """
    try:
        return str(Fernet(_key()).decrypt(hidden.encode()).decode())
    except InvalidToken:
        raise ComputeError(
            "secrets: this is not what cloud_plan has given in this run.",
            "Write user_data and password_hash in their place.",
        ) from None


def _key() -> bytes:
    path = os.path.join(constants.DEFAULT_LOCAL_TMP, _NAME)
    if not os.path.exists(path):
        handle, whole = tempfile.mkstemp(dir=os.path.dirname(path))  # mode 0600
        with os.fdopen(handle, "wb") as stream:
            stream.write(Fernet.generate_key())
        try:
            os.link(whole, path)  # of two that come at once, the first one's
        except FileExistsError:
            pass
        finally:
            os.unlink(whole)
    with open(path, "rb") as stream:
        return stream.read()
