# SPDX-License-Identifier: MIT
"""The display over a real, headless Weston (shared memory only: it has no GPU)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import pytest
from waiting import until

from xen_dmabuf import limits
from xen_dmabuf.config import ConnectorConfig
from xen_dmabuf.displif import fourcc
from xen_dmabuf.displif.geometry import Crop
from xen_dmabuf.errors import ConnectionLost, ImportRefused
from xen_dmabuf.worker.compositor import Compositor
from xen_dmabuf.worker.image import Image
from xen_dmabuf.worker.window import Window


def image(compositor: Compositor, width: int, height: int) -> Image:
    size = width * height * 4
    fd = os.memfd_create("image")
    os.ftruncate(fd, size)
    try:
        return compositor.share_memory(fd, size, width, height, width * 4, 0, fourcc.XRGB8888)
    finally:
        os.close(fd)


def open_window(compositor: Compositor, size=(320, 240), **settings) -> Window:
    return Window(compositor, "domu 0", "test", size, ConnectorConfig(**settings), 10)


@contextlib.asynccontextmanager
async def connected(path: str):
    """A live Compositor and the list that its loss is written to."""
    lost: list[str] = []
    compositor = Compositor(path, lambda: lost.append("lost"))
    await compositor.connect()
    try:
        yield compositor, lost
    finally:
        compositor.close()


def test_formats_are_listed(weston):
    async def run():
        async with connected(weston.socket) as (compositor, _lost):
            assert compositor.takes_shm(fourcc.XRGB8888)
            assert compositor.takes_shm(fourcc.ARGB8888)
            assert not compositor.takes_shm(fourcc.code("ZZZZ"))

    asyncio.run(run())


def test_flip_is_answered_once_shown(weston):
    async def run():
        async with connected(weston.socket) as (compositor, _lost):
            window = open_window(compositor)
            images = [image(compositor, 320, 240) for _ in range(2)]
            answers: list[bool] = []
            for number in range(6):
                window.present(images[number % 2], Crop(0, 0, 320, 240), answers.append)
                await until(lambda n=number: len(answers) == n + 1, f"answer {number}")
                assert not images[1 - number % 2].busy, "answered while the compositor reads it"
            assert answers == [True] * 6
            window.destroy()

    asyncio.run(run())


async def draw_unreleased(window, old, new):
    """Show a picture and draw another; the first's release is held back. Returns the answers."""
    answers: list[bool] = []
    window.present(old, Crop(0, 0, 64, 48), answers.append)
    await until(lambda: answers == [True], "the first picture")
    old.buffer.dispatcher["release"] = None
    window.present(new, Crop(0, 0, 64, 48), answers.append)
    await until(lambda: window._picture._pending[0].drawn, "the second picture")
    return answers


def test_flip_is_not_answered_while_the_replaced_buffer_is_read(weston):
    """The release event is held back here; the frame event comes from Weston."""

    async def run():
        async with connected(weston.socket) as (compositor, _lost):
            window = open_window(compositor)
            old, new = (image(compositor, 64, 48) for _ in range(2))
            answers = await draw_unreleased(window, old, new)
            assert old.busy and answers == [True]
            window.present(new, Crop(0, 0, 64, 48), answers.append)
            assert answers == [True], "later flips wait behind it"
            old._on_release(None)
            await until(lambda: answers == [True] * 3, "answers after the release")
            window.present(old, Crop(0, 0, 64, 48), answers.append, wait_release=False)
            await until(lambda: len(answers) == 4, "a copied picture waits for nobody")

    asyncio.run(run())


def test_flip_does_not_wait_for_a_buffer_that_is_gone(weston):
    """A DomU may detach a framebuffer that the compositor reads: no release event comes for it."""

    async def run():
        async with connected(weston.socket) as (compositor, _lost):
            window = open_window(compositor)
            old, new = (image(compositor, 64, 48) for _ in range(2))
            answers = await draw_unreleased(window, old, new)
            assert answers == [True]
            old.destroy()
            assert answers == [True, True]

    asyncio.run(run())


