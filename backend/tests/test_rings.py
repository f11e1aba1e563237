# SPDX-License-Identifier: MIT
"""Rings, packets and the grant directory: any bytes, any indexes, any order."""

from __future__ import annotations

import array
import errno
import mmap
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xen_dmabuf.displif import directory, edid, wire
from xen_dmabuf.displif.ring import FlipEvents, RequestRing, RingError
from xen_dmabuf.errors import RequestError

U32 = st.integers(0, 0xFFFFFFFF)
NEAR_WRAP = st.one_of(st.integers(0, 100), st.integers(0xFFFFFF80, 0xFFFFFFFF), U32)


def page() -> mmap.mmap:
    return mmap.mmap(-1, 4096)


def poke(memory: mmap.mmap, word: int, value: int) -> None:
    struct.pack_into("<I", memory, 4 * word, value & 0xFFFFFFFF)


def peek(memory: mmap.mmap, word: int) -> int:
    return struct.unpack_from("<I", memory, 4 * word)[0]


@given(start=NEAR_WRAP, counts=st.lists(st.integers(0, 32), max_size=12))
def test_every_request_is_taken_once_and_in_order(start, counts):
    memory = page()
    poke(memory, 0, start)
    poke(memory, 2, start)  # rsp_prod: where a reconnecting frontend stands
    ring = RequestRing(memory)
    produced = start
    for count in counts:
        for _ in range(count):
            slot = 64 + (produced & 0xFFFFFFFF) % 32 * 64
            struct.pack_into("<I", memory, slot, produced & 0xFFFFFFFF)
            produced += 1
        poke(memory, 0, produced)
        taken = [struct.unpack_from("<I", packet)[0] for packet in ring.take()]
        assert taken == [n & 0xFFFFFFFF for n in range(produced - count, produced)]
        assert peek(memory, 1) == (produced + 1) & 0xFFFFFFFF, "req_event"
        for _ in taken:
            ring.respond(bytes(64))
        assert peek(memory, 2) == produced & 0xFFFFFFFF, "rsp_prod"


@given(start=NEAR_WRAP, claim=U32)
def test_a_producer_index_beyond_the_ring_is_an_error(start, claim):
    memory = page()
    poke(memory, 0, start)
    poke(memory, 2, start)
    ring = RequestRing(memory)
    poke(memory, 0, claim)
    pending = (claim - start) & 0xFFFFFFFF
    if pending > 32:
        with pytest.raises(RingError, match=str(claim)):
            ring.take()
    else:
        assert len(ring.take()) == pending


def test_unanswered_requests_count_against_the_ring():
    memory = page()
    ring = RequestRing(memory)
    poke(memory, 0, 32)
    assert len(ring.take()) == 32
    poke(memory, 0, 33)
    with pytest.raises(RingError):
        ring.take()


def test_a_request_is_read_once():
    """What the frontend writes after the copy is not seen (double fetch)."""
    memory = page()
    ring = RequestRing(memory)
    memory[64:128] = b"\x01" * 64
    poke(memory, 0, 1)
    (packet,) = ring.take()
    memory[64:128] = b"\x02" * 64
    assert packet == b"\x01" * 64 and isinstance(packet, bytes)


@given(event=NEAR_WRAP, start=NEAR_WRAP)
def test_notification_hold_off(event, start):
    """RING_PUSH_RESPONSES_AND_CHECK_NOTIFY of xen/io/ring.h."""
    memory = page()
    poke(memory, 0, start)
    poke(memory, 2, start)
    poke(memory, 3, event)
    ring = RequestRing(memory)
    poke(memory, 0, start + 1)
    ring.take()
    wanted = (start + 1 - event) & 0xFFFFFFFF < 1
    assert ring.respond(bytes(64)) is wanted


def test_views_are_dropped_before_the_page_is_unmapped():
    for kind in (RequestRing, FlipEvents):
        memory = page()
        ring = kind(memory)
        with pytest.raises(BufferError):
            memory.close()
        ring.close()
        memory.close()


@given(start=NEAR_WRAP, read=st.lists(st.integers(0, 63), min_size=1, max_size=8))
def test_events_arrive_in_order_with_consecutive_ids(start, read):
    memory = page()
    poke(memory, 0, start)
    poke(memory, 1, start)
    events = FlipEvents(memory)
    consumed, sent, expected = start, 0, 0
    for number in read:
        straddles = (consumed + number) >> 32 != consumed >> 32
        while sent - expected < (min(number, 4) if straddles else number):
            events.send_flip(1000 + sent)
            sent += 1
        while expected < sent:
            slot = 64 + (consumed & 0xFFFFFFFF) % 63 * 64
            identifier, kind, cookie = struct.unpack_from("<HB5xQ", memory, slot)
            assert (identifier, kind, cookie) == (expected & 0xFFFF, 0, 1000 + expected)
            consumed, expected = consumed + 1, expected + 1
        poke(memory, 0, consumed)
    assert peek(memory, 1) == (start + sent) & 0xFFFFFFFF


