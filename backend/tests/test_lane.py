# SPDX-License-Identifier: MIT
"""Flips in C's hands: that they are, and every way back, with a flip under way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from serving import serving, status_of
from waiting import until

from xen_dmabuf import limits
from xen_dmabuf.displif import fourcc, wire

FULL = (0, 0, 64, 48, 32)
pytestmark = pytest.mark.parametrize("xen", ["compiled"], indirect=True)


class Flipping:
    """A connector whose next flip is C's."""

    def __init__(self, worker, frontend) -> None:
        self.worker = worker
        self.control = frontend.connectors[0]
        self.connector = worker._devices[0].connectors[0]
        self.events: list[tuple[int, int]] = []
        self._cookie = 1

    @property
    def lane(self):
        return self.connector._lane

    def answered(self, flips: int) -> bool:
        self.events += self.control.flips_done()
        return len(self.events) == flips

    async def flip(self) -> None:
        """A flip that is answered."""
        done = len(self.events)
        await self.begin()
        await until(lambda: self.answered(done + 1), "the flip's event")

    async def begin(self) -> None:
        self._cookie = 3 - self._cookie
        assert await self.control.call(wire.OP_PG_FLIP, self._cookie) == 0


@contextlib.asynccontextmanager
async def flipping(xen, weston):
    async with serving(xen, weston.socket) as (worker, frontend):
        await frontend.show(1, 64, 48)
        await frontend.framebuffer(2, 64, 48)
        there = Flipping(worker, frontend)
        while not there.lane.lent:
            assert len(there.events) < 10, "C is lent nothing"
            await there.flip()
        yield there


