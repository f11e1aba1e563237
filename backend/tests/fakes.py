# SPDX-License-Identifier: MIT
"""A real Weston without a display, and the process edge that is faked.

Faked are what a machine without Xen can't have: the ioctls of /dev/xen/gntdev and evtchn (FakeXen
answers them with memory of this process as the DomU's pages) and xenstored (FakeStore). All above
those edges is the code that runs in Dom0, and the compositor is real.
"""

from __future__ import annotations

import array
import errno
import itertools
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Callable

import pytest
from waiting import wait_until

from xen_dmabuf.errors import oserror
from xen_dmabuf.linux import ioctl
from xen_dmabuf.pump import loop
from xen_dmabuf.xen import evtchn, gntdev
from xen_dmabuf.xen.evtchn import Evtchn
from xen_dmabuf.xen.gntdev import PAGE_SIZE as PAGE


class Weston:
    """A headless Weston on its own socket; start() and stop() may be repeated."""

    def __init__(self, directory, options: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.socket = str(directory / "wayland-test")
        self._options = options
        self._process: subprocess.Popen | None = None

    @property
    def version(self) -> int:
        text = subprocess.run(["weston", "--version"], capture_output=True, text=True, check=True)
        return int(text.stdout.split()[1].split(".")[0])

    def start(self) -> None:
        renderer = ("--renderer=pixman",) if self.version >= 13 else ("--use-pixman",)
        backend = "headless" if self.version >= 13 else "headless-backend.so"
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

    def freeze(self) -> None:
        """It answers nothing, as a compositor that hangs, until thaw() or stop()."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process:
            self._process.send_signal(signal.SIGCONT)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process:
            self.thaw()
            self._process.send_signal(number)
            self._process.wait(10)
            self._process = None


def _has_readers(pipe: int) -> bool:
    """Whether anybody has the reading end of a pipe, given its writing end."""
    poll = select.poll()
    poll.register(pipe, 0)
    return not poll.poll(0)


class FakeXen:
    """A DomU's memory (grant reference n is page n) and its event channels.

    ``mapped`` counts the pages that the backend has mapped, ``exported`` those of dma-bufs that
    anybody still has (there are such only if ``exports``), ``bound`` names its event channels.
    """

    PAGES = 4096

    def __init__(self) -> None:
        self.memory = os.memfd_create("domu")
        os.ftruncate(self.memory, self.PAGES * PAGE)
        self.granted = range(1, self.PAGES)
        self.exports = False
        self.notified: list[int] = []
        self.delivered = 0
        self._mappings: dict[tuple[int, int], int] = {}
        self._exported: dict[tuple[int, int], tuple[int, int]] = {}
        self._channels: dict[int, tuple[int, socket.socket]] = {}
        self._masked: dict[int, bool] = {}
        self._events: dict[int, socket.socket] = {}
        self._free = 1
        self._files = itertools.count(1)
        self._ports = iter(range(1000, 100000))
        self._remote_ports = iter(range(10, 1000))
        self._ioctls = {
            gntdev._MAP_GRANT_REF: self._map,
            gntdev._UNMAP_GRANT_REF: self._unmap,
            gntdev._EXP_FROM_REFS: self._export,
            gntdev._EXP_WAIT_RELEASED: self._export_wait,
            evtchn._RESTRICT_DOMID: lambda _fd, _argument: 0,
            evtchn._BIND_INTERDOMAIN: self._bind,
            evtchn._UNBIND: self._unbind,
            evtchn._NOTIFY: self._notify,
        }

    def close(self) -> None:
        os.close(self.memory)
        for events in self._events.values():
            events.close()
        for _pages, pipe in self._exported.values():
            os.close(pipe)

    # -- the DomU's side

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
        self._channels[local][1].send(struct.pack("@I", local))

    # -- what the backend has

    @property
    def mapped(self) -> int:
        return sum(self._mappings.values())

    @property
    def exported(self) -> int:
        return sum(pages for pages, pipe in self._exported.values() if _has_readers(pipe))

    @property
    def bound(self) -> dict[int, int]:
        """Local to remote ports, of the evtchn files that somebody has."""
        return {
            local: remote
            for local, (remote, events) in self._channels.items()
            if not select.select([events], [], [], 0)[0]
        }

    def process_ends(self) -> None:
        """The kernel unmaps what a process had; files live on where others have them, too."""
        self._mappings.clear()

    # -- the devices

    def install(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(ioctl, "open_device", self._open)
        patch.setattr(ioctl, "call", self._call)
        patch.setattr(Evtchn, "unmask", lambda _, port: self._unmask(port))

    def install_pump(self, patch: pytest.MonkeyPatch) -> None:
        """C's ioctls, too. What they are given is of evtchn's, and never more than one file in a test."""

        def port_function(call: Callable[[int], None]) -> object:
            @loop.ffi.callback("port_function")
            def function(_fd: int, port: int) -> int:
                try:
                    call(port)
                except OSError:
                    return -1
                return 0

            return function

        patch.setattr(loop, "notify", port_function(lambda port: self._notify(-1, bytearray(struct.pack("@I", port)))))
        patch.setattr(loop, "unmask", port_function(self._unmask))

    def _open(self, path: str) -> int:
        if path == evtchn.PATH:
            ours, theirs = socket.socketpair()
            self._events[os.fstat(theirs.fileno()).st_ino] = ours
            return theirs.detach()
        assert path == gntdev.PATH, path
        fd = os.open(f"/proc/self/fd/{self.memory}", os.O_RDWR | os.O_CLOEXEC)
        os.lseek(fd, next(self._files), os.SEEK_SET)  # tells the open files apart
        return fd

    def _call(self, fd: int, request: int, argument: bytearray, path: str) -> int:
        if request not in self._ioctls:
            raise oserror(errno.ENOTTY, path)
        os.fstat(fd)  # EBADF
        try:
            return self._ioctls[request](fd, argument)
        except OSError as error:
            raise oserror(error.errno or errno.EIO, path) from None

    def _granted(self, refs: list[int]) -> None:
        if any(ref not in self.granted for ref in refs):
            raise OSError(errno.EINVAL, "not granted")
        assert refs == list(range(refs[0], refs[0] + len(refs))), "the fake has consecutive pages"

    def _map(self, fd: int, argument: bytearray) -> int:
        words = array.array("I", bytes(argument[16:]))
        refs = words[1::2].tolist()
        self._granted(refs)
        struct.pack_into("@Q", argument, 8, refs[0] * PAGE)
        self._mappings[next(self._files), refs[0] * PAGE] = len(refs)
        return 0

    def _unmap(self, _fd: int, argument: bytearray) -> int:
        index, count = struct.unpack_from("@QI", argument)
        for key, pages in self._mappings.items():
            if key[1] == index and pages == count:
                del self._mappings[key]
                return 0
        raise OSError(errno.ENOENT, "not mapped")

    def _export(self, fd: int, argument: bytearray) -> int:
        if not self.exports:
            raise OSError(errno.ENOTTY, "no dma-bufs")
        refs = array.array("I", bytes(argument[16:])).tolist()
        self._granted(refs)
        dmabuf, pipe = os.pipe()
        struct.pack_into("@I", argument, 8, dmabuf)
        self._exported[os.lseek(fd, 0, os.SEEK_CUR), dmabuf] = (len(refs), pipe)
        return 0

    def _export_wait(self, fd: int, argument: bytearray) -> int:
        (number,) = struct.unpack_from("@I", argument)
        key = os.lseek(fd, 0, os.SEEK_CUR), number
        if key not in self._exported:
            raise OSError(errno.ENOENT, "no such dma-buf")
        if _has_readers(self._exported[key][1]):
            raise OSError(errno.ETIMEDOUT, "somebody has it")
        os.close(self._exported.pop(key)[1])
        return 0

    def _bind(self, fd: int, argument: bytearray) -> int:
        _domid, port = struct.unpack("@II", argument)
        if port in self.bound.values():
            raise OSError(errno.EINVAL, "bound already")
        local = next(self._ports)
        self._channels[local] = (port, self._events[os.fstat(fd).st_ino])
        return local

    def _unbind(self, _fd: int, argument: bytearray) -> int:
        (port,) = struct.unpack("@I", argument)
        if port not in self._channels:
            raise OSError(errno.ENOTCONN, "not bound")
        del self._channels[port]
        self._masked.pop(port, None)
        return 0

    def _notify(self, _fd: int, argument: bytearray) -> int:
        (port,) = struct.unpack("@I", argument)
        if port not in self._channels:
            raise OSError(errno.ENOTCONN, "not bound")
        self.notified.append(self._channels[port][0])
        return 0

    def _unmask(self, port: int) -> None:
        if self._masked.pop(port, False):
            self.kick(self._channels[port][0])
