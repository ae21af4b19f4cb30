# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bridges, tunnels and taps as pure functions: whatever is there, the steps lead to what is declared, and to nothing
more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.ikcloud.compute.plugins.module_utils._core.changes import Item
from ansible_collections.ikcloud.compute.plugins.module_utils._core.errors import ComputeError
from ansible_collections.ikcloud.compute.plugins.module_utils._core.layout import Layout
from ansible_collections.ikcloud.compute.plugins.module_utils._core.reconcile import plan
from ansible_collections.ikcloud.compute.plugins.module_utils._network.bridge import BridgeResource
from ansible_collections.ikcloud.compute.plugins.module_utils._network.links import Link, LinkResource
from ansible_collections.ikcloud.compute.plugins.module_utils._network.persistence import (
    UNIT_FILE,
    UP,
    WANTS_LINK,
    Boot,
    unit_text,
)
from ansible_collections.ikcloud.compute.plugins.module_utils._network.tap import TapResource
from ansible_collections.ikcloud.compute.plugins.module_utils._network.tunnel import TunnelResource
from ansible_collections.ikcloud.compute.tests.unit.plugins.modules.network_samples import (
    BRIDGE,
    ROOT,
    TAP,
    TUNNEL,
    VXLAN,
    Kernel,
    commands,
    golden,
    on,
)
from hypothesis import given, settings
from hypothesis import strategies as st

SAMPLES: list[tuple[type[LinkResource], Item]] = [
    (BridgeResource, BRIDGE),
    (TunnelResource, TUNNEL),
    (TunnelResource, VXLAN),
    (TapResource, TAP),
]

mtus = st.sampled_from([1400, 1450, 1500])
bridges = st.sampled_from(["br-gnv-1", "br-gnv-2"])
hosts = st.sampled_from(["192.168.88.1/24", "192.168.88.2/24", "10.0.0.1/8", "2001:db8::1/64"])
remotes = st.one_of(
    st.lists(st.sampled_from(["10.10.20.102", "10.10.20.103", "10.10.20.104"]), min_size=1, unique=True),
    st.lists(st.sampled_from(["2001:db8::2", "2001:db8::3"]), min_size=1, unique=True),
)
bridge_items = st.fixed_dictionaries(
    {
        "name": st.just("br-gnv-1"),
        "network": st.sampled_from(["blue", "red"]),
        "mtu": mtus,
        "addresses": st.lists(hosts, unique=True),
    }
)
tap_items = st.fixed_dictionaries(
    {
        "name": st.just("vnet-1"),
        "bridge": bridges,
        "mtu": mtus,
        "owner": st.sampled_from(["compute-service", "root"]),
        "instance": st.sampled_from([None, "web-1"]),
    }
)
vxlan_items = st.fixed_dictionaries(
    {
        "name": st.just("gnv-1"),
        "network": st.sampled_from(["blue", "red"]),
        "vni": st.integers(88, 89),
        "remote": remotes,
        "bridge": bridges,
        "mtu": mtus,
        "encapsulation": st.sampled_from(["vxlan", "geneve"]),
        "port": st.sampled_from([None, 6081, 4789]),
    }
).map(lambda item: item if item["encapsulation"] == "vxlan" else {**item, "remote": item["remote"][:1]})
drifts = st.fixed_dictionaries(
    {},
    optional={
        "mtu": mtus,
        "up": st.booleans(),
        "alias": st.sampled_from(["", "ikcloud.compute/network/x", "ikcloud.compute/instance/x"]),
        "addrgen": st.sampled_from([0, 1, None]),
        "mac": st.just("3a:00:00:00:00:02"),
        "addresses": st.lists(st.sampled_from(["192.168.88.2/24", "fe80::1/64", "10.0.0.1/8"]), unique=True).map(tuple),
        "master": st.sampled_from(["", "br-gnv-1", "br-gnv-2", "docker0"]),
        "isolated": st.booleans(),
    },
)


def converged(kind: type[LinkResource], item: Item, kernel: Kernel, files: dict[str, str]) -> list[str]:
    """Do what the module would, and see that nothing is left to do. Gives the commands."""
    made, have = on(kind, kernel, files, [item])
    assert made.validate_item(0, item) == [] and made.validate_list([item]) == []
    changes = plan(made, [item], have, absent=False)
    kernel.run(changes, files)
    made, have = on(kind, kernel, files, [item])
    again = plan(made, [item], have, absent=False)
    assert commands(again) == [], again
    assert have[item["name"]].attributes == changes[0].after
    assert kind is not TunnelResource or kernel.links[item["name"]].isolated
    assert kind is not TapResource or not kernel.links[item["name"]].isolated
    return commands(changes)


