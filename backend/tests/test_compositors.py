# SPDX-License-Identifier: MIT
"""The same windows in other compositors than Weston, each real and without a display."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from itertools import pairwise

import pytest
from compositors import KINDS, Headless
from fakes import FakeXen
from serving import placed, serving
from test_display import connected, image, open_window
from waiting import run_as_a_worker, until

from xen_dmabuf import limits
from xen_dmabuf.config import ConnectorConfig
from xen_dmabuf.displif import wire as OP
from xen_dmabuf.displif.geometry import Crop
from xen_dmabuf.pump import loop
from xen_dmabuf.worker import keeper
from xen_dmabuf.worker.compositor import Compositor

_GREEN, _BLACK = bytes((0x20, 0xA0, 0x40)), bytes(3)
_SIZE = 640, 480


@pytest.fixture(scope="module", params=KINDS)
def running(request) -> Iterator[Headless]:
    """One of them, for all tests here: nothing of the one is left for the next."""
    kind = KINDS[request.param]
    lacking = [program for program in kind.needs if not shutil.which(program)]
    if lacking:
        pytest.skip(f"LOUD: package {kind.package} is not installed ({', '.join(lacking)}); it is NOT tested")
    compositor = Headless(request.param)
    try:
        compositor.start()
        yield compositor
    finally:
        compositor.close()


@pytest.fixture
def compositor(running) -> Iterator[Headless]:
    yield running
    assert running.alive, f"{running.name} has ended: {running.log()}"


@pytest.fixture
def xen(monkeypatch) -> Iterator[FakeXen]:
    """With what serves flips here; test_display.py has both."""
    fake = FakeXen()
    fake.install(monkeypatch)
    if loop.lib is not None:
        fake.install_pump(monkeypatch)
    monkeypatch.setattr(asyncio, "run", run_as_a_worker)
    yield fake
    fake.close()


def paint(xen: FakeXen, first: int, width: int, height: int) -> None:
    """A green picture in a buffer of the DomU's."""
    pixels = (_GREEN[::-1] + b"\0") * (width * height)
    for number in range(len(pixels) // 4096):
        xen.page(first + number)[:] = pixels[number * 4096 : (number + 1) * 4096]


async def flip(control, connector, fb: int) -> float:
    """A flip; returns when it was answered, after how many seconds."""
    counters, began = connector.counters, asyncio.get_running_loop().time()
    answered = counters.flips_shown + counters.flips_not_shown
    assert await control.call(OP.OP_PG_FLIP, fb) == 0
    await until(lambda: counters.flips_shown + counters.flips_not_shown > answered, "the flip's answer")
    return asyncio.get_running_loop().time() - began


async def show(control, connector, fb: int) -> None:
    """Flips until one counts as shown: a compositor on a busy machine may take its time for the first."""
    shown = connector.counters.flips_shown
    async with asyncio.timeout(20):
        while connector.counters.flips_shown == shown:
            await flip(control, connector, fb)


async def capture(compositor: Headless):
    return await asyncio.get_running_loop().run_in_executor(None, compositor.screen)


@pytest.mark.parametrize("scale", ["down", "fit"])
def test_a_guest_s_picture_is_shown_in_proportion(xen, compositor, scale):
    """Tiled, maximised or not; then black, though the window stays; then nothing."""

    async def run():
        async with serving(xen, compositor.socket, _SIZE, screen=ConnectorConfig(scale=scale)) as (worker, frontend):
            connector, control = worker._devices[0].connectors[0], frontend.connectors[0]
            for fb in (2, 1):
                paint(xen, await frontend.framebuffer(fb, *_SIZE), *_SIZE)
            assert await control.call(OP.OP_SET_CONFIG, 1, 0, 0, *_SIZE, 32) == 0
            for number in range(1, 7):
                await show(control, connector, 1 + number % 2)
            window = connector.window
            crop, place = placed(window)
            assert (crop.width, crop.height) == place.source == _SIZE
            area = window._area
            assert abs(place.width * 3 - place.height * 4) <= 4, "not stretched"
            assert (
                0 <= place.x <= place.x + place.width <= area[0] and 0 <= place.y <= place.y + place.height <= area[1]
            )
            if compositor.kind.captures:
                output = window._compositor.outputs.size("")
                assert area == output, "all of these lay out windows themselves"
                screen = await capture(compositor)
                assert (screen.width, screen.height) == output
                box = screen.box(_GREEN)
                expected = place.x, place.y, place.width, place.height
                assert all(abs(a - b) <= 2 for a, b in zip(box, expected, strict=True)), (box, expected)
                assert screen.at(place.x // 2, output[1] // 2) == _BLACK
            assert await control.call(OP.OP_SET_CONFIG, 0, 0, 0, 0, 0, 0) == 0
            assert placed(window) is None and connector.window is window
            await until(lambda: not window.waits_for_frame, "the black picture")
            if compositor.kind.captures:
                screen = await capture(compositor)
                assert screen.at(output[0] // 2, output[1] // 2) == _BLACK
        if compositor.kind.captures:
            screen = await capture(compositor)
            assert screen.at(screen.width // 2, screen.height // 2) != _GREEN

    asyncio.run(run())


def test_a_larger_window_fits_the_output(compositor):
    async def run():
        async with connected(compositor.socket) as (connection, lost):
            width, height = connection.outputs.size("")
            size = (2 * width, 2 * height)
            window = open_window(connection, size)
            answers: list[bool] = []
            window.present(image(connection, *size), Crop(0, 0, *size), answers.append)
            await until(lambda: answers == [True], "the picture")
            assert 0 < window._area[0] <= width and 0 < window._area[1] <= height
            _crop, place = placed(window)
            assert place.width <= width and place.height <= height
            assert not lost

    asyncio.run(run())


def test_a_fullscreen_window_has_the_whole_output(compositor):
    async def run():
        async with connected(compositor.socket) as (connection, lost):
            output = connection.outputs.size("")
            window = open_window(connection, (100, 100), scale="fit", placement="fullscreen")
            answers: list[bool] = []
            await until(lambda: window._area == output, "the size")
            window.present(image(connection, 100, 100), Crop(0, 0, 100, 100), answers.append)
            await until(lambda: answers == [True], "the picture")
            _crop, place = placed(window)
            side = 100 if window._scale == "none" else output[1]  # cage 0.1.4 has no viewporter
            assert (place.width, place.height) == (side, side)
            assert (place.x, place.y) == ((output[0] - side) // 2, (output[1] - side) // 2)
            assert not lost

    asyncio.run(run())


def test_flips_of_a_covered_window_are_answered(xen, compositor):
    """As a frontend needs it: never later than it waits. Whether as shown is the compositor's business."""

    async def run():
        async with serving(xen, compositor.socket, _SIZE) as (worker, frontend), connected(compositor.socket) as other:
            connector, control = worker._devices[0].connectors[0], frontend.connectors[0]
            for fb in (2, 1):
                await frontend.framebuffer(fb, *_SIZE)
            assert await control.call(OP.OP_SET_CONFIG, 1, 0, 0, *_SIZE, 32) == 0
            await show(control, connector, 2)
            cover = open_window(other[0], _SIZE, placement="fullscreen", scale="stretch")
            shown: list[bool] = []
            cover.present(image(other[0], *_SIZE), Crop(0, 0, *_SIZE), shown.append)
            await until(lambda: shown == [True], "what covers it")
            took = [await flip(control, connector, 1 + number % 2) for number in range(6)]
            assert max(took) < limits.EVENT
            assert sorted(took[1:])[2] < 0.5, "once it counts as hidden: ten a second"

    asyncio.run(run())


def test_a_killed_compositor_is_looked_for_in_growing_pauses(xen, compositor, monkeypatch):
    """And the next one shows what was shown."""
    monkeypatch.setattr(keeper, "_FIRST_PAUSE", 0.05)
    attempts: list[float] = []
    connect = Compositor.connect

    async def counted(self: Compositor) -> None:
        attempts.append(asyncio.get_running_loop().time())
        await connect(self)

    monkeypatch.setattr(Compositor, "connect", counted)

    async def run():
        async with serving(xen, compositor.socket, _SIZE) as (worker, frontend):
            connector, control = worker._devices[0].connectors[0], frontend.connectors[0]
            await frontend.show(1, *_SIZE)
            await show(control, connector, 1)
            attempts.clear()
            compositor.kill()
            await until(lambda: len(attempts) == 4, "attempts to connect")
            pauses = [later - earlier for earlier, later in pairwise(attempts)]
            assert all(pause >= 0.099 * 2**number for number, pause in enumerate(pauses)), pauses
            shown = connector.counters.flips_shown
            assert await flip(control, connector, 1) < 1 and connector.counters.flips_shown == shown
            compositor.start()
            await until(lambda: placed(connector.window), "the picture again")
            await show(control, connector, 1)

    asyncio.run(run())
