# Copyright (c) 2026, the ikcloud.compute authors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scripts ``run/console``, ``run/vnc`` and ``run/qmp``, by which a person sees an instance's guest and asks its
QEMU. They take nothing but python3.

They are root's, and root may run them: what stands in the instances' folders, which are QEMU's user's, is neither run
nor believed.
"""

from __future__ import annotations

from .._core.layout import Layout
from .._core.names import OWNER

# What the paths of the sockets begin with that lead to screens.
_SCREENS = "/run/ikcloud-compute-vnc-"
# How all of them find an instance: by a name that its id fits, or that root has written down, and by its id.
_FIND = r"""
INSTANCES = "%(instances)s"


def read(path, flags=0):
    # A link is not followed, a pipe not waited for.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    try:
        return os.read(handle, 512).decode("utf-8", "replace") if stat.S_ISREG(os.fstat(handle).st_mode) else ""
    finally:
        os.close(handle)


def named(folder):
    try:
        return read(os.path.join(INSTANCES, folder + ".name")).strip()
    except OSError:
        pass
    try:
        start = read(os.path.join(INSTANCES, folder, "start"), os.O_NOFOLLOW)
    except OSError:
        return ""
    match = re.match(r"#!/bin/sh\n# %(pattern)s instance ([a-z0-9-]+)\n", start)
    # QEMU's user writes there, who could claim to be another one.
    fits = match and "compute-" + hashlib.sha256(("instance/" + match.group(1)).encode()).hexdigest()[:8] == folder
    return match.group(1) if fits else ""


def find(name, usage):
    # Folders are root's to make.
    folders = [folder for folder in sorted(os.listdir(INSTANCES)) if re.fullmatch("compute-[0-9a-f]{8}", folder)]
    names = {named(folder): folder for folder in folders}
    names.pop("", None)
    by_id = (folder for folder in folders if name and folder in (name, "compute-" + name))
    folder = names.get(name) or next(by_id, None)
    if folder is None:
        wrong = "No instance %%s. " %% ascii(name)[1:-1] if name else ""
        sys.exit("%%s%%s. There is: %%s." %% (wrong, usage, ", ".join(sorted(names)) or "none"))
    return os.path.join(INSTANCES, folder)


def connect(path, owner=None):
    # The very file that was looked at: a link could lead to anybody's.
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        entry = os.fstat(handle)
        if not stat.S_ISSOCK(entry.st_mode):
            sys.exit("%%s is not a socket." %% path)
        if owner not in (None, entry.st_uid):
            sys.exit("%%s belongs to somebody else than the folder that it is in." %% path)
        client = socket.socket(socket.AF_UNIX)
        # Else whoever has the queue full and takes nobody out of it has us wait for ever.
        client.settimeout(30)
        client.connect("/proc/self/fd/%%d" %% handle)
        client.settimeout(None)
        return client
    except BlockingIOError:
        sys.exit("%%s: so many wait there for an answer that nobody else can." %% path)
    finally:
        os.close(handle)
"""

_CONSOLE = r"""#!/usr/bin/python3 -I
# %(owner)s: joins this terminal to the serial console of an instance, or shows what that has said.
# Usage: console NAME          Ctrl-] leaves; without a name, or with a wrong one, it says which there are
#        console --log NAME    the end of what it has said, and what it goes on to say; Ctrl-C leaves
import hashlib
import os
import re
import select
import socket
import stat
import sys
import termios
import time
import tty
%(find)s

LEAVE = b"\x1d"  # Ctrl-]
END = 16384


def join(console):
    # Both ways, until the guest's end, ours or Ctrl-].
    terminal = sys.stdin.fileno()
    while True:
        ready = select.select([terminal, console], [], [])[0]
        if console in ready:
            said = console.recv(65536)
            if not said:
                return "The instance has ended."
            os.write(sys.stdout.fileno(), said)
        if terminal in ready:
            typed = os.read(terminal, 4096)
            before, leave, _after = typed.partition(LEAVE)
            console.sendall(before)
            if leave or not typed:
                return "Left the console."


