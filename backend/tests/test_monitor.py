# SPDX-License-Identifier: MIT
"""The connector is a monitor: one window, whatever the guest does, over a real, headless Weston."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from itertools import pairwise

import pytest
from odd_compositor import OddCompositor
from serving import placed, serving
from test_display import connected, image, open_window
from waiting import until

from xen_dmabuf import limits
from xen_dmabuf.config import ConnectorConfig
from xen_dmabuf.displif import fourcc
from xen_dmabuf.displif import wire as OP
from xen_dmabuf.displif.geometry import Crop
from xen_dmabuf.worker.frames import Frames
from xen_dmabuf.worker.ground import ground, read_ppm
from xen_dmabuf.worker.protocols import XdgToplevel
from xen_dmabuf.worker.refresher import Refresher


def test_one_window_whatever_the_guest_shows(xen, weston):
    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            connector, control = worker._devices[0].connectors[0], frontend.connectors[0]
            await until(lambda: connector.window is not None, "the window of a guest that shows nothing")
            window = connector.window
            await frontend.show(1, 64, 48)
            await until(lambda: placed(window), "the picture")
            assert await control.call(OP.OP_SET_CONFIG, 0, 0, 0, 0, 0, 0) == 0
            assert placed(window) is None and connector.window is window
            assert await control.call(OP.OP_SET_CONFIG, 1, 0, 0, 64, 48, 32) == 0
            await until(lambda: placed(window), "the picture again")
            assert await control.call(OP.OP_FB_DETACH, 1) == 0
            assert placed(window) is None and connector.window is window
            assert await control.call(OP.OP_FB_ATTACH, 1, 2, 64, 48, fourcc.XRGB8888) == 0
            assert await control.call(OP.OP_PG_FLIP, 2) == 0
            await until(lambda: connector.counters.flips_shown == 1, "a flip after a lost framebuffer")
            assert connector.window is window

    asyncio.run(run())


@pytest.mark.parametrize(("drawn", "times"), [("none", 1), ("this", 0), ("another", 3)])
def test_a_new_window_that_is_not_drawn_is_mapped_again(weston, blind, monkeypatch, caplog, drawn, times):
    """Each time that it is looked at while the compositor draws another one, else once, after the last look.

    The kiosk shell of Weston 14 loses one, drawn or not: test_outputs.py has it, and test_seat.py."""
    monkeypatch.setattr(limits, "HIDDEN", 0.2)

    def mapped():
        warnings = [record for record in caplog.records if record.msg == "window isn't drawn: it is mapped again"]
        return [record.fields["title"] for record in warnings].count("first")

    async def run():
        async with connected((weston if drawn == "this" else blind).socket) as (compositor, lost):
            window, other = open_window(compositor), open_window(compositor)
            window.rename("first", "test")
            await until(lambda: window._configured and other._configured, "the windows")
            if drawn != "none":
                await until(lambda: drawn == "another" or window._picture.drawn, "a frame")
                other._picture.drawn = True
            before, picture = window._toplevel, image(compositor, 64, 48)
            clock = asyncio.get_running_loop().time
            await until(lambda: window._looking.when() <= clock() and mapped() >= times, "the looks at it")
            window.present(picture, Crop(0, 0, 64, 48), None)
            for _ in range(3):
                await compositor._sync()
            assert window._configured and (window._toplevel is before) == (times == 0) and not lost
            window.destroy()
            window._map_again(1)
            await compositor._sync()
            other.destroy()

    asyncio.run(run())
    assert mapped() == times


def test_what_was_drawn_before_is_no_answer(weston):
    async def run():
        async with connected(weston.socket) as (compositor, _lost):
            window = open_window(compositor)
            shown = window.picture
            await until(lambda: shown.drawn and not shown.waits_for_frame, "the window")
            shown.present(image(compositor, 64, 48), Crop(0, 0, 64, 48), None, False)
            shown.ask()
            before, _answer = shown._callbacks
            shown._on_frame(before)
            assert not shown.drawn
            await until(lambda: shown.drawn, "the answer")
            window.destroy()

    asyncio.run(run())


def test_what_is_drawn_without_flips_is_shown(xen, weston):
    """One buffer, SET_CONFIG, then drawing by mmap: mainline has no request for that."""

    async def run():
        async with serving(xen, weston.socket, screen=ConnectorConfig(refresh_per_second=60)) as (worker, frontend):
            connector, control = worker._devices[0].connectors[0], frontend.connectors[0]
            first = await frontend.show(1, 64, 48)
            drawn = b"\x12\x34\x56\0" * 1024
            xen.page(first)[:] = drawn
            buffer = next(iter(worker._devices[0].buffers))
            await until(lambda: bytes(buffer.backing._pool_map[:4096]) == drawn, "the new content")
            status = connector.status()
            assert (status.refreshing, status.refresh_per_second, status.flips_requested) == (True, 60, 0)
            assert await control.call(OP.OP_PG_FLIP, 1) == 0
            status = connector.status()
            assert (status.refreshing, status.refresh_per_second) == (False, 0), "it stops at the first flip"

    asyncio.run(run())


def test_what_is_drawn_without_flips_is_shown_within_100_ms(weston):
    """As configured unless somebody says otherwise: between two times that it is shown again."""
    shown: list[float] = []

    async def run():
        now = asyncio.get_running_loop().time

        async def show():
            shown.append(now())

        refresher = Refresher(ConnectorConfig().refresh_per_second, show)
        began = now()
        refresher.start()
        await until(lambda: len(shown) == 5, "five times")
        refresher.stop()
        gaps = [after - before for before, after in pairwise((began, *shown))]
        assert min(gaps) < 0.1, "a busy host makes some of them longer"
        assert 1 / ConnectorConfig().refresh_per_second <= 0.1
        assert min(gaps) > 0.9 / ConnectorConfig().refresh_per_second, "a bounded rate"

    asyncio.run(run())


@pytest.mark.parametrize("name", ["RX24", "BX24", "RA24", "BA24"])
def test_formats_of_other_frontends_are_taken_where_the_compositor_lists_them(xen, tmp_path, name):
    wanted = fourcc.code(name)

    async def run():
        path = str(tmp_path / "odd")
        xen.exports = True
        with OddCompositor(path, formats=(fourcc.XRGB8888, wanted)) as odd:
            async with serving(xen, path) as (worker, frontend):
                status, _first = await frontend.buffer(1, 64, 48)
                assert status == 0
                control = frontend.connectors[0]
                assert await control.call(OP.OP_FB_ATTACH, 1, 1, 64, 48, wanted) == 0
                assert await control.call(OP.OP_SET_CONFIG, 1, 0, 0, 64, 48, 32) == 0
                connector = worker._devices[0].connectors[0]
                await until(lambda: placed(connector.window), "the picture")
                assert wanted in odd.taken

    asyncio.run(run())


def test_flips_while_the_screen_is_off_are_answered(xen, weston):
    """DPMS: Linux commits planes before it enables the pipe."""

    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            connector, control = worker._devices[0].connectors[0], frontend.connectors[0]
            await frontend.show(1, 64, 48)
            for round_ in range(3):
                assert await control.call(OP.OP_SET_CONFIG, 0, 0, 0, 0, 0, 0) == 0
                assert await control.call(OP.OP_PG_FLIP, 1) == 0
                await until(lambda n=round_: control.flips_done() == [(2 * n, 1)], "the event of a flip in the dark")
                assert connector.counters.flips_not_shown == round_ + 1
                assert await control.call(OP.OP_SET_CONFIG, 1, 0, 0, 64, 48, 32) == 0
                assert await control.call(OP.OP_PG_FLIP, 1) == 0
                await until(lambda n=round_: control.flips_done() == [(2 * n + 1, 1)], "the event of a shown flip")
                assert connector.counters.flips_shown == round_ + 1

    asyncio.run(run())


def test_a_flip_to_a_framebuffer_of_another_size_is_shown(xen, weston):
    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            connector, control = worker._devices[0].connectors[0], frontend.connectors[0]
            await frontend.show(1, 128, 96)  # larger than the connector
            for fb, size in ((2, (64, 48)), (3, (32, 48))):
                await frontend.framebuffer(fb, *size)
                assert await control.call(OP.OP_PG_FLIP, fb) == 0
                await until(lambda n=fb: connector.counters.flips_shown == n - 1, "the flip")
                crop, _place = placed(connector.window)
                assert (crop.width, crop.height) == size

    asyncio.run(run())


def test_a_flip_has_no_position(xen, weston):
    """SetCrtc of another framebuffer in the same mode is a flip: the position that SET_CONFIG had may not fit it."""

    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            connector, control = worker._devices[0].connectors[0], frontend.connectors[0]
            await frontend.show(1, 128, 96)
            assert await control.call(OP.OP_SET_CONFIG, 1, 64, 40, 128, 96, 32) == 0
            await frontend.framebuffer(2, 64, 48)
            for number, (fb, crop) in enumerate(((2, Crop(0, 0, 64, 48)), (1, Crop(64, 40, 64, 48)))):
                assert await control.call(OP.OP_PG_FLIP, fb) == 0
                await until(lambda n=number: connector.counters.flips_shown == n + 1, "the flip")
                assert placed(connector.window)[0] == crop

    asyncio.run(run())


def test_connectors_that_show_the_same_framebuffer_do_not_wait_for_each_other(xen, weston):
    async def run():
        async with serving(xen, weston.socket, (64, 48), (64, 48)) as (worker, frontend):
            first, second = worker._devices[0].connectors
            await frontend.show(1, 64, 48)
            await frontend.show(2, 64, 48, connector=1)
            for control in frontend.connectors:
                assert await control.call(OP.OP_SET_CONFIG, 1, 0, 0, 64, 48, 32) == 0
            await until(lambda: not first.window.waits_for_frame and not second.window.waits_for_frame, "both pictures")
            began = asyncio.get_running_loop().time()
            for number in range(3):
                for index, control in enumerate(frontend.connectors):
                    assert await control.call(OP.OP_PG_FLIP, 2 - number % 2) == 0
                    connector = (first, second)[index]
                    await until(lambda c=connector, n=number: c.counters.flips_shown == n + 1, "the flip", 1.5)
            assert asyncio.get_running_loop().time() - began < 3, "a flip waited for the other connector's"

    asyncio.run(run())


def test_titles_of_a_shared_unique_id_differ(xen, weston):
    async def run():
        async with serving(xen, weston.socket, (64, 48), (64, 48)) as (worker, frontend):
            device = worker._devices[0]
            assert [connector.label for connector in device.connectors] == ["id0", "id1"]
            await worker.disconnect(0)
            specs = tuple(dataclasses.replace(spec, name="same") for spec in frontend.specs)
            await worker.connect(0, specs)
            assert [connector.label for connector in worker._devices[0].connectors] == ["same-0", "same-1"]

    asyncio.run(run())


def test_a_renamed_domain_s_windows_follow(xen, weston, monkeypatch):
    async def run():
        async with serving(xen, weston.socket) as (worker, _frontend):
            connector = worker._devices[0].connectors[0]
            await until(lambda: connector.window, "the window")
            said: list[tuple[str, str]] = []
            for name in ("set_title", "set_app_id"):
                real = getattr(XdgToplevel.proxy_class, name)
                monkeypatch.setattr(
                    XdgToplevel.proxy_class, name, lambda p, text, n=name, r=real: (said.append((n, text)), r(p, text))
                )
            worker.rename("new")
            assert said == [("set_title", "new id0"), ("set_app_id", "xen-dmabuf.new.id0")]
            assert worker.hello().name == "new"

    asyncio.run(run())


@pytest.mark.parametrize("scale", ["down", "none"])
def test_a_window_fits_its_output(weston, scale):
    """Weston's desktop shell leaves the size to the client (xdg configure of 0x0)."""

    async def run():
        async with connected(weston.socket) as (compositor, _lost):
            width, height = compositor.outputs.size("")
            size = (2 * width, 2 * height)
            window = open_window(compositor, size, scale=scale)
            answers: list[bool] = []
            window.present(image(compositor, *size), Crop(0, 0, *size), answers.append)
            await until(lambda: answers == [True], "the picture")
            assert window._area == ((width, height) if scale == "down" else size)

    asyncio.run(run())


