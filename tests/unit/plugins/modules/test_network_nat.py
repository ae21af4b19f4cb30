# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NAT as a pure function, its table's text, and what is told of other tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._core import commands as commands_of_nodes
from ansible_collections.ikcloud.compute.plugins.module_utils._core.changes import Item, Observed
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._core.reconcile import plan
from ansible_collections.ikcloud.compute.plugins.module_utils._network.firewall import iptables
from ansible_collections.ikcloud.compute.plugins.module_utils._network.firewall.forwarding import (
    Forwarding,
    sysctl_text,
)
from ansible_collections.ikcloud.compute.plugins.module_utils._network.firewall.nft import (
    Rules,
    Table,
    describe,
    foreign_drops,
    parse,
    read_tables,
    text_of,
    translates,
)
from ansible_collections.ikcloud.compute.plugins.module_utils._network.firewall.resource import NatResource, drop_advice
from ansible_collections.ikcloud.compute.plugins.module_utils._network.persistence import Boot
from ansible_collections.ikcloud.compute.tests.unit.plugins.modules.network_samples import ROOT, commands, golden

BLUE: Item = {
    "name": "blue",
    "id": "fc814e42",
    "bridge": "br-gnv-fc814e42",
    "cidr": "192.168.88.0/24",
    "uplink": "ens3",
    "masquerade": True,
}
RED: Item = {
    "name": "red",
    "id": "1a2b3c4d",
    "bridge": "br-gnv-1a2b3c4d",
    "cidr": "192.168.89.0/24",
    "uplink": None,
    "masquerade": False,
}
RULES = Rules("blue", "fc814e42", "br-gnv-fc814e42", "192.168.88.0/24", "ens3")
FOLDER = f"{ROOT}/run/networks"


def nat(
    items: list[Item], files: dict[str, str] | None = None, tables: dict[str, Table] | None = None, **params: Any
) -> NatResource:
    made = NatResource({"root": ROOT, "networks": items, "state": "present", "purge": False, **params})
    made.boot = Boot(Layout(ROOT), files=dict(files or {}))
    made.tables = made.expected = tables or {}
    made.uplink = "ens3"
    return made


def listing(rules: Rules, **more: Any) -> list[Any]:
    """Give what `nft -j list ruleset` might print of a table, cut short."""
    there = {"family": "inet", "table": rules.table}
    interface = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": rules.bridge}}
    source = {
        "match": {
            "op": "==",
            "left": {"payload": {"protocol": "ip", "field": "saddr"}},
            "right": {"prefix": {"addr": "192.168.88.0", "len": 24}},
        }
    }
    outgoing = {"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": rules.uplink}}
    gateway = {"match": {**source["match"], "left": {"payload": {"protocol": "ip", "field": "daddr"}}}}
    return [
        {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"table": {"family": "inet", "name": rules.table, "handle": 7}},
        {
            "chain": {
                **there,
                "name": "input",
                "handle": 1,
                "type": "filter",
                "hook": "input",
                "prio": 0,
                "policy": "accept",
            }
        },
        {
            "rule": {
                **there,
                "chain": "input",
                "handle": 2,
                "expr": [interface, gateway, {"counter": {"packets": 5, "bytes": 9}}, {"accept": None}],
            }
        },
        {
            "rule": {
                **there,
                "chain": "forward",
                "handle": 3,
                "comment": f"ikcloud.compute/nat/{rules.name}",
                "expr": [interface, {"drop": None}],
                **more,
            }
        },
        {"rule": {**there, "chain": "postrouting", "handle": 4, "expr": [outgoing, source, {"masquerade": None}]}},
    ]


def test_golden_files() -> None:
    golden("50-nat-open.nft", text_of(RULES, "50-nat-blue.nft"))
    golden(
        "50-nat-closed.nft",
        text_of(Rules("red", "1a2b3c4d", "br-gnv-1a2b3c4d", "192.168.89.0/24", ""), "50-nat-red.nft"),
    )
    golden("60-ikcloud-compute.conf", sysctl_text("0"))


