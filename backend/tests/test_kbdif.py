# SPDX-License-Identifier: MIT
"""xen/io/kbdif.h: its numbers, events, the page, and what waits for room on it; any indexes, any order."""

from __future__ import annotations

import mmap
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xen_dmabuf.eventpage import RingError
from xen_dmabuf.kbdif import packets
from xen_dmabuf.kbdif.page import InputPage
from xen_dmabuf.worker.outbox import MOST_WAITING, Outbox

U32 = st.integers(0, 0xFFFFFFFF)
NEAR_WRAP = st.one_of(st.integers(0, 100), st.integers(0xFFFFFF80, 0xFFFFFFFF), U32)
HEADERS = (
    "/usr/include/xen/io/kbdif.h",  # libxen-dev
    "/usr/src/linux-headers-*/include/xen/interface/io/kbdif.h",
)


def page(start: int = 0) -> mmap.mmap:
    memory = mmap.mmap(-1, 4096)
    poke(memory, 0, start)
    poke(memory, 1, start)
    return memory


def poke(memory: mmap.mmap, word: int, value: int) -> None:
    struct.pack_into("<I", memory, 4 * word, value & 0xFFFFFFFF)


def peek(memory: mmap.mmap, word: int) -> int:
    return struct.unpack_from("<I", memory, 4 * word)[0]


def read(memory: mmap.mmap) -> list[bytes]:
    """As xen-kbdfront's interrupt handler: all up to in_prod."""
    events, cons, prod = [], peek(memory, 0), peek(memory, 1)
    while cons != prod:
        start = 1024 + cons % 51 * 40
        events.append(bytes(memory[start : start + 40]))
        cons = (cons + 1) & 0xFFFFFFFF
    poke(memory, 0, cons)
    return events


def keys(events: list[bytes]) -> list[tuple[int, int]]:
    """(code, pressed) of those that are KEY."""
    return [(struct.unpack_from("<I", event, 4)[0], event[1]) for event in events if event[0] == packets.TYPE_KEY]


def test_the_numbers_are_the_headers():
    found = [path for pattern in HEADERS for path in Path("/").glob(pattern[1:])]
    if not found:
        pytest.skip("LOUD: no kbdif.h is here (package libxen-dev); its numbers are NOT compared with it")
    text = found[0].read_text()
    numbers = {name: int(value) for name, value in re.findall(r"#define XENKBD_(\w+)\s+(\d+)\n", text)}
    for name, value in numbers.items():
        if hasattr(packets, name):
            assert getattr(packets, name) == value, name
    known = {name for name in numbers if hasattr(packets, name)}
    assert known >= {"TYPE_KEY", "TYPE_POS", "TYPE_MOTION", "TYPE_MTOUCH", "IN_EVENT_SIZE", "IN_RING_OFFS"}
    assert known >= {f"MT_EV_{name}" for name in ("DOWN", "UP", "MOTION", "SYN")}


def test_events_have_the_header_files_offsets():
    """Offsets as drawn in xen/io/kbdif.h."""
    key = packets.pack_key(30, True)
    assert len(key) == 40 and key[:2] == bytes((3, 1)) and struct.unpack_from("<I", key, 4) == (30,)
    assert packets.pack_key(packets.KEY_MAX, False)[1] == 0
    for pack, kind in ((packets.pack_motion, 1), (packets.pack_position, 4)):
        event = pack(-2, 3, -1)
        assert len(event) == 40 and event[0] == kind and struct.unpack_from("<3i", event, 4) == (-2, 3, -1)
        assert struct.unpack_from("<3i", pack(1 << 40, -(1 << 40), 0), 4) == (0x7FFFFFFF, -0x80000000, 0)
    touch = packets.pack_touch(packets.MT_EV_DOWN, 9, 5, 6)
    assert len(touch) == 40 and touch[:3] == bytes((5, 0, 9)) and struct.unpack_from("<2i", touch, 8) == (5, 6)
    for code in (0, -1, packets.KEY_MAX + 1):
        with pytest.raises(AssertionError):
            packets.pack_key(code, True)


@given(start=NEAR_WRAP, counts=st.lists(st.integers(0, 51), max_size=8))
def test_events_arrive_in_order(start, counts):
    memory = page(start)
    events = InputPage(memory)
    sent = 0
    for count in counts:
        for _ in range(min(count, events.room())):
            events.write(packets.pack_motion(sent, 0, 0))
            sent += 1
        events.publish()
        read_now = [struct.unpack_from("<i", event, 4)[0] for event in read(memory)]
        assert read_now == list(range(sent - len(read_now), sent))
    assert peek(memory, 1) == (start + sent) & 0xFFFFFFFF
    assert peek(memory, 2) == peek(memory, 3) == 0 and not any(memory[3072:]), "out-ring untouched"


@given(start=NEAR_WRAP, lie=U32)
def test_an_index_that_lies_brings_nothing_out_of_bounds(start, lie):
    memory = page(start)
    events = InputPage(memory)
    poke(memory, 0, lie)
    waiting = (start - lie) & 0xFFFFFFFF
    if waiting > 51:
        with pytest.raises(RingError, match=str(lie)):
            events.room()
    else:
        most = 51 if lie <= start else 1  # across the wrap slots coincide
        assert events.room() == max(0, min(most - waiting, 2**32 - start))
    with pytest.raises(RingError):
        for _ in range(52):
            events.write(bytes(40))
    assert not any(memory[16:1024]) and not any(memory[1024 + 51 * 40 :])


