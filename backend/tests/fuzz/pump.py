# SPDX-License-Identifier: MIT
"""C's part of the flips (pump.c) between a DomU that lies and a compositor that says anything.

The oracle is Python's part: what C has written into the shared pages must be, byte for byte, what
RequestRing and FlipEvents write for the same flip, and what it leaves alone must be left alone. At each call
that C makes the process may end there: another one must be able to go on with pages and journal.
"""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xen_dmabuf.displif import packets
from xen_dmabuf.displif.ring import FlipEvents, RequestRing, RingError
from xen_dmabuf.pump import ffi, lib
from xen_dmabuf.worker.statefile import Journal

from .base import Target, check

_MASK = 0xFFFFFFFF
_REQUEST_PORT, _EVENT_PORT, _OTHER_PORT = 7, 8, 9
_SURFACE, _DISPLAY = 0x1000, 0x2000
_ATTACH, _COMMIT = 1, 6


class _Compositor:
    """The functions of libwayland that C calls; ``said`` are the requests since they were looked at.
    ``called()`` hears of each request and flush."""

    def __init__(self, chance: random.Random, called: Callable[[], None]) -> None:
        self.chance = chance
        self._called = called
        self.said: list[int] = []
        self.queue: list[Any] = []
        self.callbacks: dict[int, tuple[Any, Any]] = {}
        self._next = 0x10000
        self.lies = 0.0
        self.functions = {
            "marshal": ffi.callback("void(void *, uint32_t, void *)", self._marshal),
            "construct": ffi.callback("void *(void *, uint32_t, void *, const void *)", self._construct),
            "add_dispatcher": ffi.callback("int(void *, void *, const void *, void *)", self._add_dispatcher),
            "destroy": ffi.callback("void(void *)", self._destroy),
            "prepare_read": ffi.callback("int(void *)", lambda _display: bool(self.queue) and self._rarely()),
            "read_events": ffi.callback("int(void *)", lambda _display: -self._rarely()),
            "dispatch_pending": ffi.callback("int(void *)", self._dispatch),
            "dispatch_queue": ffi.callback("int(void *, void *)", lambda _display, _queue: -self._rarely()),
            "flush": ffi.callback("int(void *)", self._flush),
        }

    def _flush(self, _display: Any) -> int:
        self._called()
        return -self._rarely()

    def _rarely(self) -> int:
        return int(self.chance.random() < self.lies)

    def _marshal(self, proxy: Any, opcode: int, _arguments: Any) -> None:
        check(int(ffi.cast("uintptr_t", proxy)) == _SURFACE, "a request to another object")
        self.said.append(opcode)
        self._called()

    def _construct(self, proxy: Any, opcode: int, _arguments: Any, _interface: Any) -> Any:
        self._marshal(proxy, opcode, None)
        if self._rarely():
            return ffi.NULL
        self._next += 16
        return ffi.cast("void *", self._next)

    def _add_dispatcher(self, proxy: Any, dispatcher: Any, data: Any, _user: Any) -> int:
        function = ffi.cast("dispatcher_function", dispatcher)
        self.callbacks[int(ffi.cast("uintptr_t", proxy))] = (function, data)
        return 0

    def _destroy(self, proxy: Any) -> None:
        del self.callbacks[int(ffi.cast("uintptr_t", proxy))]  # KeyError: destroyed twice

    def _dispatch(self, _display: Any) -> int:
        if self._rarely():
            return -1
        queue, self.queue = self.queue, []
        for event in queue:
            event()
        return len(queue)

    def frame(self) -> None:
        """Answer any callback that is open."""
        if self.callbacks:
            address = self.chance.choice(list(self.callbacks))
            function, data = self.callbacks[address]
            self.queue.append(lambda: function(data, ffi.cast("void *", address), 0, ffi.NULL, ffi.NULL))


class _Pictures:
    """What the lane may show: some are copied, some have fences that haven't signalled."""

    def __init__(self, chance: random.Random) -> None:
        self.cookies = [chance.getrandbits(64) for _ in range(chance.choice((1, 2, 2, 3, 16)))]
        self.copied = chance.random() < 0.3
        self.memory = [(bytearray(chance.randbytes(64)), bytearray(64)) for _ in self.cookies]
        self.views = [tuple(ffi.from_buffer("char[]", part) for part in pair) for pair in self.memory]
        self.free, self.full = os.pipe2(os.O_NONBLOCK), os.pipe2(os.O_NONBLOCK)
        try:
            while os.write(self.full[1], bytes(65536)):
                pass
        except BlockingIOError:
            pass

    def fill(self, lane: Any, chance: random.Random) -> None:
        lane.pictures, lane.shown = len(self.cookies), 0
        for index, cookie in enumerate(self.cookies):
            entry = lane.picture[index]
            entry.cookie, entry.busy = cookie, index == 0
            entry.buffer = ffi.cast("void *", 0x3000 + 16 * index)
            entry.dmabuf = chance.choice((-1, self.free[1], self.free[1], self.full[1]))
            if self.copied:
                entry.copy_from, entry.copy_to = self.views[index]
                entry.copy_length = 64

    def close(self) -> None:
        for fd in (*self.free, *self.full):
            os.close(fd)


