# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node reaches and is reached by, read from files like those of the kernel, and from a real chain of
processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._system import reach

ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0114140A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0014140A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth1\t0000A8C0\t0214140A\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0
eth1\t0000A8C0\t0214140A\t0003\t0\t0\t9\t0000FFFF\t0\t0\t0
br-gnv-fc814e42\t0058A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
*\t0000FE0A\t00000000\t0201\t0\t0\t0\t0000FFFF\t0\t0\t0
eth2\t0000FE0A\t00000000\t0000\t0\t0\t0\t0000FFFF\t0\t0\t0
torn\t0000
"""


@pytest.mark.skipif(sys.byteorder != "little", reason="the kernel prints numbers in the machine's own order")
def test_routes_are_those_in_use_over_links_that_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "route").write_text(ROUTES)
    assert reach.routes({"br-gnv-fc814e42"}, str(tmp_path / "route")) == [
        {"to": "0.0.0.0/0", "via": "10.20.20.1", "link": "eth0"},
        {"to": "10.20.20.0/24", "via": None, "link": "eth0"},
        {"to": "192.168.0.0/16", "via": "10.20.20.2", "link": "eth1"},
    ]
    assert reach.routes(set(), str(tmp_path / "none")) == []


def test_name_servers_are_those_elsewhere(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("# nameserver 9.9.9.9\nnameserver 127.0.0.53\nnameserver ::1\nnameserver\noptions edns0\n")
    real.write_text("nameserver 192.168.88.53\nnameserver fe80::1%eth0\nnameserver 192.168.88.53\nsearch example\n")
    assert reach.name_servers((str(stub), str(real), str(tmp_path / "none"))) == ["192.168.88.53", "fe80::1%eth0"]


@pytest.mark.parametrize(
    "variable", ["SSH_CONNECTION=203.0.113.7 50000 10.10.20.101 22", "SSH_CLIENT=203.0.113.7 50000 22"]
)
def test_the_session_is_found_above_a_program_that_takes_its_variables_away(variable: str) -> None:
    """As sudo does: the process itself does not have them, its parent does."""
    child = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from ansible_collections.ikcloud.compute.plugins.module_utils._system import reach\n"
        "print(reach.session_client())"
    )
    paths = [path for path in sys.path if os.path.isdir(os.path.join(path, "ansible_collections"))]
    command = ["env", "-i", variable, "sh", "-c", 'env -i "$@"; true', "sh", sys.executable, "-c", child, *paths[:1]]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip() == "203.0.113.7"
    )


def test_a_name_with_parentheses_hides_no_parent(tmp_path: Path) -> None:
    for process, parent, variables in (
        (7, 6, ""),
        (6, 5, "HOME=/\0SSH_CONNECTION=\0"),
        (5, 1, "SSH_CONNECTION=203.0.113.7 1 2 3\0"),
    ):
        (tmp_path / str(process)).mkdir()
        (tmp_path / str(process) / "stat").write_text(f"{process} (a) R 1 (b)) S {parent} 0 0")
        (tmp_path / str(process) / "environ").write_text(variables)
    assert reach.session_client(7, str(tmp_path)) == "203.0.113.7"
    (tmp_path / "5" / "environ").write_text("")
    assert reach.session_client(7, str(tmp_path)) is None


def test_parents_that_go_round_end(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text("7 (a) S 7 0")
    assert reach.session_client(7, str(tmp_path)) is None


def test_one_machine_says_the_same_and_clones_and_containers_do_not(tmp_path: Path) -> None:
    ids = [tmp_path / name for name in ("machine-a", "machine-b", "boot-a", "boot-b", "empty")]
    for path in ids:
        path.write_text("" if path.name == "empty" else f"{path.name}\n")
    machine_a, machine_b, boot_a, boot_b, empty = map(str, ids)
    said = [
        reach.machine(machine, boot)
        for machine, boot in ((machine_a, boot_a), (machine_a, boot_b), (machine_b, boot_a))
    ]
    assert len(set(said)) == 3 and reach.machine(machine_a, boot_a) == said[0]
    assert reach.machine(empty, boot_a) is None and reach.machine(machine_a, str(tmp_path / "none")) is None
    assert "machine-a" not in str(said)
