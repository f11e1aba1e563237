# SPDX-License-Identifier: MIT
"""What a compositor may get wrong, one thing at a time; fuzz/compositor.py does all of it at random."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import struct
from collections.abc import AsyncIterator, Callable

import pytest
from fuzz.wayland import Server, array, u32
from waiting import until

from xen_dmabuf.config import ConnectorConfig
from xen_dmabuf.displif import fourcc
from xen_dmabuf.worker.compositor import Compositor
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
            assert set(compositor.dmabuf_formats) == codes and not lost
            assert compositor.main_device == 0xE280
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(run())


@pytest.mark.parametrize("device", [b"", b"\1", _DEVICE[:7], _DEVICE + b"\0", b"\xff" * 16, bytes(8)])
def test_a_device_that_is_no_number_of_one(device):
    async def run():
        async with _connected(device=device) as (compositor, _server, _lost):
            assert compositor.main_device is None
            assert set(compositor.dmabuf_formats) == _CODES

    asyncio.run(run())


@pytest.mark.parametrize("indices", [_INDICES + b"\0", _INDICES + b"\xff\xff", _INDICES * 500])
def test_a_list_of_indices_that_is_too_long(indices):
    async def run():
        async with _connected(indices=indices) as (compositor, _server, _lost):
            assert set(compositor.dmabuf_formats) == _CODES

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
            assert compositor.dmabuf_formats == {fourcc.XRGB8888: {0}}
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
            assert set(compositor.dmabuf_formats) == _CODES
            server._said = (lambda: _memory(_TABLE), len(_TABLE), _DEVICE, b"")
            for feedback in server._of("feedback"):
                server._feedback(feedback)
            await asyncio.wait_for(compositor._sync(), 10)
            assert not compositor.dmabuf_formats and not lost

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
