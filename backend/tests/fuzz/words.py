# SPDX-License-Identifier: MIT
"""What processes say to each other and leave to each other: messages, stored states, journals.

Each begins as a valid one, and is then changed: in its bytes, or in what it says.
"""

from __future__ import annotations

import array
import copy
import errno
import json
import mmap
import os
import random
import struct
import zlib
from collections.abc import Callable

from xen_dmabuf.codec import CodecError, encode
from xen_dmabuf.config import Config, Display, Gpu, Quota
from xen_dmabuf.displif import fourcc, packets
from xen_dmabuf.displif.spec import ConnectorSpec
from xen_dmabuf.kbdif.spec import InputSpec
from xen_dmabuf.link import messages
from xen_dmabuf.link.messages import (
    AskStatus,
    BufferStatus,
    Connect,
    Connected,
    ConnectInput,
    ConnectorStatus,
    DeviceStatus,
    Disconnect,
    Disconnected,
    DisconnectInput,
    Failed,
    Held,
    HeldInput,
    Hello,
    InputConnected,
    InputDisconnected,
    InputRefused,
    InputStatus,
    Ready,
    Refused,
    Report,
    Start,
    WorkerStatus,
)
from xen_dmabuf.worker import statefile
from xen_dmabuf.worker.firstaid import answer_flips
from xen_dmabuf.worker.state import (
    VERSION,
    StoredBuffer,
    StoredConnector,
    StoredDevice,
    StoredFramebuffer,
    StoredInput,
    StoredWorker,
    pack,
    pack_buffer,
    read,
    read_buffer,
)
from xen_dmabuf.worker.statefile import Journal, StateError, StateFile
from xen_dmabuf.xen.evtchn import Evtchn

from .base import Faults, Target, check, garble, number, open_files, patched
from .device import Domu

_DOMID = 5
_SPEC = ConnectorSpec(0, "id0", 640, 480, 8, 9, 10, 11)
_CONFIG = Config(
    "debug", "/run/c", Display("/run/w"), {"default": Gpu(), "i915": Gpu("/dev/dri/card0")}, {"default": Quota()}
)
_INPUT = InputSpec(12, 13, "id0", "id0", "id0", 640, 480, 640, 480, 10)
_STATUS = WorkerStatus(
    4711,
    True,
    "virtio_gpu",
    devices={
        "0": DeviceStatus(
            (ConnectorStatus(0, "id0", 800, 600, 1, False, 2, 1, 1),),
            (BufferStatus(1, 800, 600, ("XR24",), 3200, 469, "map", "dumb", "first of the list", 1024),),
        )
    },
    inputs={"0": InputStatus("id0", "id0", "", 1, 0, 2, 3, 4)},
)
_TO_SUPERVISOR = (
    Hello(-1),
    Hello(_DOMID, _CONFIG, (Held(0, (_SPEC,)), Held(1))),
    Ready(),
    Connected(0),
    Refused(0, "no"),
    Failed(99_999, "no"),
    Disconnected(0, True),
    Hello(_DOMID, _CONFIG, (), (HeldInput(0, _INPUT),)),
    InputConnected(0),
    InputRefused(0, "no"),
    InputDisconnected(0),
    Report(),
    Report(_STATUS),
)
_TO_WORKER = (
    Start(_DOMID, "domu", _CONFIG),
    Connect(0, (_SPEC, _SPEC)),
    Disconnect(0),
    AskStatus(),
    ConnectInput(0, _INPUT),
    DisconnectInput(0),
)
_STORED = StoredWorker(
    VERSION,
    _DOMID,
    "domu",
    2,
    _CONFIG,
    (
        StoredDevice(
            0,
            (StoredConnector(_SPEC, 0, 1, 2, (9, 0, 0, 64, 48, 32)),),
            (1, 2),
            (StoredFramebuffer(9, 7, 64, 48, fourcc.XRGB8888),),
        ),
        StoredDevice(1, (StoredConnector(_SPEC, 1, 3, 4),)),
    ),
    (StoredInput(0, 5, _INPUT), StoredInput(1, 6, _INPUT)),
)
_BUFFER = StoredBuffer(7, 64, 48, 32, 256, 12288, 0, "export", "gntdev", "first", 1024, {"map": "no"})


