# SPDX-License-Identifier: MIT
"""A worker between a frontend over fake pages and a real Weston: flows, hostility, lifetimes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import signal

import pytest
from fakes import PAGE, FakeXen
from frontend import Frontend
from waiting import until

from xen_dmabuf import displif, fourcc
from xen_dmabuf.config import Config, Display, Quota
from xen_dmabuf.worker import Worker

OP = displif


@contextlib.asynccontextmanager
async def serving(xen: FakeXen, socket: str, *sizes: tuple[int, int], quota: Quota | None = None):
    """A connected worker and its frontend; afterwards nothing may be left mapped or bound."""
    messages: list[dict] = []
    worker = Worker(lambda **message: messages.append(message))
    config = Config(display=Display(socket=socket), quota={"default": quota or Quota()})
    frontend = Frontend(xen, *sizes)
    worker.start(5, "domu", config)
    worker.messages = messages
    try:
        await worker.connect(0, frontend.specs)
        assert messages == [{"event": "connected", "dev": 0}]
        yield worker, frontend
    finally:
        await worker.stop()
        frontend.close()
    assert xen.mapped == 0, "pages of the DomU are still mapped"
    assert not xen.bound, "event channels are still bound"


def status_of(worker: Worker) -> dict:
    return worker.status()["devices"][0]


def test_flow_of_a_display_server(xen, weston):
    async def run():
        async with serving(xen, weston.socket, (64, 48)) as (worker, frontend):
            control = frontend.connectors[0]
            await frontend.show(1, 64, 48)
            await frontend.buffer(2, 64, 48)
            attach = (2, 2, 64, 48, fourcc.XRGB8888)
            assert await control.call(OP.OP_FB_ATTACH, *attach) == 0
            flips: list[tuple[int, int]] = []
            for number in range(5):
                cookie = 2 - number % 2
                assert await control.call(OP.OP_PG_FLIP, cookie) == 0
                await until(
                    lambda n=number: len(flips) > n or bool(flips.extend(control.flips_done())),
                    f"event of flip {number}",
                )
            assert flips == [(number, 2 - number % 2) for number in range(5)]
            state = status_of(worker)
            assert state["connectors"][0]["flips_shown"] == 5
            assert [buffer["strategy"] for buffer in state["buffers"]] == ["copy", "copy"]
            assert "map: " in state["buffers"][0]["why"]
            # SET_CONFIG once and five flips
            assert worker.totals.pixel_bytes_copied == 6 * 64 * 48 * 4
            assert await control.call(OP.OP_SET_CONFIG, 0, 0, 0, 0, 0, 0) == 0
            for cookie in (1, 2):
                assert await control.call(OP.OP_FB_DETACH, cookie) == 0
                assert await control.call(OP.OP_DBUF_DESTROY, cookie) == 0
            assert status_of(worker)["buffers"] == []
            assert xen.mapped == 2, "only ring and event page may stay mapped"
            assert control.spec.req_port in xen.notified and control.spec.evt_port in xen.notified

    asyncio.run(run())


def test_several_connectors(xen, weston):
    async def run():
        sizes = [(64, 48), (32, 32)]
        async with serving(xen, weston.socket, *sizes) as (worker, frontend):
            await frontend.show(1, 64, 48, connector=0)
            await frontend.show(2, 32, 32, connector=1)
            second = frontend.connectors[1]
            assert await second.call(OP.OP_PG_FLIP, 2) == 0
            await until(lambda: second.flips_done() == [(0, 2)], "the second connector's event")
            assert frontend.connectors[0].flips_done() == []
            # what isn't connector specific must come over the first ring
            assert await second.call(OP.OP_FB_DETACH, 2) == -errno.EINVAL
            names = [entry["name"] for entry in status_of(worker)["connectors"]]
            assert names == ["id0", "id1"]

    asyncio.run(run())


def test_edid(xen, weston):
    async def run():
        async with serving(xen, weston.socket, (1280, 720)) as (_worker, frontend):
            control = frontend.connectors[0]
            directory, first = frontend.directory(8)
            answer = await control.call_full(OP.OP_GET_EDID, 32768, directory)
            assert answer[2:] == (0, 128)
            with xen.page(first) as page:
                edid = page[:128]
            assert sum(edid) % 256 == 0 and edid[:8] == bytes((0, *[255] * 6, 0))
            width = edid[56] | (edid[58] & 0xF0) << 4
            height = edid[59] | (edid[61] & 0xF0) << 4
            assert (width, height) == (1280, 720)
            assert await control.call(OP.OP_GET_EDID, 1, directory) == -errno.EINVAL

    asyncio.run(run())


def test_imported_buffer_gets_its_geometry_from_the_framebuffer(xen, weston):
    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            control = frontend.connectors[0]
            directory, _first = frontend.directory(3)
            create = (1, 0, 0, 0, 64 * 48 * 4, 0, directory, 0)
            assert await control.call(OP.OP_DBUF_CREATE, *create) == 0
            too_large = (1, 1, 64, 49, fourcc.XRGB8888)
            assert await control.call(OP.OP_FB_ATTACH, *too_large) == -errno.EINVAL
            attach = (1, 1, 64, 48, fourcc.XRGB8888)
            assert await control.call(OP.OP_FB_ATTACH, *attach) == 0
            assert status_of(worker)["buffers"][0]["stride"] == 256
            assert await control.call(OP.OP_DBUF_DESTROY, 1) == 0  # detaches, too
            assert await control.call(OP.OP_FB_DETACH, 1) == -errno.ENOENT

    asyncio.run(run())


# --- hostile frontends: each row of what takes the peer down, and the list

HUGE = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("size of zero", (1, 0, 48, 32, 12288, 0, None, 0)),
        ("height of zero", (1, 64, 0, 32, 12288, 0, None, 0)),
        ("depth of zero", (1, 64, 48, 0, 12288, 0, None, 0)),
        ("huge depth", (1, 64, 48, HUGE, 12288, 0, None, 0)),
        ("huge width", (1, HUGE, 1, 32, 12288, 0, None, 0)),
        ("buffer_sz smaller than the picture", (1, 1024, 1024, 32, 16384, 0, None, 0)),
        ("height * stride wraps 2^32", (1, 32768, 32769, 32, 131072, 0, None, 0)),
        ("offset wraps 2^32", (1, 64, 48, 32, 12288, 0, None, HUGE)),
        ("nothing to map", (1, 64, 48, 32, 0, 0, None, 0)),
        ("buffer_sz beyond the quota", (1, 64, 48, 32, 0xFFFFF000, 0, None, 0)),
        ("cookie 0", (0, 64, 48, 32, 12288, 0, None, 0)),
        ("unknown flag", (1, 64, 48, 32, 12288, 2, None, 0)),
        ("directory reference 0", (1, 64, 48, 32, 12288, 0, 0, 0)),
        ("directory not granted", (1, 64, 48, 32, 12288, 0, 0x7FFFFFFF, 0)),
    ],
)
def test_display_buffers_that_lie(xen, weston, name, fields):
    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            control = frontend.connectors[0]
            directory, _first = frontend.directory(4)
            fields_now = [directory if value is None else value for value in fields]
            status = await control.call(OP.OP_DBUF_CREATE, *fields_now)
            assert status < 0, name
            assert xen.mapped == 2 and status_of(worker)["buffers"] == []
            assert (await frontend.buffer(9, 64, 48))[0] == 0, "the honest request after it"

    asyncio.run(run())


def test_backend_allocation_is_refused(xen, weston):
    async def run():
        async with serving(xen, weston.socket) as (_worker, frontend):
            directory, _first = frontend.directory(1)
            create = (1, 16, 16, 32, 1024, OP.DBUF_FLG_REQ_ALLOC, directory, 0)
            answer = await frontend.connectors[0].call(OP.OP_DBUF_CREATE, *create)
            assert answer == -errno.EOPNOTSUPP

    asyncio.run(run())


@pytest.mark.parametrize(
    ("name", "words", "pages"),
    [
        ("linked to itself", lambda me: [me, *range(2000, 3023)], 3000),
        ("ends early", lambda me: [0, *range(2000, 3023)], 1024),
        ("a page that is not granted", lambda me: [0, HUGE, 2001, 2002], 3),
        ("reference 0 among the pages", lambda me: [0, 2000, 0, 2002], 3),
        ("one page twice", lambda me: [0, 2000, 2000, 2002], 3),
        ("next page not granted", lambda me: [HUGE, *range(2000, 3023)], 1024),
    ],
)
def test_directories_that_lie(xen, weston, name, words, pages):
    async def run():
        async with serving(xen, weston.socket) as (_worker, frontend):
            (directory,) = xen.allocate(1)
            xen.write_words(directory, words(directory))
            height = pages * PAGE // 4096
            create = (1, 1024, height, 32, pages * PAGE, 0, directory, 0)
            status = await frontend.connectors[0].call(OP.OP_DBUF_CREATE, *create)
            assert status in (-errno.EINVAL, -errno.EIO), name
            assert xen.mapped == 2

    asyncio.run(run())


def test_cookies_are_used_once(xen, weston):
    async def run():
        async with serving(xen, weston.socket) as (_worker, frontend):
            control = frontend.connectors[0]
            await frontend.show(1, 64, 48)
            assert (await frontend.buffer(1, 64, 48))[0] == -errno.EEXIST
            again = (1, 1, 64, 48, fourcc.XRGB8888)
            assert await control.call(OP.OP_FB_ATTACH, *again) == -errno.EEXIST
            assert await control.call(OP.OP_DBUF_DESTROY, 1) == 0
            assert (await frontend.buffer(1, 64, 48))[0] == 0, "free again after DBUF_DESTROY"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("name", "attach"),
    [
        ("larger than the buffer", (1, 7, 4096, 4096, fourcc.XRGB8888)),
        ("wider than the buffer", (1, 7, 65, 1, fourcc.XRGB8888)),
        ("size of zero", (1, 7, 0, 48, fourcc.XRGB8888)),
        ("other depth", (1, 7, 64, 48, fourcc.RGB565)),
        ("unknown format", (1, 7, 64, 48, 0xDEADBEEF)),
        ("known, but not to the compositor", (1, 7, 64, 48, fourcc.code("AB24"))),
        ("cookie 0", (1, 0, 64, 48, fourcc.XRGB8888)),
        ("no such buffer", (8, 7, 64, 48, fourcc.XRGB8888)),
    ],
)
def test_framebuffers_that_lie(xen, weston, name, attach):
    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            control = frontend.connectors[0]
            assert (await frontend.buffer(1, 64, 48))[0] == 0
            status = await control.call(OP.OP_FB_ATTACH, *attach)
            if name.startswith("known") and status == 0:
                pytest.skip("this Weston takes the format")
            assert status < 0, name
            assert worker.compositor is not None, "the connection survived"
            good = (1, 1, 64, 48, fourcc.XRGB8888)
            assert await control.call(OP.OP_FB_ATTACH, *good) == 0

    asyncio.run(run())


def test_configurations_and_flips_that_lie(xen, weston):
    async def run():
        async with serving(xen, weston.socket) as (_worker, frontend):
            control = frontend.connectors[0]
            assert (await frontend.buffer(1, 64, 48))[0] == 0
            attach = (1, 1, 64, 48, fourcc.XRGB8888)
            assert await control.call(OP.OP_FB_ATTACH, *attach) == 0
            assert await control.call(OP.OP_PG_FLIP, 1) == -errno.EINVAL, "before SET_CONFIG"
            for config in (
                (1, 0, 0, 65, 48, 32),
                (1, 0, 0, 64, HUGE, 32),
                (1, 64, 0, 64, 48, 32),
                (1, HUGE, 0, 64, 48, 32),
                (1, 0, 0, 0, 48, 32),
            ):
                assert await control.call(OP.OP_SET_CONFIG, *config) == -errno.EINVAL, config
            assert await control.call(OP.OP_SET_CONFIG, 5, 0, 0, 64, 48, 32) == -errno.ENOENT
            assert await control.call(OP.OP_PG_FLIP, 5) == -errno.ENOENT
            assert await control.call(OP.OP_DBUF_DESTROY, 5) == -errno.ENOENT

    asyncio.run(run())


def test_unknown_operations(xen, weston):
    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            for operation in (0x00, 0x0F, 0x17, 0x7F, 0xFF):
                status = await frontend.connectors[0].call(operation, 0)
                assert status == -errno.EOPNOTSUPP
            assert status_of(worker)["connectors"][0]["requests_refused"] == 5

    asyncio.run(run())


def test_quota_of_buffers_and_pages(xen, weston):
    async def run():
        quota = dataclasses.replace(Quota(), buffers=3, pages=10)
        async with serving(xen, weston.socket, quota=quota) as (_worker, frontend):
            assert (await frontend.buffer(1, 64, 48))[0] == 0  # 3 pages
            assert (await frontend.buffer(2, 64, 128))[0] == -errno.ENOSPC  # 8
            assert (await frontend.buffer(3, 64, 48))[0] == 0
            assert (await frontend.buffer(4, 64, 48))[0] == 0
            assert (await frontend.buffer(5, 16, 16))[0] == -errno.ENOSPC
            assert await frontend.connectors[0].call(OP.OP_DBUF_DESTROY, 1) == 0
            assert (await frontend.buffer(5, 16, 16))[0] == 0

    asyncio.run(run())


def test_a_lying_ring_ends_that_device_only(xen, weston):
    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            await frontend.show(1, 64, 48)
            frontend.connectors[0].lie(1000)
            await until(lambda: len(worker.messages) > 1, "the failure's report")
            assert worker.messages[1]["event"] == "failed"
            assert "1000" in worker.messages[1]["reason"]
            assert await worker.disconnect(0)
            assert xen.mapped == 0 and not xen.bound
            other = Frontend(xen)
            await worker.connect(1, other.specs)
            assert worker.messages[-1] == {"event": "connected", "dev": 1}
            assert (await other.buffer(1, 64, 48))[0] == 0
            other.close()

    asyncio.run(run())


def test_a_full_event_page_costs_events_only(xen, weston):
    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            control = frontend.connectors[0]
            await frontend.show(1, 64, 48)
            counters = worker._devices[0].connectors[0].counters
            for _ in range(64):  # one more than the page holds, and none is taken
                assert await control.call(OP.OP_PG_FLIP, 1) == 0
            await until(lambda: counters.flips_shown == 64, "the last flip")
            assert counters.events_dropped == 1
            assert len(control.flips_done()) == 63

    asyncio.run(run())


def test_an_event_storm_is_held_off(xen, weston):
    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            control = frontend.connectors[0]
            while not worker.status()["events_throttled"]:
                xen.kick(control.spec.req_port)
                await asyncio.sleep(0)
            loop = asyncio.get_running_loop()
            end, before = loop.time() + 0.2, xen.delivered
            while loop.time() < end:
                xen.kick(control.spec.req_port)
                await asyncio.sleep(0)
            assert xen.delivered - before <= 12, "one in 20 ms"
            assert await control.call(0x7F, 0) == -errno.EOPNOTSUPP, "still served"

    asyncio.run(run())


def test_flips_without_end_are_slowed_down(xen, blind):
    async def run():
        async with serving(xen, blind.socket) as (worker, frontend):
            control = frontend.connectors[0]
            await frontend.show(1, 64, 48)
            for _ in range(3):
                assert await control.call(OP.OP_PG_FLIP, 1) == 0
            counters = worker._devices[0].connectors[0].counters
            await until(lambda: counters.flips_not_shown == 3, "the answers")
            assert counters.flips_shown == 0

    asyncio.run(run())


# --- lifetimes


def test_a_slow_import_is_no_refusal(xen, weston, monkeypatch):
    """FB_ATTACH is answered in time, flips as not shown, and the picture follows."""
    from xen_dmabuf import buffertable

    monkeypatch.setattr(buffertable, "_ATTACH_SECONDS", 0.1)
    image = buffertable.BufferTable._image

    async def run():
        release = asyncio.Event()

        async def slow(self, *arguments):
            await release.wait()
            return await image(self, *arguments)

        monkeypatch.setattr(buffertable.BufferTable, "_image", slow)
        async with serving(xen, weston.socket) as (worker, frontend):
            control = frontend.connectors[0]
            await frontend.show(1, 64, 48)
            assert await control.call(OP.OP_PG_FLIP, 1) == 0
            await until(lambda: control.flips_done() == [(0, 1)], "the event")
            connector = worker._devices[0].connectors[0]
            assert connector.counters.flips_not_shown == 1 and connector.window is None
            await frontend.buffer(2, 64, 48)
            assert await control.call(OP.OP_FB_ATTACH, 2, 2, 64, 48, fourcc.XRGB8888) == 0
            assert await control.call(OP.OP_DBUF_DESTROY, 2) == 0, "while it is imported"
            release.set()
            await until(lambda: connector.window is not None, "the picture")
            assert await control.call(OP.OP_PG_FLIP, 1) == 0
            await until(lambda: connector.counters.flips_shown == 1, "a shown flip")

    asyncio.run(run())


def test_the_domain_dies_in_the_middle(xen, weston):
    async def run():
        async with serving(xen, weston.socket, (64, 48), (32, 32)) as (worker, frontend):
            await frontend.show(1, 64, 48)
            await frontend.show(2, 32, 32, connector=1)
            frontend.connectors[0].post(OP.OP_PG_FLIP, 1)
            assert await worker.disconnect(0)
            assert xen.mapped == 0 and not xen.bound

    asyncio.run(run())


def test_compositor_killed_and_restarted_shows_again(xen, weston):
    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            control = frontend.connectors[0]
            await frontend.show(1, 64, 48)
            mapped = xen.mapped
            weston.stop(signal.SIGKILL)
            await until(lambda: worker.compositor is None, "the loss")
            assert xen.mapped == mapped, "the pages stay mapped meanwhile"
            assert await control.call(OP.OP_PG_FLIP, 1) == 0
            await until(lambda: control.flips_done() == [(0, 1)], "answered without a compositor")
            weston.start()
            connector = worker._devices[0].connectors[0]
            await until(lambda: connector.window is not None, "the picture in the new Weston")
            assert await control.call(OP.OP_PG_FLIP, 1) == 0
            await until(lambda: connector.counters.flips_shown == 1, "a flip that is shown")
            assert connector.counters.flips_not_shown == 1

    asyncio.run(run())


def test_connect_with_wrong_reference_leaves_nothing(xen, weston):
    async def run():
        worker_messages: list[dict] = []
        worker = Worker(lambda **message: worker_messages.append(message))
        worker.start(5, "domu", Config(display=Display(socket=weston.socket)))
        frontend = Frontend(xen)
        wrong = dataclasses.replace(frontend.specs[0], evt_ref=0x7FFFFFFF)
        await worker.connect(0, [wrong])
        assert worker_messages[0]["event"] == "refused"
        assert "/dev/xen/gntdev" in worker_messages[0]["reason"]
        assert xen.mapped == 0 and not xen.bound
        await worker.stop()
        frontend.close()

    asyncio.run(run())
