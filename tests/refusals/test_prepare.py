# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role prepare where the node has no group kvm, with an /etc of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

# What the role does when nothing but the user lacks; the user is made in an overlay of /etc, which ends with its
# namespace.
PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - ansible.builtin.import_role:
        name: ikcloud.compute.prepare
      vars:
        prepare_node: {missing_packages: [], user_ready: false, folders_ready: true}
"""
SCRIPT = """
set -eu
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" /etc
play() {
  file=$2 python=$3
  shift 3
  ansible-playbook -i localhost, -e "ansible_python_interpreter=$python" "$@" "$file" >&2
}
said() {
  "$1" -c 'from ansible_collections.ikcloud.compute.plugins.module_utils._node import node
print(node.user_ready())'
}
if getent group kvm >/dev/null; then groupdel -f kvm; fi
play "$@"
said "$3"
id --name --groups compute-service
groupadd --system kvm
said "$3"
play "$@"
said "$3"
id --name --groups compute-service
# As after a useradd that was killed: the users are written, the groups are not.
gid=$(id --group compute-service)
sed -i '/^compute-service:/d' /etc/group
said "$3"
node="missing_packages: [], user_ready: false, user_group_due: $gid, folders_ready: true"
play "$@" -e "{prepare_node: {$node}}"
said "$3"
getent group compute-service | cut -d : -f 1
"""


def test_a_node_without_the_group_kvm(tmp_path: Path) -> None:
    """The group may come later, with a package: the next run adds the user to it."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("only root can have an /etc of its own")
    (tmp_path / "play.yml").write_text(PLAY)
    (tmp_path / "own").mkdir()
    argv = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        SCRIPT,
        "sh",
        str(tmp_path / "own"),
        str(tmp_path / "play.yml"),
        sys.executable,
    ]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "ANSIBLE_NOCOLOR": "1"}
    )
    assert done.returncode == 0, json.dumps(done.stderr[-3000:])
    assert done.stdout.splitlines() == [
        *("True", "compute-service", "False", "True", "compute-service kvm"),
        *("False", "True", "compute-service"),
    ]


# Nothing but the folders is looked at: the packages and the user are this machine's matter.
FOLDERS = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - ikcloud.compute.node_info:
        root: "{{ root }}"
      register: read
    - ansible.builtin.import_role:
        name: ikcloud.compute.prepare
      vars:
        prepare_root: "{{ root }}"
        prepare_node: "{{ read.node | combine({'missing_packages': [], 'user_ready': true}) }}"
"""


def test_folders(tmp_path: Path) -> None:
    """What was changed by hand is put right. (The name is short, for the root has to be.)"""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    (tmp_path / "play.yml").write_text(FOLDERS)
    root = tmp_path / "root"

    def changed(*options: str) -> list[str]:
        argv = [
            "ansible-playbook",
            "-i",
            "localhost,",
            "-e",
            f"ansible_python_interpreter={sys.executable} root={root}",
            *options,
            str(tmp_path / "play.yml"),
        ]
        environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default"}
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300, env=environment)
        assert done.returncode == 0, done.stdout[-3000:]
        return re.findall(r"^changed: .*item=(\S+)\)", done.stdout, re.MULTILINE)

    every = ["lib/images", "lib/volumes", "run/instances", "run/networks"]
    assert changed("--check") == changed() == every
    assert changed() == []
    (root / "run/instances").chmod(0o777)
    os.chown(root / "lib", 65534, 65534)
    assert changed("--check") == changed() == ["lib", "run/instances"]
    assert (
        changed() == []
        and stat.S_IMODE((root / "run/instances").stat().st_mode) == 0o755
        and (root / "lib").owner() == "root"
    )
    root.chmod(0o777)
    assert changed("--check") == changed() == ["."]
    assert changed() == []
