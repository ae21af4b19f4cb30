# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What we write, judged by `cloud-init schema` itself: the version of this machine's distribution, and the one of the
newest Debian.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._cloudinit import documents
from test_seed import NIC, SEED

NEWEST = "trixie"
# What cloud-init imports and the tests' environment does not have; no more than Python in them.
DEPENDENCIES = [
    f"python3-{name}"
    for name in (
        "configobj",
        "oauthlib",
        "requests",
        "urllib3",
        "chardet",
        "certifi",
        "idna",
        "six",
        "serial",
        "jsonpatch",
        "json-pointer",
    )
]
CASES: dict[str, dict[str, Any]] = {
    "plain": SEED,
    "nothing": {"name": "compute-00000001", "hostname": None, "ssh_keys": [], "nics": []},
    "root": {**SEED, "user": "root"},
    "password": {**SEED, "password_hash": "$6$saltsalt$abcdefghijklmnop"},
    "merged": {
        **SEED,
        "user_data": {
            "packages": ["nginx"],
            "users": [{"name": "second", "shell": "/bin/sh"}],
            "write_files": [{"path": "/x", "content": "a\nb\n"}],
        },
    },
    "cards": {
        **SEED,
        "nics": [
            NIC,
            {"mac": "02:00:5e:10:00:02"},
            {"mac": "02:00:5e:10:00:03", "addresses": ["2001:db8::2/64"], "gateway": "2001:db8::1"},
        ],
    },
}


@pytest.fixture(scope="session")
def packages() -> Path:
    """Give a folder with both versions of cloud-init, downloaded once from the mirror that this machine's own apt
    has.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("IKCLOUD_LAB_CACHE") or home / "ikcloud-compute-lab") / f"cloud-init-{NEWEST}"
    if folder.exists():
        return folder
    if not shutil.which("apt-get"):
        pytest.skip("cloud-init comes from apt")
    own = re.search(r"^VERSION_CODENAME=(\S+)$", Path("/etc/os-release").read_text(), re.MULTILINE)
    listed = _out(
        "apt-get", "indextargets", "--format", "$(RELEASE) $(SITE)", "Created-By: Packages", "Component: main"
    )
    sources = [line.split() for line in listed.splitlines() if own and line.split()[0] == own.group(1)]
    assert sources, listed
    release, site = sources[0]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".cloud-init-") as name:
        work = Path(name)
        (work / "sources.list").write_text("".join(f"deb {site} {suite} main\n" for suite in (release, NEWEST)))
        for place in ("state/lists/partial", "cache/archives/partial", "made"):
            (work / place).mkdir(parents=True)
        places = {
            "Dir::State": "state",
            "Dir::Cache": "cache",
            "Dir::Etc::sourcelist": "sources.list",
            "Dir::Etc::sourceparts": "none",
        }
        options = [
            "-o",
            "Dir::State::status=/dev/null",
            "-o",
            "APT::Sandbox::User=root",
            *(word for key, place in places.items() for word in ("-o", f"{key}={work / place}")),
        ]
        _out("apt-get", *options, "update")
        for target, wanted in (("own", [f"cloud-init/{release}", *DEPENDENCIES]), ("newest", [f"cloud-init/{NEWEST}"])):
            (work / target).mkdir()
            versions = [word if "/" in word else f"{word}/{release}" for word in wanted]
            _out("apt-get", *options, "download", *versions, cwd=work / target)
            for package in (work / target).glob("*.deb"):
                _out("dpkg-deb", "-x", str(package), str(work / "made" / target))
        (work / "made").rename(folder)
    return folder


def _out(*argv: str, cwd: Path | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(packages: Path, version: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run cloud-init."""
    python = "usr/lib/python3/dist-packages"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(packages / name / python) for name in (version, "own")),
    }
    command = [sys.executable, "-m", "cloudinit.cmd.main", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)


@pytest.mark.parametrize("version", ["own", "newest"])
@pytest.mark.parametrize("case", CASES)
def test_cloud_init_takes_what_we_write(packages: Path, version: str, case: str, tmp_path: Path) -> None:
    item = {"user": "ubuntu", "password_hash": None, "user_data": None, **CASES[case]}
    assert documents.problems("seeds[0]", item) == []
    texts = documents.texts(item, "iid-1")
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    done = ask(packages, version, "schema", "--config-file", str(tmp_path / "user-data"))
    assert done.returncode == 0 and "Valid" in done.stdout, done.stdout + done.stderr
    assert "deprecat" not in (done.stdout + done.stderr).lower().replace("cloud config schema deprecations: \n", "")
    if version == "newest":  # 22.4 can't judge it
        done = ask(
            packages,
            version,
            "schema",
            "--schema-type",
            "network-config",
            "--config-file",
            str(tmp_path / "network-config"),
        )
        assert done.returncode == 0 and "Valid" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("version", ["own", "newest"])
def test_it_refuses_what_is_none_of_its_keys(packages: Path, version: str, tmp_path: Path) -> None:
    """So that the test above can fail."""
    (tmp_path / "user-data").write_text("#cloud-config\nusers:\n  - {name: me, home: /home/me}\n")
    done = ask(packages, version, "schema", "--config-file", str(tmp_path / "user-data"))
    assert done.returncode != 0 and "users.0" in done.stdout + done.stderr