@pytest.mark.parametrize("size", [(1920, 1080), (640, 480), (200, 4000)])
def test_any_size_fits_a_fullscreen_window(kiosk, size):
    """Weston ends the connection of a client that is larger than its fullscreen size."""

    async def run():
        async with connected(kiosk.socket) as (compositor, lost):
            window = open_window(compositor)
            picture = image(compositor, *size)
            answers: list[bool] = []
            window.present(picture, Crop(0, 0, *size), answers.append)
            await until(lambda: bool(answers or lost), "answer")
            window.present(picture, Crop(10, 10, size[0] - 10, size[1] - 10), answers.append)
            await until(lambda: len(answers) == 2 or bool(lost), "answer to the cropped picture")
            assert not lost and picture.buffer is not None

    asyncio.run(run())


def test_larger_than_fullscreen_really_is_fatal(kiosk, monkeypatch):
    """The counter-proof of the test above: without scaling the connection ends."""
    monkeypatch.setattr("xen_dmabuf.worker.layout.window", lambda content, *_rest: content)

    async def run():
        async with connected(kiosk.socket) as (compositor, lost):
            window = open_window(compositor)
            window.present(image(compositor, 1920, 1080), Crop(0, 0, 1920, 1080), None)
            await until(lambda: bool(lost), "the protocol error")

    asyncio.run(run())


def test_undrawn_window_is_answered_as_not_shown(blind):
    async def run():
        async with connected(blind.socket) as (compositor, _lost):
            window = open_window(compositor)
            images = [image(compositor, 64, 48) for _ in range(2)]
            answers: list[bool] = []
            window.present(images[0], Crop(0, 0, 64, 48), answers.append)
            await until(lambda: bool(answers), "first hidden answer")
            loop = asyncio.get_running_loop()
            start = loop.time()
            for number in range(1, 11):
                window.present(images[number % 2], Crop(0, 0, 64, 48), answers.append)
                await until(lambda n=number: len(answers) == n + 1, f"hidden answer {number}")
                assert not images[1 - number % 2].busy
            assert answers == [False] * 11 and window.hidden
            assert loop.time() - start > 0.9, "hidden flips must be held to 10 a second"
            assert len(window._picture._callbacks) <= 2, "frame callbacks pile up in the compositor"

    asyncio.run(run())


def test_a_destroyed_window_answers_nobody(blind, monkeypatch):
    monkeypatch.setattr(limits, "HIDDEN", 0.05)

    async def run():
        async with connected(blind.socket) as (compositor, _lost):
            window = open_window(compositor)
            picture = image(compositor, 64, 48)
            answers: list[bool] = []
            window.present(picture, Crop(0, 0, 64, 48), answers.append)
            assert window.shows(picture)
            window.destroy()
            window.destroy()
            assert not window.shows(picture)
            await asyncio.wait_for(compositor._sync(), 5)
            other = open_window(compositor)
            later: list[bool] = []
            other.present(picture, Crop(0, 0, 64, 48), later.append)
            await until(lambda: later == [False], "the answer of a window that isn't destroyed")
            assert answers == []
            picture.destroy()
            picture.destroy()

    asyncio.run(run())


def test_refused_import_is_an_answer(weston):
    async def run():
        async with connected(weston.socket) as (compositor, lost):
            fd = os.memfd_create("no dma-buf")
            with pytest.raises(ImportRefused):
                await compositor.import_dmabuf(fd, 64, 64, 256, 0, fourcc.XRGB8888)
            os.close(fd)
            assert compositor.alive and not lost

    asyncio.run(run())


def test_killed_compositor_is_noticed_and_the_next_one_works(weston):
    async def run():
        for _round in range(2):
            async with connected(weston.socket) as (compositor, lost):
                window = open_window(compositor)
                answers: list[bool] = []
                window.present(image(compositor, 64, 64), Crop(0, 0, 64, 64), answers.append)
                await until(lambda answers=answers: bool(answers), "answer")
                weston.stop(signal.SIGKILL)
                await until(lambda lost=lost: bool(lost), "the loss of the compositor")
                window.destroy()
                with pytest.raises(ConnectionLost):
                    compositor.bound("wl_shm")
            weston.start()

    asyncio.run(run())


def test_no_compositor_is_an_oserror_with_the_path(tmp_path):
    async def run():
        with pytest.raises(FileNotFoundError, match="nobody"):
            await Compositor(str(tmp_path / "nobody"), lambda: None).connect()

    asyncio.run(run())
