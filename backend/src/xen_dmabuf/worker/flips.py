# SPDX-License-Identifier: MIT
"""What a connector's frontend was told and waits for: its two shared pages, open flips, counters.

Each answer is in the journal before the frontend can see it, so that another process can go on at any
instruction. C may take all of it over for a while (lane.py). All in the asyncio thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import limits
from ..displif.packets import PACKET_SIZE
from ..displif.ring import FlipEvents, RequestRing, RingError
from ..log import RateLimit, fields
from .statefile import Journal, StateError

if TYPE_CHECKING:
    from ..eventpage import Page

log = logging.getLogger(__name__)

_NO_COOKIES = (0,) * limits.MAX_FLIPS
_MASK = 0xFFFFFFFF


@dataclass
class Counters:
    flips_requested: int = 0
    flips_shown: int = 0
    flips_not_shown: int = 0
    events_dropped: int = 0
    requests_refused: int = 0
    protocol_errors: int = 0


class Flip:
    """A flip without an answer; ``shown`` is None until it is known."""

    def __init__(self, fb_cookie: int) -> None:
        self.fb_cookie = fb_cookie
        self.shown: bool | None = None


class Flips:
    """Of one connector. ``requests`` and ``events`` are there from attach() to detach(); ``fb_cookie`` is
    what should be shown, 0 for nothing."""

    def __init__(
        self,
        journal: Journal,
        quiet: RateLimit,
        context: dict[str, Any],
        *,
        notify: Callable[[int], None],
        settled: Callable[[], None],
    ) -> None:
        """``notify`` tells the frontend, by a local port; ``settled`` hears that a flip was answered.
        ``quiet`` and ``context`` are for the log."""
        self.request_port = self.event_port = -1
        self.requests: RequestRing
        self.events: FlipEvents
        self.journal = journal
        self.counters = Counters()
        self.open: list[Flip] = []
        self.fb_cookie = 0
        self.flip_time = self.frame_time = float("-inf")
        self._last = 0  # the last request that was answered, or the next one: a flip that is begun
        self._response: tuple[int, ...] = (0, 0)
        self._replayed = -1
        self._turn = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._quiet = quiet
        self._context = context
        self._notify = notify
        self._settled = settled

    # -- beginning and ending

    def load(self, name: str) -> None:
        """What another process left in the journal. StateError, with the connector's ``name``: it can't be."""
        values = self.journal.load()
        _answered, _in_prod, event_id, self._last, fb_cookie, open_flips = values[:6]
        if open_flips > limits.MAX_FLIPS or event_id > 0xFFFF or max(values[14:18]) >> 63:
            raise StateError(f"has a journal of connector {name} that can't be")
        counters = self.counters
        counters.flips_requested, counters.flips_shown, counters.flips_not_shown = values[14:17]
        counters.requests_refused = values[17]
        self._response = values[18:20]
        self.fb_cookie = fb_cookie
        self.open = [Flip(cookie) for cookie in values[6 : 6 + open_flips]]

    def attach(self, requests: Page, events: Page, *, loaded: bool = False) -> None:
        """Begin with the pages; ``loaded``: go on where load() said."""
        if loaded:
            answered, in_prod, event_id = self.journal.load()[:3]
            self.requests = RequestRing(requests, answered)
            self.events = FlipEvents(events, (in_prod, event_id))
            self._replayed = answered
        else:
            self.requests, self.events = RequestRing(requests), FlipEvents(events)
            self._last = self.requests.answered

    def detach(self) -> None:
        """Drop the pages, so that they can be unmapped."""
        self.requests.close()
        self.events.close()

    def tell_again(self) -> bool:
        """After load(): what was published or begun is told again, open flips as not shown.

        False: there was no load().
        """
        if self._replayed < 0:
            return False
        self.requests.complete(Journal.RESPONSE.pack(*self._response).ljust(PACKET_SIZE, b"\0"))
        self.requests.publish()
        self.events.publish()
        self.give_up()
        self.tell()
        return True

    def tell(self) -> None:
        """Notify the frontend of all that was published."""
        self._notify(self.request_port)
        self._notify(self.event_port)

    @property
    def replays(self) -> bool:
        """Whether the next request may have been begun by another process."""
        return self._replayed >= 0 and self._replayed == self.requests.answered

    def save(self) -> None:
        self._save(self.requests.answered)

    def _save(self, answered: int) -> None:
        counters, cookies = self.counters, [flip.fb_cookie for flip in self.open] if self.open else []
        self.journal.save(
            answered,
            *self.events.position,
            self._last,
            self.fb_cookie,
            len(cookies),
            *cookies,
            *_NO_COOKIES[len(cookies) :],
            counters.flips_requested,
            counters.flips_shown,
            counters.flips_not_shown,
            counters.requests_refused,
            *self._response,
        )

    # -- requests

    def respond(self, response: bytes, first: Callable[[], None] | None = None) -> None:
        """Answer the oldest request; ``first`` is done once the answer is in the journal."""
        self._response = Journal.RESPONSE.unpack_from(response)
        self._last = (self.requests.answered + 1) & _MASK
        self._save(self._last)
        self._replayed = -1
        if first:
            first()
        self.requests.write(response)
        if self.requests.publish():
            self._notify(self.request_port)

    # -- flips

    @property
    def begun(self) -> bool:
        """Whether another process has begun the next request, a flip; tell_again() has answered it."""
        return self.replays and self._last == (self.requests.answered + 1) & _MASK

    async def turn(self, by: float) -> bool:
        """Wait, until ``by`` at most, for the answer to the last flip; False if too many are open."""
        if self.open:
            self._turn.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limits.left(limits.FLIP_TURN, by, self._loop.time())):
                    await self._turn.wait()
        return len(self.open) < limits.MAX_FLIPS

    def begin(self, cookie: int) -> Flip:
        """A flip that will be answered. The next respond() stores that; before a wait, save_begun() does."""
        flip = Flip(cookie)
        self.open.append(flip)
        self.flip_time = self._loop.time()
        self.counters.flips_requested += 1
        return flip

    def save_begun(self) -> None:
        """The next request is a flip that was begun."""
        self._last = (self.requests.answered + 1) & _MASK
        self.save()

    def done(self, flip: Flip, shown: bool) -> None:
        """What became of a flip; nothing after forget(). Flips are answered in their order."""
        if flip in self.open and flip.shown is None:
            flip.shown = shown
        while self.open and self.open[0].shown is not None:
            self._answer(self.open.pop(0))

    def give_up(self) -> None:
        """Answer all as not shown."""
        for flip in list(self.open):
            self.done(flip, False)

    def forget(self) -> None:
        """Answer none of those that are open."""
        self.open.clear()

    def _answer(self, flip: Flip) -> None:
        self._turn.set()
        if flip.shown:
            self.counters.flips_shown += 1
            self.frame_time = self._loop.time()
        else:
            self.counters.flips_not_shown += 1
        try:
            self.events.write_flip(flip.fb_cookie)
        except RingError as error:
            self.counters.events_dropped += 1
            if self._quiet.allow(self._loop.time()):
                log.warning("event dropped", extra=fields(**self._context, reason=error))
            return
        self.save()
        self.events.publish()
        self._notify(self.event_port)
        self._settled()

    # -- in C's hands

    @property
    def numbers(self) -> dict[str, int | tuple[int, ...]]:
        """The fields of struct journal (pump.h)."""
        in_prod, event_id = self.events.position
        counters = self.counters
        return {
            "answered": self.requests.answered,
            "in_prod": in_prod,
            "event_id": event_id,
            "last_flip": self._last,
            "fb_cookie": self.fb_cookie,
            "open_flips": 0,
            "cookies": _NO_COOKIES,
            "requested": counters.flips_requested,
            "shown": counters.flips_shown,
            "not_shown": counters.flips_not_shown,
            "refused": counters.requests_refused,
            "response": self._response,
        }

    def go_on(self, values: Any, flip_time: float, frame_time: float) -> Flip | None:
        """With what C has made of ``numbers``, and when; the flip that it hasn't answered."""
        self.requests.go_on(values.answered)
        self.events.go_on(values.in_prod, values.event_id)
        self._last, self.fb_cookie = values.last_flip, values.fb_cookie
        self._response = tuple(values.response)
        self.counters.flips_requested, self.counters.flips_shown = values.requested, values.shown
        self.flip_time, self.frame_time = max(self.flip_time, flip_time), max(self.frame_time, frame_time)
        if not values.open_flips:
            return None
        self.open.append(Flip(values.cookies[0]))
        return self.open[0]

    # -- what others hear

    def age(self, then: float) -> int:
        """Milliseconds since, -1: never."""
        return -1 if then < 0 else int((self._loop.time() - then) * 1000)