@dataclass
class _End:
    """Pages and journal as a process leaves them. ``committed``: the compositor was told of a flip in this turn."""

    ring: bytes
    events: bytes
    record: bytes
    committed: bool

    def go_on(self, answered: int) -> None:
        """As firstaid.py begins. ``answered``: the ring's responses before the turn."""
        values = Journal(memoryview(self.record)).load()
        page, events = bytearray(self.ring), bytearray(self.events)
        ring, sent = RequestRing(page, values[0]), FlipEvents(events, (values[1], values[2]))
        ring.complete(Journal.RESPONSE.pack(*values[18:20]).ljust(64, b"\0"))
        ring.publish()
        sent.publish()
        ring.close()
        sent.close()
        (published,) = struct.unpack_from("@I", page, 8)
        (before,) = struct.unpack_from("@I", self.ring, 8)
        check(published == values[0], "responses", published, values[0])
        check((published - before) & _MASK <= 1, "a response that the journal doesn't have", before, published)
        if self.committed:
            check(values[0] == (answered + 1) & _MASK, "shown before it was in the journal", values[0], answered)
        (told,) = struct.unpack_from("@I", self.events, 4)
        check((values[1] - told) & _MASK <= 1, "an event that the journal doesn't have", told, values[1])


class _Session:
    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.time = 100.0
        self.inputs = 0
        self.ring, self.events, self.record = bytearray(4096), bytearray(4096), bytearray(512)
        self.words, self.event_words = memoryview(self.ring).cast("I"), memoryview(self.events).cast("I")
        self.compositor, self.pictures = _Compositor(chance, self._keep), _Pictures(chance)
        self.ends: list[_End] = []
        self.honest = True
        self.evtchn, self.bell = socket.socketpair()
        self.wayland, self.server = socket.socketpair()
        self.evtchn.setblocking(False)
        self.epoll = select.epoll()
        for end in (self.evtchn, self.wayland):
            self.epoll.register(end, select.EPOLLIN)
        self.notified: list[int] = []
        self.unmasked: list[int] = []
        self.failing = 0.0
        self._set_up()

    def _set_up(self) -> None:
        functions = self.compositor.functions | {
            "notify": ffi.callback("port_function", lambda _fd, port: self._port(self.notified, port)),
            "unmask": ffi.callback("port_function", lambda _fd, port: self._port(self.unmasked, port)),
            "clock": ffi.callback("double(void)", lambda: self.time),
        }
        self.heard: list[Any] = []
        listener = ffi.callback("dispatcher_function", lambda *event: self.heard.append(event) or 0)
        self._dispatcher, lib.python_dispatcher = lib.python_dispatcher, listener
        self.functions = functions, listener  # C has only their addresses
        self.pump = lib.buffers_pump = ffi.new("struct pump *", functions)
        self.pump.evtchn, self.pump.wayland = self.evtchn.fileno(), self.wayland.fileno()
        self.pump.display = ffi.cast("void *", _DISPLAY)
        self.pump.attach, self.pump.damage, self.pump.frame, self.pump.commit = _ATTACH, 9, 3, _COMMIT
        self.ready = ffi.new("struct ready[8]")
        self.lane = lane = ffi.new("struct lane *")
        self.views = [ffi.from_buffer("char[]", page) for page in (self.ring, self.events, self.record)]
        lane.ring, lane.events, lane.record = self.views
        lane.request_port, lane.event_port = _REQUEST_PORT, _EVENT_PORT
        lane.surface, lane.patience, lane.sample_at = ffi.cast("void *", _SURFACE), 2.0, float("inf")
        start = self.chance.choice((0, 0, 1, 40, _MASK, _MASK - 20, self.chance.getrandbits(32)))
        self.words[0] = self.words[2] = start
        self.words[1] = self.words[3] = (start + 1) & _MASK
        sent = self.chance.choice((0, 0, 1, 62, 63, _MASK - 300, _MASK - 20, self.chance.getrandbits(32)))
        self.event_words[1] = sent
        self.event_words[0] = (sent - self.chance.choice((0, 0, 60, 62, 63, 64))) & _MASK
        lane.values = {"answered": start, "in_prod": sent, "event_id": self.chance.getrandbits(16)}
        lane.requests_consumed = start
        self._lend()

    def _port(self, ports: list[int], port: int) -> int:
        ports.append(port)
        self._keep()
        return -int(self.chance.random() < self.failing)

    def _keep(self) -> None:
        """The process may end here."""
        self.ends.append(
            _End(bytes(self.ring), bytes(self.events), bytes(self.record), _COMMIT in self.compositor.said)
        )

    def _lend(self) -> None:
        Journal(memoryview(self.record)).save(*self._numbers())
        self.pictures.fill(self.lane, self.chance)
        check(lib.lane_lend(self.pump, self.lane), "a lane isn't taken")

    def close(self) -> None:
        lib.lane_reclaim(self.pump, self.lane)
        lib.buffers_pump, lib.python_dispatcher = ffi.NULL, self._dispatcher
        for words in (self.words, self.event_words):
            words.release()
        for end in (self.evtchn, self.bell, self.wayland, self.server, self.epoll):
            end.close()
        self.pictures.close()

    # -- what the DomU does

    def post(self) -> None:
        """A packet: mostly a flip that is plain."""
        chance, index = self.chance, self.words[0]
        packet = bytearray(chance.randbytes(64))
        if chance.random() < 0.8:
            cookie = chance.choice(self.pictures.cookies) if chance.random() < 0.95 else chance.getrandbits(64)
            operation = packets.OP_PG_FLIP if chance.random() < 0.95 else chance.getrandbits(8)
            struct.pack_into("<HBxxxxxQ", packet, 0, chance.getrandbits(16), operation, cookie)
        start = 64 + index % 32 * 64
        self.ring[start : start + 64] = packet
        self.words[0] = (index + 1) & _MASK

    def lie(self) -> None:
        self.honest = False
        words = self.chance.choice((self.words, self.words, self.event_words))
        word = self.chance.randrange(4 if words is self.words else 1)
        near = words[word] + self.chance.randrange(-70, 71)
        words[word] = self.chance.choice((near & _MASK, self.chance.getrandbits(32)))

    def kick(self) -> None:
        port = _REQUEST_PORT if self.chance.random() < 0.95 else self.chance.choice((_EVENT_PORT, _OTHER_PORT))
        self.bell.send(struct.pack("@I", port))

    def read_events(self) -> None:
        self.event_words[0] = self.event_words[1]

    # -- what the compositor does

    def frame(self) -> None:
        self.compositor.frame()
        self.server.send(b"x")

    def release(self) -> None:
        lane, index = self.lane, self.chance.randrange(len(self.pictures.cookies))
        if lane.replaced >= 0 and self.chance.random() < 0.8:
            index = lane.replaced
        if not lane.lent:
            return
        picture = lane.picture[index]

        def released() -> None:
            heard, buffer, busy = len(self.heard), picture.buffer, picture.busy
            lib.buffer_dispatcher(ffi.NULL, buffer, 0, ffi.NULL, ffi.NULL)
            waits = not lane.lent or picture.dmabuf == self.pictures.full[1]
            check(len(self.heard) - heard == waits, "who hears of a release", waits)
            check(picture.busy == (busy if waits else False), "busy", busy, waits)

        self.compositor.queue.append(released)
        self.server.send(b"x")

    def strange(self) -> None:
        """An event that is Python's."""
        self.compositor.queue.append(lambda: None)
        self.server.send(b"x")

    # -- C's turn

    def turn(self) -> None:
        """pump_wait(), and what it may have done by the oracle."""
        lane, values = self.lane, self.lane.values
        ring, events, flying = bytes(self.ring), bytes(self.events), bool(lane.flying)
        consumed, answered = lane.requests_consumed, values.answered
        position, requested, shown = (values.in_prod, values.event_id), values.requested, values.shown
        cookie = values.cookies[0]
        self.compositor.said.clear()
        self.ends.clear()
        count = lib.pump_wait(self.pump, self.epoll.fileno(), 0, self.ready, 8)
        check(count >= 0, "pump_wait()", errno.errorcode.get(-count))
        for entry in self.ready[0:count]:
            if entry.fd == self.wayland.fileno():
                self.wayland.recv(1 << 16)
                self.compositor.queue.clear()
        self.pump.ports_left = 0
        self.pump.flush_again = False
        if values.shown != shown:
            self._was_sent(events, position, flying, cookie or values.cookies[0], requested != values.requested)
        else:
            check(self.events == events, "the event page was written without a flip's end")
        if values.requested != requested:
            self._was_served(ring, consumed, answered)
        else:
            check(self.ring == ring, "the ring was written without a flip")
            check(not self.compositor.said, "requests without a flip", self.compositor.said)
        check(Journal(memoryview(self.record)).load() == self._numbers(), "the journal")
        for end in self.ends if self.honest else ():
            end.go_on(answered)
        if lane.attention:
            self._resume()

    def _numbers(self) -> tuple[int, ...]:
        return Journal.FORMAT.unpack(bytes(ffi.buffer(ffi.addressof(self.lane, "values"))))

    def _was_served(self, before: bytes, consumed: int, answered: int) -> None:
        check(consumed == answered, "a flip while others wait")
        page = bytearray(before)
        ring = RequestRing(page, answered)
        packet = ring.peek()
        check(packet, "served what isn't the only request")
        assert packet
        identifier, operation = packets.HEADER.unpack_from(packet)
        (cookie,) = packets.FLIP.unpack_from(packet, packets.HEADER.size)
        check(operation == packets.OP_PG_FLIP and cookie in self.pictures.cookies, "not a plain flip", operation)
        ring.consume()
        wanted = ring.respond(packets.pack_response(identifier, operation, 0))
        check(bytes(page) == bytes(self.ring), "another ring than Python's")
        if struct.unpack_from("@I", before, 8) == (answered,):  # C doesn't read back what it wrote there
            check((_REQUEST_PORT in self.notified) == wanted, "notification", wanted)
        ring.close()
        index = self.pictures.cookies.index(cookie)
        check(self.lane.shown == index and self.compositor.said == [_ATTACH, 9, 3, _COMMIT], "what was requested")
        if self.pictures.copied:
            source, target = self.pictures.memory[index]
            check(source == target and self.lane.replaced == -1, "the copy")

    def _was_sent(self, before: bytes, position: tuple[int, int], flying: bool, cookie: int, both: bool) -> None:
        check(flying or both, "an event without a flip")
        replaced = self.lane.replaced
        check(replaced < 0 or not self.lane.picture[replaced].busy, "an event before the release")
        check(self.lane.drawn and not self.lane.flying, "an event before the frame")
        page = bytearray(before)
        events = FlipEvents(page, position)
        try:
            events.send_flip(cookie)
        except RingError as error:
            check(False, "an event where Python has no room", error)
        events.close()
        check(bytes(page) == bytes(self.events), "another event page than Python's")
        check(_EVENT_PORT in self.notified, "the event wasn't told")

    def _resume(self) -> None:
        """As Python: what was under way is ended, and the lane is lent anew."""
        lane = self.lane
        lib.lane_reclaim(self.pump, lane)
        check(not self.pump.lent and not lane.lent, "it is still lent")
        if lane.callback:
            self.compositor._destroy(lane.callback)
        self.words[0] = self.words[2] = lane.values.answered
        lane.requests_consumed = lane.values.answered
        self.event_words[0] = self.event_words[1] = lane.values.in_prod
        lane.values.open_flips = lane.values.cookies[0] = 0
        self._lend()

    def run(self) -> int:
        chance = self.chance
        lies = chance.choice((0.0, 0.0, 0.05, 0.3))
        self.compositor.lies = chance.choice((0.0, 0.0, 0.05))
        self.failing = chance.choice((0.0, 0.0, 0.05))
        reads = chance.choice((0.9, 0.0))
        served = self.lane.values.requested
        for _ in range(chance.randrange(20, 200)):
            self.inputs += 1
            self.notified.clear()
            if chance.random() < lies:
                self.lie()
            elif chance.random() < 0.02:
                self.time += chance.choice((0.1, 3.0))
            else:
                if chance.random() < (0.05 if self.lane.flying else 0.8):
                    self.post()
                    self.kick()
                elif self.lane.flying and chance.random() < 0.8:
                    chance.choice((self.frame, self.release))()
                else:
                    chance.choice((self.kick, self.frame, self.release, self.strange))()
                if chance.random() < reads:
                    self.read_events()
            self.turn()
        self.inputs += self.lane.values.requested - served
        return self.inputs


class Pump(Target):
    name = "pump"

    def session(self, chance: random.Random) -> int:
        session = _Session(chance)
        try:
            return session.run()
        finally:
            session.close()
