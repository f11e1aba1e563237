# SPDX-License-Identifier: MIT
"""What a frontend may send: rings and event pages, packets and their numbers, directories of pages.

And all of it to a whole Device, without a compositor, on a kernel that runs out of things (device.py).
"""

from __future__ import annotations

import array
import errno
import random
import struct

from xen_dmabuf.config import Quota
from xen_dmabuf.displif import directory, edid, fourcc, geometry, ring, wire
from xen_dmabuf.displif.ring import FlipEvents, RequestRing, RingError
from xen_dmabuf.errors import RequestError

from .base import Target, check, garble, number, patched
from .device import device_session

_MASK = 0xFFFFFFFF
_SLOT = 64


def _start(chance: random.Random) -> int:
    """An index to begin with: at 0, before the wrap, or anywhere."""
    return chance.choice((0, 0, 1, _MASK, _MASK - 20, _MASK - 63, chance.getrandbits(32)))


# -- the request ring


class _Ring:
    """The page, the backend's ring over it, and what must be true of both."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.page = bytearray(4096)
        self.words = memoryview(self.page).cast("I")
        start = _start(chance)
        self.words[0] = self.words[2] = start
        self.words[3] = (start + 1) & _MASK
        self.begin(None)
        self.racing = False

    def begin(self, answered: int | None) -> None:
        self.ring = RequestRing(self.page, answered)
        self.consumed = self.answered = self.words[2] if answered is None else answered

    def close(self) -> None:
        self.ring.close()
        self.words.release()

    def slot(self, index: int) -> slice:
        start = 64 + index % 32 * _SLOT
        return slice(start, start + _SLOT)

    def post(self) -> None:
        """A packet, within the rules or beyond them."""
        produced = self.words[0]
        self.page[self.slot(produced)] = self.chance.randbytes(_SLOT)
        self.words[0] = (produced + 1) & _MASK

    def lie(self) -> None:
        near = self.words[0] + self.chance.randrange(-40, 41)
        self.words[self.chance.choice((0, 0, 0, 1, 2, 3))] = self.chance.choice(
            (near & _MASK, _start(self.chance), self.chance.getrandbits(32))
        )

    def take(self) -> bool:
        """False if the frontend's numbers can't be true; then the connection is over."""
        if self.racing:
            return self._take_racing()
        produced = self.words[0]
        pending = (produced - self.consumed) & _MASK
        lies = pending > 32 or (produced - self.answered) & _MASK > 32
        wanted = [] if lies else [bytes(self.page[self.slot(self.consumed + n)]) for n in range(pending)]
        try:
            packets = self.ring.take()
        except RingError:
            check(lies, "an honest frontend is refused", produced, self.consumed, self.answered)
            return False
        check(not lies, "a lie is believed", produced, self.consumed, self.answered)
        check(packets == wanted, "other packets than were sent", len(packets), pending)
        self.consumed = produced
        check(self.words[1] == (produced + 1) & _MASK, "req_event", self.words[1], produced)
        return True

    def _take_racing(self) -> bool:
        """The page changes while it is read; the hook of run_rings() does that."""
        try:
            packets = self.ring.take()
        except RingError:
            return False
        self.consumed = (self.consumed + len(packets)) & _MASK
        check((self.consumed - self.answered) & _MASK <= 32, "more requests than there are slots", len(packets))
        check(all(len(packet) == _SLOT for packet in packets), "a packet of another size")
        return True

    def respond(self) -> None:
        if self.answered == self.consumed:
            return
        old, event = self.words[2], self.words[3]
        packet = self.chance.randbytes(_SLOT)
        notify = self.ring.respond(packet)
        new = (self.answered + 1) & _MASK
        check(self.racing or self.page[self.slot(self.answered)] == packet, "the response is in another place")
        check(self.ring.answered == new, "responses counted", self.ring.answered, new)
        self.answered = new
        if not self.racing:
            check(self.words[2] == new, "rsp_prod", self.words[2], new)
            wanted = (new - event) & _MASK < (new - old) & _MASK  # RING_PUSH_RESPONSES_AND_CHECK_NOTIFY
            check(notify == wanted, "notification", notify, new, event, old)

    def replace(self) -> None:
        """Another process goes on; the last response was counted and perhaps not written."""
        self.ring.close()
        lost = self.chance.random() < 0.5
        if lost:
            self.words[2] = (self.answered - 1) & _MASK
        self.begin(self.answered)
        packet = self.chance.randbytes(_SLOT)
        before = self.words[2]
        self.ring.complete(packet)
        self.ring.publish()
        if not self.racing:
            if before != self.answered:
                written = self.page[self.slot(self.answered - 1)] == packet
                check(written, "the last response was not written again", before)
            check(self.words[2] == self.answered, "published", self.words[2], self.answered)
        self.answered = self.ring.answered
        self.consumed = self.answered


def rings(chance: random.Random) -> int:
    """An input is a packet or a number that the frontend writes."""
    inputs = 0
    with patched() as patch:
        model = _Ring(chance)
        budget = 0

        def race() -> None:
            nonlocal budget, inputs
            if budget and chance.random() < 0.5:
                budget -= 1
                inputs += 1
                chance.choice((model.post, model.post, model.lie))()

        if chance.random() < 0.3:
            model.racing, budget = True, 40
            patch.setattr(ring, "fence", race)
        lies = chance.choice((0.0, 0.02, 0.3))
        for _ in range(chance.randrange(20, 200)):
            action = chance.random()
            if action < lies:
                model.lie()
                inputs += 1
            elif action < 0.5:
                if lies or (model.words[0] - model.answered) & _MASK < 32:
                    model.post()
                    inputs += 1
            elif action < 0.7:
                if not model.take():
                    break
            elif action < 0.98:
                model.respond()
            elif model.consumed == model.answered and not lies:
                model.replace()
        model.close()
    return inputs + 1


# -- the event page


def events(chance: random.Random) -> int:
    """An input is an event that is written or a number that the frontend writes."""
    page = bytearray(4096)
    words = memoryview(page).cast("I")
    words[0] = words[1] = start = _start(chance)
    resume = (start, chance.getrandbits(16)) if chance.random() < 0.5 else None
    target = FlipEvents(page, resume)
    identifier = resume[1] if resume else 0
    produced, unread, honest, inputs = start, [], True, 0
    lies = chance.choice((0.0, 0.0, 0.02, 0.2))
    for _ in range(chance.randrange(20, 300)):
        inputs += 1
        action = chance.random()
        if action < lies:
            words[chance.randrange(2)] = chance.choice((chance.getrandbits(32), _start(chance)))
            honest = False
        elif action < 0.4:
            if honest and unread:  # as drm_xen_front: in order, until both are alike
                start = 64 + words[0] % 63 * _SLOT
                found = struct.unpack_from("<HB5xQ", page, start)
                check(found == (unread[0][0], wire.EVT_PG_FLIP, unread[0][1]), "another event", found, unread[0])
                del unread[0]
                words[0] = (words[0] + 1) & _MASK
        else:
            cookie = chance.getrandbits(64)
            consumed = words[0]
            waiting = (produced - consumed) & _MASK
            before = bytes(page)
            try:
                target.send_flip(cookie)
            except RingError:
                check(waiting >= 63 or consumed > produced, "no event though there is room", waiting, consumed)
                check(page == before, "the page changed nevertheless")
                continue
            taken = {(consumed + n & _MASK) % 63 for n in range(min(waiting, 64))}
            check(waiting < 63 and produced % 63 not in taken, "an unread event is gone", waiting, consumed)
            unread.append((identifier, cookie))
            identifier, produced = (identifier + 1) & 0xFFFF, (produced + 1) & _MASK
            check(words[1] == produced and target.position == (produced, identifier), "position", target.position)
    target.close()
    words.release()
    return inputs


# -- packets and their numbers


_SIZES = {
    wire.OP_DBUF_CREATE: "<QIIIIIII",
    wire.OP_DBUF_DESTROY: "<Q",
    wire.OP_FB_ATTACH: "<QQIII",
    wire.OP_FB_DETACH: "<Q",
    wire.OP_SET_CONFIG: "<QIIIII",
    wire.OP_PG_FLIP: "<Q",
    wire.OP_GET_EDID: "<II",
}
_CODES = (errno.EINVAL, errno.EOPNOTSUPP)


def _packet(chance: random.Random) -> bytes:
    operation = chance.choice((*_SIZES, *_SIZES, 0x17, 0, chance.randrange(256)))
    layout = struct.Struct(_SIZES.get(operation, "<Q"))
    kinds = layout.format[1:]
    body = layout.pack(*(number(chance, 64 if kind == "Q" else 32) for kind in kinds))
    packet = (struct.pack("<HB5x", chance.getrandbits(16), operation) + body).ljust(_SLOT, b"\0")
    return garble(chance, packet)[:_SLOT].ljust(_SLOT, b"\0") if chance.random() < 0.2 else packet


def packets(chance: random.Random) -> int:
    """An input is a packet; what it says is checked as the worker checks it."""
    quota = Quota(width=chance.choice((1, 640, 8192, 16384)), height=chance.choice((1, 480, 8192)))
    size = chance.randrange(1, edid.LARGEST + 1), chance.randrange(1, edid.LARGEST + 1)
    name = "".join(chr(chance.choice((65, 95, 0x7F, 0xE9, 0x4E2D, 0x1F600))) for _ in range(chance.randrange(33)))
    block = edid.build_edid(*size, name)
    check(len(block) == 128 and sum(block) % 256 == 0, "no EDID", block)
    count = chance.randrange(50, 150)
    for _ in range(count):
        packet = _packet(chance)
        request = wire.parse_request(packet)
        operation = packet[2]
        check((request.id, request.operation) == (packet[0] | packet[1] << 8, operation), "header", request)
        check((request.body is None) == (operation not in _SIZES), "body", request)
        if request.body is not None:
            fields = struct.unpack_from(_SIZES[operation], packet, 8)
            check(tuple(vars(request.body).values()) == fields, "fields", request, fields)
        try:
            _check_body(request.body, quota, size)
        except RequestError as error:
            check(error.errno in _CODES and str(error), "another refusal", error)
    return count


def _check_body(body: object, quota: Quota, size: tuple[int, int]) -> None:
    """What is let through must be within all bounds, by sums of our own."""
    if isinstance(body, wire.DbufCreate):
        geometry.check_dbuf(body, quota)
        known = body.dbuf_cookie and body.gref_directory and not body.flags
        check(known and body.data_ofs <= body.buffer_sz and body.buffer_sz, "let through", body)
        if body.width or body.height or body.bpp:
            last = body.data_ofs + (body.width * body.bpp + 7) // 8 * body.height
            check(0 < body.width <= quota.width and 0 < body.height <= quota.height, "size", body)
            check(0 < last <= body.buffer_sz and body.bpp % 8 == 0, "layout", body)
    elif isinstance(body, wire.FbAttach):
        geometry.check_size("fb_attach", body.width, body.height, quota)
        bits = geometry.check_format(body.pixel_format)
        check(0 < body.width <= quota.width and 0 < body.height <= quota.height and bits in (16, 24, 32), "fb", body)
        fourcc.name(fourcc.from_shm(fourcc.to_shm(body.pixel_format)))
    elif isinstance(body, wire.SetConfig):
        crop = geometry.crop_of(body, 640, 480, *size)
        across = crop.x >= 0 and 0 < crop.width <= min(size[0], 640) and crop.x + crop.width <= 640
        down = crop.y >= 0 and 0 < crop.height <= min(size[1], 480) and crop.y + crop.height <= 480
        check(across and down and not body.reset, "crop", body, crop)
        flipped = geometry.crop_of_flip(body, 320, 200, *size)
        check(0 <= flipped.x <= 320 - flipped.width and 0 <= flipped.y <= 200 - flipped.height, "flip", body, flipped)


# -- directories


_FULL = array.array("I", range(1, 1025))


def directories(chance: random.Random) -> int:
    """An input is a page of a directory."""
    count = chance.choice((1, chance.randrange(1, 40), 1023, 1024, chance.randrange(1, 4000)))
    needed = -(-count // 1023)
    refs = list(range(1000, 1000 + count))
    pages: dict[int, array.array] = {}
    for n in range(needed):
        words = array.array("I", [n + 2 if n + 1 < needed else chance.choice((0, 0, 1, 77)), *refs[n * 1023 :][:1023]])
        words.extend(_FULL[: 1024 - len(words)])
        pages[n + 1] = words
    for _ in range(chance.choice((0, 0, 1, 1, 3))):
        page = pages[chance.randrange(1, needed + 1)]
        place = chance.choice((0, 1, chance.randrange(1024), 1023))
        page[place] = chance.choice((0, 1, 2, 1000, chance.getrandbits(32)))
    first = 1 if chance.random() < 0.95 else number(chance, 32)
    wrong = chance.random() < 0.05
    asked: list[int] = []

    def read(ref: int) -> bytes:
        asked.append(ref)
        if ref not in pages or (wrong and chance.random() < 0.3):
            raise OSError(errno.EINVAL, "not granted")
        return pages[ref].tobytes()

    try:
        found = directory.read_directory(read, first, count)
    except RequestError as error:
        check(error.errno == errno.EINVAL and _is_wrong(pages, first, count), "refused without a reason", error)
    except OSError:
        check(wrong or asked[-1] not in pages, "another error", asked)
    else:
        check(len(found) == count == len(set(found)) and 0 not in found, "references", count, len(found))
        check(found == _walk(pages, first, count), "other references")
    check(len(asked) <= needed and len(set(asked)) == len(asked), "pages read", asked, needed)
    return len(asked) + 1


def _walk(pages: dict[int, array.array], first: int, count: int) -> list[int]:
    """The references, however wrong they are; as many as there are."""
    refs: list[int] = []
    seen = set()
    while len(refs) < count and first in pages and first not in seen:
        seen.add(first)
        refs += pages[first][1:].tolist()
        first = pages[first][0]
    return refs[:count]


def _is_wrong(pages: dict[int, array.array], first: int, count: int) -> bool:
    refs = _walk(pages, first, count)
    return len(refs) < count or 0 in refs or len(set(refs)) < count


class Requests(Target):
    name = "requests"
    parts = {rings: 4, events: 4, packets: 12, directories: 30, device_session: 6}
    """Sessions of a kind among 56; their inputs differ: directories have three, devices a hundred."""

    def session(self, chance: random.Random) -> int:
        (part,) = chance.choices(list(self.parts), list(self.parts.values()))
        return part(chance)
