# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each contestant does to come to the same: so many machines of 64 MiB on a bridge with NAT, each with an overlay
disk and a seed of its own.
"""

from __future__ import annotations

from typing import Any

from machine import IMAGE, PLACE

MEMORY = 64  # MiB
BRIDGE = "br-bench"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEE nobody"


def names(count: int) -> list[str]:
    """Give the machines' names."""
    return [f"vm-{number:03d}" for number in range(1, count + 1)]


def declaration(count: int, purge: bool = False) -> dict[str, Any]:
    """Give the cloud for ``site``: with no instances, nothing at all."""
    specs = {
        name: {"image": "empty", "network": "blue", "memory": MEMORY, "cpu_max": 1, "accel": "tcg", "grace": 0}
        for name in names(count)
    }
    return {
        "cloud_images": {"empty": {"path": IMAGE}} if count else {},
        "cloud_networks": {"blue": {"vni": 88, "cidr": "192.168.88.0/24", "nat": True}} if count else {},
        "cloud_instances": specs, "cloud_ssh_keys": [KEY],
        "cloud_purge": purge, "cloud_purge_limit": 200, "cloud_purge_volumes": True,
    }  # fmt: skip


def network() -> str:
    """Give the commands that make the bridge, and let it out."""
    return f"""\
ip link add {BRIDGE} type bridge
ip link set {BRIDGE} up
ip addr add 192.168.88.1/24 dev {BRIDGE}
sysctl -q -w net.ipv4.ip_forward=1
nft -f - <<'END'
table inet bench {{
    chain out {{
        type nat hook postrouting priority 100
        ip saddr 192.168.88.0/24 oifname "eth0" masquerade
    }}
}}
END
"""


def without_network() -> str:
    """Give the commands that remove it."""
    return f"nft delete table inet bench 2>/dev/null || true\nip link del {BRIDGE} 2>/dev/null || true\n"


def files(name: str) -> str:
    """Give the commands that make a machine's disk and its seed."""
    number = int(name[-3:])
    return f"""\
mkdir -p {PLACE}/{name}
cat >{PLACE}/{name}/user-data <<'END'
#cloud-config
hostname: {name}
users:
  - name: ubuntu
    sudo: ALL=(ALL) NOPASSWD:ALL
    shell: /bin/bash
    ssh_authorized_keys: [{KEY}]
END
cat >{PLACE}/{name}/meta-data <<'END'
instance-id: {name}
local-hostname: {name}
END
cat >{PLACE}/{name}/network-config <<'END'
version: 2
ethernets:
  card0:
    match: {{macaddress: "{mac(name)}"}}
    addresses: [192.168.88.{number + 1}/24]
    routes: [{{to: default, via: 192.168.88.1}}]
END
cloud-localds -N {PLACE}/{name}/network-config {seed(name)} {PLACE}/{name}/user-data {PLACE}/{name}/meta-data
qemu-img create -q -f qcow2 -F qcow2 -b {IMAGE} {disk(name)}
"""


def mac(name: str) -> str:
    return f"02:00:00:00:00:{int(name[-3:]):02x}"


def disk(name: str) -> str:
    return f"{PLACE}/{name}/disk.qcow2"


def seed(name: str) -> str:
    return f"{PLACE}/{name}/seed.img"


def bare(count: int) -> str:
    """Give the talk's commands, one after the other."""
    return network() + "".join(
        f"""\
{files(name)}\
ip tuntap add dev vnet-{name} mode tap
ip link set vnet-{name} master {BRIDGE} up
qemu-system-x86_64 -name {name} -nodefaults -machine pc -accel tcg -smp 1 -m {MEMORY} \\
  -drive file={disk(name)},format=qcow2,if=virtio -drive file={seed(name)},format=raw,if=virtio,readonly=on \\
  -netdev tap,id=network0,ifname=vnet-{name},script=no,downscript=no \\
  -device virtio-net-pci,netdev=network0,mac={mac(name)},romfile= \\
  -serial file:{PLACE}/{name}/console.log -device virtio-rng-pci -device virtio-balloon-pci \\
  -qmp unix:{PLACE}/{name}/qmp.sock,server=on,wait=off -vga std -vnc unix:{PLACE}/{name}/vnc.sock \\
  -pidfile {PLACE}/{name}/qemu.pid -daemonize
"""
        for name in names(count)
    )


def without_bare() -> str:
    """Give what removes the machines of :func:`bare`."""
    return (
        f"for one in {PLACE}/*/qemu.pid; do kill $(cat $one) 2>/dev/null || true; done\nwhile pgrep qemu-system"
        " >/dev/null; do sleep 0.05; done\n"
        + "for one in $(ls /sys/class/net); do case $one in vnet-*) ip link del $one;; esac;"
        f" done\n{without_network()}rm -rf {PLACE}/vm-*\n"
    )


def domain(name: str) -> str:
    """Give a machine as libvirt wants it."""
    return f"""\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>{MEMORY}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk(name)}'/>
      <target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{seed(name)}'/>
      <target dev='vdb' bus='virtio'/><readonly/></disk>
    <interface type='bridge'><source bridge='{BRIDGE}'/><mac address='{mac(name)}'/>
      <model type='virtio'/><rom enabled='no'/></interface>
    <serial type='pty'/>
    <graphics type='vnc' autoport='yes'/>
    <video><model type='vga'/></video>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
"""


def virsh(listed: list[str]) -> str:
    """Give ``virsh define`` and ``virsh start`` for each."""
    return "".join(
        f"{files(name)}cat >{PLACE}/{name}/domain.xml <<'END'\n{domain(name)}END\nvirsh -q define"
        f" {PLACE}/{name}/domain.xml\nvirsh -q start {name}\n"
        for name in listed
    )


def virt_install(count: int) -> str:
    """Give ``virt-install`` for each."""
    return network() + "".join(
        f"""\
{files(name)}\
virt-install --quiet --name {name} --memory {MEMORY} --vcpus 1 --virt-type qemu --import \\
  --osinfo detect=off,require=off \\
  --disk path={disk(name)},format=qcow2,bus=virtio --disk path={seed(name)},format=raw,bus=virtio,readonly=on \\
  --network bridge={BRIDGE},mac={mac(name)},model=virtio --graphics vnc --noautoconsole
"""
        for name in names(count)
    )


def without_libvirt() -> str:
    """Give what removes all of libvirt's machines."""
    return (
        "for one in $(virsh list --name --all); do virsh -q destroy $one 2>/dev/null || true; virsh -q undefine $one;"
        f" done\nwhile pgrep qemu-system >/dev/null; do sleep 0.05; done\n{without_network()}rm -rf {PLACE}/vm-*\n"
    )


def machines(count: int) -> list[dict[str, str]]:
    """Give what the loop over community.libvirt goes over."""
    return [{"name": name, "disk": disk(name), "files": files(name), "xml": domain(name)} for name in names(count)]
