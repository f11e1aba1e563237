# SPDX-License-Identifier: MIT
"""A page of events that a backend sends: displif's event page and kbdif's page have this shape.

The other end is hostile: its index is checked at every event, and our own is kept privately and never
read back. Loads little, as a process that goes on for another one needs it first. One thread only.
"""

from __future__ import annotations

from .linux.memory import fence

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap

    Page = mmap.mmap | memoryview | bytearray

_MASK = 0xFFFFFFFF
_PAGE_SIZE = 4096


class RingError(Exception):
    """The frontend's indexes can't be true, or it left no room."""


def words(page: Page) -> memoryview:
    """The page as 32-bit words: each access is one load or store of the machine."""
    return memoryview(page).cast("I")


class EventPage:
    """Producer of events over one writable page.

    Layout: in_cons, in_prod; from byte ``offset`` on ``slots`` events of ``size`` bytes.
    """

    def __init__(self, page: Page, offset: int, slots: int, size: int, in_prod: int | None = None) -> None:
        """``in_prod``: the index of the next event, of an earlier process; None: as the page has it."""
        assert offset >= 8 and offset + slots * size <= _PAGE_SIZE
        self._bytes = memoryview(page).cast("B")
        self._index = words(page)
        self._offset, self._slots, self._size = offset, slots, size
        # 2^32 is no multiple of 63 or 51: across the wrap, slots of indexes this far apart coincide
        self._slots_at_wrap = 2**32 % slots
        self._in_prod = self._index[1] if in_prod is None else in_prod

    def close(self) -> None:
        """Drop the views, so that the page can be unmapped."""
        self._bytes.release()
        self._index.release()

    def room(self) -> int:
        """How many events can be written now; RingError if the frontend's index can't be true."""
        consumed = self._index[0]
        waiting = (self._in_prod - consumed) & _MASK
        if waiting > self._slots:
            raise RingError(f"in_cons={consumed}: {waiting} events unread, the page has {self._slots} slots")
        room = self._slots if consumed <= self._in_prod else self._slots_at_wrap
        before_wrap = (1 << 32) - self._in_prod
        return max(0, min(room - waiting, before_wrap))

    def write(self, packet: bytes) -> None:
        """Write the next event, which publish() makes known; RingError if there is no room for it."""
        if self.room() == 0:
            raise RingError(f"in_cons={self._index[0]}: no room, the frontend does not read")
        # no barrier: a store after a branch on what was loaded can't come before the load
        start = self._offset + self._in_prod % self._slots * self._size
        self._bytes[start : start + self._size] = packet
        self._in_prod = (self._in_prod + 1) & _MASK

    def publish(self) -> None:
        """Tell the frontend of all events. The caller notifies the event channel."""
        fence()
        self._index[1] = self._in_prod  # Xen's own barriers are between this and the frontend's wakeup
