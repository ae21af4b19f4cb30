# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The texts for cloud-init."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.ikcloud.compute.plugins.module_utils._cloudinit import documents
from hypothesis import given
from hypothesis import strategies as st

GOLDEN = Path(__file__).parents[3] / "golden" / "seed"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7u5ZQzQxGJ1lF2R1nWmXk0iW0bqkPjv0o8kqB3xY6e me@here"
NIC: dict[str, Any] = {
    "mac": "02:00:5e:10:00:01",
    "addresses": ["192.168.88.102/24"],
    "gateway": "192.168.88.1",
    "nameservers": [],
    "mtu": 1450,
}
SEED: dict[str, Any] = {
    "name": "compute-af95e879",
    "hostname": "web-1",
    "user": "ubuntu",
    "ssh_keys": [KEY],
    "password_hash": None,
    "user_data": None,
    "nics": [NIC],
    "instance_id": None,
}
CASES: dict[str, dict[str, Any]] = {
    "plain": SEED,
    "rich": {
        **SEED,
        "ssh_keys": [KEY, KEY.replace("me@here", 'a: "b" #c')],
        "password_hash": "$6$saltsalt$abcdefghijklmnop",
        "nics": [
            {**NIC, "nameservers": ["9.9.9.9", "1.1.1.1"]},
            {
                "mac": "02:00:5e:10:00:02",
                "addresses": ["2001:db8::2/64", "192.0.2.2/24"],
                "gateway": "2001:db8::1",
                "nameservers": ["2001:db8::53"],
                "mtu": 1430,
            },
            {"mac": "02:00:5e:10:00:03", "addresses": [], "gateway": None, "nameservers": [], "mtu": None},
        ],
        "user_data": {
            "packages": ["nginx"],
            "users": ["default", {"name": "ubuntu", "shell": "/bin/zsh"}, {"name": "bob"}],
            "runcmd": [["systemctl", "enable", "--now", "nginx"]],
            "write_files": [{"path": "/etc/motd", "content": "Hello\n\n  there\n", "permissions": "0644"}],
        },
    },
    "root": {**SEED, "hostname": None, "user": "root", "nics": []},
}


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    """What is written is what a person agreed to once."""
    for name, text in documents.texts(CASES[case], "iid-af95e879").items():
        assert text == (GOLDEN / case / name).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_wrong_with_these(case: str) -> None:
    assert documents.problems("seeds[0]", CASES[case]) == []


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXT.filter(lambda key: key not in ("users", "hostname", "updates")), TREES, max_size=4))
def test_user_data_reads_back_merged(own: dict[str, Any]) -> None:
    data = yaml.safe_load(documents.user_data({**SEED, "user_data": own}))
    assert data["users"][0]["ssh_authorized_keys"] == [KEY] and data["hostname"] == "web-1"
    assert {key: data[key] for key in own} == own


def test_merge() -> None:
    ours = {"a": {"b": 1, "c": [1]}, "users": [{"name": "u", "x": 1}], "s": 1}
    theirs = {"a": {"c": [2], "d": 3}, "users": ["default", {"name": "u", "y": 2}], "s": None}
    assert documents.merge(ours, theirs) == {
        "a": {"b": 1, "c": [2], "d": 3},
        "users": [{"name": "u", "x": 1, "y": 2}, "default"],
        "s": None,
    }
    assert ours["users"] == [{"name": "u", "x": 1}]


def test_text_stands_as_it_is() -> None:
    assert documents.user_data({**SEED, "user_data": "#!/bin/sh\necho: [}"}) == "#!/bin/sh\necho: [}\n"


def test_network_at_each_boot() -> None:
    assert documents.applies_network_at_boot(documents.user_data(SEED))
    assert not documents.applies_network_at_boot("#cloud-config\npackages: [boot]\n")
    assert not documents.applies_network_at_boot("#!/bin/sh\n")


@pytest.mark.parametrize("text", ["iid-af95e879", "second", "1"])
def test_instance_id_reads_back(text: str) -> None:
    assert documents.instance_id_of(documents.meta_data(SEED, text)) == text
    assert yaml.safe_load(documents.meta_data(SEED, text))["instance-id"] == text


@pytest.mark.parametrize(
    "line",
    [
        KEY.replace(" ", "  ", 1),
        KEY.replace(" ", "\t"),
        f"  {KEY} ",
        f"no-pty {KEY}",
        f'from="10.0.0.0/8",command="echo \\"hi there\\"" {KEY}',
        f'environment="A=#b",restrict\t{KEY}',
    ],
)
def test_keys_as_sshd_takes_them(line: str) -> None:
    item = {**SEED, "ssh_keys": ["# of the office", "", line]}
    assert documents.problems("seeds[0]", item) == []
    assert yaml.safe_load(documents.user_data(item))["users"][0]["ssh_authorized_keys"] == [line.strip()]


PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY----- c2VjcmV0"
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"hostname": "web_1"}, "seeds[0].hostname: 'web_1' is not a valid name"),
    ({"hostname": "a\nb"}, "seeds[0].hostname"),
    ({"user": "Ubuntu"}, "seeds[0].user: 'Ubuntu' is not a user name"),
    ({"user": "a\n"}, "seeds[0].user"),
    ({"ssh_keys": [KEY, "hello"]}, "seeds[0].ssh_keys[1]: this is not one line"),
    ({"ssh_keys": [f"{KEY}\nssh-rsa AAAA"]}, "this is not one line"),
    ({"ssh_keys": ["ssh-dss AAAA"]}, "type is none of"),
    ({"ssh_keys": [f'command="echo hi {KEY}']}, "type is none of"),
    ({"ssh_keys": [f"no-pty {KEY[:40]}"]}, "is broken or cut off"),
    ({"ssh_keys": [KEY[:40]]}, "is broken or cut off"),
    ({"ssh_keys": [KEY.replace("ssh-ed25519", "ssh-rsa", 1)]}, "is broken or cut off"),
    ({"ssh_keys": [PRIVATE]}, "this is a private key"),
    ({"password_hash": "ubuntu"}, "seeds[0].password_hash: it is not a hash"),
    ({"password_hash": "$6$a$b\n$"}, "is not a hash"),
    ({"instance_id": "a b"}, "seeds[0].instance_id"),
    ({"user_data": "packages: []"}, "text must begin with one of #cloud-config"),
    ({"user_data": ["a"]}, "give a dictionary"),
    ({"user_data": "#!/bin/sh\n\0"}, "NUL"),
    ({"user_data": {"a": "\ud800"}}, "surrogate"),
    ({"nics": [{**NIC, "mac": "02:00:5E:10:00:01"}]}, "seeds[0].nics[0].mac: '02:00:5E:10:00:01' is not a MAC address"),
    ({"nics": [{**NIC, "mac": None}]}, "seeds[0].nics[0].mac: None"),
    ({"nics": [NIC, NIC]}, "seeds[0].nics[1].mac: 02:00:5e:10:00:01 stands already at seeds[0].nics[0].mac"),
    ({"nics": [{**NIC, "addresses": ["192.168.88.102"]}]}, "with its prefix length"),
    ({"nics": [{**NIC, "addresses": ["192.168.88.0/24"]}]}, "network's own or its broadcast"),
    ({"nics": [{**NIC, "addresses": ["192.168.88.300/24"]}]}, "seeds[0].nics[0].addresses[0]"),
    (
        {"nics": [{**NIC, "gateway": "192.168.89.1"}]},
        "seeds[0].nics[0].gateway: 192.168.89.1 is in none of the networks",
    ),
    ({"nics": [{**NIC, "gateway": "192.168.88.102"}]}, "is the guest's own address"),
    ({"nics": [{**NIC, "gateway": "x"}]}, "'x' is not an IP address"),
    ({"nics": [{**NIC, "nameservers": ["dns"]}]}, "seeds[0].nics[0].nameservers[0]: 'dns'"),
    ({"nics": [{**NIC, "mtu": 100}]}, "seeds[0].nics[0].mtu: 100 is out of range; 576"),
    ({"nics": [{**NIC, "addresses": ["2001:db8::2/64"], "gateway": None, "mtu": 1279}]}, "1280 to"),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_what_is_refused(change: dict[str, Any], words: str) -> None:
    found = documents.problems("seeds[0]", {**SEED, **change})
    assert len(found) == 1 and words in found[0]
    assert "c2VjcmV0" not in found[0] and "ubuntu" not in found[0].lower().replace("'ubuntu' is not a user", "")


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True))
def test_the_next_instance_id_is_another_one_each_time(current: str) -> None:
    seen = {current}
    for _turn in range(3):
        current = documents.next_instance_id(current)
        assert current not in seen and documents.problems("seeds[0]", {**SEED, "instance_id": current}) == []
        seen.add(current)


def test_the_next_instance_id_counts() -> None:
    assert documents.next_instance_id("iid-af95e879") == "iid-af95e879-2"
    assert documents.next_instance_id("iid-af95e879-9") == "iid-af95e879-10"