# -- what waits


class Typist:
    """An outbox, its page, and what the frontend has read so far."""

    def __init__(self, start: int = 0) -> None:
        self.memory = page(start)
        self.held: set[int] = set()
        self.outbox = Outbox(InputPage(self.memory), (), self.held.__contains__)
        self.events: list[bytes] = []

    def read(self) -> None:
        """Everything, as a frontend does that wakes up."""
        while True:
            self.outbox.flush()
            events = read(self.memory)
            if not events:
                return
            self.events += events

    def press(self, code: int) -> None:
        if self.outbox.press(code):
            self.held.add(code)

    def release(self, code: int) -> None:
        if code in self.held:
            self.held.discard(code)
            self.outbox.release(code)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("press"), st.integers(1, 20)),
        st.tuples(st.just("release"), st.integers(1, 20)),
        st.tuples(st.just("move"), st.integers(-9, 9)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("read"), st.just(0)),
    ),
    max_size=400,
)


@given(start=NEAR_WRAP, actions=ACTIONS)
def test_keys_keep_their_order_and_motion_its_sum(start, actions):
    typist = Typist(start)
    typed, total = [], 0
    for action, value in actions:
        if action == "press" and value not in typist.held:
            typist.press(value)
            typed.append((value, 1))
        elif action == "release" and value in typist.held:
            typist.release(value)
            typed.append((value, 0))
        elif action == "move":
            typist.outbox.move(False, value, 0, 0)
            total += value
        elif action == "flush":
            typist.outbox.flush()
        elif action == "read":
            typist.read()
    typist.read()
    # 400 actions are fewer than wait without a drop, but for 256 entries that the page takes no part of
    if not typist.outbox.dropped:
        assert keys(typist.events) == typed
        moves = [struct.unpack_from("<i", event, 4)[0] for event in typist.events if event[0] == packets.TYPE_MOTION]
        assert sum(moves) == total
    assert typist.outbox.waiting == 0
    assert typist.outbox.sent == len(typist.events)


def test_no_key_stays_pressed_however_late_the_frontend_reads():
    typist = Typist()
    for number in range(20_000):
        code = 1 + number % 200
        typist.press(code)
        typist.outbox.flush()
        typist.release(code)
        typist.outbox.flush()
        assert typist.outbox.waiting <= MOST_WAITING + len(packets.KEYS)
    assert typist.outbox.dropped > 0
    typist.read()
    pressed: set[int] = set()
    for code, down in keys(typist.events):
        assert (code in pressed) is (not down), "a press without an end, or an end without a press"
        pressed ^= {code}
    assert not pressed


def test_motion_is_coalesced_and_goes_on_when_the_frontend_has_read():
    typist = Typist()
    for number in range(10_000):
        typist.outbox.move(True, number, 2 * number, 1)
        typist.outbox.flush()
    assert typist.outbox.waiting == 1 and typist.outbox.dropped == 0
    assert typist.outbox.coalesced == 10_000 - 52
    typist.read()
    assert len(typist.events) == 52
    assert struct.unpack_from("<3i", typist.events[-1], 4) == (9999, 19998, 10_000 - 51), "the last place, all clicks"
    typist.outbox.move(True, 1, 1, 0)
    typist.read()
    assert struct.unpack_from("<3i", typist.events[-1], 4) == (1, 1, 0)


def test_touches_are_coalesced_but_never_a_down_or_an_up():
    typist = Typist()
    down, move, up = packets.MT_EV_DOWN, packets.MT_EV_MOTION, packets.MT_EV_UP
    typist.outbox.touch([(down, 0, 1, 1), (down, 1, 9, 9)])
    for number in range(5000):
        typist.outbox.touch([(move, 0, number, 0)])
        typist.outbox.touch([(move, 1, 0, number)])
        typist.outbox.flush()
    typist.outbox.touch([(up, 0, 0, 0), (up, 1, 0, 0)])
    typist.read()
    kinds = [event[1] for event in typist.events]
    assert kinds.count(down) == kinds.count(up) == 2 and kinds[-1] == packets.MT_EV_SYN
    assert len(typist.events) < 80
    moved = [event for event in typist.events if event[1] == move]
    last = {event[2]: struct.unpack_from("<2i", event, 8) for event in moved}
    assert last == {0: (4999, 0), 1: (0, 4999)}


def test_keys_of_another_process_are_released_unless_they_are_pressed_again():
    typist = Typist()
    typist.outbox = Outbox(InputPage(typist.memory), packets.KEYS, typist.held.__contains__)
    typist.press(packets.KEYS[-1])
    typist.read()
    assert keys(typist.events)[0] == (packets.KEYS[-1], 1), "what is typed comes first"
    assert keys(typist.events)[1:] == [(code, 0) for code in packets.KEYS[:-1]]


@given(lies=st.lists(U32, min_size=1, max_size=30))
def test_a_frontend_that_lies_gets_nothing_or_what_was_sent(lies):
    typist = Typist()
    for number, lie in enumerate(lies):
        typist.press(1 + number % 100)
        poke(typist.memory, 0, lie)
        typist.outbox.flush()
        assert typist.outbox.waiting <= 2 * number + 1
        typist.release(1 + number % 100)
    assert not any(typist.memory[16:1024]) and not any(typist.memory[1024 + 51 * 40 :])
