# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When systemd has to read its units again for an instance."""

from __future__ import annotations

from dataclasses import replace

from ansible_collections.ikcloud.compute.plugins.module_utils._core.changes import Observed
from ansible_collections.ikcloud.compute.tests.unit.plugins.modules.instance_samples import (
    ENABLED,
    TALK,
    TIMER_ENABLED,
    UNIT,
    UNITS,
    after,
    again,
    commands,
    running,
)


def test_reload_that_was_forgotten() -> None:
    """A run that was killed between writing a unit and reloading systemd is mended."""
    kind, have = running(TALK)
    have["web-1"].native.unit["NeedDaemonReload"] = "yes"
    assert commands(after(again(kind, TALK), have)[0]) == ["systemctl daemon-reload"]
    have["web-1"].native.unit["NeedDaemonReload"] = "no"
    kind = again(kind, TALK)
    kind.states = {"compute-console.service": {"NeedDaemonReload": "yes"}}
    assert commands(after(kind, have)[0]) == ["systemctl daemon-reload"]


def test_a_reload_is_for_what_systemd_has_in_its_memory() -> None:
    """A drop-in of an instance that it has not is found at its start; else it isn't, be it that an administrator's unit
    only refers to that instance.
    """
    kind, have = running(TALK)
    other = {**TALK, "name": "web-2", "id": "0a1b2c3d", "nics": [], "grace": 5}
    drop_in = f"install -D -m 0644 /dev/stdin {UNITS}/compute-instance@0a1b2c3d.service.d/ikcloud-compute.conf"
    for loaded in (False, True):
        again_kind = again(kind, TALK, other)
        again_kind.loaded |= {"compute-instance@0a1b2c3d.service"} if loaded else set()
        texts = commands(after(again_kind, have)[0])
        assert drop_in in texts
        assert ("systemctl daemon-reload" in texts) is loaded


def test_systemd_reads_again_what_it_shows_as_disabled() -> None:
    """It keeps whether a unit that it knows is enabled: a link made beside it, by this run or by one that was killed
    after that, it has not seen.
    """
    kind, have = running(TALK)
    web = have["web-1"].native
    web.enabled = False
    assert commands(after(again(kind, TALK), {"web-1": Observed({}, True, replace(web))})[0]) == [
        ENABLED,
        "systemctl daemon-reload",
    ]
    web.enabled, web.unit = True, {**web.unit, "UnitFileState": "disabled"}
    assert commands(after(again(kind, TALK), have)[0]) == ["systemctl daemon-reload"]
    web.unit["UnitFileState"] = "enabled"
    web.unit["DropInPaths"] = "/etc/systemd/system/compute-instance@.service.d/somebodys.conf"
    assert commands(after(again(kind, TALK), have)[0]) == []
    other = again(kind, TALK)
    other.timer, other.loaded = False, {"compute-console.timer"}
    assert commands(after(other, have)[0]) == [
        "systemctl start compute-console.timer",
        TIMER_ENABLED,
        "systemctl daemon-reload",
    ]
    other = again(kind, TALK)
    other.states = {"compute-console.timer": {"ActiveState": "active", "UnitFileState": "disabled"}}
    assert commands(after(other, have)[0]) == ["systemctl daemon-reload"]


def test_a_drop_in_that_systemd_has_not_read() -> None:
    """Or that it goes on with, though it is gone."""
    kind, have = running({**TALK, "grace": 5})
    unit = have["web-1"].native.unit
    path = f"{UNITS}/{UNIT}.d/ikcloud-compute.conf"
    for read, told in ((f"/a.conf {path}", []), ("/a.conf", ["systemctl daemon-reload"])):
        unit["DropInPaths"] = read
        assert commands(after(again(kind, {**TALK, "grace": 5}), have)[0]) == told
    kind, have = running(TALK)
    have["web-1"].native.unit["DropInPaths"] = path
    assert commands(after(again(kind, TALK), have)[0]) == ["systemctl daemon-reload"]