def test_creation_and_removal() -> None:
    made = nat([BLUE, RED])
    created = plan(made, [BLUE, RED], {}, absent=False)
    assert commands(created) == [
        f"install -D -m 0644 /dev/stdin {FOLDER}/50-nat-blue.nft",
        f"install -D -m 0644 /dev/stdin {FOLDER}/50-nat-red.nft",
        "install -D -m 0644 /dev/stdin /etc/sysctl.d/60-ikcloud-compute.conf",
        f"nft -f {FOLDER}/50-nat-blue.nft",
        f"nft -f {FOLDER}/50-nat-red.nft",
        "sysctl -w net.ipv4.ip_forward=1",
    ]
    tables = {
        "ikcloud_fc814e42": Table("ikcloud_fc814e42", "blue"),
        "ikcloud_1a2b3c4d": Table("ikcloud_1a2b3c4d", "red"),
    }
    made = nat([], made.boot.after(created), tables, purge=True)
    made.forwarding = Forwarding("1", sysctl_text("0"))
    assert commands(plan(made, [], made.found([]), absent=False)) == [
        "nft delete table inet ikcloud_fc814e42",
        "nft delete table inet ikcloud_1a2b3c4d",
        "sysctl -w net.ipv4.ip_forward=0",
        f"rm -f {FOLDER}/50-nat-blue.nft",
        f"rm -f {FOLDER}/50-nat-red.nft",
        "rm -f /etc/sysctl.d/60-ikcloud-compute.conf",
    ]


def test_a_closed_network_needs_no_forwarding() -> None:
    made = nat([RED])
    made.uplink = ""
    assert not any("sysctl" in command for command in commands(plan(made, [RED], {}, absent=False)))


def test_no_default_route() -> None:
    made = nat([{**BLUE, "uplink": None}])
    made.uplink = ""
    with pytest.raises(ComputeError, match="no IPv4 default route"):
        made.change(made.params["networks"][0], None)
    made.uplink = None  # check mode on a node that has no ip yet: the commands are the same, and nothing fails
    assert len(made.change(made.params["networks"][0], None).steps) == 2


def test_comparison() -> None:
    """Handles and counters are no difference; a rule, its order and its words are."""
    one = read_tables(listing(RULES))["ikcloud_fc814e42"]
    other = listing(RULES, handle=99)
    other[3]["rule"]["expr"][2]["counter"]["packets"] = 77
    assert read_tables(other)["ikcloud_fc814e42"] == one
    assert read_tables(listing(RULES, expr=[{"accept": None}]))["ikcloud_fc814e42"].content != one.content
    assert read_tables([*listing(RULES), listing(RULES)[3]])["ikcloud_fc814e42"].content != one.content
    assert one.network == "blue"
    assert describe(one) == {
        "bridge": "br-gnv-fc814e42",
        "cidr": "192.168.88.0/24",
        "uplink": "ens3",
        "masquerade": True,
    }


def test_reasons() -> None:
    table = read_tables(listing(replace(RULES, uplink="ens4")))["ikcloud_fc814e42"]
    made = nat([BLUE], {"50-nat-blue.nft": text_of(RULES, "50-nat-blue.nft")}, {"ikcloud_fc814e42": table})
    made.expected = read_tables(listing(RULES))
    have = made.found([BLUE])
    change = made.change(BLUE, have["blue"])
    assert (change.action, change.reasons, commands([change])) == (
        "update",
        ["uplink is ens4, declared ens3"],
        [f"nft -f {FOLDER}/50-nat-blue.nft"],
    )
    made.tables = made.expected
    assert made.change(BLUE, have["blue"]).steps == []
    made.boot.files["50-nat-blue.nft"] += "# by hand\n"
    assert made.change(BLUE, have["blue"]).reasons == ["50-nat-blue.nft differs"]


