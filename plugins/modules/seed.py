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
  - Makes for each listed instance a NoCloud seed C(lib/volumes/compute-ID-seed.img), from the files C(cloud_init.cfg) (user-data), C(net_1.cfg)
    (network-config) and C(meta_data.cfg) that stay in C(run/instances/compute-ID) for a person to read.
  - A seed is made anew only when one of the three texts in it differs from what is declared. It is read for that, file by file.
  - The guest's cards are told by their MAC addresses, since their names change with the machine type.
  - "Nobody can log in with a password over SSH. A password for the console is possible, as a hash only."
notes:
  - "What a change means to a guest that has booted before: cloud-init sets up the network again at the next boot with the new seed (the user-data
    asks for that under C(updates)), and follows the host name; users, keys and the rest of the user-data are for the first boot, which is
    run again only for another O(seeds[].instance_id)."
  - A QEMU that runs keeps the seed that it was started with until it is restarted; RV(results[].restart_required) says where that matters.
  - C(cloud_init.cfg) has mode 0600, the seed belongs to QEMU's user with mode 0640, since both may hold secrets.
  - A seed is ours when the meta-data in it, or C(meta_data.cfg), begins with C(# ikcloud.compute). What has no such line is never touched.
extends_documentation_fragment:
  - ikcloud.compute.batch
options:
  seeds:
    description: The seeds.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The instance, C(compute-) and its id of 8 hex digits.
        type: str
        required: true
      hostname:
        description: The guest's host name; by default O(seeds[].name).
        type: str
      user:
        description: The user to make in the guest, who may use sudo without a password.
        type: str
        default: ubuntu
      ssh_keys:
        description: The public SSH keys that this user logs in with, each a line of a C(.pub) file.
        type: list
        elements: str
        default: []
      password_hash:
        description:
          - The hash of a password for the user at the console, as C(openssl passwd -6) prints it. Without one there is no password.
          - It does not open SSH.
        type: str
      user_data:
        description:
          - A dictionary is merged over the user-data that the collection writes, key by key. In C(users) an entry with the name of O(seeds[].user)
            is merged over that user, and further ones are added; any other list replaces ours.
          - Text that begins with V(#cloud-config), V(#!), V(#include) or another of cloud-init's heads replaces the collection's user-data;
            then O(seeds[].user), O(seeds[].ssh_keys) and O(seeds[].password_hash) are not looked at.
        type: raw
      nics:
        description: The guest's network cards.
        type: list
        elements: dict
        default: []
        suboptions:
          mac:
            description: The card's MAC address, in lower case.
            type: str
          addresses:
            description: Its addresses with their prefix lengths, such as V(192.168.88.102/24).
            type: list
            elements: str
            default: []
          gateway:
            description: The default route's gateway, in the network of one of the addresses.
            type: str
          nameservers:
            description: The addresses of name servers.
            type: list
            elements: str
            default: []
          mtu:
            description: The largest packet in bytes. Behind a tunnel it has to be smaller than 1500.
            type: int
      instance_id:
        description:
          - What cloud-init tells a new instance by. Another one has the guest run its first boot again, making its SSH host keys anew.
          - By default the one that an existing seed has, otherwise V(iid-) and the instance's id.
        type: str
  owner:
    description:
      - The user that QEMU runs as; the seeds belong to it.
      - Not looked at when the module does not run as root, or when it is empty.
    type: str
    default: compute-service
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
    - cloud-localds --network-config=/…/net_1.cfg /…/.compute-af95e879-seed.img.new /…/cloud_init.cfg /…/meta_data.cfg
results:
  description: An entry for each seed.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: The instance., type: str, returned: always}
    action: {description: "C(none), C(create), C(update) or C(delete).", type: str, returned: always}
    changed: {description: Whether it was changed., type: bool, returned: always}
    effect: {description: "C(none), C(create), C(live), C(restart), C(rebuild) or C(destroy).", type: str, returned: always}
    reasons: {description: What differed., type: list, elements: str, returned: always}
    restart_required: {description: Whether something takes effect only with a restart of the instance., type: bool, returned: always}
    restart_reason: {description: Why., type: str, returned: always}
    path: {description: The seed's file., type: str, returned: when present}
    instance_id: {description: What cloud-init tells a new instance by., type: str, returned: when present}
"""

import hashlib

from ansible_collections.ikcloud.compute.plugins.module_utils import cloud_init, engine
from ansible_collections.ikcloud.compute.plugins.module_utils.engine import Change, Found, Item, Kind
from ansible_collections.ikcloud.compute.plugins.module_utils.files import Build, access_steps, begin_file, finish_step, unfinished
from ansible_collections.ikcloud.compute.plugins.module_utils.layout import DEFAULT_USER, Layout, instance_folder_steps, instance_id, owner_or_none
from ansible_collections.ikcloud.compute.plugins.module_utils.seeds import SEED_MODE, Seed, paths_of, read_seeds, removal_steps
from ansible_collections.ikcloud.compute.plugins.module_utils.steps import Remove, Step, Write

# The first boot's users, keys and commands are in the user-data, the password's hash too.
MODES = {"user-data": 0o600, "network-config": 0o644, "meta-data": 0o644}


class SeedKind(Kind):
    """NoCloud images in ``lib/volumes`` and the files that they were made from."""

    noun = "seed"
    option = "seeds"
    suboptions = {
        "name": {"type": "str", "required": True},
        "hostname": {"type": "str"},
        "user": {"type": "str", "default": "ubuntu"},
        "ssh_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
        "password_hash": {"type": "str", "no_log": True},
        "user_data": {"type": "raw"},
        "nics": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "mac": {"type": "str"},
                "addresses": {"type": "list", "elements": "str", "default": []},
                "gateway": {"type": "str"},
                "nameservers": {"type": "list", "elements": "str", "default": []},
                "mtu": {"type": "int"},
            },
        },
        "instance_id": {"type": "str"},
    }
    options = {"owner": {"type": "str", "default": DEFAULT_USER}}
    tools = ("cloud-localds",)
    workers = 4

    def __init__(self, params: Item) -> None:
        super().__init__(params)
        self.layout = Layout(self.root)
        self.owner = owner_or_none(params.get("owner") or "")

    def problems(self, index: int, item: Item) -> list[str]:
        where = f"seeds[{index}]"
        found = cloud_init.problems(where, item)
        if instance_id(item["name"]) is None:
            found.insert(0, f"{where}.name: {item['name']!r} is not 'compute-' and the instance's id of 8 hex digits, such as compute-af95e879.")
        return found

    def observe(self, items: list[Item]) -> dict[str, Found]:
        absent = self.params["state"] == "absent"
        found: dict[str, Found] = {}
        for name, seed in read_seeds(self.layout, {item["name"] for item in items}, absent).items():
            path = self.layout.seed(name)
            props = self._props(path, seed.image, f"{seed.access[0]:04o}") if seed.image else {"path": path, "unfinished": True}
            found[name] = Found(props, seed.owned, seed)
        return found

    observe_bare = observe  # reading needs no tool

    def _props(self, path: str, texts: dict[str, str], mode: str) -> Item:
        digests = {name: f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}" for name, text in texts.items()}
        return {"path": path, "instance_id": cloud_init.instance_id_of(texts.get("meta-data", "")), **digests, "mode": mode}

    def change(self, item: Item, have: Found | None) -> Change:
        name = item["name"]
        seed: Seed = have.raw if have else Seed()
        path, folder = self.layout.seed(name), self.layout.instance(name).folder
        kept = cloud_init.instance_id_of(seed.image.get("meta-data", "") or seed.files.get("meta-data", ""))
        wanted_id = item.get("instance_id") or kept or f"iid-{instance_id(name)}"
        texts = cloud_init.texts(item, wanted_id)
        steps: list[Step] = instance_folder_steps(folder, self.owner, not seed.files)
        reasons = [f"the folder {folder} has another mode or owner"] if steps and seed.files else []
        for text, file in paths_of(self.layout, name).items():
            if seed.files.get(text) != texts[text]:
                # User-data may hold a password's hash or what the user put there, in what was there before too: no diff shows it.
                steps.append(Write(file, texts[text], MODES[text], secret=text == "user-data"))
                reasons.append(f"{file} differs" if text in seed.files else f"{file} is missing")
            elif seed.modes.get(text) != MODES[text]:
                changed, why = access_steps(file, (seed.modes[text], 0, 0), MODES[text], "")
                steps += changed
                reasons += [f"{file}: {reason}" for reason in why]
        differing = [text for text in texts if seed.image.get(text) != texts[text]] + sorted(set(seed.image) - set(texts))
        if differing:
            steps += self._build(name)
            reasons += [f"{text} in the seed differs" for text in differing] if seed.image else []
        else:
            changed, why = access_steps(path, seed.access, SEED_MODE, self.owner)
            steps += changed
            reasons += why
            if seed.leftover:
                steps.append(Remove(unfinished(path)))
                reasons.append("an unfinished one was left over")
        creating = have is None or not seed.image
        change = Change(name, "create" if creating else "update" if steps else "none", have.props if have else None, steps=steps)
        change.reasons = [] if creating else reasons
        change.after = self._props(path, texts, f"{SEED_MODE:04o}")
        change.facts = {"path": path, "instance_id": wanted_id}
        self._say_when(change, item, seed, texts, differing)
        return change

    def _build(self, name: str) -> list[Step]:
        files, path = self.layout.instance(name), self.layout.seed(name)
        hidden = unfinished(path)
        argv = ("cloud-localds", f"--network-config={files.network_config}", hidden, files.user_data, files.meta_data)
        return [begin_file(path, SEED_MODE, self.owner), Build(argv, timeout=60, made=hidden), finish_step(path, replace=True)]

    def _say_when(self, change: Change, item: Item, seed: Seed, texts: dict[str, str], differing: list[str]) -> None:
        """Say when a guest takes up what has changed."""
        name = item["name"]
        if not item["ssh_keys"] and not item.get("password_hash") and item.get("user_data") is None:
            change.warnings.append(f"seed {name}: it has neither an SSH key nor a password, so nobody will be able to log in.")
        seen = seed.running if seed.running is not None else seed.image
        if not seen or (not differing and seed.running is None):
            return
        stale = [text for text in texts if seen.get(text) != texts[text]]
        at_boot = cloud_init.applies_network_at_boot(texts["user-data"])
        if seed.in_use and ("meta-data" in stale or ("network-config" in stale and at_boot)):
            change.restart_reason = (
                f"{' and '.join(text for text in stale if text != 'user-data')}: cloud-init reads the seed at boot, QEMU has the former one open"
            )
        new = cloud_init.instance_id_of(seen.get("meta-data", "")) != cloud_init.instance_id_of(texts["meta-data"])
        later = [text for text in stale if text == "user-data" or (text == "network-config" and not at_boot)]
        if differing and later and not new:
            change.warnings.append(
                f"seed {name}: {' and '.join(later)} take effect in a guest that has not booted yet; in one that has, cloud-init runs its first boot "
                "again only with another instance_id."
            )

    def remove(self, name: str, have: Found) -> Change:
        warnings = [f"seed {name} is in use by a running QEMU now; it is removed only once that has ended."] if have.raw.in_use else []
        return Change(name, "delete", have.props, None, removal_steps(self.layout, name), warnings=warnings)


def main() -> None:
    engine.main(SeedKind)


if __name__ == "__main__":
    main()