@settings(max_examples=300)
@given(
    st.sampled_from([(BridgeResource, bridge_items), (TapResource, tap_items), (TunnelResource, vxlan_items)]).flatmap(
        lambda pair: st.tuples(st.just(pair[0]), pair[1], pair[1])
    ),
    drifts,
)
def test_from_anything_to_declared(sample: tuple[type[LinkResource], Item, Item], drift: Item) -> None:
    kind, before, item = sample
    kernel, files = Kernel(), dict[str, str]()
    converged(kind, before, kernel, files)
    name = item["name"]
    if not drift.get("master", "x"):
        drift["isolated"] = False  # only a port has the flag
    if kind is BridgeResource:
        drift = {key: value for key, value in drift.items() if key not in ("master", "isolated")}
    kernel.links[name] = replace(
        kernel.links[name],
        **{key: value for key, value in drift.items() if key != "addresses" or kind is BridgeResource},
    )
    converged(kind, item, kernel, files)


@pytest.mark.parametrize(("kind", "item"), SAMPLES)
def test_applied_is_replayed(kind: type[LinkResource], item: Item) -> None:
    """What is run to make a link is its file, line by line."""
    files: dict[str, str] = {}
    run = converged(kind, item, Kernel(), files)
    lines = [
        f"ip {line}"
        for line in files[f"{kind.boot_files.prefix}{item['name']}.ip"].splitlines()
        if not line.startswith("#")
    ]
    assert [command for command in run if command.startswith("ip ")] == lines


@pytest.mark.parametrize(("kind", "item"), SAMPLES)
def test_golden_files(kind: type[LinkResource], item: Item) -> None:
    files: dict[str, str] = {}
    converged(kind, item, Kernel(), files)
    for file in files:
        if file != "up":
            golden(f"{item.get('encapsulation', 'link')}-{file}", files[file])
    golden("up", UP)


@pytest.mark.parametrize(("kind", "item"), SAMPLES)
def test_removal(kind: type[LinkResource], item: Item) -> None:
    kernel, files = Kernel({"eth0": Link("eth0"), "docker0": Link("docker0", "bridge")}), dict[str, str]()
    converged(kind, item, kernel, files)
    made, have = on(kind, kernel, files, [], purge=True)
    kernel.run(plan(made, [], have, absent=False), files)
    assert set(kernel.links) == {"eth0", "docker0"} and not files


@pytest.mark.parametrize(("kind", "item"), SAMPLES)
def test_a_foreign_link_is_refused(kind: type[LinkResource], item: Item) -> None:
    kernel = Kernel({item["name"]: Link(item["name"], kind.kinds[0])})
    made, have = on(kind, kernel, {}, [item])
    with pytest.raises(ComputeError, match="did not make"):
        plan(made, [item], have, absent=False)
    assert commands(plan(made, [{"name": item["name"]}], have, absent=True)) == []


def test_many_make_one_batch() -> None:
    """Of 100 taps all lines stand in one stage, so they go to the kernel in one process."""
    items = [{**TAP, "name": f"vnet-{number:08x}", "instance": f"web-{number}"} for number in range(100)]
    made, have = on(TapResource, Kernel(), {}, items)
    stages = {
        (type(step).__name__, step.stage) for change in plan(made, items, have, absent=False) for step in change.steps
    }
    assert stages == {("Write", 0), ("Ip", 2)}


def test_a_new_vni_is_said_to_be_no_live_change() -> None:
    kernel, files = Kernel(), dict[str, str]()
    converged(TunnelResource, TUNNEL, kernel, files)
    made, have = on(TunnelResource, kernel, files, [TUNNEL])
    change = made.change({**TUNNEL, "vni": 89}, have[TUNNEL["name"]])
    assert (change.action, change.reasons) == ("update", ["VNI is 88, declared 89, so it is deleted and made anew"])


def test_the_owner_of_a_tap_in_use() -> None:
    kernel, files = Kernel(), dict[str, str]()
    converged(TapResource, TAP, kernel, files)
    kernel.links[TAP["name"]] = replace(kernel.links[TAP["name"]], carrier=True)
    item = {**TAP, "owner": "root"}
    made, have = on(TapResource, kernel, files, [item])
    change = made.change(item, have[TAP["name"]])
    assert "only while the instance is stopped" in change.restart_reason and change.warnings
    assert not any(" delete " in command for command in commands([change]))


def test_a_shell_user_number_is_the_user() -> None:
    """ip prints the number of a user without a name; numbers are compared."""
    kernel, files = Kernel(), dict[str, str]()
    converged(TapResource, TAP, kernel, files)
    kernel.links[TAP["name"]] = replace(kernel.links[TAP["name"]], info={"type": "tap", "user": 999})
    made, have = on(TapResource, kernel, files, [TAP])
    assert isinstance(made, TapResource)
    made.uids["999"] = 999
    assert commands([made.change(TAP, have[TAP["name"]])]) == []


