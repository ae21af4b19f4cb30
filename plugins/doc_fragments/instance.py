# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The list of the module instance, which the module node takes too."""

    LIST = r"""
options:
  instances:
    description: The instances.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The instance's name, of C(a-z), C(0-9) and C(-).
        type: str
        required: true
      id:
        description:
          - 8 hex digits that stand for the name in files and links. Derived from the name by default.
          - It can't be changed afterwards.
        type: str
      cpu:
        description:
          - Virtual processors. More are plugged in while it runs, as far as O(instances[].cpu_max) goes; fewer take a
            restart.
          - A guest may have to bring a new processor online itself, by C(echo 1 >/sys/devices/system/cpu/cpu1/online)
            or a rule of udev.
            A recent Linux takes none without KVM before the next restart. A run warns of processors that the guest has
              not started.
        type: int
        default: 1
      cpu_max:
        description:
          - How many processors there is room for, reserved when QEMU starts.
          - By default what the QEMU that runs has, if that is enough, else twice O(instances[].cpu), and at least 4.
          - Declared, a change takes a restart.
        type: int
      memory:
        description:
          - Memory in MiB. All that runs must fit in the node's.
          - It changes while the instance runs, up to O(instances[].memory_max), by asking the guest's balloon driver.
        type: int
        default: 1024
      memory_max:
        description:
          - Up to how many MiB O(instances[].memory) can grow without a restart. The guest boots with all of it, and
            gives back what is beyond
            O(instances[].memory) when its balloon driver (Linux has one) has started; a guest without one keeps all of
              it.
          - By default what the QEMU that runs has, if that is enough, else O(instances[].memory), so that nothing is
            promised that is not declared.
          - Declared, a change takes a restart.
        type: int
      volume:
        description: The path of its disk. By default C(lib/volumes/compute-<id>.img) below O(root).
        type: str
      volume_format:
        description: The format of its disk. QEMU is never left to guess it.
        type: str
        choices: [qcow2, raw]
        default: qcow2
      seed:
        description: Whether it has a cloud-init seed, C(lib/volumes/compute-<id>-seed.img) below O(root) (see
          M(ikcloud.compute.seed)).
        type: bool
        default: true
      volumes:
        description:
          - More disks, 16 at most. They come and go while the instance runs, if the guest lets go of them.
          - Under O(instances[].supervisor=systemd) one outside C(lib/volumes) takes a restart, for the unit's sandbox
            stands from its start on.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description:
              - A volume of M(ikcloud.compute.volume).
              - The guest knows it by this name, as C(/dev/disk/by-id/virtio-NAME), whatever else comes and goes (of a
                name with more than 20 characters by the
                first 11, C(-), and 8 digits).
            type: str
          path:
            description: In place of O(instances[].volumes[].name), the path of an image or a block device.
            type: str
          format:
            description: Its format.
            type: str
            choices: [qcow2, raw]
            default: qcow2
      nics:
        description:
          - Network cards, in order, told apart by their MAC address.
          - Those of type V(tap), or V(user) without forwards, come while the instance runs; any go, if the guest lets
            go of them. What else changes of a
            card takes a restart.
        type: list
        elements: dict
        default: []
        suboptions:
          type:
            description:
              - V(tap) is a link made by M(ikcloud.compute.tap).
              - V(user) is QEMU's own NAT, which needs no privileges.
              - V(socket) is a cable to other QEMU processes over UDP.
            type: str
            choices: [tap, user, socket]
            default: tap
          tap:
            description: The link's name. By default C(vnet-<id>) for the first card, and C(vnet-) with digits of its
              own for others.
            type: str
          mac:
            description: The MAC address, in lower case. Derived from the name by default.
            type: str
          mtu:
            description: The MTU that the guest is told. By default 1450 for V(tap), else none.
            type: int
          hostfwd:
            description: For V(user), ports of the node that lead into the guest, each as C(tcp:127.0.0.1:22101:22).
            type: list
            elements: str
            default: []
          local:
            description: For V(socket), our end, as C(127.0.0.1:23101); with O(instances[].nics[].mcast) only the
              address to send from, by default C(127.0.0.1).
            type: str
          remote:
            description: For V(socket), the other end, as C(127.0.0.1:23102).
            type: str
          mcast:
            description: For V(socket), instead of O(instances[].nics[].remote), a multicast group that any number
              share, as C(230.0.0.1:23100).
            type: str
      accel:
        description:
          - V(kvm) runs guests on the processor, V(tcg) emulates it.
          - V(auto) tries once whether a tiny guest runs under KVM, when the instance is made, and keeps to the answer.
        type: str
        choices: [auto, kvm, tcg]
        default: auto
      cpu_model:
        description: QEMU's C(-cpu). By default V(host) under KVM and V(max) under TCG.
        type: str
      vnc:
        description:
          - V(socket) has the screen at C(vnc.sock) in the folder, for those who may enter it. Root has C(run/vnc) for
            that.
          - V(loopback) has it at C(127.0.0.1), for every user of the node. It has no password.
        type: str
        choices: [socket, loopback, none]
        default: socket
      vnc_display:
        description: For O(instances[].vnc=loopback), the display; its TCP port is 5900 more.
        type: int
      power:
        description: Whether it is to run, now and after a reboot.
        type: str
        choices: [running, stopped]
        default: running
      supervisor:
        description: Who runs QEMU. V(systemd) needs root.
        type: str
        choices: [systemd, none]
        default: systemd
      user:
        description: The user that QEMU runs as. Ignored where the module itself does not run as root.
        type: str
        default: compute-service
      grace:
        description:
          - Seconds that the guest may take to power off before it is forced. 60 by default.
          - With C(state=absent) it counts for this one time; without it the instance's own does.
        type: int
      boot_network:
        description: Boot from the network first.
        type: bool
        default: false
      labels:
        description:
          - What else is to be known of it; kept in C(start) and returned.
          - With V(protect=true) the instance is not removed, see C(remove_protected).
        type: dict
        default: {}
      restart:
        description: As O(restart), for this instance.
        type: str
        choices: [never, when_required]
"""

    RESTART = r"""
  restart:
    description:
      - What to do when the QEMU that runs differs from its declaration. V(never) warns and says so in the result.
      - V(when_required) powers the instance off (ACPI first) and starts it again.
    type: str
    choices: [never, when_required]
    default: never
  restart_serial:
    description:
      - How many instances at most are restarted at a time; 0 for all at once.
      - The next one follows when QEMU runs and the guest is up, as far as that can be told. What answered before the
        restart (its guest agent, or one of the
        C(addresses) in its O(instances[].labels), which are asked for on its taps, in the order of its cards) has to
          answer again within 600 seconds.
      - After one that goes wrong no other is restarted.
    type: int
    default: 1
"""
    PROTECTED = r"""
  remove_protected:
    description: Remove instances, too, whose O(instances[].labels) say C(protect). Without it that is an error, and
      nothing is removed.
    type: bool
    default: false
"""

    REASONS = r"""
  restart_reasons:
    description:
      - Why instances have to be restarted for what other modules have changed, by C(compute-ID), such as
        RV(ikcloud.compute.seed#module:results[].restart_reason).
      - M(ikcloud.compute.node) knows them by itself.
    type: dict
    default: {}
"""
    DOCUMENTATION: str = LIST + RESTART + REASONS + PROTECTED
    NODE: str = LIST.replace("    required: true\n    suboptions:", "    suboptions:", 1) + RESTART + PROTECTED
