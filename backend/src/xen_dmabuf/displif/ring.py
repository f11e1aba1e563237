# SPDX-License-Identifier: MIT
"""The two shared pages of a connector: request ring (xen/io/ring.h) and event page (displif.h).

The other end is hostile: its indexes are checked at every look and its packets are copied out of
the page exactly once. Indexes of our own are kept privately and never read back. One thread only.
"""

from __future__ import annotations

from ..eventpage import EventPage, RingError, words
from ..linux.memory import fence
from .packets import PACKET_SIZE, PAGE_SIZE, pack_flip_event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..eventpage import Page

__all__ = ["FlipEvents", "RequestRing", "RingError"]

_MASK = 0xFFFFFFFF
_HEADER = 64


class RequestRing:
    """Consumer of requests and producer of responses over one writable page.

    Layout (DEFINE_RING_TYPES): req_prod, req_event, rsp_prod, rsp_event, padding to 64 bytes,
    then 32 slots of 64 bytes.
    """

    SLOTS = 32  # the largest power of two that fits (4096 - 64) / 64

    def __init__(self, page: Page, answered: int | None = None) -> None:
        """``answered``: go on after so many responses, as an earlier process counted them."""
        self._bytes = memoryview(page).cast("B")
        self._index = words(page)
        # BACK_RING_ATTACH: a fresh frontend has both at 0, a reconnecting one goes on
        self.answered = self._req_cons = self._index[2] if answered is None else answered

    def close(self) -> None:
        """Drop the views, so that the page can be unmapped."""
        self._bytes.release()
        self._index.release()

    @property
    def page(self) -> memoryview:
        return self._bytes

    def go_on(self, consumed: int) -> None:
        """Somebody else has consumed requests up to there, and answered all of them."""
        self._req_cons = self.answered = consumed

    @property
    def pending(self) -> int:
        """How many requests are new, if the frontend doesn't lie; at most SLOTS."""
        return min((self._index[0] - self._req_cons) & _MASK, self.SLOTS)

    def take(self) -> list[bytes]:
        """Copy out all new requests and ask to be notified of the next; RingError if they lie."""
        packets: list[bytes] = []
        while True:
            packets += self._copy_pending()
            self._index[1] = (self._req_cons + 1) & _MASK
            fence()
            if self._index[0] == self._req_cons:
                return packets

    def _copy_pending(self) -> list[bytes]:
        produced = self._index[0]
        pending = (produced - self._req_cons) & _MASK
        if not pending:
            return []
        unanswered = (produced - self.answered) & _MASK
        if pending > self.SLOTS or unanswered > self.SLOTS:
            raise RingError(f"req_prod={produced}: {unanswered} unanswered requests, the ring has {self.SLOTS} slots")
        fence()  # no packet may be older than the index that announced it
        packets = []
        for number in range(self._req_cons, self._req_cons + pending):
            start = _HEADER + number % self.SLOTS * PACKET_SIZE
            packets.append(bytes(self._bytes[start : start + PACKET_SIZE]))
        self._req_cons = produced
        return packets

    def peek(self) -> bytes | None:
        """A copy of the only new request, if no other waits for an answer; None: take() finds out more.

        Nothing is consumed: consume() does that, and the copy is what counts then.
        """
        number = self._req_cons
        if number != self.answered or self._index[0] != (number + 1) & _MASK:
            return None
        fence()  # as in take()
        start = _HEADER + number % self.SLOTS * PACKET_SIZE
        return bytes(self._bytes[start : start + PACKET_SIZE])

    def consume(self) -> None:
        """Count what peek() has returned, and ask to be notified of the next; see more()."""
        self._req_cons = (self._req_cons + 1) & _MASK
        self._index[1] = (self._req_cons + 1) & _MASK

    def more(self) -> bool:
        """Whether a request came that nobody was notified of; asked after publish(), for its barrier."""
        return self._index[0] != self._req_cons

    def respond(self, packet: bytes) -> bool:
        """Publish one response; True if the frontend wants to be notified."""
        self.write(packet)
        return self.publish()

    def complete(self, packet: bytes) -> None:
        """Write the last response again, which another process may have counted and not written.

        Once it is published its slot is the frontend's.
        """
        if self._index[2] != self.answered:
            self.answered = (self.answered - 1) & _MASK
            self.write(packet)

    def write(self, packet: bytes) -> None:
        """Write the next response, which publish() makes known; counts it in ``answered``.

        It overwrites the request: who has to go on after a crash keeps the response before.
        """
        start = _HEADER + self.answered % self.SLOTS * PACKET_SIZE
        self._bytes[start : start + PACKET_SIZE] = packet
        self.answered = (self.answered + 1) & _MASK

    def publish(self) -> bool:
        """Tell the frontend of all responses; True if it wants to be notified."""
        fence()
        old, new = self._index[2], self.answered
        self._index[2] = new
        fence()
        return (new - self._index[3]) & _MASK < (new - old) & _MASK


class FlipEvents(EventPage):
    """Producer of flip events over one writable page (struct xendispl_event_page)."""

    def __init__(self, page: Page, resume: tuple[int, int] | None = None) -> None:
        """``resume``: ``position`` of an earlier process."""
        in_prod, self._event_id = resume or (None, 0)
        # drm_xen_front counts ids from 0 at each connect and skips all others
        super().__init__(page, _HEADER, (PAGE_SIZE - _HEADER) // PACKET_SIZE, PACKET_SIZE, in_prod)

    @property
    def position(self) -> tuple[int, int]:
        """The index and the id of the next event."""
        return self._in_prod, self._event_id

    @property
    def page(self) -> memoryview:
        return self._bytes

    def go_on(self, in_prod: int, event_id: int) -> None:
        """Somebody else has sent the events before this one."""
        self._in_prod, self._event_id = in_prod, event_id

    def send_flip(self, fb_cookie: int) -> None:
        """Publish XENDISPL_EVT_PG_FLIP; RingError if the frontend left no room or lies.

        The caller notifies the event channel."""
        self.write_flip(fb_cookie)
        self.publish()

    def write_flip(self, fb_cookie: int) -> None:
        """Write the next event, which publish() makes known; RingError as send_flip()."""
        self.write(pack_flip_event(self._event_id, fb_cookie))
        self._event_id = (self._event_id + 1) & 0xFFFF
