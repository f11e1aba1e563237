# SPDX-License-Identifier: MIT
"""A vdispl frontend that behaves like drm_xen_front, or as badly as asked.

``xen`` is the memory and the event channels: fakes.FakeXen, or real ones (real_xen.RealXen).
"""

from __future__ import annotations

import struct

from waiting import until

from xen_dmabuf.displif import fourcc, wire
from xen_dmabuf.displif.spec import ConnectorSpec

PAGE = 4096

_FORMATS = {
    wire.OP_DBUF_CREATE: "<QIIIIIII",
    wire.OP_DBUF_DESTROY: "<Q",
    wire.OP_FB_ATTACH: "<QQIII",
    wire.OP_FB_DETACH: "<Q",
    wire.OP_SET_CONFIG: "<QIIIII",
    wire.OP_PG_FLIP: "<Q",
    wire.OP_GET_EDID: "<II",
}


class FrontendConnector:
    """One connector: request ring, event page, two ports. The ring's indexes begin at ``START``."""

    START = 0

    def __init__(self, xen, index: int, width: int, height: int) -> None:
        self.xen = xen
        ring, events = xen.allocate(2)
        self.ring, self.events = xen.page(ring), xen.page(events)
        name, request_port, event_port = f"id{index}", xen.new_port(), xen.new_port()
        self.spec = ConnectorSpec(index, name, width, height, ring, request_port, events, event_port, version=2)
        self._words = memoryview(self.ring).cast("I")
        self._event_words = memoryview(self.events).cast("I")
        self._id = 0
        self._rsp_cons = self._words[0] = self._words[2] = self.START
        # rsp_event and req_event, as SHARED_RING_INIT does
        self._words[3] = self._words[1] = (self.START + 1) & 0xFFFFFFFF

    def close(self) -> None:
        self._words.release()
        self._event_words.release()
        self.ring.close()
        self.events.close()

    def post(self, operation: int, *fields: int) -> int:
        """Put a request on the ring and notify; returns its id."""
        body = struct.pack(_FORMATS.get(operation, "<Q"), *fields)
        self._id = (self._id + 1) & 0xFFFF
        slot = 64 + self._words[0] % 32 * 64
        packet = struct.pack("<HB5x", self._id, operation) + body
        self.ring[slot : slot + 64] = packet.ljust(64, b"\0")
        self._words[0] = (self._words[0] + 1) & 0xFFFFFFFF
        self.xen.kick(self.spec.req_port)
        return self._id

    def lie(self, produced: int) -> None:
        """Claim that req_prod is ``produced``."""
        self._words[0] = produced & 0xFFFFFFFF
        self.xen.kick(self.spec.req_port)

    def response(self) -> tuple[int, int, int, int] | None:
        """(id, operation, status, edid_sz) of the next response, None if there is none."""
        if self._words[2] == self._rsp_cons:
            return None
        slot = 64 + self._rsp_cons % 32 * 64
        self._rsp_cons = (self._rsp_cons + 1) & 0xFFFFFFFF
        self._words[3] = (self._rsp_cons + 1) & 0xFFFFFFFF
        return struct.unpack_from("<HBxiI", self.ring, slot)

    async def call(self, operation: int, *fields: int) -> int:
        """Post a request and return the response's status."""
        return (await self.call_full(operation, *fields))[2]

    async def call_full(self, operation: int, *fields: int) -> tuple[int, int, int, int]:
        identifier = self.post(operation, *fields)
        found: list[tuple[int, int, int, int]] = []

        def poll() -> bool:
            answer = self.response()
            if answer:
                found.append(answer)
            return bool(found)

        await until(poll, f"response to operation 0x{operation:02x}", 6)
        assert found[0][:2] == (identifier, operation)
        return found[0]

    def flips_done(self) -> list[tuple[int, int]]:
        """(event id, fb_cookie) of all events so far; takes them."""
        taken = []
        while self._event_words[0] != self._event_words[1]:
            slot = 64 + self._event_words[0] % 63 * 64
            identifier, kind, cookie = struct.unpack_from("<HB5xQ", self.events, slot)
            assert kind == wire.EVT_PG_FLIP
            taken.append((identifier, cookie))
            self._event_words[0] += 1
        return taken


class Frontend:
    """A device with connectors of the given sizes."""

    def __init__(self, xen, *sizes: tuple[int, int]) -> None:
        self.xen = xen
        self.connectors = [FrontendConnector(xen, index, *size) for index, size in enumerate(sizes or [(64, 48)])]
        self.specs = [connector.spec for connector in self.connectors]

    def close(self) -> None:
        for connector in self.connectors:
            connector.close()

    def directory(self, pages: int) -> tuple[int, int]:
        """Fresh pages with their directory: (first directory reference, first page)."""
        refs = self.xen.allocate(pages)
        directory = self.xen.allocate(-(-pages // 1023))
        for number, page in enumerate(directory):
            following = (*directory, 0)[number + 1]
            self.xen.write_words(page, [following, *refs[number * 1023 : (number + 1) * 1023]])
        return directory[0], refs[0]

    async def buffer(self, cookie: int, width: int, height: int, bpp: int = 32) -> tuple[int, int]:
        """DBUF_CREATE as drm_xen_front does it: (status, first page)."""
        size = width * bpp // 8 * height
        directory, first = self.directory(-(-size // PAGE))
        fields = (cookie, width, height, bpp, size, 0, directory, 0)
        return await self.connectors[0].call(wire.OP_DBUF_CREATE, *fields), first

    async def framebuffer(self, fb: int, width: int, height: int) -> int:
        """A buffer, and a framebuffer of the same cookie; returns the first page."""
        status, first = await self.buffer(fb, width, height)
        assert status == 0
        attach = (fb, fb, width, height, fourcc.XRGB8888)
        assert await self.connectors[0].call(wire.OP_FB_ATTACH, *attach) == 0
        return first

    async def show(self, fb: int, width: int, height: int, connector: int = 0) -> int:
        """framebuffer(), and SET_CONFIG; returns the first page."""
        first = await self.framebuffer(fb, width, height)
        config = (fb, 0, 0, width, height, 32)
        assert await self.connectors[connector].call(wire.OP_SET_CONFIG, *config) == 0
        return first
