#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Answers the image tests in Dom0, as root: one process for the questions that they ask by the hundred.

  xen_dmabuf_agent.py FOLDER

makes the FIFO FOLDER/requests and serves until it is ended; FOLDER is its working directory. A
request is one line of JSON, REPLY the name of a FIFO in FOLDER that the asking end has made and reads;
the answer there is [STATUS, OUTPUT]:

  [REPLY, "status"]                         the backend's state, as `xen-dmabuf-backend status --json`
  [REPLY, "domains"]                        the part of it that no worker is asked for: each domain, its worker, its
                                            devices
  [REPLY, "gone", SECONDS, DOMID, ...]      waits until neither Xen nor the backend has any of these
  [REPLY, "released", SECONDS, DOMID, ...]  the same for domains that end: another process writes FOLDER/end-DOMID when
                                            it has ended one ("status 0" is the last line), SECONDS later at most the
                                            domain is gone; OUTPUT is the longest time between both, in seconds
  [REPLY, "outputs"]                        Weston's: {NAME: [X, Y, WIDTH, HEIGHT]}, the size in pixels of the mode
  [REPLY, "worker", SECONDS, DOMID, OLD]    waits until the domain's worker is another process than OLD; OUTPUT is its
                                            number
  [REPLY, "console", TTY, SECONDS, COMMAND] a shell command in the DomU whose Xen console holds a root shell
  [REPLY, "boot", TTY, SECONDS, COMMAND]    the same as soon as that shell answers

TTY is the pseudo terminal that xenconsoled keeps for the domain: /local/domain/DOMID/console/tty in
XenStore. No network, no key, no agent in the DomU is needed. STATUS is the command's exit status, 125:
no answer in time, or no console. One request after the other. Why it stays: on an emulated machine
each process that is started takes its time from the domains that are waited for, Python half a second.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import sys
import termios
import time
import tty

from xen_dmabuf.cli.query import ask
from xen_dmabuf.errors import UserError
from xen_dmabuf.supervisor.xenstore import xen_binding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SOCKET = "/run/xen-dmabuf/control.sock"
WESTON = "/run/wayland-0"
NO_ANSWER = 125
ASK_AGAIN = 1.0
END_SECONDS = 90.0
READER_SECONDS = 5.0
PAUSE = 0.05
CURRENT = 1  # of wl_output.mode

xen = xen_binding("xc").xc()


def write(fd: int, text: bytes, end: float) -> bool:
    """Write to a terminal whose other end may have stopped reading; False if it takes no more in time."""
    while text:
        if not select.select([], [fd], [], max(0, end - time.monotonic()))[1]:
            return False
        text = text[os.write(fd, text) :]
    return True


def converse(fd: int, command: str, seconds: float) -> tuple[int, str] | None:
    """(status, output) of a command; None if there is no answer in time."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    line = f"echo BEGIN {mark}; {{ {command}\n}} 2>&1; s=$?; echo; echo END {mark} $s\n"
    # the terminal may echo what is written: there, no line ends after the first mark
    answer = re.compile(rf"BEGIN {mark}\r*\n(.*?)\r*\nEND {mark} (\d+)\r*\n".encode(), re.S)
    termios.tcflush(fd, termios.TCIFLUSH)
    seen, end = b"", time.monotonic() + seconds
    if not write(fd, line.encode(), end):
        return None
    while (left := end - time.monotonic()) > 0:
        if select.select([fd], [], [], left)[0]:
            seen += os.read(fd, 65536)
            if found := answer.search(seen):
                return int(found[2]), found[1].decode(errors="replace").replace("\r", "")
    return None


def console(path: str, seconds: float, command: str, boot: bool = False) -> tuple[int, str]:
    """A shell command in a DomU."""
    end = time.monotonic() + seconds
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            tty.setraw(fd)
            # what is written before the shell reads is lost
            while boot and not converse(fd, "true", ASK_AGAIN) and time.monotonic() < end:
                pass
            got = converse(fd, command, end - time.monotonic())
        finally:
            os.close(fd)
    except (OSError, termios.error) as error:
        return NO_ANSWER, f'console "{path}": {error}'
    return got or (NO_ANSWER, f'console "{path}": no answer in {seconds} s')


def boot(path: str, seconds: float, command: str) -> tuple[int, str]:
    """The same as soon as its shell answers."""
    return console(path, seconds, command, boot=True)


def backend(request: str) -> tuple[int, str]:
    """The backend's answer to a request."""
    try:
        return 0, json.dumps(ask(SOCKET, request))
    except UserError as error:
        return 2, str(error)


def alive(*domids: int) -> tuple[set[int], str]:
    """Which of these are in Xen or in the backend, and where, in words. Without the backend's answer: all.

    Xen itself is asked: `xl list` waits a second while a domain dies.
    """
    failed, text = backend("domains")
    known = set(domids) if failed else {entry["domid"] for entry in json.loads(text)["domains"]}
    in_xen = {info["domid"] for info in xen.domain_getinfo()}.intersection(domids)
    in_backend = known.intersection(domids)
    return in_xen | in_backend, f"in Xen {sorted(in_xen)}, in the backend {text if failed else sorted(in_backend)}"


