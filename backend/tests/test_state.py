# SPDX-License-Identifier: MIT
"""What a worker leaves to its successor: the state, whatever is wrong with it, and what it does."""

from __future__ import annotations

import array
import asyncio
import contextlib
import copy
import dataclasses
import errno
import functools
import json
import mmap
import os
import random
import signal
import struct
import zlib

import pytest
from frontend import Frontend, FrontendConnector
from hypothesis import given
from hypothesis import strategies as st
from serving import placed
from succession import DOMID, Succession, stop_at, succession
from waiting import until

from xen_dmabuf import limits
from xen_dmabuf.codec import encode
from xen_dmabuf.config import Config
from xen_dmabuf.displif import fourcc, wire
from xen_dmabuf.displif.spec import ConnectorSpec
from xen_dmabuf.link.messages import Connected, Disconnected, Held, Hello
from xen_dmabuf.worker import state, statefile
from xen_dmabuf.worker import worker as worker_module
from xen_dmabuf.worker.firstaid import answer_flips
from xen_dmabuf.worker.state import (
    StoredBuffer,
    StoredConnector,
    StoredDevice,
    StoredFramebuffer,
    StoredWorker,
)
from xen_dmabuf.worker.statefile import Journal, StateError, StateFile
from xen_dmabuf.worker.worker import Worker

OP = wire
SPEC = ConnectorSpec(0, "id0", 64, 48, 10, 11, 12, 13)
BUFFER = StoredBuffer(7, 64, 48, 32, 256, 12288, 0, "copy", "wl_shm", "first", -1, {"map": "no"})
DEVICE = StoredDevice(
    0,
    (StoredConnector(SPEC, 0, 1, 2, (9, 0, 0, 64, 48, 32)),),
    (1,),
    (StoredFramebuffer(9, 7, 64, 48, fourcc.XRGB8888),),
)
WORKER = StoredWorker(1, DOMID, "domu", 2, Config(), (DEVICE,))


# -- the file


class File:
    """The bytes of a new state file, as another process finds them."""

    def __init__(self, data: bytes = b"") -> None:
        self.state = StateFile()
        self.bytes = mmap.mmap(self.state.fd, 0)
        self.bytes[: len(data)] = data

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.bytes.close()
        self.state.close()

    def again(self) -> StateFile:
        return StateFile(os.dup(self.state.fd))

    def read(self) -> bytes:
        other = self.again()
        try:
            return other.read()
        finally:
            other.close()

    def table(self, valid: bool) -> int:
        """Where the valid table starts, or the other one."""
        (number,) = struct.unpack_from("@I", self.bytes, statefile._VALID)
        return StateFile._table(number if valid else 1 - number)


def test_the_table_that_was_written_last_is_read():
    with File() as file:
        for text in (b"first", b"the second is longer", b"", b"4"):
            file.state.write(text)
            assert file.read() == text
        with pytest.raises(OSError, match="too long"):
            file.state.write(bytes(1 << 20))
        assert file.read() == b"4"


@pytest.mark.parametrize("length", [0, 3, 1000])
def test_a_table_that_was_written_half_is_not_read(length):
    """The process died between any two instructions of write(): the last table holds."""
    with File() as file:
        file.state.write(b"one")
        file.state.write(b"two")
        start = file.table(valid=False)
        file.bytes[start : start + 8 + length] = os.urandom(8 + length)
        assert file.read() == b"two"
        file.state.write(b"three")
        assert file.read() == b"three"


def _shorter(file: File) -> None:
    os.ftruncate(file.state.fd, 4096)


def _magic(file: File) -> None:
    file.bytes[:1] = b"X"


def _checksum(file: File) -> None:
    start = file.table(valid=True)
    file.bytes[start + 8] ^= 1


def _length(file: File) -> None:
    struct.pack_into("@I", file.bytes, file.table(valid=True), 0xFFFFFFFF)


@pytest.mark.parametrize("damage", [_shorter, _magic, _checksum, _length])
def test_what_is_wrong_with_a_file_is_said(damage):
    with File() as file:
        file.state.write(b"text")
        damage(file)
        with pytest.raises(StateError):
            file.read()


@given(data=st.data())
def test_any_bytes_are_a_state_or_a_state_error(data):
    with File() as file:
        file.state.write(state.pack(WORKER))
        start = file.table(valid=True)
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.sampled_from([0, statefile._VALID, start, start + 8]))
            place += data.draw(st.integers(0, 64))
            some = data.draw(st.binary(min_size=1, max_size=16))
            file.bytes[place : place + len(some)] = some
        with contextlib.suppress(StateError):
            assert state.read(file.read(), DOMID).domid == DOMID


@given(text=st.binary(max_size=200))
def test_any_text_is_no_table(text):
    with pytest.raises(StateError):
        state.read(text, DOMID)