def test_a_window_fits_the_bounds_that_the_compositor_names(tmp_path):
    """configure_bounds, which Weston 10 hasn't: at first and later on."""

    async def run():
        path = str(tmp_path / "odd")
        with OddCompositor(path, bounds=(400, 200)) as odd:
            async with connected(path) as (compositor, _lost):
                window = open_window(compositor, (1600, 1600))
                await until(lambda: odd.geometry == (200, 200), f"in proportion, not {odd.geometry}")
                odd.set_bounds(100, 300)
                await until(lambda: odd.geometry == (100, 100), f"the new bounds, not {odd.geometry}")
                odd.set_bounds(-1, 0x7FFFFFFF)
                await until(lambda: odd.geometry == (1600, 1600), "bounds that are none")
                window.destroy()

    asyncio.run(run())


def test_a_maximised_window_has_what_the_output_leaves(weston):
    async def run():
        async with connected(weston.socket) as (compositor, lost):
            window = open_window(compositor, (64, 48), placement="maximised")
            await until(lambda: window._must, "the compositor's word")
            width, height = compositor.outputs.size("")
            await until(lambda: window._area[0] == width and height - 64 <= window._area[1] <= height, "its size")
            assert not lost

    asyncio.run(run())


def test_a_fullscreen_picture_keeps_its_proportion_and_place(kiosk):
    """640x480 of output; what is drawn can't be seen here, but where it is."""

    async def run():
        async with connected(kiosk.socket) as (compositor, lost):
            window = open_window(compositor, (100, 100), scale="fit", placement="fullscreen", output="nowhere")
            answers: list[bool] = []
            window.present(image(compositor, 100, 100), Crop(0, 0, 100, 100), answers.append)
            await until(lambda: bool(answers), "the picture")  # this Weston draws nothing without a seat
            _crop, place = placed(window)
            assert (place.x, place.y, place.width, place.height) == (80, 0, 480, 480)
            assert window.locate(80, 0) == (0, 0) and window.locate(80 + 479, 479) == pytest.approx(
                (99.8, 99.8), abs=0.1
            )
            assert window.locate(0, 0)[0] < 0, "beside the picture"
            assert not lost

    asyncio.run(run())


