# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""python3 -m lab up | down | status | images | ssh NODE [COMMAND…]"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from . import contain, forward, webserver
from .cluster import Cluster
from .host import LabError, environment, say
from .images import Image, build_images
from .recipes import RECIPES
from .settings import Settings


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m lab", description="Machines or containers to be the cloud's nodes."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="build the images if need be, start the nodes, wait for SSH")
    commands.add_parser("down", help="stop the nodes and remove their state; built images stay")
    commands.add_parser("status", help="what runs, and how to reach it; fails when something does not")
    images = commands.add_parser("images", help="only build the images")
    images.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)}; all when none is named")
    ssh = commands.add_parser("ssh", help="log in to a node, or run a command there")
    ssh.add_argument("node")
    ssh.add_argument("words", nargs=argparse.REMAINDER)
    # The lab's own processes in the background, started by up.
    serve = commands.add_parser("serve")
    serve.add_argument("directory", type=Path)
    serve.add_argument("address")
    serve.add_argument("port", type=int)
    serve.add_argument("pidfile", type=Path)
    leading = commands.add_parser("forward")
    leading.add_argument("namespace", type=Path)
    leading.add_argument("pidfile", type=Path)
    leading.add_argument("rules", nargs="+")
    node = commands.add_parser("contain")
    node.add_argument("--kvm", action="store_true")
    node.add_argument("prefix")
    node.add_argument("index", type=int)
    node.add_argument("directory", type=Path)
    node.add_argument("tree", type=Path)
    node.add_argument("pidfile", type=Path)
    return parser


def _checked(cluster: Cluster, names: list[str]) -> list[Image]:
    unknown = sorted(set(names) - set(RECIPES))
    if unknown:
        raise LabError(f"there is no image {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    return list(build_images(cluster.settings.cache, cluster.settings.distribution, tuple(names)).values())


def main() -> int:
    arguments = _arguments().parse_args()
    if arguments.command == "serve":
        webserver.serve(arguments.directory, arguments.address, arguments.port, arguments.pidfile)
        return 0
    if arguments.command == "forward":
        forward.forward(arguments.namespace, arguments.pidfile, arguments.rules)
        return 0
    if arguments.command == "contain":
        return contain.contain(
            arguments.prefix, arguments.index, arguments.directory, arguments.tree, arguments.pidfile, arguments.kvm
        )
    cluster = Cluster(Settings.from_environment())
    if arguments.command == "up":
        cluster.up()
    elif arguments.command == "down":
        cluster.down()
    elif arguments.command == "status":
        return 0 if cluster.status() else 1
    elif arguments.command == "images":
        for image in _checked(cluster, arguments.names):
            say(f"{image.name}: {image.path}")
    elif arguments.command == "ssh":
        port = cluster.ports().get(arguments.node)
        if port is None:
            raise LabError(f"no node {arguments.node} is up: `python3 -m lab status`")
        command = [*cluster.ssh_command(port), *arguments.words]
        os.execvpe(command[0], command, environment())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("lab: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