def test_a_journal_keeps_what_was_saved_last():
    with File() as file:
        slot, journal = file.state.take_journal()
        assert slot == 0 and file.state.take_journal()[0] == 1
        for first in (1, 2, 3):
            journal.save(*range(first, first + 20))
            found = file.again()
            _slot, other = found.take_journal(slot)
            assert other.load() == tuple(range(first, first + 20))
            other.close()
            found.close()
        with pytest.raises(StateError, match="journal 0"):
            file.state.take_journal(0)
        with pytest.raises(StateError, match="journal 256"):
            file.state.take_journal(256)
        file.state.give_journal(0)
        assert file.state.take_journal()[0] == 0
        journal.close()


@given(other=st.binary(min_size=Journal.FORMAT.size, max_size=Journal.FORMAT.size))
def test_a_journal_that_was_written_half_is_not_read(other):
    memory = bytearray(statefile._JOURNAL)
    journal = Journal(memoryview(memory))
    journal.save(*range(20))
    (valid,) = struct.unpack_from("@I", memory, 2 * statefile._RECORD)
    start = (1 - valid) * statefile._RECORD
    memory[start : start + len(other)] = other
    assert journal.load() == tuple(range(20))


def test_only_described_journals_are_live():
    with File() as file:
        assert file.state.live_journals() == []
        slot, journal = file.state.take_journal()
        journal.describe(1, 2, 3, 4)
        (live,) = file.state.live_journals()
        assert live.described() == (1, 2, 3, 4)
        file.state.give_journal(slot)
        assert file.state.live_journals() == [] and journal.described() is None
        live.close()
        journal.close()


# -- the table


def test_a_table_is_read_as_it_was_packed():
    assert state.read(state.pack(WORKER), DOMID) == WORKER
    refs = [3, 1, 2]
    assert state.read_buffer(state.pack_buffer(BUFFER, refs)) == (BUFFER, refs)


def _changed(plain: dict, path: str, value: object) -> bytes:
    """The text of a table whose entry at ``path`` is another."""
    plain = copy.deepcopy(plain)
    *way, last = [int(step) if step.isdecimal() else step for step in path.split("/")]
    place = plain
    for step in way:
        place = place[step]
    place[last] = value
    return json.dumps(plain).encode()


def _plain(value: object) -> dict:
    return json.loads(json.dumps(encode(value)))


TABLE = _plain(WORKER)
TWICE = _plain(DEVICE)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("version", 2, "version"),
        ("domid", 6, "domain 6"),
        ("name", "x" * 65, "characters"),
        ("colour", 1, "colour"),
        ("config/quota", {}, "quota"),
        ("config/gpu", {"imx-drm": {}}, "gpu"),
        ("devices/0/buffers", [1, 1], "buffer twice"),
        ("devices/0/buffers", list(range(65)), "more buffers"),
        ("devices/0/framebuffers", [TWICE["framebuffers"][0]] * 2, "framebuffer twice"),
        ("devices/0/framebuffers", [TWICE["framebuffers"][0]] * 129, "more buffers"),
        ("devices/0/connectors", [], "0 connectors"),
        ("devices/0/connectors", [TWICE["connectors"][0]] * 5, "5 connectors"),
        ("devices/0/connectors", [TWICE["connectors"][0]] * 2, "connector 0 in place of 1"),
        ("devices/0/connectors/0/journal", 256, "256"),
        ("devices/0/connectors/0/config", [1, 2], "SET_CONFIG"),
        ("devices", [TWICE, TWICE], "twice"),
        ("devices", [TWICE, TWICE | {"device": 1, "buffers": []}], "journal twice"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(path, value, says):
    with pytest.raises(StateError, match=says):
        state.read(_changed(TABLE, path, value), DOMID)


STORED = _plain(BUFFER)
REFS = array.array("I", [1, 2, 3]).tobytes()


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("cookie", 0, "cookie"),
        ("buffer_sz", 12289, "4 references"),
        ("buffer_sz", 4096, "1 references"),
        ("buffer_sz", 0xFFFFFFFF, "references"),
        ("height", 49, "longer than it is"),
        ("data_ofs", 4, "longer than it is"),
        ("stride", 128, "lines of 128 bytes"),
        ("width", 32, "lines of 256 bytes"),
        ("height", 0, "no size"),
        ("strategy", "magic", "strategy"),
        ("number", 1 << 21, "number"),
    ],
)
def test_what_is_wrong_with_a_buffer_is_said(path, value, says):
    with pytest.raises(StateError, match=says):
        state.read_buffer(_changed(STORED, path, value) + b"\n" + REFS)


