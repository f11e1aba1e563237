# SPDX-License-Identifier: MIT
"""What a compositor may get wrong, one thing at a time; fuzz/compositor.py does all of it at random."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import struct
from collections.abc import AsyncIterator, Callable

import pytest
from fuzz.wayland import Server, array, u32
from serving import serving
from waiting import until

from xen_dmabuf import limits
from xen_dmabuf.config import ConnectorConfig
from xen_dmabuf.displif import fourcc, wire
from xen_dmabuf.link.messages import Disconnected
from xen_dmabuf.linux import gbm
from xen_dmabuf.worker.allocators import GbmAllocator, Shape
from xen_dmabuf.worker.compositor import Compositor
from xen_dmabuf.worker.feedback import IMPLICIT, LINEAR
from xen_dmabuf.worker.window import Window

_TABLE = b"".join(struct.pack("<I4xQ", code, 0) for code in (fourcc.XRGB8888, fourcc.RGB565))
_DEVICE = struct.pack("<Q", 0xE280)
_INDICES = struct.pack("<2H", 0, 1)
_CODES = {fourcc.XRGB8888, fourcc.RGB565}


def _memory(data: bytes) -> int:
    fd = os.memfd_create("table")
    os.write(fd, data)
    return fd


class _Server(Server):
    """One that is honest but for its feedback, as the test likes it."""

    def __init__(self, file: Callable[[], int], size: int, device: bytes, indices: bytes) -> None:
        super().__init__(random.Random(1))
        self.behave()
        self._said = file, size, device, indices

    def _feedback(self, feedback: int) -> None:
        file, size, device, indices = self._said
        fd = file()
        self.send(feedback, 1, u32(size), (fd,))
        os.close(fd)
        self.send(feedback, 2, array(device))
        self.send(feedback, 5, array(indices))
        self.send(feedback, 0)

    def configure(self, states: bytes) -> None:
        for toplevel in self._of("xdg_toplevel"):
            self.send(toplevel, 0, u32(640, 480) + array(states))


@contextlib.asynccontextmanager
async def _connected(
    file: Callable[[], int] = lambda: _memory(_TABLE),
    size: int = len(_TABLE),
    device: bytes = _DEVICE,
    indices: bytes = _INDICES,
) -> AsyncIterator[tuple[Compositor, _Server, list[bool]]]:
    lost: list[bool] = []
    server = _Server(file, size, device, indices)
    compositor = Compositor(server.path, lambda: lost.append(True))
    try:
        await compositor.connect()
        yield compositor, server, lost
    finally:
        compositor.close()
        server.close()


@pytest.fixture(autouse=True)
def _nothing_raised(capfd):
    """pywayland prints an exception in a callback, and goes on."""
    yield
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("file", "size", "codes"),
    [
        (lambda: _memory(_TABLE), len(_TABLE), _CODES),
        (lambda: _memory(_TABLE), 0xFFFFFFFF, _CODES),
        (lambda: _memory(_TABLE), len(_TABLE) - 1, {fourcc.XRGB8888}),
        (lambda: _memory(_TABLE[:-1]), len(_TABLE), {fourcc.XRGB8888}),
        (lambda: _memory(b""), len(_TABLE), set()),
        (lambda: _memory(_TABLE), 0, set()),
        (lambda: os.eventfd(0), len(_TABLE), set()),
    ],
    ids=["right", "4 GiB", "half an entry", "shorter than it says", "empty", "no size", "no file"],
)
def test_table_of_formats(file, size, codes):
    async def run():
        before = len(os.listdir("/proc/self/fd"))
        async with _connected(file, size) as (compositor, _server, lost):
            assert set(compositor.feedback.formats) == codes and not lost
            assert compositor.main_device == 0xE280
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(run())


@pytest.mark.parametrize("device", [b"", b"\1", _DEVICE[:7], _DEVICE + b"\0", b"\xff" * 16, bytes(8)])
def test_a_device_that_is_no_number_of_one(device):
    async def run():
        async with _connected(device=device) as (compositor, _server, _lost):
            assert compositor.main_device is None
            assert set(compositor.feedback.formats) == _CODES

    asyncio.run(run())


@pytest.mark.parametrize("indices", [_INDICES + b"\0", _INDICES + b"\xff\xff", _INDICES * 500])
def test_a_list_of_indices_that_is_too_long(indices):
    async def run():
        async with _connected(indices=indices) as (compositor, _server, _lost):
            assert set(compositor.feedback.formats) == _CODES

    asyncio.run(run())


def test_formats_without_end_are_not_kept():
    names = [(code, modifier) for code in (1, fourcc.XRGB8888) for modifier in (0, *range(1 << 56, (1 << 56) + 999))]
    table = b"".join(struct.pack("<I4xQ", *name) for name in names)

    async def run():
        indices = struct.pack(f"<{len(names)}H", *range(len(names)))
        async with _connected(lambda: _memory(table), len(table), indices=indices[:4000]) as (
            compositor,
            server,
            _lost,
        ):
            (shm,) = server._of("wl_shm")
            for number in range(3, 500):
                server.send(shm, 0, u32(number))
            await asyncio.wait_for(compositor._sync(), 10)
            assert compositor.feedback.formats == {fourcc.XRGB8888: {0}}
            assert compositor.shm_formats <= set(fourcc.BITS)

    asyncio.run(run())


def test_states_with_half_a_number():
    """The whole ones count: this window is maximised, so its size is the compositor's."""

    async def run():
        async with _connected() as (compositor, server, lost):
            window = Window(compositor, "domu 0", "test", (64, 48), ConnectorConfig(), 10)
            await until(lambda: window._configured, "the first configure")
            server.configure(u32(1) + b"\1")
            await asyncio.wait_for(compositor._sync(), 10)
            assert window._must and not lost
            window.destroy()

    asyncio.run(run())


