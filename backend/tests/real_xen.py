# SPDX-License-Identifier: MIT
"""What a frontend on real Xen has: pages and event channels to give away, and its device's nodes.

The domain is the one that this runs in. In Dom0 devices are made here, as the toolstack makes them
(a loopback: Dom0 is its own frontend); in a DomU they are those that `xl create` made, and the
kernel's driver gives them up for as long as kernel_frontend_off() lasts. Needs /dev/xen/gntalloc.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import itertools
import mmap
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from frontend import PAGE, Frontend
from waiting import wait_until

from xen_dmabuf.cli.query import ask
from xen_dmabuf.config import Config
from xen_dmabuf.linux import ioctl
from xen_dmabuf.supervisor.xenstore import XenStore
from xen_dmabuf.xen.evtchn import Evtchn

_ALLOC_GREF = ioctl.number(ioctl.NONE, "G", 5, 24)
_WRITABLE = 1
_BIND_UNBOUND = ioctl.number(ioctl.NONE, "E", 2, 4)
_DRIVER = Path("/sys/bus/xen/drivers/vdispl")


def _own_domid() -> int:
    store = XenStore()
    try:
        return int(store.read("domid") or 0)
    finally:
        store.close()


DOMID = _own_domid()
IN_DOM0 = DOMID == 0
SOMEBODY = DOMID - 1 if DOMID > 1 else DOMID + 1
"""Neither this domain nor Dom0; whether it exists doesn't matter."""
GIVEN_BACK = (0,) if IN_DOM0 else (0, -errno.ETIMEDOUT)
"""Answers to an honest DBUF_DESTROY: beside another DomU that flips, a slow machine's compositor
may need more than the backend's bounded wait; Dom0 sees then whether the pages come back."""
_FRONTS = f"/local/domain/{DOMID}/device/vdispl"


def kill_within(frontend: Callable[[], contextlib.AbstractContextManager[object]]) -> None:
    """A frontend in another process is killed once it has come into the context."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with frontend():
                os.write(writer, b"there")
                signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    there = os.read(reader, 5)
    os.close(reader)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert there == b"there", "the frontend didn't come so far"


class Skip(Exception):
    """A case that can't be asked in this domain; the text is the reason."""


def only_dom0(reason: str) -> None:
    if not IN_DOM0:
        raise Skip(reason)


class RealXen:
    """Pages granted by gntalloc and event channels to bind, to Dom0 unless a domain is named."""

    def __init__(self) -> None:
        self._gntalloc = ioctl.open_device("/dev/xen/gntalloc")
        self._evtchn = Evtchn(0)  # not restricted: ports for any domain
        self._pages: dict[int, mmap.mmap] = {}

    def close(self) -> None:
        for page in self._pages.values():
            with contextlib.suppress(BufferError):
                page.close()
        self._evtchn.close()
        os.close(self._gntalloc)

    def allocate(self, pages: int, domid: int = 0, *, writable: bool = True) -> list[int]:
        flags = _WRITABLE if writable else 0
        argument = bytearray(struct.pack("@HHIQ", domid, flags, pages, 0) + bytes(4 * pages + 4))
        fcntl.ioctl(self._gntalloc, _ALLOC_GREF, argument)
        (index,) = struct.unpack_from("@Q", argument, 8)
        refs = array.array("I", argument[16 : 16 + 4 * pages]).tolist()
        for number, ref in enumerate(refs):
            self._pages[ref] = mmap.mmap(self._gntalloc, PAGE, offset=index + number * PAGE)
        return refs

    def page(self, ref: int) -> mmap.mmap:
        return self._pages[ref]

    def write_words(self, ref: int, words: list[int]) -> None:
        data = array.array("I", words).tobytes()
        self._pages[ref][: len(data)] = data

    def new_port(self, domid: int = 0) -> int:
        argument = bytearray(struct.pack("@I", domid))
        return fcntl.ioctl(self._evtchn.fd, _BIND_UNBOUND, argument)

    def kick(self, port: int) -> None:
        self._evtchn.notify(port)


# --- the device


def _numbers() -> list[int]:
    """The devices of this domain. In Dom0 we make them: any will do."""
    if IN_DOM0:
        return [0, 1, 2]
    store = XenStore()
    try:
        numbers = sorted(int(name) for name in store.list(_FRONTS))
    finally:
        store.close()
    if not numbers:
        sys.exit("this DomU has no vdispl device: its xl configuration has to name one")
    return numbers


next_number = itertools.cycle(_numbers()).__next__


class _Device:
    """The nodes of one device, as the frontend writes them.

    Without a number it is the domain's next one: the backend lets each connect five times in 10 s.
    """

    def __init__(self, number: int | None = None) -> None:
        self.number = next_number() if number is None else number
        self.front = f"{_FRONTS}/{self.number}"
        self.back = f"/local/domain/0/backend/vdispl/{DOMID}/{self.number}"
        self.error = f"/local/domain/0/error/backend/vdispl/{DOMID}/{self.number}/error"
        self.store = XenStore()

    def close(self) -> None:
        self.store.close()

    def offer(self) -> None:
        """Start over: the backend then says InitWait."""
        self._name_backend()
        self.store.write(f"{self.front}/state", "1")

    def _name_backend(self) -> None:
        self.store.write(f"{self.front}/backend-id", "0")
        self.store.write(f"{self.front}/backend", self.back)

    def publish(self, frontend: Frontend, lies: dict[str, str]) -> None:
        """``lies`` replaces the values of nodes, for each connector."""
        for spec in frontend.specs:
            values = {
                "resolution": f"{spec.width}x{spec.height}",
                "unique-id": spec.name,
                "req-ring-ref": str(spec.req_ref),
                "req-event-channel": str(spec.req_port),
                "evt-ring-ref": str(spec.evt_ref),
                "evt-event-channel": str(spec.evt_port),
            }
            for name, value in {**values, **lies}.items():
                self.store.write(f"{self.front}/{spec.index}/{name}", value)
        self.store.write(f"{self.front}/state", "3")

    def wait(self, states: str, seconds: float = 60) -> None:
        """Until the backend's state is one of the digits."""
        path = f"{self.back}/state"
        wait_until(lambda: (self.store.read(path) or "none") in states, f"state {states}", seconds)

    def assert_reason(self, text: str = "") -> None:
        """The backend says, where only Dom0 can read it, why it refused the device."""
        if IN_DOM0:
            error = self.store.read(self.error)
            assert error and text in error, f"{error!r} in place of {text!r}"
            self.store.remove(self.error)