@pytest.mark.parametrize(
    "tail", [b"", REFS[:-1], REFS + b"\0", struct.pack("@3I", 1, 2, 0), struct.pack("@3I", 1, 2, 2)]
)
def test_references_of_a_buffer_that_can_not_be(tail):
    with pytest.raises(StateError, match="references"):
        state.read_buffer(json.dumps(STORED).encode() + b"\n" + tail)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def _paths(plain: object, way: str = "") -> list[str]:
    entries = plain.items() if isinstance(plain, dict) else enumerate(plain)
    found = []
    for key, value in entries:
        found.append(f"{way}{key}")
        if isinstance(value, dict | list):
            found += _paths(value, f"{way}{key}/")
    return found


@given(path=st.sampled_from(_paths(TABLE)), value=JSON)
def test_anything_anywhere_in_a_table_is_a_state_or_a_state_error(path, value):
    with contextlib.suppress(StateError):
        state.read(_changed(TABLE, path, value), DOMID)


@given(path=st.sampled_from(_paths(STORED)), value=JSON, tail=st.just(REFS) | st.binary())
def test_anything_anywhere_in_a_buffer_is_a_buffer_or_a_state_error(path, value, tail):
    with contextlib.suppress(StateError):
        state.read_buffer(_changed(STORED, path, value) + b"\n" + tail)


# -- the take-over


@pytest.fixture
def alone(monkeypatch, tmp_path) -> str:
    """The socket of no compositor, which is not waited for."""
    monkeypatch.setattr(limits, "GPU_CHOICE", 0)
    return str(tmp_path / "nobody")


async def _events(workers: Succession, expected: list[tuple[int, int]], connector: int = 0) -> None:
    """These events come, and no others in their place."""
    taken: list[tuple[int, int]] = []
    control = workers.frontend.connectors[connector]

    def come() -> bool:
        taken.extend(control.flips_done())
        return len(taken) >= len(expected)

    await until(come, f"events {expected}")
    assert taken == expected


async def _windows(worker: Worker) -> None:
    connectors = worker._devices[0].connectors
    await until(lambda: all(c.window and placed(c.window) for c in connectors), "a picture of each")


def test_a_successor_goes_on_in_the_middle_of_everything(xen, weston, monkeypatch):
    async def run():
        sizes = ((64, 48), (32, 24))
        async with succession(xen, monkeypatch, weston.socket, *sizes) as workers:
            frontend = workers.frontend
            control, second = frontend.connectors
            await frontend.show(1, 64, 48)
            await frontend.show(2, 64, 48)
            await frontend.show(3, 32, 24, connector=1)
            assert await control.call(OP.OP_PG_FLIP, 1) == 0
            await _events(workers, [(0, 1)])
            for life in (1, 2):
                weston.freeze()
                assert await control.call(OP.OP_PG_FLIP, 2) == 0
                await workers.die()
                control.post(OP.OP_PG_FLIP, 1)  # nobody hears it
                worker = workers.go_on()
                weston.thaw()
                first = 1 + 3 * (life - 1)
                await _events(workers, [(first, 2), (first + 1, 1)])
                assert control.response()[1:3] == (OP.OP_PG_FLIP, 0)
                held = Held(0, tuple(frontend.specs))
                assert worker.hello() == Hello(DOMID, workers.config, (held,), name="domu")
                assert worker.status().restarts == life
                connector = worker._devices[0].connectors[0]
                await _windows(worker)
                shown = connector.counters.flips_shown
                assert await control.call(OP.OP_PG_FLIP, 2) == 0
                await _events(workers, [(first + 2, 2)])
                assert connector.counters.flips_shown == shown + 1
                assert (await frontend.buffer(10 + life, 64, 48))[0] == 0
                buffers = encode(worker.status())["devices"]["0"]["buffers"]
                assert [buffer["strategy"] for buffer in buffers] == ["copy"] * (3 + life)
                assert all("map: " in buffer["why"] for buffer in buffers)
            # 1 and 2 of connector 0, before and in each life, and none was forgotten
            assert connector.counters.flips_requested == 7
            assert second.flips_done() == []
            for cookie in (1, 2, 3, 11, 12):
                assert await control.call(OP.OP_DBUF_DESTROY, cookie) == 0
            assert sorted(workers.store.files) == ["evtchn", "grants", "state"]

    asyncio.run(run())


def test_a_successor_without_its_compositor_waits_for_it(xen, weston, monkeypatch):
    async def run():
        async with succession(xen, monkeypatch, weston.socket) as workers:
            await workers.frontend.show(1, 64, 48)
            weston.stop(signal.SIGKILL)
            await workers.die()
            worker = workers.go_on()
            control = workers.frontend.connectors[0]
            assert await control.call(OP.OP_PG_FLIP, 1) == 0
            await _events(workers, [(0, 1)])
            weston.start()
            connector = worker._devices[0].connectors[0]
            await until(lambda: connector.window and placed(connector.window), "the picture")

    asyncio.run(run())