def gone(seconds: float, *domids: int) -> tuple[int, str]:
    """Wait until the domains are neither in Xen nor in the backend."""
    end = time.monotonic() + seconds
    while True:
        left, where = alive(*domids)
        if not left:
            return 0, ""
        if time.monotonic() >= end:
            return 1, f"after {seconds} s: {where}"
        time.sleep(PAUSE)


def released(seconds: float, *domids: int) -> tuple[int, str]:
    """Wait until the domains' ends are complete and they are gone."""
    start = time.monotonic()
    ended: dict[int, float] = {}
    worst: dict[int, float] = {}
    while True:
        for domid in domids:
            if domid not in ended and os.path.exists(f"end-{domid}"):
                # it may have ended long before this question: then the longest that its release can have taken counts
                ended[domid] = time.monotonic() - max(0.0, time.time() - os.stat(f"end-{domid}").st_mtime)
                with open(f"end-{domid}", encoding="utf-8", errors="replace") as stream:
                    text = stream.read()
                if not text.endswith("status 0\n"):
                    return 1, f"the end of domain {domid}: {text}"
        left, where = alive(*domids)
        for domid in ended.keys() - left - worst.keys():
            worst[domid] = time.monotonic() - ended[domid]
        if len(worst) == len(domids):
            return 0, f"{max(worst.values()):.2f}"
        now = time.monotonic()
        if late := [d for d in domids if d not in ended and now - start > END_SECONDS]:
            return 1, f"the ends of {late} are not complete after {END_SECONDS:.0f} s: {where}"
        if late := [d for d in ended if d not in worst and now - ended[d] > seconds]:
            return 1, f"{late} are not gone {seconds} s after their end: {where}"
        time.sleep(PAUSE)


def worker(seconds: float, domid: int, old: int) -> tuple[int, str]:
    """Wait for a domain's next worker; meanwhile the service may not answer."""
    end = time.monotonic() + seconds
    while True:
        failed, text = backend("domains")
        if not failed:
            (pid,) = [entry["pid"] for entry in json.loads(text)["domains"] if entry["domid"] == domid] or [0]
            if pid not in (0, old):
                return 0, str(pid)
        if time.monotonic() >= end:
            return 1, f"after {seconds} s: {text}"
        time.sleep(PAUSE)


def outputs() -> tuple[int, str]:
    """Name, place and size of Weston's outputs, by the binding that the workers have."""
    from xen_dmabuf.worker.protocols import Display, WlOutput

    display = Display(WESTON)
    display.connect()
    try:
        registry = display.get_registry()
        bound: list[Output] = []

        def offered(_registry: object, number: int, interface: str, version: int) -> None:
            if interface == "wl_output":
                bound.append(Output(registry.bind(number, WlOutput, min(version, WlOutput.version))))

        registry.dispatcher["global"] = offered
        display.roundtrip()
        display.roundtrip()
        return 0, json.dumps({output.name: [*output.place, *output.size] for output in bound})
    finally:
        display.disconnect()


class Output:
    """What a wl_output says of itself."""

    def __init__(self, proxy: Any) -> None:
        self.proxy, self.name, self.place, self.size = proxy, "", (0, 0), (0, 0)
        for event in ("geometry", "mode", "name"):
            proxy.dispatcher[event] = getattr(self, f"_{event}")

    def _geometry(self, _proxy: object, x: int, y: int, *_rest: object) -> None:
        self.place = x, y

    def _mode(self, _proxy: object, flags: int, width: int, height: int, _refresh: int) -> None:
        if flags & CURRENT:
            self.size = width, height

    def _name(self, _proxy: object, name: str) -> None:
        self.name = name


ANSWERS: dict[str, Callable[..., tuple[int, str]]] = {
    "status": lambda: backend("status"),
    "domains": lambda: backend("domains"),
    "outputs": outputs,
    "gone": gone,
    "released": released,
    "worker": worker,
    "console": console,
    "boot": boot,
}


def reader(path: str) -> int | None:
    """The open FIFO, as soon as somebody reads it; None if nobody does: the asking end has been ended."""
    end = time.monotonic() + READER_SECONDS
    while time.monotonic() < end:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            time.sleep(0.002)
    return None


def reply(path: str, got: tuple[int, str]) -> None:
    """Write an answer and remove its FIFO."""
    try:
        fd = reader(path)
        os.unlink(path)
        if fd is not None:
            os.set_blocking(fd, True)
            with open(fd, "w", encoding="utf-8") as stream:
                stream.write(json.dumps(got) + "\n")
    except OSError as error:
        print(f"{path}: {error}", file=sys.stderr)


def main(folder: str) -> None:
    """Serve."""
    os.chdir(folder)
    os.mkfifo("requests", 0o600)
    # open for writing as well: no end of file between two that ask
    with open(os.open("requests", os.O_RDWR), encoding="utf-8") as lines:
        for line in lines:
            name, *words = json.loads(line)
            try:
                what, *words = words
                got = ANSWERS[what](*words)
            except Exception as error:  # a wrong request; the next one may be right
                got = 1, f"{line}: {error!r}"
            reply(name, got)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
