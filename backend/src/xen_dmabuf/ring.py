# SPDX-License-Identifier: MIT
"""The two shared pages of a connector: request ring (xen/io/ring.h) and event page (displif.h).

The other end is hostile: its indexes are checked at every look and its packets are copied out of
the page exactly once. Indexes of our own are kept privately and never read back. One thread only.
"""

from __future__ import annotations

from . import _sys, displif

_MASK = 0xFFFFFFFF
_HEADER = 64


class RingError(Exception):
    """The frontend's indexes can't be true; the connection is beyond repair."""


def _words(page) -> memoryview:
    """The page as 32-bit words: each access is one load or store of the machine."""
    return memoryview(page).cast("I")


class RequestRing:
    """Consumer of requests and producer of responses over one writable page.

    Layout (DEFINE_RING_TYPES): req_prod, req_event, rsp_prod, rsp_event, padding to 64 octets,
    then 32 slots of 64 octets.
    """

    SLOTS = 32  # the largest power of two that fits (4096 - 64) / 64

    def __init__(self, page) -> None:
        self._bytes = memoryview(page).cast("B")
        self._index = _words(page)
        # BACK_RING_ATTACH: a fresh frontend has both at 0, a reconnecting one goes on
        self._rsp_prod = self._req_cons = self._index[2]

    def close(self) -> None:
        """Drop the views, so that the page can be unmapped."""
        self._bytes.release()
        self._index.release()

    def take(self) -> list[bytes]:
        """Copy out all new requests and ask to be notified of the next; RingError if they lie."""
        packets: list[bytes] = []
        while True:
            packets += self._copy_pending()
            self._index[1] = (self._req_cons + 1) & _MASK
            _sys.fence()
            if self._index[0] == self._req_cons:
                return packets

    def _copy_pending(self) -> list[bytes]:
        produced = self._index[0]
        _sys.fence()
        pending = (produced - self._req_cons) & _MASK
        unanswered = (produced - self._rsp_prod) & _MASK
        if pending > self.SLOTS or unanswered > self.SLOTS:
            raise RingError(
                f"req_prod={produced}: {unanswered} unanswered requests,"
                f" the ring has {self.SLOTS} slots"
            )
        packets = []
        for number in range(self._req_cons, self._req_cons + pending):
            start = _HEADER + number % self.SLOTS * displif.PACKET_SIZE
            packets.append(bytes(self._bytes[start : start + displif.PACKET_SIZE]))
        self._req_cons = produced
        return packets

    def respond(self, packet: bytes) -> bool:
        """Publish one response; True if the frontend wants to be notified."""
        start = _HEADER + self._rsp_prod % self.SLOTS * displif.PACKET_SIZE
        self._bytes[start : start + displif.PACKET_SIZE] = packet
        _sys.fence()
        old, new = self._rsp_prod, (self._rsp_prod + 1) & _MASK
        self._rsp_prod = new
        self._index[2] = new
        _sys.fence()
        return (new - self._index[3]) & _MASK < (new - old) & _MASK


class EventPage:
    """Producer of events over one writable page (struct xendispl_event_page).

    Layout: in_cons, in_prod, padding to 64 octets, then 63 slots of 64 octets.
    """

    SLOTS = (4096 - _HEADER) // displif.PACKET_SIZE
    # 2^32 is no multiple of 63: across the wrap, slots of indexes this far apart coincide
    _SLOTS_AT_WRAP = 2**32 % SLOTS

    def __init__(self, page) -> None:
        self._bytes = memoryview(page).cast("B")
        self._index = _words(page)
        self._in_prod = self._index[1]
        self._event_id = 0  # drm_xen_front counts from 0 at each connect and skips all other ids

    def close(self) -> None:
        self._bytes.release()
        self._index.release()

    def send_flip(self, fb_cookie: int) -> None:
        """Publish XENDISPL_EVT_PG_FLIP; RingError if the frontend left no room or lies.

        The caller notifies the event channel."""
        consumed = self._index[0]
        waiting = (self._in_prod - consumed) & _MASK
        room = self.SLOTS if consumed <= self._in_prod else self._SLOTS_AT_WRAP
        if waiting >= room:
            raise RingError(f"in_cons={consumed}: {waiting} events unread, room is for {room}")
        _sys.fence()
        start = _HEADER + self._in_prod % self.SLOTS * displif.PACKET_SIZE
        packet = displif.pack_flip_event(self._event_id, fb_cookie)
        self._bytes[start : start + displif.PACKET_SIZE] = packet
        self._event_id = (self._event_id + 1) & 0xFFFF
        self._in_prod = (self._in_prod + 1) & _MASK
        _sys.fence()
        self._index[1] = self._in_prod
        _sys.fence()
