#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs a shell command in a DomU whose Xen console holds a root shell; in Dom0, as root.

  xen_dmabuf_console.py TTY SECONDS COMMAND           print its output, end with its status
  xen_dmabuf_console.py --boot TTY SECONDS COMMAND    wait until the shell answers, then the same

TTY is the pseudo terminal that xenconsoled keeps for the domain: /local/domain/DOMID/console/tty in
XenStore. No network, no key, no agent in the DomU is needed. Exit status 125: no answer in time, or
no console. Few imports: it is started for every single command.
"""

import os
import re
import select
import sys
import termios
import time
import tty

NO_ANSWER = 125
ASK_AGAIN = 1.0


def open_console(path: str) -> int:
    """The terminal, raw."""
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(fd)
    return fd


def converse(fd: int, command: str, seconds: float) -> tuple[int, str] | None:
    """(status, output) of a command; None if there is no answer in time."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    line = f"echo BEGIN {mark}; {{ {command}\n}} 2>&1; s=$?; echo; echo END {mark} $s\n"
    # the terminal may echo what is written: there, no line ends after the first mark
    answer = re.compile(rf"BEGIN {mark}\r*\n(.*?)\r*\nEND {mark} (\d+)\r*\n".encode(), re.S)
    termios.tcflush(fd, termios.TCIFLUSH)
    os.write(fd, line.encode())
    seen, end = b"", time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([fd], [], [], left)[0]:
            seen += os.read(fd, 65536)
            if found := answer.search(seen):
                return int(found[2]), found[1].decode(errors="replace").replace("\r", "")
    return None


def main(arguments: list[str]) -> int:
    """Command line."""
    boot = arguments[:1] == ["--boot"]
    if len(arguments) != 3 + boot:
        print(__doc__, file=sys.stderr)
        return 2
    path, seconds, command = arguments[boot:]
    end = time.monotonic() + float(seconds)
    try:
        fd = open_console(path)
        # what is written before the shell reads is lost
        while boot and not converse(fd, "true", ASK_AGAIN) and time.monotonic() < end:
            pass
        got = converse(fd, command, end - time.monotonic())
    except OSError as error:
        print(f'console "{path}": {error}', file=sys.stderr)
        return NO_ANSWER
    if got is None:
        print(f'console "{path}": no answer in {seconds} s', file=sys.stderr)
        return NO_ANSWER
    print(got[1], end="" if got[1].endswith("\n") or not got[1] else "\n")
    return got[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
