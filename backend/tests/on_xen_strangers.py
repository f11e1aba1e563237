# SPDX-License-Identifier: MIT
"""Cases of on_xen.py: what belongs to another domain, and frontends that end as they like."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Iterator

from frontend import Frontend
from real_xen import (
    DOMID,
    GIVEN_BACK,
    IN_DOM0,
    SOMEBODY,
    Skip,
    connected,
    kill_within,
    next_number,
    offered,
    refuse,
)
from waiting import until

from xen_dmabuf.displif import wire as OP

_STATES = ("3", "4", "1", "0", "7", "8", "9", "-1", "3x", "", "4" * 60, "6", "5", "2", "1", "3")


async def _served(frontend: Frontend, cookie: int) -> None:
    """A picture of 64x48 is shown and taken back."""
    control = frontend.connectors[0]
    await frontend.show(cookie, 64, 48)
    assert await control.call(OP.OP_PG_FLIP, cookie) == 0
    await until(lambda: bool(control.flips_done()), "flip event", 20)
    assert await control.call(OP.OP_SET_CONFIG, 0, 0, 0, 0, 0, 0) == 0
    assert await control.call(OP.OP_FB_DETACH, cookie) == 0
    assert await control.call(OP.OP_DBUF_DESTROY, cookie) in GIVEN_BACK


def pages_of_others() -> None:
    """pages granted to another domain are refused as directory, pixels and EDID"""

    async def create(frontend: Frontend, *refs: int, to: int = 0) -> int:
        """DBUF_CREATE of three pages, its directory granted to domain ``to``; and DBUF_DESTROY."""
        (directory,) = frontend.xen.allocate(1, to)
        frontend.xen.write_words(directory, [0, *refs])
        control = frontend.connectors[0]
        status = await control.call(OP.OP_DBUF_CREATE, 1, 64, 48, 32, 12288, 0, directory, 0)
        if status == 0:
            assert await control.call(OP.OP_DBUF_DESTROY, 1) == 0
        return status

    async def run():
        with connected((64, 48)) as (frontend, _device):
            allocate = frontend.xen.allocate
            own, theirs = allocate(3), allocate(3, SOMEBODY)
            assert await create(frontend, *own) == 0
            assert await create(frontend, *own[:2], theirs[0]) < 0, "a page for another domain"
            assert await create(frontend, *theirs) < 0, "pages for another domain"
            assert await create(frontend, *own, to=SOMEBODY) < 0, "directory for another domain"
            edid = OP.EDID_MAX_SIZE, theirs[0]
            assert await frontend.connectors[0].call(OP.OP_GET_EDID, *edid) < 0
            # a copying backend can show what it may only read, and nobody is hurt by shown rings
            await create(frontend, *allocate(3, writable=False))
            spec = frontend.specs[0]
            await create(frontend, spec.req_ref, spec.evt_ref, own[0])
            await _served(frontend, 2)

    asyncio.run(run())


def rings_of_others() -> None:
    """rings and event channels that are another domain's, read-only or in use are refused"""
    with offered((64, 48)) as (frontend, device):
        xen = frontend.xen
        refuse(frontend, device, req_ring_ref=xen.allocate(1, SOMEBODY)[0])
        refuse(frontend, device, evt_ring_ref=xen.allocate(1, writable=False)[0])
        if not IN_DOM0:
            refuse(frontend, device, req_event_channel=xen.new_port(DOMID))
    with connected((64, 48), number=device.number):
        pass
    with offered((64, 48)) as (frontend, device):
        refuse(frontend, device, evt_event_channel=frontend.specs[0].req_port)
        refuse(frontend, device, evt_event_channel=4000)
    with connected((64, 48), number=device.number):
        pass


def too_many_connectors() -> None:
    """of more connectors than the quota's four, four are served"""

    async def run():
        with connected(*[(64, 48)] * 5) as (frontend, _device):
            for connector in frontend.connectors[:4]:
                assert await connector.call(0x7F, 0) == -errno.EOPNOTSUPP

    asyncio.run(run())


def _assert_forbidden(action, path: str, *value: str) -> None:
    try:
        action(path, *value)
    except OSError as error:
        assert error.errno == errno.EACCES, (path, error)
    else:
        raise AssertionError(f"{path} was written or removed")


def nodes_of_others() -> None:
    """a DomU writes and removes nodes that are Dom0's and another domain's: XenStore refuses"""
    if IN_DOM0:
        raise Skip("Dom0 may write every node")
    backends = "/local/domain/0/backend/vdispl"
    with connected((64, 48)) as (frontend, device):
        for path in (
            f"{device.back}/state",
            f"{device.back}/frontend",
            f"{device.back}/online",
            f"{backends}/{SOMEBODY}/0/state",
            f"{backends}/{DOMID}/7/state",
            f"/local/domain/{SOMEBODY}/device/vdispl/0/state",
            f"/local/domain/{DOMID}/name",
            f"{device.front}/be-alloc",
            device.error,
        ):
            _assert_forbidden(device.store.write, path, "6")
        for path in (device.back, f"{device.back}/state", f"{device.front}/be-alloc"):
            _assert_forbidden(device.store.remove, path)
        assert device.store.read(f"{device.back}/state") == "4"
        asyncio.run(_served(frontend, 1))


def pointers_to_others() -> None:
    """own nodes that name another domain's backend are not believed"""
    with offered((64, 48)) as (frontend, device):
        theirs = f"/local/domain/0/backend/vdispl/{SOMEBODY}/0"
        device.store.write(f"{device.front}/backend", theirs)
        device.store.write(f"{device.front}/backend-id", str(SOMEBODY))
        device.publish(frontend, {})
        device.wait("4")
        device.store.write(f"{device.front}/state", "4")
        asyncio.run(_served(frontend, 1))


def killed_while_shown() -> None:
    """a frontend that is killed while its picture is shown; the next one starts without a word"""
    number = next_number()

    @contextlib.contextmanager
    def shown() -> Iterator[None]:
        with connected((64, 48), number=number) as (frontend, _device):
            asyncio.run(frontend.show(1, 64, 48))
            yield

    kill_within(shown)
    with connected((64, 48), number=number) as (frontend, _device):
        asyncio.run(_served(frontend, 1))


def storm_of_states() -> None:
    """states in any order, and what is none, end this connection at most"""
    with connected((64, 48)) as (frontend, device):
        asyncio.run(frontend.show(1, 64, 48))
        for number in range(300):
            device.store.write(f"{device.front}/state", _STATES[number % len(_STATES)])
        device.store.remove(f"{device.front}/state")
    with connected((64, 48), number=device.number) as (frontend, _device):
        asyncio.run(_served(frontend, 1))


CASES = (
    pages_of_others,
    rings_of_others,
    too_many_connectors,
    nodes_of_others,
    pointers_to_others,
    killed_while_shown,
    storm_of_states,
)