@given(lie=U32)
def test_a_consumer_index_that_lies_stops_events(lie):
    memory = page()
    events = FlipEvents(memory)
    poke(memory, 0, lie)
    if lie and (0 - lie) & 0xFFFFFFFF >= 4:  # ahead of in_prod: 4 slots, see ring.py
        with pytest.raises(RingError):
            events.send_flip(1)
        assert peek(memory, 1) == 0
    else:
        events.send_flip(1)
        assert peek(memory, 1) == 1


def test_unread_events_are_not_overwritten_across_the_wrap():
    memory = page()
    start = 0xFFFFFFFE
    poke(memory, 0, start)
    poke(memory, 1, start)
    events = FlipEvents(memory)
    for number in range(4):
        events.send_flip(number)
    with pytest.raises(RingError):
        events.send_flip(4)
    slots = [64 + (start + number & 0xFFFFFFFF) % 63 * 64 for number in range(4)]
    assert [struct.unpack_from("<Q", memory, slot + 8)[0] for slot in slots] == [0, 1, 2, 3]


def test_event_ids_wrap_at_16_bits():
    memory = page()
    events = FlipEvents(memory)
    for number in range(0x10001):
        events.send_flip(number)
        poke(memory, 0, number + 1)
    assert struct.unpack_from("<H", memory, 64 + 0x10000 % 63 * 64)[0] == 0


@given(packet=st.binary(min_size=64, max_size=64))
def test_any_packet_parses(packet):
    request = wire.parse_request(packet)
    assert request.operation == packet[2]
    assert (request.body is None) == (request.operation not in range(0x10, 0x17))


def test_packets_have_the_header_files_offsets():
    """Offsets as drawn in xen/io/displif.h."""
    packet = bytearray(64)
    packet[2] = wire.OP_DBUF_CREATE
    for offset, value in ((8, 1), (12, 0), (16, 3), (20, 4), (24, 5), (28, 6), (32, 7), (36, 8)):
        struct.pack_into("<I", packet, offset, value)
    struct.pack_into("<I", packet, 40, 9)
    body = wire.parse_request(bytes(packet)).body
    assert body == wire.DbufCreate(1, 3, 4, 5, 6, 7, 8, 9)
    response = wire.pack_response(0x1234, wire.OP_GET_EDID, -22, 128)
    assert len(response) == 64
    assert struct.unpack_from("<HB", response) == (0x1234, wire.OP_GET_EDID)
    assert struct.unpack_from("<iI", response, 4) == (-22, 128)
    assert len(wire.pack_flip_event(0x12345, 1)) == 64


@given(width=st.integers(1, edid.LARGEST), height=st.integers(1, edid.LARGEST), name=st.text(max_size=40))
def test_edid_is_valid(width, height, name):
    block = edid.build_edid(width, height, name)
    assert len(block) == 128 and sum(block) % 256 == 0
    assert block[8:10] == bytes(((24 << 2) | (5 >> 3), (5 & 7) << 5 | 14))  # "XEN"
    assert block[56] | (block[58] & 0xF0) << 4 == width
    assert block[59] | (block[61] & 0xF0) << 4 == height
    assert block[72:76] == bytes((0, 0, 0, 0xFC))


def test_edid_has_room_for_12_bits():
    assert edid.fits(4095, 4095) and not edid.fits(4096, 1) and not edid.fits(1, 4096)


class Directory:
    """Pages of a grant directory; counts what is read."""

    def __init__(self, pages: dict[int, list[int]]) -> None:
        self.pages = pages
        self.reads = 0

    def __call__(self, ref: int) -> bytes:
        self.reads += 1
        if ref not in self.pages:
            raise OSError(errno.EINVAL, "no such grant", "/dev/xen/gntdev")
        return array.array("I", self.pages[ref]).tobytes().ljust(4096, b"\0")


@given(count=st.integers(1, 4000))
def test_an_honest_directory_is_read_whole(count):
    refs = list(range(10_000, 10_000 + count))
    starts = range(0, count, 1023)
    pages = {
        1 + number: [0 if start + 1023 >= count else 2 + number, *refs[start : start + 1023]]
        for number, start in enumerate(starts)
    }
    read = Directory(pages)
    assert directory.read_directory(read, 1, count) == refs
    assert read.reads == len(starts)


@given(
    pages=st.dictionaries(st.integers(1, 8), st.lists(st.integers(0, 40), min_size=1, max_size=1024), max_size=8),
    count=st.integers(1, 5000),
)
def test_any_directory_ends_within_the_pages_needed(pages, count):
    read = Directory(pages)
    try:
        refs = directory.read_directory(read, 1, count)
    except (RequestError, OSError):
        pass
    else:
        assert len(refs) == len(set(refs)) == count and 0 not in refs
    assert read.reads <= -(-count // directory.REFS_PER_PAGE)
