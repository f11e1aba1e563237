# SPDX-License-Identifier: MIT
"""What is on a real compositor's screen, read back: what shines through a window, what fills it, and on which output
it is."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from compositors import Headless, Screen
from fakes import FakeXen
from seen import Seen
from serving import placed, serving
from test_display import connected, open_window
from waiting import until

from xen_dmabuf.config import ConnectorConfig
from xen_dmabuf.displif import fourcc
from xen_dmabuf.displif import wire as OP
from xen_dmabuf.displif.geometry import Crop
from xen_dmabuf.worker.window import Window

_BEHIND = bytes((0x20, 0x40, 0x60))
_RED, _GREEN, _BLUE, _WHITE, _BLACK = (
    bytes.fromhex(text) for text in ("ff0000", "00ff00", "0000ff", "ffffff", "000000")
)
_HALF = 0x80
_SIZE = 192, 96
# premultiplied, as Wayland and KMS have it
_STRIPES = ((0xFF, _GREEN), (_HALF, bytes((0x40, 0x10, 0x00))), (0, _BLACK))


def _needs(*programs: str) -> None:
    lacking = [program for program in programs if not shutil.which(program)]
    if lacking:
        pytest.skip(f"LOUD: {', '.join(lacking)} is not installed; what is seen on a screen is NOT tested")


@pytest.fixture(scope="module")
def sway() -> Iterator[Headless]:
    """With two outputs."""
    _needs("sway", "grim")
    compositor = Headless("sway", outputs=2)
    try:
        compositor.start()
        yield compositor
    finally:
        compositor.close()


@pytest.fixture(scope="module")
def seen_weston(tmp_path_factory) -> Iterator[Seen]:
    _needs("weston", "Xvfb")
    compositor = Seen(tmp_path_factory.mktemp("weston"))
    try:
        compositor.start()
        yield compositor
    finally:
        compositor.stop()


@pytest.fixture(params=["seen_weston", "sway"])
def running(request) -> Seen | Headless:
    return request.getfixturevalue(request.param)


def painted(compositor, width: int, height: int, pixel: Callable[[int, int], bytes]):
    """An opaque picture; ``pixel(x, y)``: red, green, blue."""
    data = b"".join(pixel(x, y)[::-1] + b"\0" for y in range(height) for x in range(width))
    fd = os.memfd_create("painted")
    os.write(fd, data)
    try:
        return compositor.share_memory(fd, len(data), width, height, width * 4, 0, fourcc.XRGB8888)
    finally:
        os.close(fd)


async def looks(compositor: Seen | Headless, right: Callable[[Screen], bool], what: str, output: str = "") -> Screen:
    """The screen, once it is right: a capture may come before the frame that a compositor has told of."""
    arguments = (output,) if output else ()
    ending = asyncio.get_running_loop().time() + 10
    while True:
        screen = await asyncio.to_thread(compositor.screen, *arguments)
        if right(screen):
            return screen
        colours = {screen.at(x, 150).hex(): None for x in range(0, screen.width, 16)}
        assert asyncio.get_running_loop().time() < ending, f"{what}; line 150 has {', '.join(colours)}"


async def stripes(xen: FakeXen, frontend) -> None:
    """The guest shows three stripes of ARGB: opaque, half and clear."""
    status, first = await frontend.buffer(1, *_SIZE)
    assert status == 0
    line = b"".join((colour[::-1] + bytes((alpha,))) * (_SIZE[0] // 3) for alpha, colour in _STRIPES)
    data = line * _SIZE[1]
    for number in range(len(data) // 4096):
        xen.page(first + number)[:] = data[number * 4096 : (number + 1) * 4096]
    control = frontend.connectors[0]
    assert await control.call(OP.OP_FB_ATTACH, 1, 1, *_SIZE, fourcc.ARGB8888) == 0
    assert await control.call(OP.OP_SET_CONFIG, 1, 0, 0, *_SIZE, 32) == 0


def _over(alpha: int, colour: bytes, ground: bytes) -> list[int]:
    return [above + below * (255 - alpha) // 255 for above, below in zip(colour, ground, strict=True)]


def _near(colour: bytes, expected: list[int]) -> bool:
    return all(abs(one - other) <= 1 for one, other in zip(colour, expected, strict=True))


@pytest.mark.parametrize("alpha", [True, False])
def test_what_is_behind_shines_through_only_if_it_may(xen, running, alpha):
    """A guest's ARGB picture over another window, then the idle colour. Without alpha, what the fourth byte of its
    pixels says is nothing that anybody sees."""
    settings = ConnectorConfig(alpha=alpha, placement="maximised", idle="#ff0000")

    async def run():
        async with connected(running.socket) as (other, _lost):
            behind = open_window(other, (320, 240), placement="maximised", scale="stretch")
            behind.present(painted(other, 8, 8, lambda _x, _y: _BEHIND), Crop(0, 0, 8, 8), None)
            await looks(running, lambda screen: screen.at(150, 150) == _BEHIND, "the window behind")
            async with serving(xen, running.socket, _SIZE, screen=settings, name="above") as (worker, frontend):
                connector, control = worker._devices[0].connectors[0], frontend.connectors[0]
                await until(lambda: connector.window and not connector.window.waits_for_frame, "the idle picture")
                idle = _BEHIND if alpha else _RED
                x, y = (100, 100) if isinstance(running, Headless) else (0, 0)
                await looks(running, lambda screen: screen.at(x + 60, y + 40) == idle, "the idle colour")
                await stripes(xen, frontend)
                await until(lambda: placed(connector.window), "the picture")
                _crop, place = placed(connector.window)
                x, y = x + place.x, y + place.y
                ground = _BEHIND if alpha else _BLACK
                expected = [_over(a if alpha else 255, colour, ground) for a, colour in _STRIPES]
                points = [(x + 32 + 64 * number, y + 48) for number in range(3)]
                await looks(
                    running,
                    lambda screen: all(_near(screen.at(*p), e) for p, e in zip(points, expected, strict=True)),
                    f"the stripes {expected}",
                )
                assert await control.call(OP.OP_SET_CONFIG, 0, 0, 0, 0, 0, 0) == 0
                await looks(running, lambda screen: all(screen.at(*p) == idle for p in points), "the idle colour again")

    asyncio.run(run())


def _quarters(width: int, height: int) -> Callable[[int, int], bytes]:
    return lambda x, y: ((_RED, _GREEN), (_BLUE, _WHITE))[2 * y // height][2 * x // width]


@pytest.mark.parametrize(("size", "placement"), [((60, 200), "fullscreen"), ((200, 60), "maximised")])
def test_a_stretched_picture_fills_its_window(running, size, placement):
    """A higher one than the output, and a wider one: corner to corner, and the middle where it was."""

    async def run():
        async with connected(running.socket) as (compositor, lost):
            window = open_window(compositor, size, scale="stretch", placement=placement)
            answers: list[bool] = []
            window.present(painted(compositor, *size, _quarters(*size)), Crop(0, 0, *size), answers.append)
            await until(lambda: answers == [True], "the picture")
            output = compositor.outputs.size("")
            await until(lambda: window._area == output, "the window's size")

            def filled(screen: Screen) -> bool:
                width, height = output
                xs, ys = (
                    (0, width // 2 - 8, width // 2 + 8, width - 1),
                    (0, height // 2 - 8, height // 2 + 8, height - 1),
                )
                expected = _quarters(width, height)
                return all(screen.at(x, y) == expected(x, y) for x in xs for y in ys)

            await looks(running, filled, "four quarters, to the corners")
            assert not lost

    asyncio.run(run())


def _filled(colour: bytes) -> Callable[[Screen], bool]:
    return lambda screen: all(screen.at(x, 400) == colour for x in (0, 640, 1279))


def _show_on(compositor, output: str, colour: bytes) -> Window:
    """A window that fills the output of this name."""
    window = open_window(compositor, (64, 48), scale="stretch", placement="fullscreen", output=output)
    window.present(painted(compositor, 64, 48, lambda _x, _y: colour), Crop(0, 0, 64, 48), None)
    return window


def test_a_fullscreen_window_is_on_the_output_that_it_names(sway):
    """Two outputs of one size, each named once as the first and once as the second."""

    async def run():
        for first, second in (("HEADLESS-1", "HEADLESS-2"), ("HEADLESS-2", "HEADLESS-1")):
            async with connected(sway.socket) as (compositor, lost):
                assert sorted(compositor.outputs.names()) == ["HEADLESS-1", "HEADLESS-2"]
                windows = [_show_on(compositor, first, _GREEN), _show_on(compositor, second, _BLUE)]
                await looks(sway, _filled(_GREEN), "the first window", first)
                await looks(sway, _filled(_BLUE), "the second", second)
                assert [window.output for window in windows] == [first, second]
                assert not lost

    asyncio.run(run())


def test_a_window_goes_to_its_output_once_that_is_there(sway, caplog):
    async def run():
        async with connected(sway.socket) as (compositor, lost):
            window = _show_on(compositor, "HEADLESS-3", _RED)
            await until(lambda: window.output, "another output")
            assert window.output != "HEADLESS-3" and "output isn't there" in caplog.text
            await looks(sway, _filled(_RED), "the window", window.output)
            await asyncio.to_thread(sway.sway, "create_output")
            await until(lambda: window.output == "HEADLESS-3", "the output's word")
            await looks(sway, _filled(_RED), "the window", "HEADLESS-3")
            assert not lost

    asyncio.run(run())