def test_formats_that_are_announced_again_replace_the_first():
    async def run():
        async with _connected() as (compositor, server, lost):
            assert set(compositor.feedback.formats) == _CODES
            server._said = (lambda: _memory(_TABLE), len(_TABLE), _DEVICE, b"")
            for feedback in server._of("feedback"):
                server._feedback(feedback)
            await asyncio.wait_for(compositor._sync(), 10)
            assert not compositor.feedback.formats and not lost

    asyncio.run(run())


@pytest.mark.parametrize("length", [0, 1, 8, 11], ids=lambda length: f"{length} bytes")
def test_a_connection_that_ends_amid_an_event_is_lost(length):
    """libwayland 1.26 finds the rest of an event readable for ever, and nothing in it."""

    async def run():
        async with _connected() as (compositor, server, lost):
            server.write(u32(1, 12 << 16 | 1, 1)[:length])
            server.hang_up()
            await until(lambda: bool(lost), "the loss of the compositor")
            assert not compositor.alive

    asyncio.run(run())


# -- when frames reach the screen


class _Screen(_Server):
    """An honest one that says what became of a frame when the test likes it."""

    def __init__(self) -> None:
        super().__init__(lambda: _memory(_TABLE), len(_TABLE), _DEVICE, _INDICES)

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


# -- tranches

_OURS, _OTHER = 0xE200, 0xE201
_ENTRIES = (
    (fourcc.XRGB8888, IMPLICIT),
    (fourcc.XRGB8888, LINEAR),
    (fourcc.RGB565, LINEAR),
    (fourcc.ARGB8888, 0x0100_0000_0000_0001),  # a layout that no DomU's buffer has
)


class _Tranches(Server):
    """An honest one with tranches (device, flags, indices), preferred first; ``added``: layouts of imports."""

    def __init__(self, *tranches: tuple[int, int, tuple[int, ...]]) -> None:
        super().__init__(random.Random(1))
        self.behave()
        self._tranches = tranches
        self.added: list[int] = []

    def _feedback(self, feedback: int) -> None:
        table = b"".join(struct.pack("<I4xQ", *entry) for entry in _ENTRIES)
        fd = _memory(table)
        self.send(feedback, 1, u32(len(table)), (fd,))
        os.close(fd)
        self.send(feedback, 2, array(_DEVICE))
        for device, flags, indices in self._tranches:
            self.send(feedback, 4, array(struct.pack("<Q", device)))
            self.send(feedback, 6, u32(flags))
            self.send(feedback, 5, array(struct.pack(f"<{len(indices)}H", *indices)))
            self.send(feedback, 3)
        self.send(feedback, 0)

    def _request(self, identifier: int, opcode: int, body: bytes) -> None:
        if self._kinds.get(identifier) == "params" and opcode == 1:
            high, low = struct.unpack("@5I", body)[3:]
            self.added.append(high << 32 | low)
        super()._request(identifier, opcode, body)