REQUESTS = {
    "create": OP.OP_DBUF_CREATE,
    "attach": OP.OP_FB_ATTACH,
    "configure": OP.OP_SET_CONFIG,
    "flip": OP.OP_PG_FLIP,
    "detach": OP.OP_FB_DETACH,
    "destroy": OP.OP_DBUF_DESTROY,
    "edid": OP.OP_GET_EDID,
}


async def _prepare(workers: Succession, request: str) -> tuple[int, ...]:
    """All that the request needs; returns its fields."""
    frontend = workers.frontend
    control = frontend.connectors[0]
    await frontend.show(1, 64, 48)
    await frontend.buffer(2, 64, 48)
    attach = (2, 2, 64, 48, fourcc.XRGB8888)
    if request in ("configure", "flip"):
        assert await control.call(OP.OP_FB_ATTACH, *attach) == 0
    directory, _first = frontend.directory(8)
    return {
        "create": (3, 64, 48, 32, 8 * 4096, 0, directory, 0),
        "attach": attach,
        "configure": (2, 0, 0, 32, 48, 32),
        "flip": (2,),
        "detach": (1,),
        "destroy": (2,),
        "edid": (32768, directory),
    }[request]


PLACES = [
    (request, place, call)
    for request in REQUESTS
    for place, call in (
        ("table", 1),
        ("save", 1),
        ("save", 2),
        ("write", 1),
        ("publish", 1),
        ("publish", 2),
    )
    # these change no table, and only a flip is saved when it begins and when it is answered
    if not (place == "table" and request in ("flip", "edid"))
    if (place, call) != ("save", 2) or request == "flip"
]


@pytest.mark.parametrize("aid", [False, True], ids=["alone", "first aid"])
@pytest.mark.parametrize(("name", "place", "call"), PLACES)
def test_a_request_is_answered_once_wherever_its_worker_died(xen, alone, monkeypatch, name, place, call, aid):
    """``publish`` 2: it was answered, and the worker dies with the next one, an unknown one."""

    async def run():
        async with succession(xen, monkeypatch, alone) as workers:
            control = workers.frontend.connectors[0]
            fields = await _prepare(workers, name)
            before = control._words[2]
            device = workers.worker._devices[0]
            (connector,) = device.connectors
            owner, method = {
                "table": (workers.worker._state, "write"),
                "save": (connector.flips.journal, "save"),
                "write": (connector.flips.requests, "write"),
                "publish": (connector.flips.requests, "publish"),
            }[place]
            stopped = stop_at(monkeypatch, owner, method, call)
            identifier = control.post(REQUESTS[name], *fields)
            if call == 2 and place == "publish":
                control.post(0x7F, 0)
            await until(lambda: bool(stopped), "the place where it dies")
            await workers.die()
            worker = workers.go_on(aid=aid)
            if (place, call) != ("publish", 2):
                control.post(0x7F, 0)
            answers: list[tuple[int, int, int, int]] = []

            def answered() -> bool:
                answer = control.response()
                answers.extend([answer] if answer else [])
                return len(answers) == 2

            await until(answered, "two answers")
            size = 128 if name == "edid" else 0
            assert answers[0] == (identifier, REQUESTS[name], 0, size)
            assert answers[1][1:3] == (0x7F, -errno.EOPNOTSUPP)
            assert control._words[2] == before + 2, "answered once"
            if name == "flip":
                await _events(workers, [(0, 2)])
            device = worker._devices[0]
            buffers = {"create": [1, 2, 3], "destroy": [1]}.get(name, [1, 2])
            assert [buffer.cookie for buffer in device.buffers] == buffers
            framebuffers = {"attach": [1, 2], "detach": [], "configure": [1, 2], "flip": [1, 2]}
            expected = framebuffers.get(name, [1])
            assert [framebuffer.cookie for framebuffer in device.framebuffers] == expected
            (connector,) = device.connectors
            if name in ("configure", "flip"):
                assert connector.flips.fb_cookie == 2
            if name == "configure":
                assert connector.configuration.request.width == 32
            # and a successor of the successor finds nothing to do
            await workers.die()
            workers.go_on(aid=aid)
            assert await control.call(0x7F, 0) == -errno.EOPNOTSUPP
            assert control._words[2] == before + 3 and control.flips_done() == []

    asyncio.run(run())