# -- changes


def _value(chance: random.Random) -> object:
    """Anything that JSON has, and it has more than one would like."""
    return chance.choice(
        (
            None,
            True,
            False,
            -1,
            0,
            1,
            1 << 64,
            -(1 << 70),
            10**400,
            1.5,
            1e308,
            float("inf"),
            float("nan"),
            "",
            "map",
            "x" * 5000,
            "\0",
            "\udc80",
            "\U0001f600\n",
            [],
            [[]],
            {},
            {"default": {}},
            {"type": {}},
            number(chance, 70),
            chance.getrandbits(32),
        )
    )


def _places(data: object) -> list[tuple[object, object]]:
    """(container, key) of all that is in it."""
    found: list[tuple[object, object]] = []
    entries = list(data.items()) if isinstance(data, dict) else list(enumerate(data)) if isinstance(data, list) else []
    for key, value in entries:
        found.append((data, key))
        found += _places(value)
    return found


def _change(chance: random.Random, text: bytes) -> bytes:
    """Another JSON text: values swapped, missing, unknown, or deeper than anybody reads."""
    data = json.loads(text)
    deep = b""
    for _ in range(chance.choice((1, 1, 2, 5))):
        places = _places(data)
        if not places:
            break
        container, key = chance.choice(places)
        kind = chance.randrange(6)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[str(_value(chance))[:100]] = container[key]
        elif kind == 2:
            other, another = chance.choice(places)
            container[key] = copy.deepcopy(other[another])
        elif kind == 3 and isinstance(container, list):
            container *= chance.choice((2, 3, 20))
        elif kind == 4 and not deep:
            depth = chance.choice((3, 50, chance.randrange(850, 1000), 5000, 100_000))
            opening, closing = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
            deep = opening * depth + b"1" + closing * depth
            container[key] = "@deep@"
        else:
            container[key] = _value(chance)
    return json.dumps(data).encode().replace(b'"@deep@"', deep or b"1")


def _changed(chance: random.Random, text: bytes) -> bytes:
    """``text`` as it is, or changed in either way."""
    kind = chance.random()
    if kind < 0.03:
        return text
    return garble(chance, text) if kind < 0.5 else _change(chance, text)


def _refusal(error: Exception) -> None:
    text = str(error)
    check(text and len(text) < 2000, "what is said of it is no sentence", text[:3000])


# -- messages


_LINES = [
    (messages.line(message).rstrip(), known)
    for some, known in ((_TO_SUPERVISOR, messages.TO_SUPERVISOR), (_TO_WORKER, messages.TO_WORKER))
    for message in some
]


def lines(chance: random.Random) -> int:
    """An input is a line."""
    count = 100
    for _ in range(count):
        text, known = chance.choice(_LINES)
        text = _changed(chance, text)
        if chance.random() < 0.05:
            known = chance.choice((messages.TO_SUPERVISOR, messages.TO_WORKER, (Hello,)))
        try:
            message = messages.parse(text, known)
        except CodecError as error:
            _refusal(error)
            continue
        check(type(message) in known, "a message of the other direction", message)
        again = messages.parse(messages.line(message), known)
        check(again == message, "not what was said", message, again)
    return count


# -- states