def test_a_foreign_table_by_our_name() -> None:
    made = nat([BLUE], tables={"ikcloud_fc814e42": Table("ikcloud_fc814e42")})
    have = made.found([BLUE])
    assert not have["blue"].owned
    with pytest.raises(ComputeError, match="did not make"):
        plan(made, [BLUE], have, absent=False)


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"name": "Blue"}, "networks[0].name"),
        ({"name": "../blue"}, "networks[0].name"),
        ({"id": "xyz"}, "networks[0].id"),
        ({"id": None}, "networks[0].id"),
        ({"bridge": 'x"'}, "networks[0].bridge"),
        ({"cidr": "192.168.88.1/24"}, "networks[0].cidr"),
        ({"cidr": "192.168.88.0/255.255.255.0"}, "networks[0].cidr"),
        ({"cidr": "0.0.0.0/0"}, "networks[0].cidr"),
        ({"cidr": "fd00::/64"}, "networks[0].cidr"),
        ({"uplink": 'e" ; drop'}, "networks[0].uplink"),
        ({"uplink": "en*"}, "networks[0].uplink"),
        ({"uplink": "br-gnv-fc814e42"}, "networks[0].uplink"),
    ],
)
def test_what_is_refused(wrong: Item, where: str) -> None:
    item = {**BLUE, **wrong}
    problems = nat([item]).validate_item(0, item)
    assert len(problems) == 1 and where in problems[0], problems


def test_between_items() -> None:
    items = [BLUE, RED, {**RED, "name": "green", "bridge": "br-3", "cidr": "192.168.0.0/16"}]
    problems = nat(items).validate_list(items)
    assert any("networks[2].id: 1a2b3c4d stands already at networks[1]" in problem for problem in problems)
    assert any("overlaps 192.168.0.0/16 at networks[2]" in problem for problem in problems)


# Other people's tables


def chain(table: str, name: str, policy: str | None = None, family: str = "ip") -> Item:
    base = {"type": "filter", "hook": "forward", "prio": 0, "policy": policy} if policy else {}
    return {"chain": {"family": family, "table": table, "name": name, **base}}


def rule(table: str, name: str, *expr: Any, family: str = "ip") -> Item:
    return {
        "rule": {
            "family": family,
            "table": table,
            "chain": name,
            "expr": [*expr, {"counter": {"packets": 0, "bytes": 0}}],
        }
    }


def meta(key: str, value: Any, op: str = "==") -> Item:
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": value}}


ESTABLISHED = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}
DOCKER = [
    chain("filter", "DOCKER-USER"),
    chain("filter", "FORWARD", "drop"),
    rule("filter", "FORWARD", {"jump": {"target": "DOCKER-USER"}}),
    rule("filter", "FORWARD", meta("oifname", "docker0"), ESTABLISHED, {"accept": None}),
    rule("filter", "FORWARD", meta("iifname", "docker0"), meta("oifname", "docker0", "!="), {"accept": None}),
]
FIREWALLD = [
    chain("firewalld", "filter_FORWARD", "accept", "inet"),
    rule("firewalld", "filter_FORWARD", ESTABLISHED, {"accept": None}, family="inet"),
    rule("firewalld", "filter_FORWARD", {"jump": {"target": "policies"}}, family="inet"),
    rule("firewalld", "filter_FORWARD", {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}, family="inet"),
    chain("firewalld", "policies", family="inet"),
    rule("firewalld", "policies", {"return": None}, family="inet"),
]
ALLOWED_OUT = rule("filter", "DOCKER-USER", meta("iifname", RULES.bridge), {"accept": None})
ALLOWED_BACK = rule("filter", "DOCKER-USER", meta("oifname", {"set": [RULES.bridge, "docker0"]}), {"accept": None})


@pytest.mark.parametrize(
    ("ruleset", "dropping"),
    [
        ([], []),
        (listing(RULES), []),
        (DOCKER, [("ip", "filter", "FORWARD")]),
        ([*DOCKER, ALLOWED_OUT], [("ip", "filter", "FORWARD")]),
        ([*DOCKER, ALLOWED_OUT, ALLOWED_BACK], []),
        (FIREWALLD, [("inet", "firewalld", "filter_FORWARD")]),
        (
            [chain("filter", "FORWARD", "accept"), rule("filter", "FORWARD", meta("iifname", "br-*"), {"drop": None})],
            [("ip", "filter", "FORWARD")],
        ),
        (
            [
                chain("filter", "FORWARD", "accept"),
                rule("filter", "FORWARD", {"xt": {"type": "match"}}, {"drop": None}),
            ],
            [],
        ),
        ([chain("filter", "FORWARD", "accept"), rule("filter", "FORWARD", meta("mark", 7), {"drop": None})], []),
        ([chain("filter", "FORWARD", "drop", "bridge")], []),
    ],
)
def test_foreign_drops(ruleset: list[Any], dropping: list[Any]) -> None:
    assert foreign_drops(ruleset, RULES) == dropping


