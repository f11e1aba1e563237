# SPDX-License-Identifier: MIT
"""When frames reach the screen, by a compositor that says it when the test likes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from fuzz.wayland import u32
from scripted import DEVICE, INDICES, TABLE, Scripted, memory
from serving import serving
from waiting import until

from xen_dmabuf import limits
from xen_dmabuf.config import ConnectorConfig
from xen_dmabuf.displif import wire
from xen_dmabuf.link.messages import Disconnected
from xen_dmabuf.worker.compositor import Compositor
from xen_dmabuf.worker.window import Window

pytestmark = pytest.mark.usefixtures("nothing_raised")


class _Screen(Scripted):
    """An honest one that says what became of a frame when the test likes it."""

    def __init__(self) -> None:
        super().__init__(lambda: memory(TABLE), len(TABLE), DEVICE, INDICES)

    def _present(self, feedback: int) -> None:
        """Later."""

    @property
    def asked(self) -> int:
        return len(self._of("presentation"))

    def shows(self) -> None:
        for feedback in self._of("presentation"):
            self.send(feedback, 1, u32(*bytes(7)))
            self._end(feedback)

    def discards(self) -> None:
        for feedback in self._of("presentation"):
            self.send(feedback, 2)
            self._end(feedback)


@contextlib.asynccontextmanager
async def _window_on(server: _Screen) -> AsyncIterator[Window]:
    compositor = Compositor(server.path, lambda: None)
    try:
        await compositor.connect()
        window = Window(compositor, "domu id0", "test", (64, 48), ConnectorConfig(), 10)
        await until(lambda: window._configured and not window.waits_for_frame, "the window")
        yield window
    finally:
        compositor.close()
        server.close()


def test_a_sample_that_was_replaced_is_missed_and_the_next_one_counts(monkeypatch):
    """One in five seconds, and never two at once."""

    async def run():
        server = _Screen()
        async with _window_on(server) as window:
            presentation, surface, now = window.presentation, window._picture._surface, 100.0
            for missed, (answer, latency) in enumerate(((server.discards, -1), (server.discards, -1)), 1):
                for later in (0, 4.9):
                    presentation.sample(surface, now + later)
                    window._compositor.flush()
                    await until(lambda: server.asked == 1, "the question")
                answer()
                await until(lambda n=missed: presentation.missed == n, "a frame that was replaced")
                assert presentation.latency == latency
                presentation.sample(surface, now + 4.9)
                now += 5
            presentation.sample(surface, now)
            window._compositor.flush()
            await until(lambda: server.asked == 1, "the question")
            server.shows()
            await until(lambda: presentation.latency == 0, "a frame on the screen")
            assert presentation.missed == 2

    asyncio.run(run())


def test_pages_wait_for_a_frame_on_the_screen_and_not_for_long():
    async def run():
        server = _Screen()
        async with _window_on(server) as window:
            wait = asyncio.get_running_loop().create_task(window.picture.reach_screen(limits.PRESENTED))
            await until(lambda: server.asked == 1, "the question")
            server.discards()
            await until(lambda: server.asked == 1, "the question about the next frame")
            assert not wait.done()
            server.shows()
            await asyncio.wait_for(wait, 5)
            for _ in range(20):
                await asyncio.wait_for(window.picture.reach_screen(0.05), 5)
            assert server.asked == 8, "what a compositor never answers does not pile up in it"
            server.shows()
            await until(lambda: not window.presentation._awaited, "late answers are heard")
            assert window.presentation.latency == -1, "only samples count"

    asyncio.run(run())


@contextlib.asynccontextmanager
async def _a_guest_s_buffers(xen, monkeypatch):
    """Its worker, its frontend and the compositor; framebuffer 1 was shown, and 2 is."""
    monkeypatch.setattr(limits, "PRESENTED", 60.0)
    xen.exports = True
    server = _Screen()
    try:
        async with serving(xen, server.path) as (worker, frontend):
            control = frontend.connectors[0]
            for cookie in (1, 2):
                await frontend.show(cookie, 64, 48)
            await until(lambda: any(b.strategy == "export" for b in worker.status().devices["0"].buffers), "no copy")
            await until(lambda: not worker._devices[0].connectors[0].window.waits_for_frame, "the picture")
            yield worker, control, server
    finally:
        server.close()


def test_a_buffer_is_kept_until_a_frame_without_it_is_on_the_screen(xen, monkeypatch):
    """Of a GPU without fences nothing else says that it has read it. Its wl_buffer was released long ago."""

    async def run():
        async with _a_guest_s_buffers(xen, monkeypatch) as (_worker, control, server):
            assert await control.call(wire.OP_FB_DETACH, 1) == 0
            exported = xen.exported
            for cookie in (1, 2):
                control.post(wire.OP_DBUF_DESTROY, cookie)
                await until(lambda: server.asked == 1, "the question")
                assert control.response() is None and xen.exported == exported
                server.shows()
                answers = []
                await until(lambda a=answers: (a.append(control.response()) or a[-1]) is not None, "the answer")
                assert answers[-1][2] == 0 and xen.exported < exported
                exported = xen.exported
            assert exported == 0

    asyncio.run(run())


def test_so_are_all_when_the_guest_ends(xen, monkeypatch):
    async def run():
        async with _a_guest_s_buffers(xen, monkeypatch) as (worker, _control, server):
            exported = xen.exported
            end = asyncio.get_running_loop().create_task(worker.disconnect(0))
            await until(lambda: server.asked == 1, "the question")
            assert xen.exported == exported and not end.done()
            server.shows()
            await asyncio.wait_for(end, 10)
            assert xen.exported == 0 and worker.messages[-1] == Disconnected(0, True)

    asyncio.run(run())


def test_a_buffer_that_was_never_shown_goes_at_once(xen, monkeypatch):
    async def run():
        async with _a_guest_s_buffers(xen, monkeypatch) as (worker, control, server):
            assert await control.call(wire.OP_DBUF_CREATE, 3, 64, 48, 32, 64 * 48 * 4, 0, _directory(xen), 0) == 0
            assert await control.call(wire.OP_DBUF_DESTROY, 3) == 0
            assert server.asked == 0
            end = asyncio.get_running_loop().create_task(worker.disconnect(0))
            await until(lambda: server.asked == 1, "the question about the others")
            server.shows()
            await end

    asyncio.run(run())


def _directory(xen) -> int:
    refs, (directory,) = xen.allocate(3), xen.allocate(1)
    xen.write_words(directory, [0, *refs])
    return directory
