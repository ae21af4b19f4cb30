"""python3 -m lab up | down | status | images | ssh NODE [COMMAND…]"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from . import webserver
from .cluster import Cluster
from .host import LabError, environment, say
from .images import build_images
from .settings import Settings


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m lab", description="Two QEMU machines to be the cloud's nodes.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="build the images if need be, start the nodes, wait for SSH")
    commands.add_parser("down", help="stop the nodes and remove their state; built images stay")
    commands.add_parser("status", help="what runs, and how to reach it; fails when something does not")
    commands.add_parser("images", help="only build the images")
    ssh = commands.add_parser("ssh", help="log in to a node, or run a command there")
    ssh.add_argument("node")
    ssh.add_argument("words", nargs=argparse.REMAINDER)
    serve = commands.add_parser("serve", help="the image server's own process, started by up")
    serve.add_argument("directory", type=Path)
    serve.add_argument("port", type=int)
    serve.add_argument("pidfile", type=Path)
    return parser


def main() -> int:
    arguments = _arguments().parse_args()
    if arguments.command == "serve":
        webserver.serve(arguments.directory, arguments.port, arguments.pidfile)
        return 0
    cluster = Cluster(Settings.from_environment())
    if arguments.command == "up":
        cluster.up()
    elif arguments.command == "down":
        cluster.down()
    elif arguments.command == "status":
        return 0 if cluster.status() else 1
    elif arguments.command == "images":
        for image in build_images(cluster.settings.cache).values():
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
