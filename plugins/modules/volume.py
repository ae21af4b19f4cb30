#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: volume
short_description: Make the disks of instances
version_added: 0.1.0
author:
  - ikcloud.compute authors (@ikcloud)
description:
  - Makes the listed volumes, each a qcow2 file C(lib/volumes/NAME.img).
  - A volume stands on a base image as an overlay (12 ms, whatever the image's size), is a full copy of it with
    O(volumes[].copy=true),
    or is empty when it has no O(volumes[].image).
  - A volume grows when a larger O(volumes[].size) is declared, also while its instance runs (through QMP); the guest's
    partitions and
    filesystems are the guest's own affair (cloud-init grows the root filesystem at the next boot). It never shrinks,
      and never
    gets another base; either is an error that says what to do.
  - A volume is made under a hidden name and then renamed, so that a run that is killed leaves no half of one.
  - All volumes are read from their headers, without a process each.
notes:
  - A volume is ours when it carries the extended attribute C(user.ikcloud.compute) with the value C(volume/NAME). Of
    files that lack it, only
    those that are listed and called C(compute-) and 8 hex digits are taken for ours (one brought back from a backup
      without its attributes), and
    marked; no other file in the folder is ever touched, and O(purge) removes marked files only.
  - To have another file taken for a volume, mark it by hand with C(setfattr -n user.ikcloud.compute -v volume/NAME
    FILE).
extends_documentation_fragment:
  - ikcloud.compute.batch
  - ikcloud.compute.volume
seealso:
  - module: ikcloud.compute.image
  - module: ikcloud.compute.instance
"""

EXAMPLES = r"""
- name: Make the disk of an instance, and one for its data
  ikcloud.compute.volume:
    volumes:
      - name: compute-af95e879
        size: 10G
      - name: data-1
        size: 512M

- name: Show what a larger disk would take
  ikcloud.compute.volume:
    volumes:
      - name: compute-af95e879
        size: 20G
  check_mode: true
  register: larger

- name: Remove the disk for data
  ikcloud.compute.volume:
    volumes:
      - name: data-1
    state: absent

- name: Remove every volume of ours
  ikcloud.compute.volume:
    volumes: []
    purge: true
"""

RETURN = r"""
before:
  description: What was there, of each volume that is listed or was removed.
  returned: always
  type: dict
  sample: {compute-af95e879: {path: /var/lib/compute-service/lib/volumes/compute-af95e879.img, size: 10G, base: "",
    mode: "0640"}}
after:
  description: What is there now, in check mode what would be; null for what is gone.
  returned: always
  type: dict
  sample: {compute-af95e879: {path: /var/lib/compute-service/lib/volumes/compute-af95e879.img, size: 20G, base: "",
    mode: "0640"}}
commands:
  description: The commands that do the same by hand, in order.
  returned: always
  type: list
  elements: str
  sample: ["setpriv --reuid=998 --regid=998 --clear-groups qemu-img resize -q -f qcow2
    /var/lib/compute-service/lib/volumes/compute-af95e879.img 20G"]
results:
  description: An entry for each volume.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: The volume's name., type: str, returned: always}
    action: {description: "C(none), C(create), C(update) or C(delete).", type: str, returned: always}
    changed: {description: Whether it was changed., type: bool, returned: always}
    effect: {description: "C(none), C(create), C(live), C(restart), C(rebuild) or C(destroy).", type: str, returned:
      always}
    reasons: {description: What differed., type: list, elements: str, returned: always}
    restart_required: {description: Whether something takes effect only with a restart of the instance., type: bool,
      returned: always}
    restart_reason: {description: Why., type: str, returned: always}
    path: {description: The file., type: str, returned: when present}
    size: {description: "Its size for the guest in bytes, null when that is not known before the image is there.", type:
      int, returned: when present}
"""

from ansible_collections.ikcloud.compute.plugins.module_utils._compute.volumes import InstanceVolumeResource
from ansible_collections.ikcloud.compute.plugins.module_utils._core import reconcile


def main() -> None:
    reconcile.main(InstanceVolumeResource)


if __name__ == "__main__":
    main()