def plain(said):
    # What would move the cursor, or more, is left out.
    text = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", said.decode("utf-8", "replace"))
    return "".join(letter for letter in text if letter in "\n\t" or letter.isprintable())


def follow(path):
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        sys.exit("%%s: %%s" %% (path, error.strerror))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        sys.exit("%%s is no plain file." %% path)
    place = max(0, os.fstat(handle).st_size - END)
    while True:
        said = os.pread(handle, 65536, place)
        place += len(said)
        sys.stdout.write(plain(said))
        sys.stdout.flush()
        if not said:
            # A timer cuts it to its end now and then.
            place = min(place, os.fstat(handle).st_size)
            time.sleep(0.3)


def main():
    words = [word for word in sys.argv[1:] if word != "--log"]
    folder = find(words[0] if len(words) == 1 else "", "Usage: console [--log] NAME")
    if "--log" in sys.argv[1:]:
        try:
            follow(os.path.join(folder, "console.log"))
        except (KeyboardInterrupt, BrokenPipeError):
            return
    path = os.path.join(folder, "console.sock")
    try:
        console = connect(path)
    except OSError as error:
        sys.exit("%%s does not run: %%s: %%s" %% (words[0], path, error.strerror))
    print("Joined %%s. Ctrl-] leaves." %% words[0], end=" ")
    print("Nothing to see? Press Enter; only one at a time can be here.", flush=True)
    former = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
    try:
        if former:
            tty.setraw(sys.stdin)
        said = join(console)
    finally:
        if former:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, former)
    print("\r\n" + said)


main()
"""

_VNC = r"""#!/usr/bin/python3 -I
# %(owner)s: has a socket of root's lead to the screen of an instance (VNC), for as long as this runs; Ctrl-C leaves.
# Usage, on the machine with the VNC viewer, which is then told localhost:5901:
#        ssh -t -L 5901:%(screens)sID.sock root@NODE %(root)s/run/vnc NAME
# With 8 hex digits for ID, those of its folder compute-ID. Without a name, or with a wrong one, it says which names
# there are.
import hashlib
import os
import re
import select
import signal
import socket
import stat
import sys
import threading
%(find)s

# Nobody but root can put anything there.
SCREENS = "%(screens)s"


def pump(source, sink):
    try:
        while True:
            said = source.recv(65536)
            if not said:
                break
            sink.sendall(said)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def relay(viewer, folder):
    try:
        with viewer, screen(folder) as qemu:
            back = threading.Thread(target=pump, args=(qemu, viewer), daemon=True)
            back.start()
            pump(viewer, qemu)
            back.join()
    except (OSError, SystemExit) as error:
        print("%%s\r" %% error, file=sys.stderr, flush=True)


def screen(folder):
    # QEMU's user made the folder's sockets; another owner's is a trap.
    return connect(os.path.join(folder, "vnc.sock"), os.stat(folder).st_uid)


def serve(listener, folder):
    while True:
        ready = select.select([listener, sys.stdin], [], [])[0]
        if listener in ready:
            threading.Thread(target=relay, args=(listener.accept()[0], folder), daemon=True).start()
        # Its end is that of the SSH session, also without a terminal.
        if sys.stdin in ready and not os.read(sys.stdin.fileno(), 4096):
            return


def leave(number, frame):
    raise KeyboardInterrupt


def main():
    words = sys.argv[1:]
    folder = find(words[0] if len(words) == 1 else "", "Usage: vnc NAME")
    try:
        screen(folder).close()
    except OSError as error:
        sys.exit("%%s does not run, or has no screen: %%s/vnc.sock: %%s" %% (words[0], folder, error.strerror))
    path = SCREENS + os.path.basename(folder)[len("compute-"):] + ".sock"
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, leave)
    os.umask(0o177)
    listener = socket.socket(socket.AF_UNIX)
    # Whoever has asked last has it; what one that was killed left is replaced too.
    if os.path.lexists(path):
        os.unlink(path)
    listener.bind(path)
    listener.listen()
    mine = os.lstat(path).st_ino
    try:
        print("The screen of %%s is at %%s. Ctrl-C leaves." %% (words[0], path), flush=True)
        serve(listener, folder)
    except KeyboardInterrupt:
        pass
    finally:
        if os.path.lexists(path) and os.lstat(path).st_ino == mine:
            os.unlink(path)