BAD: list[tuple[type[LinkResource], Item, str]] = [
    (BridgeResource, {"name": "br-gnv-fc814e42x"}, "bridges[0].name"),
    (BridgeResource, {"name": "-x"}, "bridges[0].name"),
    (BridgeResource, {"name": "../x"}, "bridges[0].name"),
    (BridgeResource, {"name": "a\nlink delete dev eth0"}, "bridges[0].name"),
    (BridgeResource, {"network": None}, "bridges[0].network"),
    (BridgeResource, {"network": "{{ x }}"}, "bridges[0].network"),
    (BridgeResource, {"mtu": 100}, "bridges[0].mtu"),
    (BridgeResource, {"addresses": ["192.168.88.1"]}, "bridges[0].addresses[0]"),
    (BridgeResource, {"addresses": ["192.168.88.1/24", "192.168.88.0/24"]}, "bridges[0].addresses[1]"),
    (BridgeResource, {"addresses": ["192.168.88.1/255.255.255.0"]}, "bridges[0].addresses[0]"),
    (BridgeResource, {"addresses": ["fe80::1%eth0/64"]}, "bridges[0].addresses[0]"),
    (BridgeResource, {"addresses": ["224.0.0.1/24"]}, "bridges[0].addresses[0]"),
    (TunnelResource, {"vni": -1}, "tunnels[0].vni"),
    (TunnelResource, {"vni": 16777216}, "tunnels[0].vni"),
    (TunnelResource, {"vni": None}, "tunnels[0].vni"),
    (TunnelResource, {"port": 0}, "tunnels[0].port"),
    (TunnelResource, {"remote": []}, "tunnels[0].remote"),
    (TunnelResource, {"remote": ["10.10.20.102", "10.10.20.103"]}, "point to point"),
    (TunnelResource, {"remote": ["ik-node-02"]}, "tunnels[0].remote[0]"),
    (TunnelResource, {"remote": ["239.0.0.1"]}, "tunnels[0].remote[0]"),
    (TunnelResource, {"remote": ["fe80::1%eth0"]}, "tunnels[0].remote[0]"),
    (
        TunnelResource,
        {"encapsulation": "vxlan", "remote": ["10.10.20.102", "10.10.20.102"]},
        "stands already at tunnels[0].remote[0]",
    ),
    (TunnelResource, {"encapsulation": "vxlan", "remote": ["10.10.20.102", "fd00::1"]}, "mixes IPv4 and IPv6"),
    (TunnelResource, {"bridge": "br0; reboot"}, "tunnels[0].bridge"),
    (TapResource, {"bridge": ""}, "taps[0].bridge"),
    (TapResource, {"owner": "root; x"}, "taps[0].owner"),
    (TapResource, {"owner": "0"}, "taps[0].owner"),
    (TapResource, {"instance": "Web 1"}, "taps[0].instance"),
]


@pytest.mark.parametrize(("kind", "wrong", "where"), BAD)
def test_what_is_refused(kind: type[LinkResource], wrong: Item, where: str) -> None:
    item = {**{BridgeResource: BRIDGE, TunnelResource: TUNNEL, TapResource: TAP}[kind], **wrong}
    made, _have = on(kind, Kernel(), {}, [item])
    problems = made.validate_item(0, item)
    assert len(problems) == 1 and where in problems[0], problems


@given(st.text(max_size=20))
def test_no_name_gets_into_a_line_that_is_none(name: str) -> None:
    """Whatever passes is letters, digits and '-': nothing that ip -batch, nft or a shell could read as more."""
    made, _have = on(TapResource, Kernel(), {}, [])
    if not made.validate_item(0, {**TAP, "name": name}):
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and not name.startswith("-")


@pytest.mark.parametrize(
    ("kind", "items", "words"),
    [
        (
            BridgeResource,
            [BRIDGE, {**BRIDGE, "name": "br-2"}],
            "bridges[1].addresses[0]: 192.168.88.1 stands already at bridges[0].addresses[0]",
        ),
        (
            TunnelResource,
            [TUNNEL, {**TUNNEL, "name": "gnv-2"}],
            "tunnels[1]: geneve VNI 88 on port 6081 to 10.10.20.102 stands already at tunnels[0]",
        ),
        (TunnelResource, [VXLAN, {**VXLAN, "name": "gnv-2", "remote": ["10.10.20.109"]}], "list all the remotes there"),
        (TunnelResource, [TUNNEL, {**TUNNEL, "name": "gnv-2", "remote": ["10.10.20.109"]}], ""),
        (TunnelResource, [TUNNEL, {**TUNNEL, "name": "gnv-2", "port": 6082}], ""),
    ],
)
def test_between_items(kind: type[LinkResource], items: list[Item], words: str) -> None:
    made, _have = on(kind, Kernel(), {}, items)
    problems = made.validate_list(items)
    assert (words in problems[0]) if words else not problems


