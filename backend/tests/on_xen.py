# SPDX-License-Identifier: MIT
"""Hostile and honest frontends against the running service, on real Xen: run as root in Dom0.

    python3 on_xen.py [CASE...]        TAP on standard output; exit status 1 if a case failed

Dom0 is its own frontend: real grants (gntalloc) and event channels of domain 0, real XenStore nodes
below /local/domain/0. Needs xen-dmabuf-backend.service, /dev/xen/gntalloc, and no pytest.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import fcntl
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

from frontend import PAGE, Frontend
from waiting import until, wait_until

from xen_dmabuf import _sys, displif, fourcc
from xen_dmabuf.xenstore import XenStore

BACK = "/local/domain/0/backend/vdispl/0/0"
FRONT = "/local/domain/0/device/vdispl/0"
ERROR = "/local/domain/0/error/backend/vdispl/0/0/error"
_ALLOC_GREF = _sys._ioc(0, "G", 5, 24)
_BIND_UNBOUND = _sys._ioc(0, "E", 2, 4)
OP = displif
HUGE = 0xFFFFFFFF


class RealXen:
    """Pages granted by gntalloc to domain 0, and event channels that domain 0 may bind."""

    def __init__(self) -> None:
        self._gntalloc = _sys.open_device("/dev/xen/gntalloc")
        self._evtchn = _sys.open_device(_sys.EVTCHN)
        self._pages: dict[int, mmap.mmap] = {}

    def close(self) -> None:
        for page in self._pages.values():
            with contextlib.suppress(BufferError):
                page.close()
        os.close(self._evtchn)
        os.close(self._gntalloc)

    def allocate(self, pages: int) -> list[int]:
        argument = bytearray(struct.pack("@HHIQ", 0, 1, pages, 0) + bytes(4 * pages + 4))
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

    def new_port(self) -> int:
        argument = bytearray(struct.pack("@I", 0))
        return fcntl.ioctl(self._evtchn, _BIND_UNBOUND, argument)

    def kick(self, port: int) -> None:
        _sys.evtchn_notify(self._evtchn, port)


def service_pid(unit: str = "xen-dmabuf-backend") -> int:
    command = ["systemctl", "show", "-p", "MainPID", "--value", unit]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def status() -> dict:
    command = ["xen-dmabuf-backend", "status", "--json"]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def own_status() -> dict:
    (domain,) = [entry for entry in status()["domains"] if entry["domid"] == 0]
    return domain


class Nodes:
    """XenStore nodes of one device, as the toolstack and the frontend write them."""

    def __init__(self) -> None:
        self.store = XenStore()
        self.remove()
        self.store.write(f"{FRONT}/backend-id", "0")
        self.store.write(f"{FRONT}/backend", BACK)

    def create(self, be_alloc: str = "0") -> None:
        self.store.write(f"{FRONT}/be-alloc", be_alloc)
        self.store.write(f"{FRONT}/state", "1")
        self.store.write(f"{BACK}/frontend", FRONT)
        self.store.write(f"{BACK}/frontend-id", "0")
        self.store.write(f"{BACK}/online", "1")
        self.store.write(f"{BACK}/state", "1")

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
                self.store.write(f"{FRONT}/{spec.index}/{name}", value)
        self.store.write(f"{FRONT}/state", "3")

    def wait(self, state: str, seconds: float = 60) -> None:
        wait_until(lambda: self.store.read(f"{BACK}/state") == state, f"state {state}", seconds)

    def remove(self) -> None:
        self.store.remove(FRONT)
        self.store.remove(BACK)


@contextlib.contextmanager
def connected(*sizes: tuple[int, int], lies: dict[str, str] | None = None):
    """A connected frontend of Dom0; afterwards its device is removed as xl does it."""
    xen = RealXen()
    nodes = Nodes()
    frontend = Frontend(xen, *sizes)
    nodes.create()
    try:
        nodes.wait("2", 10)
        nodes.publish(frontend, lies or {})
        nodes.wait("4")
        nodes.store.write(f"{FRONT}/state", "4")
        yield frontend, nodes
    finally:
        nodes.store.remove(FRONT)
        nodes.store.write(f"{BACK}/online", "0")
        nodes.store.write(f"{BACK}/state", "5")
        nodes.wait("6", 20)
        nodes.remove()
        frontend.close()
        xen.close()
        nodes.store.close()


# --- cases


def honest_flow() -> None:
    """flips are shown, and pages given back before DBUF_DESTROY is answered"""

    async def run():
        with connected((640, 480)) as (frontend, _nodes):
            control = frontend.connectors[0]
            await frontend.show(1, 640, 480)
            assert (await frontend.buffer(2, 640, 480))[0] == 0
            attach = (2, 2, 640, 480, fourcc.XRGB8888)
            assert await control.call(OP.OP_FB_ATTACH, *attach) == 0
            flips: list = []
            for number in range(6):
                assert await control.call(OP.OP_PG_FLIP, 2 - number % 2) == 0
                await until(
                    lambda n=number: len(flips) > n or bool(flips.extend(control.flips_done())),
                    "flip event",
                )
            (device,) = own_status()["devices"]
            print("#", [(b["strategy"], b["allocator"]) for b in device["buffers"]])
            assert device["connectors"][0]["flips_shown"] > 0
            assert await control.call(OP.OP_SET_CONFIG, 0, 0, 0, 0, 0, 0) == 0
            for cookie in (1, 2):
                assert await control.call(OP.OP_FB_DETACH, cookie) == 0
                assert await control.call(OP.OP_DBUF_DESTROY, cookie) == 0
            assert own_status()["pages_late"] == 0

    asyncio.run(run())


def lying_requests() -> None:
    """requests that took the peer down are refused, and the next honest one is served"""

    async def run():
        with connected((64, 48)) as (frontend, _nodes):
            control = frontend.connectors[0]
            directory, _first = frontend.directory(4)
            for expected, fields in (
                (errno.EINVAL, (1, 1024, 1024, 32, 16384, 0, directory, 0)),
                (errno.EINVAL, (1, 32768, 32769, 32, 131072, 0, directory, 0)),
                (errno.EINVAL, (1, 64, 48, HUGE, 12288, 0, directory, 0)),
                (errno.EINVAL, (1, 64, 48, 32, 0, 0, directory, 0)),
                (errno.ENOSPC, (1, 64, 48, 32, 0xFFFFF000, 0, directory, 0)),
                (errno.EOPNOTSUPP, (1, 16, 16, 32, 1024, 1, directory, 0)),
            ):
                assert await control.call(OP.OP_DBUF_CREATE, *fields) == -expected, fields
            bad = (1, 64, 48, 32, 12288, 0, 0x7FFFFFF0, 0)
            assert await control.call(OP.OP_DBUF_CREATE, *bad) < 0, "directory not granted"
            (loop,) = frontend.xen.allocate(1)
            frontend.xen.write_words(loop, [loop, *range(2000, 3023)])
            create = (1, 1024, 3000, 32, 3000 * PAGE, 0, loop, 0)
            assert await control.call(OP.OP_DBUF_CREATE, *create) == -errno.EINVAL
            (wrong,) = frontend.xen.allocate(1)
            good = frontend.xen.allocate(2)
            frontend.xen.write_words(wrong, [0, good[0], 0x7FFFFFF0, good[1]])
            create = (1, 64, 48, 32, 12288, 0, wrong, 0)
            assert await control.call(OP.OP_DBUF_CREATE, *create) == -errno.EIO, "one bad page"
            assert await control.call(0x7F, 0) == -errno.EOPNOTSUPP
            await frontend.show(1, 64, 48)
            for attach in (
                (1, 7, 4096, 4096, fourcc.XRGB8888),
                (1, 7, 64, 48, 0xDEADBEEF),
                (9, 7, 64, 48, fourcc.XRGB8888),
            ):
                assert await control.call(OP.OP_FB_ATTACH, *attach) < 0
            assert await control.call(OP.OP_PG_FLIP, 1) == 0
            assert own_status()["compositor"]

    asyncio.run(run())


def requests_out_of_order() -> None:
    """cookies in use, unknown ones, flips before the first picture: each gets its errno"""

    async def run():
        with connected((64, 48), (32, 24)) as (frontend, _nodes):
            control, second = frontend.connectors
            shown = (5, 0, 0, 64, 48, 32)
            await frontend.buffer(5, 64, 48)
            directory, _first = frontend.directory(3)
            for expected, operation, *fields in (
                (errno.EEXIST, OP.OP_DBUF_CREATE, 5, 64, 48, 32, 12288, 0, directory, 0),
                (errno.EINVAL, OP.OP_DBUF_CREATE, 6, 64, 48, 0, 12288, 0, directory, 0),
                (errno.EINVAL, OP.OP_DBUF_CREATE, 6, 64, 48, 32, 12288, 0, directory, HUGE),
                (errno.ENOENT, OP.OP_DBUF_DESTROY, 6),
                (errno.ENOENT, OP.OP_FB_ATTACH, 6, 6, 64, 48, fourcc.XRGB8888),
                (errno.EINVAL, OP.OP_FB_ATTACH, 5, 5, 64, 49, fourcc.XRGB8888),
                (errno.EINVAL, OP.OP_FB_ATTACH, 5, 5, 64, 48, fourcc.RGB565),
                (errno.ENOENT, OP.OP_SET_CONFIG, *shown),
                (0, OP.OP_FB_ATTACH, 5, 5, 64, 48, fourcc.XRGB8888),
                (errno.EEXIST, OP.OP_FB_ATTACH, 5, 5, 64, 48, fourcc.XRGB8888),
                (errno.EINVAL, OP.OP_PG_FLIP, 5),
                (errno.EINVAL, OP.OP_SET_CONFIG, 5, 0, 0, 65, 48, 32),
                (errno.EINVAL, OP.OP_SET_CONFIG, 5, 64, 0, 64, 48, 32),
                (errno.EINVAL, OP.OP_SET_CONFIG, 5, HUGE, HUGE, 2, 2, 32),
                (0, OP.OP_SET_CONFIG, *shown),
                (errno.ENOENT, OP.OP_PG_FLIP, 77),
                (errno.ENOENT, OP.OP_FB_DETACH, 77),
                (errno.EINVAL, OP.OP_GET_EDID, 1, directory),
            ):
                status = await control.call(operation, *fields)
                assert status == -expected, (operation, fields, status)
            create = (7, 64, 48, 32, 12288, 0, directory, 0)
            assert await second.call(OP.OP_DBUF_CREATE, *create) < 0, "not over connector 0"
            assert await control.call(OP.OP_PG_FLIP, 5) == 0

    asyncio.run(run())


def unread_events() -> None:
    """more flips than the event page has room for, and nobody reads it: the frontend is still served"""

    async def run():
        with connected((64, 48)) as (frontend, _nodes):
            control = frontend.connectors[0]
            await frontend.show(1, 64, 48)
            answers = {await control.call(OP.OP_PG_FLIP, 1) for _ in range(70)}
            assert answers <= {0, -errno.EBUSY}, answers
            assert await control.call(0x7F, 0) == -errno.EOPNOTSUPP

    asyncio.run(run())


def garbage_in_xenstore() -> None:
    """rings that are none and numbers that are none are refused with a reason; the next honest one connects"""
    xen = RealXen()
    frontend = Frontend(xen, (64, 48))
    nodes = Nodes()
    nodes.create()
    for name, value in (
        ("req-ring-ref", "-1"),
        ("evt-ring-ref", str(frontend.specs[0].req_ref)),
        ("req-ring-ref", str(0x7FFFFFF0)),
        ("resolution", "99999x99999"),
        ("evt-event-channel", "9" * 400),
    ):
        nodes.store.remove(ERROR)
        nodes.store.write(f"{FRONT}/state", "1")
        nodes.wait("2", 30)
        nodes.publish(frontend, {name: value})
        nodes.wait("6", 30)
        assert nodes.store.read(ERROR), (name, value)
    nodes.remove()
    nodes.store.close()
    frontend.close()
    xen.close()
    with connected((64, 48)):
        pass


def foreign_name() -> None:
    """a unique-id that another window may have is only a name: it is cut, and the domain's own is before it"""
    with connected((64, 48), lies={"unique-id": "../../id0 " + "x" * 50}):
        (device,) = own_status()["devices"]
        (connector,) = device["connectors"]
        assert len(connector["name"]) <= 32 and not set(connector["name"]) & set("./ "), connector


