# SPDX-License-Identifier: MIT
"""A real Weston without a display, and the process edge that is faked.

Faked are what a machine without Xen can't have: /dev/xen/gntdev's and evtchn's ioctls (FakeXen
answers for _sys with memory of this process as the DomU's pages) and xenstored (FakeStore). All
above those edges is the code that runs in Dom0, and the compositor is real.
"""

from __future__ import annotations

import array
import errno
import mmap
import os
import socket
import struct
import subprocess

import pytest
from waiting import wait_until

from xen_dmabuf import _sys
from xen_dmabuf.errors import oserror

PAGE = _sys.PAGE_SIZE


class Weston:
    """A headless Weston on its own socket; start() and stop() may be repeated."""

    def __init__(self, directory, options: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.socket = str(directory / "wayland-test")
        self._options = options
        self._process: subprocess.Popen | None = None

    def _version(self) -> int:
        text = subprocess.run(["weston", "--version"], capture_output=True, text=True, check=True)
        return int(text.stdout.split()[1].split(".")[0])

    def start(self) -> None:
        renderer = ("--renderer=pixman",) if self._version() >= 13 else ("--use-pixman",)
        backend = "headless" if self._version() >= 13 else "headless-backend.so"
        with open(self.directory / "weston.log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    "weston",
                    f"--backend={backend}",
                    *renderer,
                    "--width=640",
                    "--height=480",
                    "--no-config",
                    "--socket=wayland-test",
                    *self._options,
                ],
                env=os.environ | {"XDG_RUNTIME_DIR": str(self.directory)},
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, f"Weston's socket, see {self.directory}/weston.log", 20)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(self.socket)
            except OSError:
                return False
        return True

    def log(self) -> str:
        return (self.directory / "weston.log").read_text(errors="replace")

    def stop(self, signal: int = 15) -> None:
        if self._process:
            self._process.send_signal(signal)
            self._process.wait(10)
            self._process = None


class FakeMapping:
    """Like _sys.GrantMapping, over consecutive pages of the fake DomU's memory."""

    def __init__(self, xen: FakeXen, refs: list[int], writable: bool) -> None:
        if any(ref not in xen.granted for ref in refs):
            raise oserror(errno.EINVAL, _sys.GNTDEV)
        assert refs == list(range(refs[0], refs[0] + len(refs))), "the fake maps consecutive pages"
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        size = len(refs) * PAGE
        self.map = mmap.mmap(xen.memory, size, prot=protection, offset=refs[0] * PAGE)
        self._xen = xen
        self._count = len(refs)
        xen.mapped += self._count

    def close(self) -> None:
        if self._count:
            self.map.close()
            self._xen.mapped -= self._count
            self._count = 0


class FakeXen:
    """A DomU's memory (grant reference n is page n) and its event channels.

    ``mapped`` counts the pages that the backend has mapped, ``bound`` its event channels.
    """

    PAGES = 4096

    def __init__(self) -> None:
        self.memory = os.memfd_create("domu")
        os.ftruncate(self.memory, self.PAGES * PAGE)
        self.mapped = 0
        self.granted = range(1, self.PAGES)
        self.bound: dict[int, int] = {}
        self.notified: list[int] = []
        self._masked: dict[int, bool] = {}
        self.delivered = 0
        self._free = 1
        self._ports = iter(range(1000, 100000))
        self._remote_ports = iter(range(10, 1000))
        self.device, self._events = socket.socketpair()

    def close(self) -> None:
        os.close(self.memory)
        self.device.close()
        self._events.close()

    def allocate(self, pages: int) -> list[int]:
        """So many fresh pages' grant references."""
        first, self._free = self._free, self._free + pages
        assert self._free <= self.PAGES
        return list(range(first, self._free))

    def new_port(self) -> int:
        """An event channel of the DomU's that nobody has bound yet."""
        return next(self._remote_ports)

    def page(self, ref: int) -> mmap.mmap:
        """The DomU's own view of a page."""
        return mmap.mmap(self.memory, PAGE, offset=ref * PAGE)

    def write_words(self, ref: int, words: list[int]) -> None:
        with self.page(ref) as page:
            data = array.array("I", words).tobytes()
            page[: len(data)] = data

    def kick(self, remote_port: int) -> None:
        """The DomU notifies the backend; as in evtchn.c a port fires once until it is unmasked."""
        local = next(local for local, remote in self.bound.items() if remote == remote_port)
        if local in self._masked:
            self._masked[local] = True
            return
        self._masked[local] = False
        self.delivered += 1
        self._events.send(struct.pack("@I", local))

    def _unmask(self, _fd: int, port: int) -> None:
        if self._masked.pop(port, False):
            self.kick(self.bound[port])

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name, value in {
            "open_device": self._open,
            "gntdev_map": lambda _fd, _domid, refs, writable: FakeMapping(self, refs, writable),
            "gntdev_map_to_buf": self._refuse,
            "gntdev_export": self._refuse,
            "evtchn_bind": self._bind,
            "evtchn_unbind": lambda _fd, port: self.bound.pop(port),
            "evtchn_notify": lambda _fd, port: self.notified.append(self.bound[port]),
            "evtchn_unmask": self._unmask,
            "evtchn_restrict": lambda _fd, _domid: None,
        }.items():
            patch.setattr(_sys, name, value)

    def _open(self, path: str) -> int:
        return os.dup(self.device.fileno() if path == _sys.EVTCHN else self.memory)

    def _refuse(self, *_arguments) -> int:
        raise oserror(errno.ENOTTY, _sys.GNTDEV)

    def _bind(self, _fd: int, _domid: int, port: int) -> int:
        if port in self.bound.values():
            raise oserror(errno.EINVAL, _sys.EVTCHN)
        local = next(self._ports)
        self.bound[local] = port
        return local