@pytest.mark.parametrize("aid", [False, True], ids=["alone", "first aid"])
def test_a_first_flip_whose_number_is_0_is_not_taken_for_begun(xen, alone, monkeypatch, aid):
    """The ring's counter wraps just there, and the worker dies before it has begun."""
    monkeypatch.setattr(FrontendConnector, "START", 0xFFFFFFFF - 3)

    async def run():
        async with succession(xen, monkeypatch, alone) as workers:
            control = workers.frontend.connectors[0]
            await workers.frontend.show(1, 64, 48)  # three requests
            assert control._words[2] == 0xFFFFFFFF
            (connector,) = workers.worker._devices[0].connectors
            stopped = stop_at(monkeypatch, connector.flips.journal, "save")
            identifier = control.post(OP.OP_PG_FLIP, 1)
            await until(lambda: bool(stopped), "the place where it dies")
            await workers.die()
            workers.go_on(aid=aid)
            answers: list[tuple[int, int, int, int]] = []
            await until(lambda: bool(answers.extend(filter(None, [control.response()])) or answers), "the answer")
            assert answers == [(identifier, OP.OP_PG_FLIP, 0, 0)]
            await _events(workers, [(0, 1)])

    asyncio.run(run())


def test_a_refusal_that_was_counted_stays_one(xen, alone, monkeypatch):
    async def run():
        async with succession(xen, monkeypatch, alone) as workers:
            control = workers.frontend.connectors[0]
            fields = await _prepare(workers, "create")
            (connector,) = workers.worker._devices[0].connectors
            stopped = stop_at(monkeypatch, connector.flips.requests, "write")
            control.post(OP.OP_DBUF_CREATE, 1, *fields[1:])
            await until(lambda: bool(stopped), "the answer")
            await workers.die()
            workers.go_on()
            answer = control.response()
            assert answer and answer[1:3] == (OP.OP_DBUF_CREATE, -errno.EEXIST)

    asyncio.run(run())


def test_a_configuration_that_does_not_fit_costs_no_other_connector(xen, weston, monkeypatch):
    """The worker dies in SET_CONFIG, and the request is another one when it is read again."""

    async def run():
        async with succession(xen, monkeypatch, weston.socket, (64, 48), (64, 48)) as workers:
            frontend = workers.frontend
            control = frontend.connectors[0]
            await frontend.show(1, 64, 48)
            await frontend.show(2, 32, 24)
            await frontend.show(3, 64, 48, connector=1)
            connector = workers.worker._devices[0].connectors[0]
            stopped = stop_at(monkeypatch, connector.flips.journal, "save")
            slot = 64 + control._words[0] % 32 * 64
            control.post(OP.OP_SET_CONFIG, 1, 0, 0, 64, 48, 32)
            await until(lambda: bool(stopped), "the place where it dies")
            await workers.die()
            control.ring[slot + 2] = 0x7F
            worker = workers.go_on()
            first, second = worker._devices[0].connectors
            await until(lambda: second.window and placed(second.window), "the other picture")
            await until(lambda: placed(first.window), "the one before")
            assert first.flips.fb_cookie == 2 and placed(first.window)[0].width == 32

    asyncio.run(run())


def test_flips_without_end_are_answered_by_first_aid(xen, alone, monkeypatch):
    """More than may be open at once: what is over is the worker's."""

    async def run():
        async with succession(xen, monkeypatch, alone) as workers:
            control = workers.frontend.connectors[0]
            await workers.frontend.show(1, 64, 48)
            await workers.die()
            for _ in range(12):
                control.post(OP.OP_PG_FLIP, 1)
            worker = workers.go_on(aid=True)
            await _events(workers, [(number, 1) for number in range(12)])
            counters = worker._devices[0].connectors[0].counters
            assert counters.flips_requested == counters.flips_not_shown == 12
            statuses = [control.response()[2] for _ in range(12)]
            assert statuses == [0] * 12 and control.response() is None

    asyncio.run(run())


def test_first_aid_never_fails(xen, alone, monkeypatch):
    """Whatever is in the journals and in the rings: nothing would tell systemd to begin anew."""
    words = (0, 1, 8, 9, 31, 32, 33, 0xFFFF, 0x10000, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1)
    chance = random.Random(1)

    def journal(journal: Journal) -> None:
        values = list(journal.load())
        for _ in range(chance.randrange(4)):
            place = chance.randrange(20)
            values[place] = chance.choice(words) & (0xFFFFFFFF if place < 4 else (1 << 64) - 1)
        journal.save(*values)
        if not chance.randrange(4):
            journal.describe(*(chance.choice(words) & 0xFFFFFFFF for _ in range(4)))

    async def run():
        async with succession(xen, monkeypatch, alone) as workers:
            control = workers.frontend.connectors[0]
            await workers.frontend.show(1, 64, 48)
            await workers.die()
            files = workers.store.files
            honest = os.pread(files["state"], statefile._SIZE, 0)
            before = len(os.listdir("/proc/self/fd"))
            answered = 0
            for _ in range(500):
                with File(honest) as file:
                    _slot, entry = file.state.take_journal()
                    journal(entry)
                    entry.close()
                    control.ring[64:] = chance.randbytes(4096 - 64)
                    for slot in range(64, 4096, 64):
                        control.ring[slot + 2] = chance.choice((OP.OP_PG_FLIP, 0x7F))
                    for place in range(4):
                        control._words[place] = chance.choice((words[place], *words)) & 0xFFFFFFFF
                    control._event_words[0] = chance.choice((0, 0, 0, *words)) & 0xFFFFFFFF
                    answered += answer_flips(DOMID, file.state.fd, files["evtchn"])
                assert xen.mapped == 0 and len(os.listdir("/proc/self/fd")) <= before
            assert answered, "some of them can be understood"

    asyncio.run(run())


