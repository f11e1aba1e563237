# SPDX-License-Identifier: MIT
"""Hostile and honest frontends against the running service, on real Xen: run as root.

    python3 on_xen.py [CASE...]        TAP on standard output; exit status 1 if a case failed

In Dom0, which then is its own frontend, or in a DomU that has vdispl devices (real_xen.py). A DomU
knows the backend by its answers only: what else must hold, somebody asks in Dom0
(lib/oeqa/runtime/cases/xen_dmabuf_refusals.py). Cases about other domains run in a DomU, in Dom0
only by name. No pytest is needed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import time
import traceback

import on_xen_strangers
from frontend import PAGE
from real_xen import (
    GIVEN_BACK,
    IN_DOM0,
    Loopback,
    Skip,
    connected,
    kernel_frontend_off,
    offered,
    only_dom0,
    own_status,
    refuse,
    service_pid,
    status_of,
)
from waiting import until

from xen_dmabuf.displif import fourcc, wire

OP = wire
HUGE = 0xFFFFFFFF


# --- cases


def honest_flow() -> None:
    """flips are shown, and pages given back before DBUF_DESTROY is answered"""

    async def run():
        with connected((640, 480)) as (frontend, device):
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
            if IN_DOM0:
                status = status_of(device)
                print("#", [(b["strategy"], b["allocator"]) for b in status["buffers"]])
                assert status["connectors"][0]["flips_shown"] > 0
            assert await control.call(OP.OP_SET_CONFIG, 0, 0, 0, 0, 0, 0) == 0
            for cookie in (1, 2):
                assert await control.call(OP.OP_FB_DETACH, cookie) == 0
                assert await control.call(OP.OP_DBUF_DESTROY, cookie) in GIVEN_BACK
            assert not IN_DOM0 or own_status()["pages_late"] == 0

    asyncio.run(run())


def lying_requests() -> None:
    """requests that took the peer down are refused, and the next honest one is served"""

    async def run():
        with connected((64, 48)) as (frontend, _device):
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
            assert not IN_DOM0 or own_status()["compositor"]

    asyncio.run(run())


def requests_out_of_order() -> None:
    """cookies in use, unknown ones, sizes that do not fit: each gets its errno"""

    async def run():
        with connected((64, 48), (32, 24)) as (frontend, _device):
            control, second = frontend.connectors
            shown = (5, 0, 0, 64, 48, 32)
            await frontend.buffer(5, 64, 48)
            directory, _first = frontend.directory(3)
            for expected, operation, *fields in (
                (errno.EEXIST, OP.OP_DBUF_CREATE, 5, 64, 48, 32, 12288, 0, directory, 0),
                (errno.EINVAL, OP.OP_DBUF_CREATE, 6, 64, 48, 0, 12288, 0, directory, 0),
                # version 1 has no data_ofs: what is there means nothing
                (0, OP.OP_DBUF_CREATE, 6, 64, 48, 32, 12288, 0, directory, HUGE),
                (0, OP.OP_DBUF_DESTROY, 6),
                (errno.ENOENT, OP.OP_DBUF_DESTROY, 6),
                (errno.ENOENT, OP.OP_FB_ATTACH, 6, 6, 64, 48, fourcc.XRGB8888),
                (errno.EINVAL, OP.OP_FB_ATTACH, 5, 5, 64, 49, fourcc.XRGB8888),
                (errno.EINVAL, OP.OP_FB_ATTACH, 5, 5, 64, 48, fourcc.RGB565),
                (errno.ENOENT, OP.OP_SET_CONFIG, *shown),
                (0, OP.OP_FB_ATTACH, 5, 5, 64, 48, fourcc.XRGB8888),
                (errno.EEXIST, OP.OP_FB_ATTACH, 5, 5, 64, 48, fourcc.XRGB8888),
                # what may be shown later isn't refused: mainline takes that for an unplugged screen
                (0, OP.OP_PG_FLIP, 5),
                (0, OP.OP_SET_CONFIG, 5, 0, 0, 65, 48, 32),
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
    """more flips than the event page has room for, unread: the frontend is still served"""

    async def run():
        with connected((64, 48)) as (frontend, _device):
            control = frontend.connectors[0]
            await frontend.show(1, 64, 48)
            answers = {await control.call(OP.OP_PG_FLIP, 1) for _ in range(70)}
            assert answers <= {0, -errno.EBUSY}, answers
            assert await control.call(0x7F, 0) == -errno.EOPNOTSUPP

    asyncio.run(run())


def garbage_in_xenstore() -> None:
    """rings and numbers that are none are refused with a reason; an honest one connects"""
    with offered((64, 48)) as (frontend, device):
        refuse(frontend, device, req_ring_ref="-1")
        refuse(frontend, device, evt_ring_ref=frontend.specs[0].req_ref)
        refuse(frontend, device, req_ring_ref=0x7FFFFFF0)
    with connected((64, 48), number=device.number):
        pass
    with offered((64, 48)) as (frontend, device):
        refuse(frontend, device, resolution="99999x99999")
        refuse(frontend, device, evt_event_channel="9" * 400)
    with connected((64, 48), number=device.number):
        pass


def foreign_name() -> None:
    """a unique-id of another window is only a name: it is cut, the domain's own is before it"""
    with connected((64, 48), lies={"unique-id": "../../id0 " + "x" * 50}) as (_frontend, device):
        only_dom0("it connected; the name is seen in Dom0")
        (connector,) = status_of(device)["connectors"]
        assert len(connector["name"]) <= 32 and not set(connector["name"]) & set("./ "), connector