def test_an_output_is_found_by_its_name(weston):
    async def run():
        async with connected(weston.socket) as (compositor, _lost):
            (name,) = compositor.outputs.names()
            if not name:
                pytest.skip("LOUD: this Weston has no wl_output version 4; names are NOT tested")
            found, proxy = compositor.outputs.named(name)
            assert found == name and compositor.outputs.name_of(proxy) == name
            assert compositor.outputs.named("nowhere") == ("", None)
            window = open_window(compositor, placement="fullscreen", output=name)
            await until(lambda: all(window._area), "the window")
            assert window._area == compositor.outputs.size(name)

    asyncio.run(run())


def test_without_viewporter_pictures_are_not_scaled(weston, monkeypatch):
    monkeypatch.setattr("xen_dmabuf.worker.compositor.Compositor.optional", lambda self, name: None)

    async def run():
        async with connected(weston.socket) as (compositor, lost):
            window = open_window(compositor, (64, 48))
            answers: list[bool] = []
            window.present(image(compositor, 64, 48), Crop(0, 0, 64, 48), answers.append)
            await until(lambda: answers == [True], "the picture")
            window.present(image(compositor, 128, 96), Crop(16, 8, 64, 48), answers.append)
            await until(lambda: answers == [True] * 2, "a part of a picture")
            assert not lost and window._scale == "none"

    asyncio.run(run())


