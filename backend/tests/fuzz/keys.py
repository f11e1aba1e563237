# SPDX-License-Identifier: MIT
"""Seats that do anything, and a DomU that writes anything into its input page, reads late or lies."""

from __future__ import annotations

import asyncio
import errno
import mmap
import random
import struct

from xen_dmabuf.kbdif import packets
from xen_dmabuf.kbdif.spec import InputSpec
from xen_dmabuf.worker.input import Input
from xen_dmabuf.worker.outbox import MOST_WAITING
from xen_dmabuf.worker.state import StoredInput

from .base import Target, check, number, run

_MASK = 0xFFFFFFFF
_MOST = MOST_WAITING + packets.KEY_MAX + 256
_PLACES = (0.0, -1.0, 0.5, 1e9, -1e9, 99.99, 640.0)


class _Mapping:
    def __init__(self) -> None:
        self.map = mmap.mmap(-1, 4096)

    def close(self) -> None:
        self.map.close()


class _Kernel:
    """As much of Gntdev and Ports as an Input uses."""

    domid = 5

    def __init__(self, chance: random.Random) -> None:
        self.mapping = _Mapping()
        self.callback = lambda: None
        self.bound: set[int] = set()
        self._chance = chance

    def map(self, _refs: list[int], *, writable: bool) -> _Mapping:
        assert writable
        return self.mapping

    def bind(self, _remote: int, callback) -> int:
        self.callback = callback
        self.bound.add(7)
        return 7

    def adopt(self, port: int, callback) -> None:
        if self._chance.random() < 0.3:
            raise OSError(errno.EINVAL, "not bound")
        self.bound.add(port)
        self.callback = callback

    def unbind(self, port: int) -> None:
        self.bound.remove(port)

    def notify(self, port: int) -> None:
        check(port in self.bound, "a port that isn't bound", port)
        if self._chance.random() < 0.01:
            raise OSError(errno.ENOTCONN, "peer gone")


class _Guest:
    """What an honest guest's devices make of the events; ``honest``: it never lied."""

    def __init__(self, kernel: _Kernel, spec: InputSpec) -> None:
        self.page = kernel.mapping.map
        self.honest = True
        self.pressed: set[int] = set()
        self.contacts: set[int] = set()
        self.taken = 0
        self.stale: set[int] = set()  # what another process left pressed: its successor doesn't know
        self._spec = spec

    def words(self, index: int) -> int:
        return struct.unpack_from("<I", self.page, 4 * index)[0]

    def put(self, index: int, value: int) -> None:
        struct.pack_into("<I", self.page, 4 * index, value & _MASK)

    def read(self, most: int) -> None:
        cons, prod = self.words(0), self.words(1)
        while cons != prod and most:
            start = 1024 + cons % 51 * 40
            if self.honest:
                self._event(bytes(self.page[start : start + 40]))
                self.taken += 1
            cons, most = (cons + 1) & _MASK, most - 1
        self.put(0, cons)

    def _event(self, event: bytes) -> None:
        spec = self._spec
        if event[0] == packets.TYPE_KEY:
            (code,) = struct.unpack_from("<I", event, 4)
            button = code in packets.POINTER_BUTTONS
            check(code <= packets.KEY_MAX and event[1] in (0, 1), "a key that is none", code)
            check(spec.pointer if button else spec.keyboard, "a key for a device that isn't there", code)
            check(not (event[1] and code in self.pressed - self.stale), "pressed twice", code)
            (self.pressed.add if event[1] else self.pressed.discard)(code)
        elif event[0] == packets.TYPE_MTOUCH:
            check(event[2] < spec.contacts, "a contact beyond", event[2])
            x, y = struct.unpack_from("<2i", event, 8)
            if event[1] in (packets.MT_EV_DOWN, packets.MT_EV_MOTION):
                check(0 <= x < spec.touch_width and 0 <= y < spec.touch_height, "a touch outside", x, y)
            if event[1] == packets.MT_EV_DOWN:
                check(event[2] not in self.contacts, "down twice", event[2])
                self.contacts.add(event[2])
            elif event[1] == packets.MT_EV_UP:
                self.contacts.discard(event[2])
        else:
            kind = packets.TYPE_POS if spec.width else packets.TYPE_MOTION
            check(spec.pointer and event[0] == kind, "another kind of motion", event[0])
            if spec.width:
                x, y = struct.unpack_from("<2i", event, 4)
                check(0 <= x < spec.width and 0 <= y < spec.height, "a place outside", x, y)


