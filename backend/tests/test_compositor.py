# SPDX-License-Identifier: MIT
"""What a compositor may get wrong, one thing at a time; fuzz/compositor.py does all of it at random."""

from __future__ import annotations

import asyncio
import os
import struct

import pytest
from fuzz.wayland import u32
from scripted import CODES, DEVICE, INDICES, TABLE, connected, memory
from waiting import until

from xen_dmabuf.config import ConnectorConfig
from xen_dmabuf.displif import fourcc
from xen_dmabuf.worker.window import Window

pytestmark = pytest.mark.usefixtures("nothing_raised")


@pytest.mark.parametrize(
    ("file", "size", "codes"),
    [
        (lambda: memory(TABLE), len(TABLE), CODES),
        (lambda: memory(TABLE), 0xFFFFFFFF, CODES),
        (lambda: memory(TABLE), len(TABLE) - 1, {fourcc.XRGB8888}),
        (lambda: memory(TABLE[:-1]), len(TABLE), {fourcc.XRGB8888}),
        (lambda: memory(b""), len(TABLE), set()),
        (lambda: memory(TABLE), 0, set()),
        (lambda: os.eventfd(0), len(TABLE), set()),
    ],
    ids=["right", "4 GiB", "half an entry", "shorter than it says", "empty", "no size", "no file"],
)
def test_table_of_formats(file, size, codes):
    async def run():
        before = len(os.listdir("/proc/self/fd"))
        async with connected(file, size) as (compositor, _server, lost):
            assert set(compositor.feedback.formats) == codes and not lost
            assert compositor.main_device == 0xE280
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(run())


@pytest.mark.parametrize("device", [b"", b"\1", DEVICE[:7], DEVICE + b"\0", b"\xff" * 16, bytes(8)])
def test_a_device_that_is_no_number_of_one(device):
    async def run():
        async with connected(device=device) as (compositor, _server, _lost):
            assert compositor.main_device is None
            assert set(compositor.feedback.formats) == CODES

    asyncio.run(run())


@pytest.mark.parametrize("indices", [INDICES + b"\0", INDICES + b"\xff\xff", INDICES * 500])
def test_a_list_of_indices_that_is_too_long(indices):
    async def run():
        async with connected(indices=indices) as (compositor, _server, _lost):
            assert set(compositor.feedback.formats) == CODES

    asyncio.run(run())


def test_formats_without_end_are_not_kept():
    names = [(code, modifier) for code in (1, fourcc.XRGB8888) for modifier in (0, *range(1 << 56, (1 << 56) + 999))]
    table = b"".join(struct.pack("<I4xQ", *name) for name in names)

    async def run():
        indices = struct.pack(f"<{len(names)}H", *range(len(names)))
        async with connected(lambda: memory(table), len(table), indices=indices[:4000]) as (
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
        async with connected() as (compositor, server, lost):
            window = Window(compositor, "domu 0", "test", (64, 48), ConnectorConfig(), 10)
            await until(lambda: window._configured, "the first configure")
            server.configure(u32(1) + b"\1")
            await asyncio.wait_for(compositor._sync(), 10)
            assert window._must and not lost
            window.destroy()

    asyncio.run(run())


def test_formats_that_are_announced_again_replace_the_first():
    async def run():
        async with connected() as (compositor, server, lost):
            assert set(compositor.feedback.formats) == CODES
            server._said = (lambda: memory(TABLE), len(TABLE), DEVICE, b"")
            for feedback in server._of("feedback"):
                server._feedback(feedback)
            await asyncio.wait_for(compositor._sync(), 10)
            assert not compositor.feedback.formats and not lost

    asyncio.run(run())


@pytest.mark.parametrize("length", [0, 1, 8, 11], ids=lambda length: f"{length} bytes")
def test_a_connection_that_ends_amid_an_event_is_lost(length):
    """libwayland 1.26 finds the rest of an event readable for ever, and nothing in it."""

    async def run():
        async with connected() as (compositor, server, lost):
            server.write(u32(1, 12 << 16 | 1, 1)[:length])
            server.hang_up()
            await until(lambda: bool(lost), "the loss of the compositor")
            assert not compositor.alive

    asyncio.run(run())