main()
"""

_QMP = r"""#!/usr/bin/python3 -I
# %(owner)s: has the QEMU of an instance do one command of its control protocol (QMP), and prints the answer.
# Usage: qmp NAME COMMAND ['{"argument": "value"}']    such as: qmp web-1 query-status
import hashlib
import json
import os
import re
import socket
import stat
import sys
import time
%(find)s

USAGE = "Usage: qmp NAME COMMAND [ARGUMENTS as JSON]"
# Bytes and seconds that all answers may take.
LONGEST, LIMIT = 1 << 24, 30


def refuse(word):
    raise ValueError(word)


class Monitor:
    def __init__(self, client):
        self.client, self.rest, self.left, self.until = client, b"", LONGEST, time.monotonic() + LIMIT

    def heard(self, wanted):
        # What QEMU had to say to the client before us may come first, the rest of a line too.
        while True:
            line, end, rest = self.rest.partition(b"\n")
            if end:
                self.rest = rest
                try:
                    answer = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(answer, dict) and wanted(answer):
                    return answer
                continue
            seconds = self.until - time.monotonic()
            if seconds <= 0 or self.left <= 0:
                raise ValueError("no answer that can be used")
            self.client.settimeout(seconds)
            said = self.client.recv(65536)
            if not said:
                raise ValueError("QEMU closed it in the middle of the conversation")
            self.left -= len(said)
            self.rest += said

    def execute(self, message):
        self.client.sendall(json.dumps({**message, "id": os.getpid()}).encode() + b"\n")
        return self.heard(lambda answer: answer.get("id") == os.getpid())


def main():
    words = sys.argv[1:]
    folder = find(words[0] if len(words) in (2, 3) else "", USAGE)
    try:
        arguments = {"arguments": json.loads(words[2], parse_constant=refuse)} if words[2:] else {}
        message = {"execute": words[1], **arguments}
    except ValueError:
        sys.exit("qmp: the arguments are not JSON: " + words[2])
    path = os.path.join(folder, "qmp.sock")
    try:
        monitor = Monitor(connect(path))
        monitor.heard(lambda answer: "QMP" in answer)
        monitor.execute({"execute": "qmp_capabilities"})
        answer = monitor.execute(message)
        text = json.dumps(answer.get("return"), indent=2)
    except (OSError, ValueError, RecursionError) as error:
        sys.exit("%%s: %%s" %% (path, error))
    if "return" not in answer:
        sys.exit("QEMU refused %%s: %%s" %% (words[1], json.dumps(answer.get("error"))))
    print(text)


main()
"""


def console_script(layout: Layout) -> str:
    """Give the path of ``run/console``."""
    return f"{layout.root}/run/console"


def vnc_script(layout: Layout) -> str:
    """Give the path of ``run/vnc``."""
    return f"{layout.root}/run/vnc"


def screen_socket(identifier: str) -> str:
    """Give the path of the socket, root's, that ``run/vnc`` makes."""
    return f"{_SCREENS}{identifier}.sock"


def vnc_text(layout: Layout) -> str:
    """Give the text of ``run/vnc``."""
    return _VNC % _words(layout)


def qmp_path(layout: Layout) -> str:
    """Give the path of ``run/qmp``."""
    return f"{layout.root}/run/qmp"


def console_text(layout: Layout) -> str:
    """Give the text of ``run/console``."""
    return _CONSOLE % _words(layout)


def qmp_text(layout: Layout) -> str:
    """Give the text of ``run/qmp``."""
    return _QMP % _words(layout)


def _words(layout: Layout) -> dict[str, str]:
    words = {
        "owner": OWNER,
        "pattern": OWNER.replace(".", r"\."),
        "instances": layout.instances,
        "root": layout.root,
        "screens": _SCREENS,
    }
    return {**words, "find": (_FIND % words).rstrip("\n")}