def lying_ring() -> None:
    """a ring that lies closes that device, which then can connect again"""
    with connected((64, 48)) as (frontend, nodes):
        frontend.connectors[0].lie(1000)
        nodes.wait("6", 20)
        error = nodes.store.read(ERROR) or ""
        assert "req_prod=1000" in error, error
    with connected((64, 48)):
        pass


def refused_allocation() -> None:
    """be-alloc=1 is refused, with a reason in XenStore"""
    nodes = Nodes()
    nodes.create(be_alloc="1")
    nodes.wait("6", 10)
    assert "be-alloc=0" in nodes.store.read(ERROR)
    nodes.remove()
    nodes.store.close()


def storm() -> None:
    """20,000 notifications are survived and the frontend is still served"""

    async def run():
        with connected((64, 48)) as (frontend, _nodes):
            control = frontend.connectors[0]
            for _ in range(20000):
                frontend.xen.kick(control.spec.req_port)
            assert await control.call(0x7F, 0) == -errno.EOPNOTSUPP

    asyncio.run(run())


def held_by_compositor() -> None:
    """while the compositor has the pages, DBUF_DESTROY doesn't say that the frontend may reuse them"""

    async def run():
        with connected((640, 480)) as (frontend, _nodes):
            control = frontend.connectors[0]
            await frontend.show(1, 640, 480)
            assert await control.call(OP.OP_PG_FLIP, 1) == 0
            await until(lambda: bool(control.flips_done()), "the picture")
            compositor = service_pid("weston")
            os.kill(compositor, signal.SIGSTOP)
            try:
                assert await control.call(OP.OP_SET_CONFIG, 0, 0, 0, 0, 0, 0) == 0
                assert await control.call(OP.OP_FB_DETACH, 1) == 0
                assert await control.call(OP.OP_DBUF_DESTROY, 1) == -errno.ETIMEDOUT
                assert own_status()["devices"][0]["releasing_pages"] == 300
            finally:
                os.kill(compositor, signal.SIGCONT)
            await until(lambda: not own_status()["devices"][0]["releasing_pages"], "the pages", 30)

    asyncio.run(run())