class Loopback(_Device):
    """Dom0's own: the toolstack's part is done here, too."""

    def __init__(self, number: int | None = None) -> None:
        super().__init__(number)
        self._remove()

    def offer(self, be_alloc: str = "0") -> None:
        self.store.write(f"{self.front}/be-alloc", be_alloc)
        super().offer()
        self.store.write(f"{self.back}/frontend", self.front)
        self.store.write(f"{self.back}/frontend-id", "0")
        self.store.write(f"{self.back}/online", "1")
        self.store.write(f"{self.back}/state", "1")

    def end(self) -> None:
        """Removed as xl does it."""
        self.store.remove(self.front)
        self.store.write(f"{self.back}/online", "0")
        self.store.write(f"{self.back}/state", "5")
        self.wait("6", 20)
        self._remove()

    def _remove(self) -> None:
        self.store.remove(self.front)
        self.store.remove(self.back)


class GuestDevice(_Device):
    """The one that the toolstack gave to this DomU: only the frontend's nodes are ours to write.

    xl makes be-alloc and connector 0's nodes read-only, but not the connector's directory.
    """

    def publish(self, frontend: Frontend, lies: dict[str, str]) -> None:
        self.store.remove(f"{self.front}/0")
        super().publish(frontend, lies)

    def end(self) -> None:
        """Closed as by a driver that is unbound; connectors that xl didn't make are removed."""
        self.store.write(f"{self.front}/state", "5")
        self.wait("26", 20)
        for name in self.store.list(self.front):
            if name.isdigit() and name != "0":
                self.store.remove(f"{self.front}/{name}")
        self._name_backend()
        self.store.write(f"{self.front}/state", "6")


Device = Loopback if IN_DOM0 else GuestDevice


@contextlib.contextmanager
def offered(*sizes: tuple[int, int], number: int | None = None) -> Iterator[tuple[Frontend, _Device]]:
    """A frontend of this domain that has not connected; afterwards its device is ended."""
    xen = RealXen()
    device = Device(number)
    frontend = Frontend(xen, *sizes)
    device.offer()
    try:
        device.wait("2", 30)
        yield frontend, device
    finally:
        device.end()
        frontend.close()
        xen.close()
        device.close()


@contextlib.contextmanager
def connected(
    *sizes: tuple[int, int], number: int | None = None, lies: dict[str, str] | None = None
) -> Iterator[tuple[Frontend, _Device]]:
    """The same, connected."""
    with offered(*sizes, number=number) as (frontend, device):
        device.publish(frontend, lies or {})
        device.wait("4")
        device.store.write(f"{device.front}/state", "4")
        yield frontend, device


def refuse(frontend: Frontend, device: _Device, **lies: object) -> None:
    """Connecting with these nodes (underscores for hyphens) is refused, with a reason."""
    device.store.write(f"{device.front}/state", "1")
    device.wait("2", 30)
    device.publish(frontend, {name.replace("_", "-"): str(lies[name]) for name in lies})
    device.wait("6", 30)
    device.assert_reason()


# --- the kernel's own frontend


@contextlib.contextmanager
def kernel_frontend_off() -> Iterator[None]:
    """This kernel has the same frontend: it must not take our device, or give up its own."""
    with _no_autoprobe() if IN_DOM0 else _unbound():
        yield


@contextlib.contextmanager
def _no_autoprobe() -> Iterator[None]:
    switch = Path("/sys/bus/xen/drivers_autoprobe")
    switch.write_text("0")
    try:
        yield
    finally:
        switch.write_text("1")


@contextlib.contextmanager
def _unbound() -> Iterator[None]:
    """Afterwards the driver finds the nodes as the toolstack wrote them."""
    store = XenStore()
    connectors = [f"{_FRONTS}/{number}/0" for number in _numbers()]
    nodes = {
        f"{connector}/{name}": store.read(f"{connector}/{name}")
        for connector in connectors
        for name in ("resolution", "unique-id")
    }
    for number in _numbers():
        (_DRIVER / "unbind").write_text(f"vdispl-{number}")
    try:
        yield
    finally:
        for connector in connectors:
            store.remove(connector)
        for path, value in nodes.items():
            store.write(path, value or "")
        store.close()
        for number in _numbers():
            (_DRIVER / "bind").write_text(f"vdispl-{number}")


# --- what Dom0 knows of it


def service_pid(unit: str = "xen-dmabuf-backend") -> int:
    command = ["systemctl", "show", "-p", "MainPID", "--value", unit]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def own_status() -> dict:
    """The backend's state of this domain; in Dom0 only."""
    answer = ask(Config().control_socket, "status")
    (domain,) = [entry for entry in answer["domains"] if entry["domid"] == DOMID]
    return domain


def status_of(device: _Device) -> dict:
    """The same of one device."""
    (entry,) = [entry for entry in own_status()["devices"] if entry["device"] == device.number]
    return entry