CLOSED = Rules("red", "000004ed", "br-gnv-000004ed", "10.89.0.0/24", "")
IS_BRIDGED = rule("filter", "FORWARD", {"xt": {"type": "match", "name": "physdev"}}, {"accept": None})


@pytest.mark.parametrize(
    ("ruleset", "dropping"),
    [
        ([], []),
        (listing(RULES), []),
        (DOCKER, [("ip", "filter", "FORWARD")]),
        ([*DOCKER, ALLOWED_OUT], []),
        ([*DOCKER, IS_BRIDGED], []),
        (
            [chain("filter", "FORWARD", "accept"), rule("filter", "FORWARD", meta("oifname", "eth0"), {"drop": None})],
            [],
        ),
    ],
)
def test_foreign_drops_of_what_passes_a_bridge(ruleset: list[Any], dropping: list[Any]) -> None:
    assert foreign_drops(ruleset, RULES, bridged=True) == dropping


def test_a_closed_network_is_warned_of_where_bridges_are_filtered() -> None:
    made = nat([BLUE])
    made.warn_of_drops(DOCKER, [CLOSED])
    assert not made.warnings
    made.warn_of_drops(DOCKER, [RULES, CLOSED], bridged=True)
    assert len(made.warnings) == 1
    assert (
        "drops what is forwarded for blue, and what guests of blue, red send each other, since"
        " net.bridge.bridge-nf-call-iptables is 1" in made.warnings[0]
    )
    assert made.warnings[0].count("Allow it") == 1
    advice = drop_advice("ip", "filter", "FORWARD", CLOSED, [chain("filter", "ufw-user-forward")], bridged=True)
    assert advice.endswith("ufw route allow in on br-gnv-000004ed out on br-gnv-000004ed")


LEGACY = """\
-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -s 10.1.0.0/16 -p tcp -m tcp --dport 80 -m comment --comment "not \\" us" -j ACCEPT
-A FORWARD -i br-+ -m limit --limit 3/min -j LOG --log-prefix "x -j ACCEPT"
-A DOCKER-USER -j RETURN
"""
LET_THROUGH = (
    f"-A FORWARD -i {RULES.bridge} -j ACCEPT\n-A FORWARD -o {RULES.bridge} -m state --state ESTABLISHED -j ACCEPT\n"
)