def test_idle_picture_comes_back(weston, tmp_path):
    path = tmp_path / "idle.ppm"
    path.write_bytes(b"P6\n# made by hand\n2 1\n255\n" + bytes((1, 2, 3, 4, 5, 6)))
    assert read_ppm(str(path)) == ((2, 1), bytes((3, 2, 1, 0, 6, 5, 4, 0)))

    async def run():
        async with connected(weston.socket) as (compositor, _lost):
            window = open_window(compositor, (64, 48), idle=str(path))
            await until(lambda: window._picture.placed, "the idle picture")
            assert window._picture.placed[1].width == 64, "enlarged"
            answers: list[bool] = []
            window.present(image(compositor, 64, 48), Crop(0, 0, 64, 48), answers.append)
            await until(lambda: answers == [True], "the guest's picture")
            window.blank()
            assert window.shows(window._idle)

    asyncio.run(run())


@pytest.mark.parametrize(
    "data", [b"", b"P6 1 1 255\n", b"P6 9999 9999 255\n" + bytes(30), b"P5 1 1 255\n\0\0\0", b"P6 0 0 255\n\0"]
)
def test_an_idle_picture_that_is_none_leaves_black(weston, tmp_path, data, caplog):
    path = tmp_path / "idle.ppm"
    path.write_bytes(data)

    async def run():
        async with connected(weston.socket) as (compositor, _lost):
            for name in (str(path), str(tmp_path / "absent.ppm")):
                window = open_window(compositor, (64, 48), idle=name)
                assert window._idle.width == 1 and "idle picture can't be shown" in caplog.text
                caplog.clear()
                await until(lambda w=window: all(w._area), "the window")

    asyncio.run(run())


def test_a_buffer_that_ends_the_connection_three_times_is_copied(xen, tmp_path):
    """A compositor takes a buffer and ends the connection a moment after it is shown."""

    async def run():
        path = str(tmp_path / "odd")
        xen.exports = True
        with OddCompositor(path, ends_when_shown=True) as odd:
            async with serving(xen, path) as (worker, frontend):
                await frontend.show(1, 64, 48)
                buffer = next(iter(worker._devices[0].buffers))
                assert buffer.backing.strategy == "export", buffer.backing.why
                await until(lambda: buffer.backing and buffer.backing.strategy == "copy", "the next strategy", 20)
                assert "ended the connection 3 times" in buffer.backing.why
                assert len(odd.clients) >= 4

    asyncio.run(run())