def test_dma_bufs_keep_their_numbers(xen, alone, monkeypatch):
    async def run():
        xen.exports = True
        async with succession(xen, monkeypatch, alone) as workers:
            control = workers.frontend.connectors[0]
            for cookie in (1, 2):
                assert (await workers.frontend.buffer(cookie, 64, 48))[0] == 0
            names = {name.partition(".")[2] for name in workers.store.files}
            assert names == {"", "gntdev", "dmabuf", "buffer"}
            numbers = [buffer.backing.number for buffer in workers.worker._devices[0].buffers]
            for _life in range(2):
                await workers.die()
                worker = workers.go_on()
                backings = [buffer.backing for buffer in worker._devices[0].buffers]
                assert [backing.number for backing in backings] == numbers
                assert {backing.strategy for backing in backings} == {"export"}
            assert xen.exported == 6
            assert await control.call(OP.OP_DBUF_DESTROY, 1) == 0
            assert xen.exported == 3
            assert worker.status().releasing_pages == 0
            await worker.disconnect(0)
            assert worker.messages == [Disconnected(0, True)] and xen.exported == 0

    asyncio.run(run())


def test_death_while_a_compositor_holds_what_is_destroyed(xen, alone, monkeypatch):
    async def run():
        xen.exports = True
        async with succession(xen, monkeypatch, alone) as workers:
            control = workers.frontend.connectors[0]
            for cookie in (1, 2):
                assert (await workers.frontend.buffer(cookie, 64, 48))[0] == 0
            (buffer, _other) = workers.worker._devices[0].buffers
            held = os.dup(buffer.backing.dmabuf)
            control.post(OP.OP_DBUF_DESTROY, 1)
            await until(lambda: workers.worker.status().releasing_pages == 3, "the wait")
            await workers.die()
            os.close(held)
            worker = workers.go_on()
            await until(lambda: control.response() is not None, "the answer")
            assert [buffer.cookie for buffer in worker._devices[0].buffers] == [2]

    asyncio.run(run())


def test_death_between_two_strategies(xen, weston, monkeypatch):
    """This Weston takes no dma-buf; while the refused one's pages go, the worker dies."""

    async def run():
        xen.exports = True
        async with succession(xen, monkeypatch, weston.socket) as workers:
            control = workers.frontend.connectors[0]
            assert (await workers.frontend.buffer(1, 64, 48))[0] == 0
            (buffer,) = workers.worker._devices[0].buffers
            held = os.dup(buffer.backing.dmabuf)
            control.post(OP.OP_FB_ATTACH, 1, 1, 64, 48, fourcc.XRGB8888)
            await until(lambda: workers.worker.status().releasing_pages == 3, "the refusal")
            await workers.die()
            os.close(held)
            worker = workers.go_on()
            await until(lambda: control.response() is not None, "the answer")
            (buffer,) = worker._devices[0].buffers
            await until(lambda: buffer.backing is not None, "the next strategy")
            assert buffer.backing.strategy == "copy" and "export" in buffer.refused

    asyncio.run(run())