def many_buffers() -> None:
    """the quota holds, and everything is given back at once"""

    async def run():
        with connected((64, 48)) as (frontend, _nodes):
            made = 0
            while (status := (await frontend.buffer(100 + made, 32, 32))[0]) == 0:
                made += 1
                assert made <= 64
            assert status == -errno.ENOSPC and made == 64

    asyncio.run(run())


CASES = (
    honest_flow,
    lying_requests,
    requests_out_of_order,
    unread_events,
    lying_ring,
    garbage_in_xenstore,
    foreign_name,
    refused_allocation,
    storm,
    held_by_compositor,
    many_buffers,
)


@contextlib.contextmanager
def kernel_frontend_off():
    """Dom0's kernel has the same frontend driver: it must not take our device."""
    switch = Path("/sys/bus/xen/drivers_autoprobe")
    switch.write_text("0")
    try:
        yield
    finally:
        switch.write_text("1")


def main() -> int:
    with kernel_frontend_off():
        return run_cases()


def run_cases() -> int:
    failed = 0
    before = service_pid()
    chosen = [case for case in CASES if not sys.argv[1:] or case.__name__ in sys.argv[1:]]
    print(f"1..{len(chosen) + 1}", flush=True)
    for number, case in enumerate(chosen, 1):
        try:
            case()
            print(f"ok {number} - {case.__name__}: {case.__doc__}", flush=True)
        except Exception as error:
            failed += 1
            print(f"not ok {number} - {case.__name__}: {error!r}", flush=True)
    same = service_pid() == before
    print(f"{'ok' if same else 'not ok'} {len(chosen) + 1} - the service never ended")
    return 1 if failed or not same else 0


if __name__ == "__main__":
    sys.exit(main())