def test_a_window_is_hidden_until_frames_come_in_time_again(weston, monkeypatch):
    """KWin tells a covered window of a frame once a second: that is a heartbeat, not a frame."""

    async def run():
        async with connected(weston.socket) as (compositor, _lost):
            window = open_window(compositor, (64, 48))
            picture = window._picture
            answers: list[bool] = []
            window.present(image(compositor, 64, 48), Crop(0, 0, 64, 48), answers.append)
            await until(lambda: answers == [True], "the picture")
            picture.hidden = True
            monkeypatch.setattr("xen_dmabuf.worker.picture._IN_TIME", -1.0)
            window.present(image(compositor, 64, 48), Crop(0, 0, 64, 48), answers.append)
            await until(lambda: len(answers) == 2 and not window.waits_for_frame, "a late frame")
            assert window.hidden
            monkeypatch.undo()
            window.present(image(compositor, 64, 48), Crop(0, 0, 64, 48), answers.append)
            await until(lambda: not window.hidden, "a frame in time")

    asyncio.run(run())


def test_when_frames_reach_the_screen_is_sampled(weston, monkeypatch):
    monkeypatch.setattr("xen_dmabuf.worker.presentation._INTERVAL", 0.0)

    async def run():
        async with connected(weston.socket) as (compositor, lost):
            window = open_window(compositor, (64, 48))
            images = [image(compositor, 64, 48) for _ in range(2)]
            answers: list[bool] = []
            for number in range(10):
                window.present(images[number % 2], Crop(0, 0, 64, 48), answers.append)
                await until(lambda n=number: len(answers) == n + 1, "the flip")
            await until(lambda: 0 <= window.presentation.latency < 5000, "a sample")
            assert not lost

    asyncio.run(run())


def test_flips_are_answered_in_their_order(xen, blind):
    """One waits for a window that isn't drawn, the next has a framebuffer whose picture isn't there yet."""

    async def run():
        async with serving(xen, blind.socket) as (worker, frontend):
            control, connector = frontend.connectors[0], worker._devices[0].connectors[0]
            await frontend.show(1, 64, 48)
            await frontend.framebuffer(2, 64, 48)
            late = connector._framebuffers.get(2)
            image, late.image = late.image, None
            control.post(OP.OP_PG_FLIP, 1)
            control.post(OP.OP_PG_FLIP, 2)
            events: list[tuple[int, int]] = []

            def both() -> bool:
                events.extend(control.flips_done())
                return len(events) == 2

            await until(both, "both events")
            assert events == [(0, 1), (1, 2)]
            late.image = image

    asyncio.run(run())


def test_a_window_that_cannot_be_opened_leaves_nothing(weston, monkeypatch):
    """It is tried again at the next flip, so what each try leaves would pile up in the compositor."""
    made: list = []

    def fails(compositor, _settings):
        raise OSError(errno.EMFILE, "Too many open files")

    def first(*arguments):
        made.append(ground(*arguments))
        return made[-1]

    monkeypatch.setattr("xen_dmabuf.worker.window.ground", first)
    monkeypatch.setattr("xen_dmabuf.worker.window.load_idle", fails)

    async def run():
        async with connected(weston.socket) as (compositor, lost):
            with pytest.raises(OSError):
                open_window(compositor)
            assert [image.buffer for image in made] == [None] and not compositor.windows
            await asyncio.wait_for(compositor._sync(), 5)
            assert not lost

    asyncio.run(run())


def test_a_window_that_goes_shows_nothing_of_the_guest_s_any_more(weston, monkeypatch):
    """At once, not with the next frame, which doesn't come any more."""
    attached: list = []
    attach = Frames.attach
    monkeypatch.setattr(Frames, "attach", lambda self, what: (attached.append(what), attach(self, what)))

    async def run():
        async with connected(weston.socket) as (compositor, lost):
            window = open_window(compositor, (64, 48))
            picture, idle = image(compositor, 64, 48), window._idle.attach
            answers: list[bool] = []
            window.present(picture, Crop(0, 0, 64, 48), answers.append)
            await until(lambda: answers == [True], "the picture")
            window.present(picture, Crop(0, 0, 64, 48), answers.append)
            assert attached[-1] is picture.attach and window.waits_for_frame
            window.destroy()
            assert attached[-1] is idle and answers == [True]
            await asyncio.wait_for(compositor._sync(), 5)
            assert not lost

    asyncio.run(run())