@pytest.mark.parametrize("name", ["create", "attach", "destroy", "flip"])
def test_what_is_found_in_the_ring_is_answered_soon(xen, alone, monkeypatch, name):
    """Its frontend has waited for a successor; whatever would be waited for longer, isn't."""

    async def run():
        xen.exports = True
        async with succession(xen, monkeypatch, alone) as workers:
            frontend = workers.frontend
            control = frontend.connectors[0]
            await frontend.show(1, 64, 48)
            size = (3 * 4096, 0, frontend.directory(3)[0], 0)
            assert await control.call(OP.OP_DBUF_CREATE, 2, 0, 0, 0, *size) == 0
            held = os.dup(next(iter(workers.worker._devices[0].buffers)).backing.dmabuf)
            fields = {
                "create": (OP.OP_DBUF_CREATE, 3, 64, 48, 32, 3 * 4096, 0, frontend.directory(3)[0], 0),
                "attach": (OP.OP_FB_ATTACH, 2, 2, 64, 48, fourcc.XRGB8888),
                "destroy": (OP.OP_DBUF_DESTROY, 1),
                "flip": (OP.OP_PG_FLIP, 1),
            }[name]
            await workers.die()
            control.post(*fields)
            for wait in ("GPU_CHOICE", "ATTACH", "DESTROY", "FLIP_TURN", "HIDDEN"):
                monkeypatch.setattr(limits, wait, 3600)
            worker = workers.go_on()
            rarely = dataclasses.replace(worker.config.display, hidden_flips_per_second=1 / 3600)
            worker.scene.config = dataclasses.replace(worker.config, display=rarely)
            answers: list[tuple[int, int, int, int]] = []
            await until(lambda: answers.extend(filter(None, [control.response()])) or bool(answers), "the answer")
            assert answers[0][1:3] == (fields[0], -errno.ETIMEDOUT if name == "destroy" else 0)
            if name == "flip":
                await _events(workers, [(0, 1)])
            assert worker._devices[0].connectors[0]._by == limits.NO_DEADLINE, "what comes now has all its time"
            os.close(held)

    asyncio.run(run())


def test_three_deaths_in_a_row_that_come_from_the_state_end_it(xen, alone, monkeypatch):
    """Each process that believes it dies before it has served long: the fourth begins with nothing."""

    async def run():
        async with succession(xen, monkeypatch, alone) as workers:
            await workers.frontend.show(1, 64, 48)
            for _death in range(statefile.MOST_ATTEMPTS):
                await workers.die()
                workers.go_on()
            await workers.die()
            with pytest.raises(StateError, match="3 times"):
                workers.go_on()
            assert workers.store.files == {} and xen.mapped == 0

    asyncio.run(run())


@pytest.mark.parametrize("between", ["ten seconds", "the picture", "SIGTERM"])
def test_kills_by_somebody_else_are_survived_however_many(xen, weston, monkeypatch, between):
    """An administrator's in an hour, an update's, a soak's: between them the state was seen to do no harm."""
    if between == "ten seconds":
        monkeypatch.setattr(worker_module, "_LIVED_LONG", 0.0)

    async def run():
        async with succession(xen, monkeypatch, weston.socket) as workers:
            await workers.frontend.show(1, 64, 48)
            if between != "the picture":
                weston.stop(signal.SIGKILL)
            for _kill in range(2 * statefile.MOST_ATTEMPTS):
                if between == "SIGTERM":
                    workers.worker.leave()
                await workers.die()
                worker = workers.go_on()
                if between != "SIGTERM":
                    assert worker._state.attempts == 1
                    await until(lambda state=worker._state: state.attempts == 0, between)
            assert await workers.frontend.connectors[0].call(OP.OP_PG_FLIP, 1) == 0
            assert worker.status().restarts == 2 * statefile.MOST_ATTEMPTS

    asyncio.run(run())


# -- a take-over that can't be


class Stored:
    """What the store has, to be damaged."""

    def __init__(self, workers: Succession) -> None:
        self.workers = workers
        self.files = workers.store.files

    def put(self, name: str, data: bytes) -> None:
        """Another file in the place of this one."""
        fd = os.memfd_create("another")
        os.write(fd, data)
        os.dup2(fd, self.files[name], inheritable=False)
        os.close(fd)

    def text(self, name: str) -> bytes:
        return os.pread(self.files[name], os.fstat(self.files[name]).st_size, 0)

    def change(self, path: str, value: object) -> None:
        """Another entry in the table, whose checksum is right."""
        file = StateFile(os.dup(self.files["state"]))
        file.write(_changed(json.loads(file.read()), path, value))
        file.close()

    @property
    def buffer(self) -> str:
        return min(name for name in self.files if name.endswith(".buffer"))

    def change_buffer(self, path: str, value: object) -> None:
        head, _line, tail = self.text(self.buffer).partition(b"\n")
        self.put(self.buffer, _changed(json.loads(head), path, value) + b"\n" + tail)

    def remove(self, name: str) -> None:
        os.close(self.files.pop(name))


def _wrong_checksum(stored: Stored) -> None:
    data = bytearray(stored.text("state"))
    start = StateFile._table(struct.unpack_from("@I", data, statefile._VALID)[0])
    struct.pack_into("@I", data, start + 4, zlib.crc32(b"another"))
    stored.put("state", bytes(data))


def _too_often(stored: Stored) -> None:
    file = StateFile(os.dup(stored.files["state"]))
    file.attempts = statefile.MOST_ATTEMPTS
    file.close()


def _number_taken(stored: Stored) -> None:
    stored.change_buffer("number", 0)
    stored.change_buffer("number", stored.workers.xen.memory)


