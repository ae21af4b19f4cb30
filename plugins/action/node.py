# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin of node: keeps the seeds' secrets out of the node's journal. All else is the module's affair."""

from __future__ import annotations

from ansible_collections.ikcloud.compute.plugins.plugin_utils._controller.seal import SealingAction


class ActionModule(SealingAction):
    """Run the module."""

    module = "ikcloud.compute.node"