@contextlib.asynccontextmanager
async def amid_a_flip(xen, weston, patience: float = 600.0):
    """C has begun a flip, and the compositor doesn't answer; ``patience``: limits.HIDDEN, long enough for slow
    machines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "HIDDEN", patience)
        async with flipping(xen, weston) as there:
            weston.freeze()
            try:
                await there.begin()
                yield there
            finally:
                weston.thaw()


def test_what_was_lent_while_python_waited_is_waited_for_in_c(xen, weston):
    """A selector that served a flip by itself, and goes on waiting in Python, would never let C have the next one."""

    async def run():
        async with flipping(xen, weston) as there:
            pump = asyncio.get_running_loop().pump
            there.connector.reclaim()
            pump.ends = False
            there.connector._lend()
            assert there.lane.lent and pump.ends

    asyncio.run(run())


def test_c_serves_flips_and_python_counts_them(xen, weston):
    async def run():
        async with flipping(xen, weston) as there:
            before = there.lane.values.values.requested
            for _ in range(10):
                await there.flip()
            assert there.lane.lent and there.lane.values.values.requested == before + 10
            assert there.lane.values.copied == 10 * 64 * 48 * 4
            counters = there.connector.counters
            assert not there.lane.lent and (counters.flips_requested, counters.flips_shown) == (before + 10,) * 2
            assert there.events == [(number, 2 - number % 2) for number in range(before + 10)]
            await there.flip()

    asyncio.run(run())


async def by_status(there) -> None:
    assert status_of(there.worker)["connectors"][0]["flips_open"] == 1


async def by_set_config(there) -> None:
    assert await there.control.call(wire.OP_SET_CONFIG, there._cookie, *FULL) == 0


async def by_another_buffer(there) -> None:
    assert await there.control.call(wire.OP_FB_ATTACH, 2, 9, 64, 48, fourcc.XRGB8888) == 0


async def by_an_unknown_request(there) -> None:
    assert await there.control.call(0x77, 0) < 0


async def by_a_resize(there) -> None:
    there.connector.window._picture.place_again()


async def by_another_window(there) -> None:
    """Asked after the frame that C waits for, which is no answer."""
    picture = there.connector.window.picture
    picture.ask()
    flight, asked = picture._callbacks
    assert asked is picture._asked is not flight and not there.lane.lent


WAYS = [by_status, by_set_config, by_another_buffer, by_an_unknown_request, by_a_resize, by_another_window]


@pytest.mark.parametrize("way", WAYS)
def test_what_interrupts_a_flip_loses_it_not(xen, weston, way):
    async def run():
        async with amid_a_flip(xen, weston) as there:
            flips = len(there.events)
            assert there.lane.lent and there.lane.values.flying
            await way(there)
            assert not there.answered(flips + 1)
            weston.thaw()
            await until(lambda: there.answered(flips + 1), "the flip's event")
            await there.flip()
            counters = there.connector.counters
            assert counters.flips_shown == counters.flips_requested == flips + 2
            assert [number for number, _cookie in there.events] == list(range(flips + 2))

    asyncio.run(run())


def test_without_a_frame_it_is_not_shown(xen, weston):
    async def run():
        async with amid_a_flip(xen, weston, limits.HIDDEN) as there:
            flips = len(there.events)
            await until(lambda: there.answered(flips + 1), "the answer of a flip that nobody draws")
            assert there.connector.counters.flips_not_shown == 1 and there.connector.window.hidden
            weston.thaw()
            await until(lambda: not there.connector.window._picture._callbacks, "the late frame")
            await there.flip()

    asyncio.run(run())


def test_its_framebuffer_goes(xen, weston):
    """drm_xen_front detaches what it still shows when its program ends."""

    async def run():
        async with amid_a_flip(xen, weston) as there:
            flips = len(there.events)
            assert await there.control.call(wire.OP_FB_DETACH, there._cookie) == 0
            await until(lambda: there.answered(flips + 1), "the flip's event")
            assert there.connector.counters.flips_not_shown == 1

    asyncio.run(run())


def test_compositor_ends(xen, weston):
    async def run():
        async with amid_a_flip(xen, weston) as there:
            flips = len(there.events)
            weston.stop(9)
            await until(lambda: there.answered(flips + 1), "the flip's event")
            assert there.lane is None
            weston.start()
            await until(lambda: there.lane, "the new compositor", 20)
            await until(lambda: there.connector._framebuffers.get(1).image, "its wl_buffers", 20)
            while not there.lane.lent:
                assert len(there.events) < flips + 10, "C is lent nothing again"
                await there.flip()

    asyncio.run(run())


def test_frontend_goes(xen, weston):
    """serving() asks that nothing is left."""

    async def run():
        async with amid_a_flip(xen, weston) as there:
            await there.worker.disconnect(0)
            assert there.lane is None and not there.answered(len(there.events) + 1)

    asyncio.run(run())


def test_a_full_event_page(xen, weston):
    """Nobody reads events: the last ones are dropped, and counted, as without C."""

    async def run():
        async with flipping(xen, weston) as there:
            flips = there.connector.counters.flips_requested
            for number in range(flips, flips + 65):
                await there.begin()
                await until(lambda n=number: there.connector.counters.flips_shown == n + 1, "the flip")
            assert there.connector.counters.events_dropped == 2
            assert there.answered(flips + 63)
            await there.flip()

    asyncio.run(run())


def test_flips_are_not_c_s_where_caches_are_written_back(xen, weston):
    async def run():
        async with flipping(xen, weston) as there:
            assert there.worker.status().flips == "compiled"
            asked = []

            async def write_back(backing):
                asked.append(backing)

            there.worker.scene.caches = SimpleNamespace(
                needed=True, missing=False, state="", why="because", written_back=0, write_back=write_back
            )
            assert there.worker.status().flips == "python"
            await there.flip()
            assert len(asked) == 1 and not there.lane.lent
            connector = there.connector
            connector.spec = replace(connector.spec, written_back=True)
            status = there.worker.status()
            assert (status.flips, status.caches) == ("compiled", "written back by the guest: because")
            await there.flip()
            before = there.lane.values.values.requested
            await there.flip()
            assert there.lane.lent and there.lane.values.values.requested == before + 1
            assert len(asked) == 1, "the guest has done it"
            there.worker.scene.caches = None

    asyncio.run(run())


def test_the_environment_chooses_python(xen):
    code = "from xen_dmabuf.pump import loop; import sys; sys.exit(loop.lib is not None)"
    chosen = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=chosen, check=False).returncode == 1
    chosen["XEN_DMABUF_FLIPS"] = "python"
    assert subprocess.run([sys.executable, "-c", code], env=chosen, check=False).returncode == 0
