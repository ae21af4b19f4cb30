#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: seed
short_description: Make the cloud-init seeds of instances
version_added: 0.1.0
author:
  - ikcloud.compute authors (@ikcloud)
description:
  - Makes for each listed instance a NoCloud seed C(lib/volumes/compute-ID-seed.img), from the files C(cloud_init.cfg)
    (user-data), C(net_1.cfg)
    (network-config) and C(meta_data.cfg) that stay in C(run/instances/compute-ID) for a person to read.
  - A seed is made anew only when one of the three texts in it differs from what is declared, or when it is not root's.
    It is read for that, file by file.
  - QEMU's user can read a seed and not write to it. Which instance-id the guest was given is read from what only root
    could write.
  - The guest's cards are told by their MAC addresses, since their names change with the machine type.
  - "Nobody can log in with a password over SSH. A password for the console is possible, as a hash only."
notes:
  - "What a change means to a guest that has booted before: cloud-init sets up the network again at the next boot with
    the new seed (the user-data
    asks for that under C(updates)), and follows the host name; users, keys and the rest of the user-data are for the
      first boot, which is
    run again only for another O(seeds[].instance_id)."
  - A QEMU that runs keeps the seed that it was started with until it is restarted; RV(results[].restart_required) says
    where that matters.
  - O(seeds[].user_data) and O(seeds[].password_hash) may come from a vault. A task needs no C(no_log) for them.
  - C(cloud_init.cfg) has mode 0600, the seed belongs to QEMU's user with mode 0640, since both may hold secrets.
  - A seed is ours when the meta-data in it, or C(meta_data.cfg), begins with C(# ikcloud.compute). What has no such
    line is never touched.
extends_documentation_fragment:
  - ikcloud.compute.batch
  - ikcloud.compute.seed
seealso:
  - module: ikcloud.compute.instance
  - name: cloud-init's NoCloud data source
    description: What the three files may contain.
    link: https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html
"""

EXAMPLES = r"""
- name: Make the seed of an instance
  ikcloud.compute.seed:
    seeds:
      - name: compute-af95e879
        hostname: web-1
        ssh_keys:
          - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7u5ZQzQxGJ1lF2R1nWmXk0iW0bqkPjv0o8kqB3xY6e me@here
        nics:
          - mac: "02:00:5e:10:00:01"
            addresses: [192.168.88.102/24]
            gateway: 192.168.88.1
            nameservers: [9.9.9.9]
            mtu: 1450

- name: The same with a package more
  ikcloud.compute.seed:
    seeds:
      - name: compute-af95e879
        hostname: web-1
        user_data:
          packages: [nginx]
          runcmd:
            - [systemctl, enable, --now, nginx]

- name: Remove it
  ikcloud.compute.seed:
    seeds:
      - name: compute-af95e879
    state: absent
"""

RETURN = r"""
before:
  description: What was there, of each seed that is listed or was removed.
  returned: always
  type: dict
  sample: {}
after:
  description: What is there now, in check mode what would be; null for what is gone.
  returned: always
  type: dict
  sample:
    compute-af95e879:
      path: /var/lib/compute-service/lib/volumes/compute-af95e879-seed.img
      instance_id: iid-af95e879
      user-data: sha256:3f1c2a60b7de
      network-config: sha256:88d1b6c4a102
      meta-data: sha256:0ccf39ad1b5e
      mode: "0640"
commands:
  description: The commands that do the same by hand, in order.
  returned: always
  type: list
  elements: str
  sample:
    - >-
      genisoimage -quiet -output /…/.compute-af95e879-seed.img.new -volid cidata -joliet -rock -follow-links
      -graft-points
      user-data=/…/cloud_init.cfg network-config=/…/net_1.cfg meta-data=/…/meta_data.cfg
results:
  description: An entry for each seed.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: The instance., type: str, returned: always}
    action: {description: "C(none), C(create), C(update) or C(delete).", type: str, returned: always}
    changed: {description: Whether it was changed., type: bool, returned: always}
    effect: {description: "C(none), C(create), C(live), C(restart), C(rebuild) or C(destroy).", type: str, returned:
      always}
    reasons: {description: What differed., type: list, elements: str, returned: always}
    restart_required: {description: Whether something takes effect only with a restart of the instance., type: bool,
      returned: always}
    restart_reason: {description: Why., type: str, returned: always}
    path: {description: The seed's file., type: str, returned: when present}
    instance_id: {description: What cloud-init tells a new instance by., type: str, returned: when present}
"""

from ansible_collections.ikcloud.compute.plugins.module_utils._cloudinit.seed.resource import SeedResource
from ansible_collections.ikcloud.compute.plugins.module_utils._core import reconcile


def main() -> None:
    reconcile.main(SeedResource)


if __name__ == "__main__":
    main()
