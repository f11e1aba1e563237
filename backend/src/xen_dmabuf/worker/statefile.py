# SPDX-License-Identifier: MIT
"""The state that a worker leaves to its successor: one memfd that systemd keeps.

Its parts:

    header      magic, attempts, which of two tables is valid
    journals    for each connector two records and which of them is valid
    2 tables    length, checksum, JSON

Each write goes to the half that isn't valid, and one store of four bytes makes it so: a process may
be killed between any two instructions. One thread only.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib

_MAGIC = b"xdbstat1"
_HEADER = 4096
_JOURNALS = 256
_RECORD = 192
_JOURNAL = 2 * _RECORD + 32
_TABLE = 1 << 20
_SIZE = _HEADER + _JOURNALS * _JOURNAL + 2 * _TABLE
_ATTEMPTS, _VALID = 8, 12
_U32 = struct.Struct("@I")
MOST_ATTEMPTS = 3
"""So many processes may begin with a state and die soon; the next one begins with nothing."""


class StateError(Exception):
    """A stored state is none, or not this worker's; the message says what is wrong with it."""


class Journal:
    """The numbers of one connector that change with each answer; see flips.py for their names.

    save() is a copy of some 150 bytes: it may be called for each response and each event. The last
    response is among them, as in the ring it takes the place of its request.
    """

    FORMAT = struct.Struct("@4I2Q8Q4Q2Q")
    RESPONSE = struct.Struct("@2Q")
    """What matters of a response's packet, as the last two numbers."""
    _FIXED = struct.Struct("@5I")

    def __init__(self, memory: memoryview) -> None:
        self.memory = self._memory = memory
        self._valid = memory[2 * _RECORD : 2 * _RECORD + 4].cast("I")
        self._pack_into = self.FORMAT.pack_into

    def save(self, *values: int) -> None:
        other = ~self._valid[0] & 1
        self._pack_into(self._memory, other * _RECORD, *values)
        self._valid[0] = other

    def load(self) -> tuple[int, ...]:
        return self.FORMAT.unpack_from(self._memory, (self._valid[0] & 1) * _RECORD)

    # -- what does not change: what a process needs to answer before it has read the table

    def describe(self, *numbers: int) -> None:
        """Grant references of ring and event page, local ports of both; from now on it is live."""
        self._FIXED.pack_into(self._memory, 2 * _RECORD + 4, 1, *numbers)

    def described(self) -> tuple[int, ...] | None:
        """The four numbers of describe(), None if it isn't live."""
        live, *numbers = self._FIXED.unpack_from(self._memory, 2 * _RECORD + 4)
        return tuple(numbers) if live == 1 else None

    def clear(self) -> None:
        """It is live no more."""
        self._FIXED.pack_into(self._memory, 2 * _RECORD + 4, 0, 0, 0, 0, 0)

    def close(self) -> None:
        self._valid.release()
        self._memory.release()


class StateFile:
    """The memfd; owned until close(). ``fd`` is what the store keeps."""

    def __init__(self, fd: int = -1) -> None:
        """``fd``: another process's, StateError if it can't be one; -1: a new one."""
        self._used: set[int] = set()
        if fd < 0:
            self.fd = os.memfd_create("xen-dmabuf-state", os.MFD_CLOEXEC)
            os.ftruncate(self.fd, _SIZE)
            self._memory = mmap.mmap(self.fd, _SIZE)
            self._memory[: len(_MAGIC)] = _MAGIC
            return
        self.fd = fd
        try:
            size = os.fstat(fd).st_size
            if size != _SIZE:
                raise StateError(f"has {size} bytes, not {_SIZE}")
            self._memory = mmap.mmap(fd, _SIZE)
        except (OSError, ValueError) as error:
            raise StateError(str(error)) from error
        if self._memory[: len(_MAGIC)] != _MAGIC:
            raise StateError("is of another version")

    def close(self) -> None:
        try:  # noqa: SIM105 (the first aid does without contextlib)
            self._memory.close()
        except BufferError:
            pass  # a journal of a connector that is still open
        os.close(self.fd)

    # -- how often a process began with it

    @property
    def attempts(self) -> int:
        return int(_U32.unpack_from(self._memory, _ATTEMPTS)[0])

    @attempts.setter
    def attempts(self, value: int) -> None:
        _U32.pack_into(self._memory, _ATTEMPTS, value)

    # -- the table

    def write(self, text: bytes) -> None:
        """OSError if it is too long: then the last one stays."""
        if len(text) > _TABLE - 8:
            raise OSError(f"a state of {len(text)} bytes is too long to be kept")
        other = 1 - (_U32.unpack_from(self._memory, _VALID)[0] & 1)
        start = self._table(other)
        self._memory[start + 8 : start + 8 + len(text)] = text
        struct.pack_into("@II", self._memory, start, len(text), zlib.crc32(text))
        _U32.pack_into(self._memory, _VALID, other)

    def read(self) -> bytes:
        """StateError if what is there isn't what was written."""
        start = self._table(_U32.unpack_from(self._memory, _VALID)[0] & 1)
        length, checksum = struct.unpack_from("@II", self._memory, start)
        if length > _TABLE - 8:
            raise StateError(f"names a length of {length} bytes")
        text = self._memory[start + 8 : start + 8 + length]
        if zlib.crc32(text) != checksum:
            raise StateError("has a wrong checksum")
        return text

    @staticmethod
    def _table(number: int) -> int:
        return _HEADER + _JOURNALS * _JOURNAL + number * _TABLE

    # -- the journals

    def take_journal(self, slot: int = -1) -> tuple[int, Journal]:
        """A free slot, or this one, and its journal. StateError if there is none."""
        if slot < 0:
            slot = next((n for n in range(_JOURNALS) if n not in self._used), _JOURNALS)
        if not 0 <= slot < _JOURNALS or slot in self._used:
            raise StateError(f"has no journal {slot} to give")
        self._used.add(slot)
        return slot, self._journal(slot)

    def give_journal(self, slot: int) -> None:
        self._used.discard(slot)
        self._journal(slot).clear()

    def live_journals(self) -> list[Journal]:
        """Those that another process described."""
        journals = [self._journal(slot) for slot in range(_JOURNALS)]
        return [journal for journal in journals if journal.described()]

    def _journal(self, slot: int) -> Journal:
        start = _HEADER + slot * _JOURNAL
        return Journal(memoryview(self._memory)[start : start + _JOURNAL])