@contextlib.asynccontextmanager
async def _told(*tranches: tuple[int, int, tuple[int, ...]]) -> AsyncIterator[tuple[Compositor, _Tranches]]:
    server = _Tranches(*tranches)
    compositor = Compositor(server.path, lambda: None)
    try:
        await compositor.connect()
        yield compositor, server
    finally:
        compositor.close()
        server.close()


def test_the_first_tranche_that_has_the_format_is_preferred():
    async def run():
        async with _told((_OURS, 1, (0,)), (_OTHER, 0, (1, 2, 3))) as (compositor, server):
            feedback = compositor.feedback
            assert [(each.device, each.scanout) for each in feedback.tranches] == [(_OURS, True), (_OTHER, False)]
            assert feedback.main_device == 0xE280
            assert feedback.modifier(fourcc.XRGB8888) == IMPLICIT, "as the first one has it, not the second"
            assert feedback.modifier(fourcc.RGB565) == LINEAR
            assert feedback.modifier(fourcc.ARGB8888) is None and not compositor.takes_dmabuf(fourcc.ARGB8888)
            fd = _memory(bytes(4096))
            for code in (fourcc.XRGB8888, fourcc.RGB565):
                imported = await compositor.import_dmabuf(fd, 8, 8, 32, 0, code)
                imported.destroy()
            os.close(fd)
            assert server.added == [IMPLICIT, LINEAR]

    asyncio.run(run())


def test_the_other_order_prefers_the_other_layout():
    async def run():
        async with _told((_OTHER, 0, (1, 2)), (_OURS, 1, (0,))) as (compositor, _server):
            assert compositor.feedback.modifier(fourcc.XRGB8888) == LINEAR
            assert compositor.feedback.scans_out(fourcc.XRGB8888, {_OURS}) is False

    asyncio.run(run())


@pytest.mark.parametrize(
    ("code", "devices", "scans_out"),
    [
        (fourcc.XRGB8888, {_OURS, 1}, True),
        (fourcc.RGB565, {_OURS}, False),  # only the renderer takes it
        (fourcc.XRGB8888, {_OTHER}, None),  # the scan-out is another device's
        (fourcc.XRGB8888, set(), None),
    ],
)
def test_scan_out_counts_for_its_own_device_and_format(code, devices, scans_out):
    async def run():
        async with _told((_OURS, 1, (0,)), (_OTHER, 0, (1, 2))) as (compositor, _server):
            assert compositor.feedback.scans_out(code, devices) is scans_out

    asyncio.run(run())


def test_tranches_without_end_are_not_kept():
    async def run():
        many = [(number, 0, (0,)) for number in range(1, 2000)]
        async with _told((_OURS, 1, ()), *many) as (compositor, _server):
            kept = compositor.feedback.tranches
            assert [tranche.device for tranche in kept] == list(range(1, len(kept) + 1)) and len(kept) < 100

    asyncio.run(run())


def test_what_a_buffer_object_is_made_for_follows_the_compositor(monkeypatch):
    tried: list[tuple[int, int]] = []

    class Refusing:
        def __init__(self, *_arguments) -> None:
            pass

        def create(self, _width, _height, code, flags):
            tried.append((code, flags))
            raise OSError(errno.EINVAL, "refused")

    monkeypatch.setattr(gbm, "Device", Refusing)
    wishes = {fourcc.XRGB8888: True, fourcc.RGB565: False}
    scanout, rendering, linear = gbm.USE_SCANOUT, gbm.USE_RENDERING, gbm.USE_LINEAR
    for wished, bpp, first in (
        (wishes.get, 32, linear | scanout | rendering),
        (wishes.get, 16, linear | rendering),
        (lambda _code: None, 32, linear | scanout),
    ):
        tried.clear()
        with pytest.raises(OSError, match="refused"):
            GbmAllocator(-1, "card", wished).create(Shape(64, 48, bpp, 3))
        assert tried[0][1] == first
        assert {flags for _code, flags in tried} >= {linear | scanout, linear | rendering, linear}, "all are tried"