def lying_ring() -> None:
    """a ring that lies closes that device, which then can connect again"""
    with connected((64, 48)) as (frontend, device):
        frontend.connectors[0].lie(1000)
        device.wait("6", 20)
        device.assert_reason("req_prod=1000")
    with connected((64, 48), number=device.number):
        pass


def refused_allocation() -> None:
    """be-alloc=1 is refused, with a reason in XenStore"""
    only_dom0("the node is the toolstack's")
    device = Loopback()
    device.offer(be_alloc="1")
    device.wait("6", 10)
    device.assert_reason("be-alloc=0")
    device.end()
    device.close()


def storm() -> None:
    """20,000 notifications are survived and the frontend is still served"""

    async def run():
        with connected((64, 48)) as (frontend, _device):
            control = frontend.connectors[0]
            for _ in range(20000):
                frontend.xen.kick(control.spec.req_port)
            assert await control.call(0x7F, 0) == -errno.EOPNOTSUPP

    asyncio.run(run())


def held_by_compositor() -> None:
    """while the compositor has the pages, DBUF_DESTROY doesn't say that they may be reused"""
    only_dom0("it stops Dom0's compositor")

    async def run():
        with connected((640, 480)) as (frontend, _device):
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
                assert own_status()["releasing_pages"] == 300
            finally:
                os.kill(compositor, signal.SIGCONT)
            await until(lambda: not own_status()["releasing_pages"], "the pages", 30)

    asyncio.run(run())


def many_buffers() -> None:
    """the quota holds, and everything is given back at once"""

    async def run():
        with connected((64, 48)) as (frontend, _device):
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


def main() -> int:
    with kernel_frontend_off():
        return 0 if run_cases(sys.argv[1:]) else 1


def run_cases(names: list[str]) -> bool:
    """The cases of this domain, or those named; whether all held."""
    before = service_pid() if IN_DOM0 else 0
    every = (*CASES, *on_xen_strangers.CASES)
    usual = CASES if IN_DOM0 else every
    chosen = [case for case in every if case.__name__ in names] if names else usual
    held = run_tap(chosen, more=1)
    if not IN_DOM0:
        print(f"ok {len(chosen) + 1} - the service never ended # SKIP seen in Dom0")
        return held
    same = service_pid() == before
    print(f"{'ok' if same else 'not ok'} {len(chosen) + 1} - the service never ended")
    return held and same


def run_tap(cases, more: int = 0) -> bool:
    """Whether all held. ``more``: how many results the caller prints after these."""
    print(f"1..{len(cases) + more}", flush=True)
    return all([_run(number, case) for number, case in enumerate(cases, 1)])


def _run(number: int, case) -> bool:
    text = f"{number} - {case.__name__}: {case.__doc__}"
    start = time.monotonic()
    try:
        case()
        print(f"ok {text} ({time.monotonic() - start:.1f} s)", flush=True)
    except Skip as reason:
        print(f"ok {text} # SKIP {reason}", flush=True)
    except Exception as error:
        print(f"not ok {number} - {case.__name__}: {error!r}")
        print("# " + "# ".join(traceback.format_exc().splitlines(keepends=True)), flush=True)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
