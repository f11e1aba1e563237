# SPDX-License-Identifier: MIT
"""A worker's device with a well-behaved frontend: flows and lifetimes."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import signal

import pytest
from frontend import Frontend
from serving import placed, serving, status_of, stop
from waiting import until

from xen_dmabuf import limits
from xen_dmabuf.config import Config, Display
from xen_dmabuf.displif import fourcc, wire
from xen_dmabuf.link.messages import Disconnected, Message, Refused
from xen_dmabuf.worker.framebuffers import Framebuffers
from xen_dmabuf.worker.worker import Worker

OP = wire


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
            # each flip, and SET_CONFIG unless the first flip was there before the window was
            copies = worker.status().pixel_bytes_copied / (64 * 48 * 4)
            assert copies in (5, 6)
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


@pytest.mark.parametrize(
    ("size", "warned", "edid"),
    [
        ((4095, 2047), False, 0),
        ((3840, 2160), True, 0),
        ((4096, 480), True, -errno.EOPNOTSUPP),
    ],
)
def test_a_connector_for_which_linux_has_no_mode(xen, weston, caplog, size, warned, edid):
    """In log and status; and where an EDID has no room for its size, the frontend has to take XenStore's."""

    async def run():
        async with serving(xen, weston.socket, size) as (worker, frontend):
            (connector,) = status_of(worker)["connectors"]
            assert ("4095x2047" in connector["warning"]) == warned
            assert ("connector may stay black" in caplog.text) == warned
            directory, _first = frontend.directory(8)
            assert await frontend.connectors[0].call(OP.OP_GET_EDID, 32768, directory) == edid

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


def test_a_slow_import_is_no_refusal(xen, weston, monkeypatch):
    """FB_ATTACH is answered in time, flips as not shown, and the picture follows."""
    monkeypatch.setattr(limits, "ATTACH", 0.1)
    image = Framebuffers._image

    async def run():
        release = asyncio.Event()

        async def slow(self, *arguments):
            await release.wait()
            return await image(self, *arguments)

        monkeypatch.setattr(Framebuffers, "_image", slow)
        async with serving(xen, weston.socket) as (worker, frontend):
            control = frontend.connectors[0]
            await frontend.show(1, 64, 48)
            assert await control.call(OP.OP_PG_FLIP, 1) == 0
            await until(lambda: control.flips_done() == [(0, 1)], "the event")
            connector = worker._devices[0].connectors[0]
            assert connector.counters.flips_not_shown == 1 and placed(connector.window) is None
            await frontend.buffer(2, 64, 48)
            assert await control.call(OP.OP_FB_ATTACH, 2, 2, 64, 48, fourcc.XRGB8888) == 0
            assert await control.call(OP.OP_DBUF_DESTROY, 2) == 0, "while it is imported"
            release.set()
            await until(lambda: placed(connector.window), "the picture")
            assert await control.call(OP.OP_PG_FLIP, 1) == 0
            await until(lambda: connector.counters.flips_shown == 1, "a shown flip")

    asyncio.run(run())


def test_the_domain_dies_in_the_middle(xen, weston):
    async def run():
        async with serving(xen, weston.socket, (64, 48), (32, 32)) as (worker, frontend):
            await frontend.show(1, 64, 48)
            await frontend.show(2, 32, 32, connector=1)
            frontend.connectors[0].post(OP.OP_PG_FLIP, 1)
            await worker.disconnect(0)
            assert worker.messages[-1] == Disconnected(0, True)
            assert xen.mapped == 0 and not xen.bound

    asyncio.run(run())


def test_compositor_killed_and_restarted_shows_again(xen, weston):
    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            control = frontend.connectors[0]
            await frontend.show(1, 64, 48)
            mapped = xen.mapped
            weston.stop(signal.SIGKILL)
            await until(lambda: worker.scene.compositor is None, "the loss")
            assert xen.mapped == mapped, "the pages stay mapped meanwhile"
            assert await control.call(OP.OP_PG_FLIP, 1) == 0
            await until(lambda: control.flips_done() == [(0, 1)], "answered without a compositor")
            weston.start()
            connector = worker._devices[0].connectors[0]
            await until(lambda: connector.window and placed(connector.window), "the picture in the new Weston")
            assert await control.call(OP.OP_PG_FLIP, 1) == 0
            await until(lambda: connector.counters.flips_shown == 1, "a flip that is shown")
            assert connector.counters.flips_not_shown == 1

    asyncio.run(run())


def test_connect_with_wrong_reference_leaves_nothing(xen, weston):
    async def run():
        messages: list[Message] = []
        worker = Worker(messages.append)
        worker.start(5, "domu", Config(display=Display(socket=weston.socket)))
        frontend = Frontend(xen)
        wrong = dataclasses.replace(frontend.specs[0], evt_ref=0x7FFFFFFF)
        await worker.connect(0, (wrong,))
        (refused,) = messages
        assert isinstance(refused, Refused) and refused.device == 0
        assert "/dev/xen/gntdev" in refused.reason
        assert xen.mapped == 0 and not xen.bound
        await stop(worker)
        frontend.close()

    asyncio.run(run())