def _lost_port(stored: Stored) -> None:
    stored.change("devices/0/connectors/1/evt_port", 77)


def _journal(place: int, value: int, stored: Stored) -> None:
    file = StateFile(os.dup(stored.files["state"]))
    _slot, journal = file.take_journal(1)
    values = list(journal.load())
    values[place] = value
    journal.save(*values)
    journal.close()
    file.close()


DAMAGES = {
    "no state": lambda stored: stored.remove("state"),
    "no event channels": lambda stored: stored.remove("evtchn"),
    "no file of a buffer": lambda stored: stored.remove(stored.buffer),
    "no dma-buf": lambda stored: stored.remove(stored.buffer.replace("buffer", "dmabuf")),
    "no gntdev": lambda stored: stored.remove(stored.buffer.replace("buffer", "gntdev")),
    "truncated": lambda stored: stored.put("state", stored.text("state")[:8192]),
    "wrong magic": lambda stored: stored.put("state", b"X" + stored.text("state")[1:]),
    "wrong checksum": _wrong_checksum,
    "random": lambda stored: stored.put("state", os.urandom(statefile._SIZE)),
    "an empty state": lambda stored: stored.put("state", b""),
    "of another domain": lambda stored: stored.change("domid", 6),
    "of another version": lambda stored: stored.change("version", 7),
    "begun too often": _too_often,
    "a journal twice": lambda stored: stored.change("devices/0/connectors/1/journal", 0),
    "too many open flips": functools.partial(_journal, 5, 9),
    "an event id that can't be": functools.partial(_journal, 2, 0x10000),
    "a counter that can't be": functools.partial(_journal, 14, 1 << 63),
    "too many buffers": lambda stored: stored.change("devices/0/buffers", list(range(1, 70))),
    "a buffer too much": lambda stored: stored.change("devices/0/buffers/1", 1 << 60),
    "a framebuffer on nothing": lambda stored: stored.change("devices/0/framebuffers/0/buffer", 99),
    "a framebuffer too large": lambda stored: stored.change("devices/0/framebuffers/0/width", 65),
    "a framebuffer of another depth": lambda stored: stored.change(
        "devices/0/framebuffers/0/pixel_format", fourcc.RGB565
    ),
    "no quota": lambda stored: stored.change("config/quota", {}),
    "a ring that isn't granted": lambda stored: stored.change("devices/0/connectors/1/spec/evt_ref", 0xFFFFFFF),
    "a port that isn't bound": _lost_port,
    "event channels that are none": lambda stored: stored.put("evtchn", b"none"),
    "a buffer without its text": lambda stored: stored.put(stored.buffer, b""),
    "a buffer of random bytes": lambda stored: stored.put(stored.buffer, os.urandom(5000)),
    "a buffer that isn't granted": lambda stored: stored.put(
        max(name for name in stored.files if name.endswith(".buffer")),
        state.pack_buffer(BUFFER, [9997, 9998, 9999]),
    ),
    "a cookie twice": lambda stored: stored.change_buffer("cookie", 2),
    "lines that are too short": lambda stored: stored.change_buffer("stride", 16),
    "an unknown strategy": lambda stored: stored.change_buffer("strategy", "magic"),
    "a number that is taken": _number_taken,
    "a number beyond the limit": lambda stored: stored.change_buffer("number", 1 << 20),
}


@pytest.mark.parametrize("aid", [False, True], ids=["alone", "first aid"])
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_state_leaves_nothing_open_and_the_worker_begins_anew(xen, alone, monkeypatch, damage, aid):
    """Of two connectors, an exported buffer, a copied one and a framebuffer on the first."""

    async def run():
        xen.exports = True
        async with succession(xen, monkeypatch, alone, (64, 48), (64, 48)) as workers:
            await workers.frontend.show(1, 64, 48)
            xen.exports = False
            assert (await workers.frontend.buffer(2, 64, 48))[0] == 0
            await workers.die()
            workers.make_room()
            DAMAGES[damage](Stored(workers))
            kept = len(workers.store.files)
            before = len(os.listdir("/proc/self/fd"))
            try:
                workers.go_on(aid=aid)
            except StateError as error:
                assert str(error).startswith("the stored state ")
            else:
                raise AssertionError("it was taken over")
            assert workers.store.files == {}, "systemd still keeps something"
            assert len(os.listdir("/proc/self/fd")) == before - kept
            assert xen.mapped == xen.exported == 0 and not xen.bound
            worker = workers.worker
            assert worker.hello() == Hello(-1)
            worker.start(DOMID, "domu", workers.config)
            other = Frontend(xen)
            await worker.connect(1, tuple(other.specs))
            assert worker.messages == [Connected(1)]
            assert (await other.buffer(1, 64, 48))[0] == 0
            other.close()

    asyncio.run(run())
