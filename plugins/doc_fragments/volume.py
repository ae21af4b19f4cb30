# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The list of the module volume, which the module node takes too."""

    LIST = r"""
options:
  volumes:
    description: The volumes.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: C(compute-) and the instance's id for an instance's own disk, or a name of your choice for a data
          volume.
        type: str
        required: true
      image:
        description: The name of the base image, as M(ikcloud.compute.image) put it into C(lib/images). An empty volume
          when not given.
        type: str
      image_format:
        description: The format of the base image.
        type: str
        choices: [qcow2, raw]
        default: qcow2
      size:
        description:
          - The size that the guest sees, such as V(10G), V(10GB) or V(1.5 GiB), where K, M, G and T are powers of 1024,
            or in bytes.
          - When not given, that of the image, and an existing volume stays as large as it is. Needed when there is no
            O(volumes[].image).
        type: str
      copy:
        description:
          - Copy the image as a whole rather than stand on it.
          - It is refused where the disk has no room for all such copies, before anything is changed.
        type: bool
        default: false
"""

    ASIDE = r"""
  aside:
    description:
      - Move volumes that are to be removed into C(lib/volumes/kept), with the time in their names, rather than remove
        them.
      - Their images have to stay as long as these do, and M(ikcloud.compute.image) sees to it.
    type: bool
    default: false
  aside_names:
    description: What to begin the names of these files with, by volume; such as the name of the instance whose disk it
      was.
    type: dict
    default: {}
"""

    REBUILD = r"""
  rebuild:
    description:
      - Names of listed volumes that are made anew, with nothing of what they hold; their former files are removed, or
        kept as O(aside) says.
      - A QEMU that runs goes on with the former file until it is restarted.
    type: list
    elements: str
    default: []
"""

    KEPT = r"""
  remove_kept:
    description:
      - Remove what was kept so, once and for all.
      - What else is in that folder, or has lost its mark, stays; a warning names it.
    type: bool
    default: false
"""

    DOCUMENTATION: str = (
        LIST
        + ASIDE
        + REBUILD
        + r"""
  owner:
    description:
      - The user that QEMU runs as; the volumes belong to it, with mode 0640.
      - Not looked at when the module does not run as root, or when it is empty.
    type: str
    default: compute-service
"""
        + KEPT
    )
    NODE: str = LIST.replace("    required: true\n    suboptions:", "    suboptions:", 1) + ASIDE + KEPT
