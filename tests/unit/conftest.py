# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Property tests have no limit on the time of one example: on a machine that is busy it would say more of the machine
than of the code.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("ikcloud", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ikcloud")