@pytest.mark.parametrize(
    ("text", "dropping"),
    [
        ("", [False, False]),
        ("-P FORWARD ACCEPT\n", [False, False]),
        (LEGACY, [True, True]),
        (LEGACY + LET_THROUGH, [False, False]),
        (LEGACY + "-A FORWARD -m physdev --physdev-is-bridged -j ACCEPT\n", [True, False]),
        (LEGACY + "-A FORWARD -m physdev ! --physdev-is-bridged -j ACCEPT\n", [True, True]),
        (
            LEGACY + "-A FORWARD -d 192.168.0.0/16 -g OK\n-A FORWARD -s 192.168.88.0/24 -j OK\n-A OK -j ACCEPT\n",
            [False, False],
        ),
        ("-P FORWARD ACCEPT\n-A FORWARD -i br-gnv+ -j REJECT --reject-with icmp-port-unreachable\n", [True, True]),
        (
            "-P FORWARD ACCEPT\n-A FORWARD ! -i br-gnv+ -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP\n",
            [False, False],
        ),
        ("-P FORWARD ACCEPT\n-A FORWARD -i br-gnv+ -p udp -j DROP\n", [False, False]),
        ("-P FORWARD ACCEPT\n-A FORWARD -s 10.0.1.0/255.0.255.0 -j DROP\n", [False, False]),
        (LEGACY + "-A FORWARD ! -d 10.0.1.0/255.0.255.0 -j ACCEPT\n", [True, True]),
    ],
)
def test_what_iptables_legacy_drops(text: str, dropping: list[bool]) -> None:
    found = iptables.parse(text)
    assert [bool(foreign_drops(found, RULES, bridged)) for bridged in (False, True)] == dropping
    made = nat([BLUE])
    made.warn_of_drops([*listing(RULES), *found], [RULES])
    assert bool(made.warnings) is dropping[0]
    assert not made.warnings or "FORWARD of the table ip filter (iptables-legacy)" in made.warnings[0]
    if text == LEGACY:
        assert "iptables-legacy -I DOCKER-USER -i br-gnv-fc814e42 -j ACCEPT" in made.warnings[0]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'Another app is currently holding the xtables lock.' >&2; exit 4", "holding the xtables lock"),
        ('echo "-A FORWARD -m comment --comment \'"', "No closing quotation"),
        ("echo -A FORWARD -s 10.0.0.0/x -j DROP", "invalid literal"),
        ('test "$*" = "-w 5 -S" && echo "-P FORWARD DROP"', ""),
    ],
)
def test_a_look_at_iptables_legacy_stops_nothing(
    script: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / iptables.TOOL
    tool.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
    tool.chmod(0o755)
    monkeypatch.setattr(commands_of_nodes, "PATH", f"{tmp_path}:{commands_of_nodes.PATH}")
    monkeypatch.setattr(iptables, "in_use", lambda: True)
    made = nat([BLUE])
    found = made.legacy_rules([RULES])
    assert bool(found) is not bool(words)
    assert not words or (
        len(made.warnings) == 1 and "iptables-legacy" in made.warnings[0] and words in made.warnings[0]
    )


def test_warnings_tell_what_to_do_and_tell_it_once() -> None:
    made = nat([BLUE])
    for _time in range(2):
        made.warn_of_drops(DOCKER, [RULES])
    assert len(made.warnings) == 1 and "iptables -I DOCKER-USER -i br-gnv-fc814e42 -j ACCEPT" in made.warnings[0]
    assert "firewall-cmd" in drop_advice("inet", "firewalld", "filter_FORWARD", RULES, FIREWALLD)
    assert "ufw route allow" in drop_advice("ip", "filter", "FORWARD", RULES, [chain("filter", "ufw-user-forward")])
    assert "accept iifname" in drop_advice("ip", "mine", "f", RULES, [])


def test_translation_of_others() -> None:
    assert not translates(listing(RULES))
    assert translates([rule("nat", "POSTROUTING", {"masquerade": None})])


@pytest.mark.parametrize(
    ("have", "made", "dropped"),
    [
        (Forwarding("0", None), 2, []),
        (Forwarding("1", None), 1, []),
        (
            Forwarding("1", sysctl_text("0")),
            0,
            ["sysctl -w net.ipv4.ip_forward=0", "rm -f /etc/sysctl.d/60-ikcloud-compute.conf"],
        ),
        (Forwarding("0", sysctl_text("0")), 1, ["rm -f /etc/sysctl.d/60-ikcloud-compute.conf"]),
        (Forwarding("1", sysctl_text("1")), 0, ["rm -f /etc/sysctl.d/60-ikcloud-compute.conf"]),
        (Forwarding("1", sysctl_text("0"), others=True), 0, ["rm -f /etc/sysctl.d/60-ikcloud-compute.conf"]),
    ],
)
def test_forwarding(have: Forwarding, made: int, dropped: list[str]) -> None:
    assert len(commands(have.make())) == made
    assert commands(have.drop()) == dropped


def test_a_sysctl_file_of_somebody_else() -> None:
    have = Forwarding("1", "net.ipv4.ip_forward=1\n")
    with pytest.raises(ComputeError, match="did not make"):
        have.make()
    assert have.drop() == []


def test_nft_without_json() -> None:
    with pytest.raises(ComputeError, match="did not print JSON"):
        parse("Error: JSON support not compiled-in")
    assert parse("") == []


def test_what_was_killed_half_way_is_found() -> None:
    """A file without its table, as a kill leaves it, belongs to what purge removes."""
    made = nat([], {"50-nat-blue.nft": text_of(RULES, "50-nat-blue.nft")}, purge=True)
    assert made.found([]) == {"blue": Observed({}, native=[])}
    assert commands(plan(made, [], made.found([]), absent=False)) == [f"rm -f {FOLDER}/50-nat-blue.nft"]
