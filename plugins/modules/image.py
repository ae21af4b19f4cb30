#!/usr/bin/python
# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image
short_description: Provide base images for volumes
version_added: 0.1.0
author:
  - ikcloud.compute authors (@ikcloud)
description:
  - Puts the listed images into C(lib/images) of the compute service's folder, as C(NAME.img), read-only.
  - An image is downloaded under a hidden name, compared with its checksum, examined with C(qemu-img info) and only then
    renamed. One that stands
    on another file, or is not of the declared format, is refused.
  - A download that was interrupted, by whatever, goes on where it was at the next run, provided that the server still
    has the same file.
    Up to four images are downloaded side by side; each shows its progress every five seconds.
  - An image that is there is never changed or replaced, since volumes stand on it. When another checksum is declared
    for it, that is an error;
    declare the new one under a new name.
  - A run that has nothing to do reads no image as a whole and opens no connection, not even for a checksum that is
    given as a URL. An image's
    checksum was recorded with its size and mtime when it was verified, and holds as long as these do.
  - Proxies are taken from the environment (C(http_proxy), C(https_proxy), C(no_proxy)).
notes:
  - An image is ours when it carries the extended attribute C(user.ikcloud.compute) with the value C(image/NAME). A file
    of a listed name that
    lacks it is taken for ours when its content is what is declared, otherwise it is an error; nothing else in the
      folder is ever touched.
  - An image is not removed as long as a volume in C(lib/volumes) stands on it. Let M(ikcloud.compute.volume) remove
    these first.
  - The file's checksum is all that tells what it is. A URL without a checksum is refused.
extends_documentation_fragment:
  - ikcloud.compute.batch
options:
  images:
    description: The images.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The image's name.
        type: str
        required: true
      url:
        description: Where it is downloaded from, by C(http), C(https) or C(file). Either this or O(images[].path).
        type: str
      path:
        description: A file on the node that it is copied from.
        type: str
      checksum:
        description:
          - Its checksum, V(sha256:) and 64 hexadecimal digits, or V(sha256:) and the URL of a list such as
            C(SHA256SUMS), where it is found
            by the image's file name. V(sha512:) likewise.
          - Needed for a download; may be left out for a file.
        type: str
      format:
        description: Its format, which is never guessed.
        type: str
        choices: [qcow2, raw]
        default: qcow2
  timeout:
    description: For how many seconds a server may be silent.
    type: int
    default: 30
seealso:
  - module: ikcloud.compute.volume
"""

EXAMPLES = r"""
- name: Make an image to have one
  ansible.builtin.command:
    cmd: qemu-img create -f qcow2 /var/lib/compute-service/empty.qcow2 16M
    creates: /var/lib/compute-service/empty.qcow2

- name: Provide it as a base image
  ikcloud.compute.image:
    images:
      - name: empty
        path: /var/lib/compute-service/empty.qcow2

- name: Show what a download would do
  ikcloud.compute.image:
    images:
      - name: bionic
        url: https://cloud-images.ubuntu.com/bionic/current/bionic-server-cloudimg-amd64.img
        checksum: sha256:https://cloud-images.ubuntu.com/bionic/current/SHA256SUMS
  check_mode: true

- name: Remove it
  ikcloud.compute.image:
    images:
      - name: empty
    state: absent
"""

RETURN = r"""
before:
  description: What was there, of each image that is listed or was removed.
  returned: always
  type: dict
  sample: {}
after:
  description: What is there now, in check mode what would be; null for what is gone.
  returned: always
  type: dict
  sample: {empty: {path: /var/lib/compute-service/lib/images/empty.img, format: qcow2, checksum: "sha256:…", mode:
    "0444"}}
commands:
  description: The commands that do the same by hand, in order.
  returned: always
  type: list
  elements: str
  sample: [wget -c -O /…/.bionic.img.part https://…/bionic-server-cloudimg-amd64.img, qemu-img info --output=json -f
    qcow2 /…/.bionic.img.part]
results:
  description: An entry for each image.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: The image's name., type: str, returned: always}
    action: {description: "C(none), C(create), C(update) or C(delete).", type: str, returned: always}
    changed: {description: Whether it was changed., type: bool, returned: always}
    effect: {description: "C(none), C(create), C(live), C(restart), C(rebuild) or C(destroy).", type: str, returned:
      always}
    reasons: {description: What differed., type: list, elements: str, returned: always}
    restart_required: {description: Always false., type: bool, returned: always}
    restart_reason: {description: Always empty., type: str, returned: always}
    path: {description: The file., type: str, returned: when present}
    virtual_size: {description: "The disk's size for a guest in bytes, null when that is not known before it is there.",
      type: int, returned: when present}
"""

from ansible_collections.ikcloud.compute.plugins.module_utils._core import reconcile
from ansible_collections.ikcloud.compute.plugins.module_utils._storage.image.resource import ImageResource


def main() -> None:
    reconcile.main(ImageResource)


if __name__ == "__main__":
    main()