def test_a_missing_bridge_is_told_before_the_first_change() -> None:
    made, have = on(
        TapResource,
        Kernel({"eth0": Link("eth0"), "br-2": Link("br-2")}),
        {},
        [TAP, {**TAP, "name": "vnet-2", "bridge": "br-2"}],
    )
    items = made.params["taps"]
    changes = plan(made, items, have, absent=False)
    assert made.missing_prerequisites(changes, check_mode=True) == []
    problems = made.missing_prerequisites(changes, check_mode=False)
    assert len(problems) == 1 if "root" in problems[0] else len(problems) == 2
    assert "root" in problems[0] or "ikcloud.compute.bridge" in problems[0]


def test_the_unit_comes_with_the_first_bridge_and_goes_with_the_last() -> None:
    """And with nothing else: so what check mode announces for each module of a play is what each then does."""

    def told(
        kind: type[LinkResource],
        items: list[Item],
        files: dict[str, str],
        unit: str | None,
        links: dict[str, Link] | None = None,
    ) -> list[str]:
        made, have = on(kind, Kernel(links), files, items, purge=True)
        made.boot.systemd, made.boot.unit, made.boot.enabled = True, unit, unit is not None
        return [
            command
            for command in commands(plan(made, items, have, absent=False))
            if "compute-networks" in command or "reload" in command
        ]

    first = told(BridgeResource, [BRIDGE], {}, None)
    assert first == [
        "install -D -m 0644 /dev/stdin /etc/systemd/system/compute-networks.service",
        "systemctl start compute-networks.service",
        (
            "ln -s /etc/systemd/system/compute-networks.service"
            " /etc/systemd/system/multi-user.target.wants/compute-networks.service"
        ),
    ]
    assert told(TapResource, [TAP], {}, None) == told(TunnelResource, [TUNNEL], {}, None) == []
    files: dict[str, str] = {}
    kernel = Kernel()
    for kind, item in ((BridgeResource, BRIDGE), (TapResource, TAP)):
        converged(kind, item, kernel, files)
    unit = "# ikcloud.compute\n"
    gone = [
        "systemctl disable --now compute-networks.service",
        "rm -f /etc/systemd/system/compute-networks.service",
        "systemctl daemon-reload",
    ]
    assert told(TapResource, [], files, unit) == []
    assert told(BridgeResource, [], files, unit) == gone  # in check mode the tap's file is still there
    # On somebody else's bridge the tap itself has to care for it.
    foreign = {BRIDGE["name"]: Link(BRIDGE["name"], "bridge")}
    assert told(TapResource, [TAP], {}, None, foreign) == first
    on_foreign = {file: text for file, text in files.items() if not file.startswith("10-")}
    assert not set(gone[:2]) & set(told(BridgeResource, [], on_foreign, unit, foreign))


def test_a_unit_that_systemd_has_otherwise_is_read_again() -> None:
    """One that was changed; one that a run wrote before it was killed; and one that somebody deleted, which systemd
    goes on with.
    """
    read, text = "systemctl daemon-reload", unit_text(Layout(ROOT))

    def told(**boot: Any) -> list[str]:
        return commands(Boot(Layout(ROOT), files={"up": UP}, up_runs=True, systemd=True, **boot).make())

    write = "install -D -m 0644 /dev/stdin /etc/systemd/system/compute-networks.service"
    assert told(unit=text, enabled=True) == []
    assert told(unit=f"# ikcloud.compute\n{text}", enabled=True) == [write, read]
    assert told(unit=text, enabled=True, stale=True) == [read]
    assert told(unit=None, enabled=True, stale=True) == [write, read]
    start, link = "systemctl start compute-networks.service", f"ln -s {UNIT_FILE} {WANTS_LINK}"
    assert told(unit=None) == [write, start, link]
    assert told(unit=text) == [start, link, read]
    assert told(unit=f"# ikcloud.compute\n{text}") == [write, read, start, link, read]


def test_a_unit_of_somebody_else() -> None:
    boot = Boot(Layout(ROOT), systemd=True, unit="[Unit]\n")
    with pytest.raises(ComputeError, match="did not make"):
        boot.make()
    assert boot.drop() == []


def test_a_node_without_ipv6() -> None:
    made, _have = on(BridgeResource, Kernel(), {}, [BRIDGE])
    made.ipv6 = False
    assert "addrgenmode" not in made.text(BRIDGE)


def test_gateway_macs_differ_between_nodes() -> None:
    def mac(address: str) -> Any:
        made, _have = on(BridgeResource, Kernel(), {}, [])
        return made.lines({**BRIDGE, "addresses": [address]})["add"]

    assert mac("192.168.88.1/24") == mac("192.168.88.1/16") != mac("192.168.88.2/24")