def tables(chance: random.Random) -> int:
    """An input is a table or a buffer's file."""
    count = 60
    refs = list(range(20, 23))
    for _ in range(count):
        try:
            if chance.random() < 0.6:
                stored = read(_changed(chance, pack(_STORED)), _DOMID)
                check(stored.domid == _DOMID and read(pack(stored), _DOMID) == stored, "not what was read", stored)
                continue
            text, tail = _changed(chance, pack(_BUFFER)), array.array("I", refs).tobytes()
            if chance.random() < 0.3:
                tail = garble(chance, tail)
            buffer, found = read_buffer(text + b"\n" + tail)
        except StateError as error:
            _refusal(error)
        else:
            pages = -(-buffer.buffer_sz // 4096)
            check(len(found) == len(set(found)) == pages and 0 not in found, "references", buffer, found)
            end = buffer.data_ofs + buffer.stride * buffer.height
            check(end <= buffer.buffer_sz and buffer.stride * 8 >= buffer.width * buffer.bpp, "size", buffer)
            check(read_buffer(pack_buffer(buffer, found)) == (buffer, found), "not what was read", buffer)
    return count


def files(chance: random.Random) -> int:
    """An input is a state file that somebody wrote into."""
    count = 20
    before = open_files()
    ours = StateFile()
    memory = mmap.mmap(ours.fd, statefile._SIZE)
    text = pack(_STORED)
    for _ in range(count):
        ours.write(text)
        valid = struct.unpack_from("@I", memory, statefile._VALID)[0] & 1
        start = StateFile._table(valid)
        for _ in range(chance.choice((0, 1, 1, 3))):
            place = chance.choice((0, statefile._ATTEMPTS, statefile._VALID, start, start + 4, start + 8))
            place += chance.choice((0, 0, chance.randrange(64), chance.randrange(len(text))))
            some = chance.randbytes(chance.choice((1, 4, 16)))
            memory[place : place + len(some)] = some
        if chance.random() < 0.2:  # a text of its own, whose checksum is right
            other = _changed(chance, text)[: statefile._TABLE - 8]
            struct.pack_into("@II", memory, start, len(other), zlib.crc32(other))
            memory[start + 8 : start + 8 + len(other)] = other
        fd = os.dup(ours.fd)
        if chance.random() < 0.1:
            os.ftruncate(fd, chance.choice((0, 1, 4096, statefile._SIZE - 1, statefile._SIZE + 1)))
        try:
            state = StateFile(fd)
        except StateError as error:
            _refusal(error)
            os.close(fd)
        else:
            try:
                for journal in state.live_journals():
                    check(len(journal.load()) == 20, "a journal of another length")
                    journal.close()
                check(read(state.read(), _DOMID).domid == _DOMID, "another domain's")
            except StateError as error:
                _refusal(error)
            state.close()
        os.ftruncate(ours.fd, statefile._SIZE)
        memory[: len(statefile._MAGIC)] = statefile._MAGIC
        struct.pack_into("@II", memory, statefile._ATTEMPTS, 0, 0)
    memory.close()
    ours.close()
    check(open_files() == before, "descriptors are left", open_files() - before)
    return count


# -- first aid


def _ring(chance: random.Random, xen: Domu, ref: int, answered: int, sane: bool) -> int:
    """A page of requests; how many of them are flips that come first."""
    words = xen.words(ref)
    page = xen.view[ref * 4096 : (ref + 1) * 4096]
    page[:] = bytes(4096) if sane else chance.randbytes(4096)
    pending = chance.randrange(5 if sane else 40)
    flips, first = 0, True
    for n in range(min(pending, 32)):
        flip = chance.random() < 0.8
        first = first and flip
        flips += first
        packet = packets.HEADER.pack(n, packets.OP_PG_FLIP if flip else 0x14) + packets.FLIP.pack(1 + n)
        start = 64 + (answered + n) % 32 * 64
        page[start : start + len(packet)] = packet
    words[0] = (answered + pending) & 0xFFFFFFFF if sane or chance.random() < 0.8 else chance.getrandbits(32)
    words[2] = (answered - chance.randrange(2)) & 0xFFFFFFFF
    words.release()
    return flips


def _journal(chance: random.Random, xen: Domu, state: StateFile, evtchn: Evtchn, sane: bool) -> int:
    """One more connector; how many flips are to be answered."""
    slot, journal = state.take_journal()
    ring, page = 1 + 2 * slot, 2 + 2 * slot
    ports = [evtchn.bind(xen.new_port()) for _ in range(2)]
    answered = chance.choice((0, 0xFFFFFFFE, chance.getrandbits(32)))
    produced = chance.choice((0, 62, chance.getrandbits(31)))
    shown = chance.choice((0, 1, 7))
    opened = chance.randrange(4)
    values = [
        answered,
        produced,
        chance.getrandbits(16),
        answered,
        shown,
        opened,
        *(opened * [7]),
        *((8 - opened) * [0]),
    ]
    values += [number(chance, 40) for _ in range(4)] + [chance.getrandbits(64) for _ in range(2)]
    described = [ring, page, *ports]
    flips = _ring(chance, xen, ring, answered, sane)
    xen.view[page * 4096 : page * 4096 + 8] = struct.pack("@II", produced, produced)
    if not sane:
        if chance.random() < 0.5:
            xen.view[page * 4096 : page * 4096 + 8] = chance.randbytes(8)
        for _ in range(chance.randrange(4)):
            place = chance.randrange(20)
            wide = Journal.FORMAT.format.replace("@", "")  # 4I2Q8Q4Q2Q: the first four are of 32 bits
            values[place] = number(chance, 32 if place < 4 and wide.startswith("4I") else 64)
        if chance.random() < 0.2:
            described[chance.randrange(4)] = number(chance, 32)
    journal.save(*values)
    journal.describe(*described)
    journal.close()
    return opened + (min(flips, 8 - opened) if shown else 0)


def first_aid(chance: random.Random) -> int:
    """An input is a page, a journal or a state file."""
    xen = Domu()
    faults = Faults(chance, (errno.EMFILE, errno.ENOMEM, errno.EINVAL))
    inputs = 0
    try:
        with patched() as patch:
            xen.install(patch)
            xen.fail(patch, faults)
            patch.setattr(os, "dup", faults.wrap(os.dup, "dup"))
            for _ in range(5):
                inputs += _aid(chance, xen, faults)
    finally:
        xen.view.release()
        xen.close()
    return inputs


def _aid(chance: random.Random, xen: Domu, faults: Faults) -> int:
    sane = chance.random() < 0.3
    evtchn, state = Evtchn(_DOMID), StateFile()
    journals = chance.randrange(1, 4)
    wanted = sum(_journal(chance, xen, state, evtchn, sane) for _ in range(journals))
    if not sane and chance.random() < 0.1:
        state.attempts = number(chance, 32)
    if not sane and chance.random() < 0.1:
        os.pwrite(state.fd, chance.randbytes(64), chance.randrange(8192))
    if not sane and chance.random() < 0.05:
        os.ftruncate(state.fd, statefile._SIZE)
    before = open_files()
    faults.rate = 0.0 if sane else chance.choice((0.0, 0.0, 0.1, 0.5))
    answered = answer_flips(_DOMID, state.fd, evtchn.fd)
    faults.rate = 0.0
    check(xen.mapped == 0, "pages are mapped", xen.mapped)
    check(open_files() == before, "descriptors are left", open_files() - before)
    check(0 <= answered <= 8 * journals, "more flips than there can be", answered)
    if sane:
        check(answered == wanted, "flips", answered, wanted)
        again = answer_flips(_DOMID, state.fd, evtchn.fd)
        check(again <= 8 * journals and xen.mapped == 0, "once more", again)
    state.close()
    evtchn.close()
    for events in xen._events.values():
        events.close()
    xen._events.clear()
    xen._channels.clear()
    return 1 + 3 * journals


class Words(Target):
    name = "words"
    parts: dict[Callable[[random.Random], int], int] = {lines: 12, tables: 12, files: 2, first_aid: 2}

    def session(self, chance: random.Random) -> int:
        (part,) = chance.choices(list(self.parts), list(self.parts.values()))
        return part(chance)


def valid() -> None:
    """All that is changed here is valid before."""
    for text, known in _LINES:
        messages.parse(text, known)
    check(read(pack(_STORED), _DOMID) == _STORED, "the table")
    check(read_buffer(pack_buffer(_BUFFER, [20, 21, 22])) == (_BUFFER, [20, 21, 22]), "the buffer")
    check(json.loads(pack(_STORED)) == json.loads(json.dumps(encode(_STORED))), "its text")