def _spec(chance: random.Random) -> InputSpec:
    names = [chance.choice(("", "id0")) for _ in range(3)]
    absolute = names[1] and chance.random() < 0.5
    size = (chance.choice((1, 100, 65536)), chance.choice((1, 800))) if absolute else (0, 0)
    touch = (chance.choice((1, 300)), 200, chance.choice((1, 2, 10))) if names[2] else (0, 0, 0)
    return InputSpec(1, 2, *names, *size, *touch)


class _Session:
    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.kernel = _Kernel(chance)
        self.spec = _spec(chance)
        self.guest = _Guest(self.kernel, self.spec)
        start = chance.choice((0, 0, _MASK - chance.randrange(120), chance.getrandbits(32)))
        for index in (0, 1):
            self.guest.put(index, start)
        self.device = self._open()
        self.owners = [object(), object()]
        self.inputs = 0

    def _open(self) -> Input:
        device = Input(0, self.spec, self.kernel, self.kernel)  # type: ignore[arg-type]
        if self.chance.random() < 0.5:
            device.open()
        else:
            device.adopt(StoredInput(0, 7, self.spec))
        return device

    def _place(self) -> tuple[float, float]:
        chance = self.chance
        return chance.choice((*_PLACES, chance.uniform(-10, 700))), chance.choice((*_PLACES, chance.uniform(-9, 500)))

    def act(self) -> None:
        chance, device, owner = self.chance, self.device, self.chance.choice(self.owners)
        size = chance.choice(((640, 480), (1, 1), (8192, 8192)))
        finger = chance.randrange(6)
        kind = chance.random()
        self.inputs += 1
        if kind < 0.45:
            code = chance.choice((chance.randrange(1, 60), 0x110, 0x117, 0x160, 0x2FE, number(chance, 32)))
            device.key(owner, code, chance.random() < 0.5)
        elif kind < 0.65:
            before = None if chance.random() < 0.3 else self._place()
            device.point(self._place(), before, size, chance.choice((0, 0, 1, -3, 1 << 40)))
        elif kind < 0.75:
            device.touch_down(owner, finger, self._place(), size)
        elif kind < 0.83:
            device.touch_move(owner, finger, self._place(), size)
        elif kind < 0.9:
            device.touch_up(owner, finger)
        elif kind < 0.97:
            device.touch_frame()
        else:
            device.release(owner)

    def domu(self, lies: float) -> None:
        chance, guest = self.chance, self.guest
        self.inputs += 1
        if chance.random() < lies:
            guest.honest = False
            place = chance.randrange(4)
            guest.put(place, chance.choice((chance.getrandbits(32), guest.words(1 - place % 2) + number(chance, 7))))
            if chance.random() < 0.2:
                guest.page[1024:3064] = chance.randbytes(2040)
        else:
            guest.read(chance.choice((1, 51, 51)))
        if chance.random() < 0.9:
            self.kernel.callback()

    async def run(self) -> int:
        chance = self.chance
        lies, reads = chance.choice((0.0, 0.0, 0.05, 0.5)), chance.choice((0.02, 0.3, 0.6))
        for _ in range(chance.randrange(20, 1500)):
            if chance.random() < reads:
                self.domu(lies)
            else:
                self.act()
            if chance.random() < 0.002:  # its process dies, and another goes on
                self.device._stack.pop_all()
                self.device._outbox._page.close()  # type: ignore[union-attr]
                self.kernel.bound.clear()
                self.device = self._open()
                self.guest.stale = set(range(packets.KEY_MAX + 1))
                self.inputs += 1
            status = self.device.status()
            check(status.events_waiting <= _MOST, "too much waits", status.events_waiting)
        self._end()
        return self.inputs

    def _end(self) -> None:
        for owner in self.owners:
            self.device.release(owner)
        guest = self.guest
        if guest.honest:
            before = -1
            while before != guest.taken:
                before = guest.taken
                guest.read(51)
                self.kernel.callback()
            check(not guest.pressed, "keys stay pressed", guest.pressed)
            check(not guest.contacts, "fingers stay", guest.contacts)
            check(self.device.status().events_waiting == 0, "events wait for nothing")
        check(not any(guest.page[3072:]), "the out-ring was written")
        self.device.close()
        check(not self.kernel.bound, "the port is still bound")
        check(self.kernel.mapping.map.closed, "the page is still mapped")


async def _begin(chance: random.Random) -> int:
    await asyncio.sleep(0)
    return await _Session(chance).run()


class Keys(Target):
    """An input is what a seat says of a key, a pointer or a finger, or what a DomU does with its page."""

    name = "keys"

    def session(self, chance: random.Random) -> int:
        return int(run(_begin(chance)))
