# SPDX-License-Identifier: MIT
"""linux-dmabuf's tranches: what is preferred, how it is imported and what a buffer is made for."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import struct
from collections.abc import AsyncIterator

import pytest
from fuzz.wayland import Server, array, u32
from scripted import DEVICE, memory

from xen_dmabuf.displif import fourcc
from xen_dmabuf.linux import gbm
from xen_dmabuf.worker.allocators import GbmAllocator, Shape, uses
from xen_dmabuf.worker.compositor import Compositor
from xen_dmabuf.worker.feedback import IMPLICIT, LINEAR

pytestmark = pytest.mark.usefixtures("nothing_raised")


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
        fd = memory(table)
        self.send(feedback, 1, u32(len(table)), (fd,))
        os.close(fd)
        self.send(feedback, 2, array(DEVICE))
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
            fd = memory(bytes(4096))
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


def test_memory_for_scan_out_is_asked_for_where_the_default_feedback_has_the_renderer_only():
    """As Weston and wlroots do it: scan-out tranches are only in the feedback of a surface, which nobody asks for."""

    async def run():
        async with _told((_OURS, 0, (0, 1, 2))) as (compositor, _server):
            wished = compositor.feedback.scans_out(fourcc.XRGB8888, {_OURS})
            assert uses(wished)[0] == gbm.USE_LINEAR | gbm.USE_SCANOUT

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
