# SPDX-License-Identifier: MIT
"""When frames reach the screen (wp_presentation): by samples, as an object for each frame would cost as much
as the flip itself, and where somebody has to wait for it. In the asyncio thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from .protocols import Proxy, WpPresentationFeedback, forgive_dead_objects

forgive_dead_objects(WpPresentationFeedback)
_INTERVAL = 5.0  # seconds; each sample takes a flip out of C's hands (lane.py)
_TRIES = 3  # a frame that others replace at once, again and again, isn't waited for
_MOST = 8  # that a compositor hasn't answered yet


class Presentation:
    """Of one surface. ``latency``: milliseconds from the last sample's commit to the screen, -1: none yet;
    ``missed``: samples that were replaced before the screen showed them."""

    def __init__(self, manager: Proxy | None, clock: int) -> None:
        """``manager``: wp_presentation, if there is one; ``clock``: the clockid_t that it has named."""
        self._manager = manager if _is_clock(clock) else None
        self._clock = clock
        self._last = float("-inf")
        self._committed = 0.0
        self._feedback: Proxy | None = None
        self._awaited: dict[Proxy, asyncio.Future[bool]] = {}
        self.latency = -1
        self.missed = 0

    @property
    def due(self) -> float:
        """When the next sample is (loop time)."""
        return float("inf") if self._manager is None else self._last + _INTERVAL

    def sample(self, surface: Proxy, now: float) -> None:
        """Before a commit at loop time ``now``: ask about it, if the last sample is old enough."""
        if self._manager is None or self._feedback is not None:
            return
        if now - self._last < _INTERVAL:
            return
        self._last = now
        self._committed = time.clock_gettime(self._clock)
        self._feedback = self._manager.feedback(surface)
        self._feedback.dispatcher["presented"] = self._presented
        self._feedback.dispatcher["discarded"] = self._discarded

    async def reach(self, surface: Proxy, commit: Callable[[], None], seconds: float) -> bool:
        """Whether a frame that ``commit`` makes now, or one after it, reached the screen within ``seconds``.

        What was replaced before isn't read any more then, also where the release of its wl_buffer doesn't say so.
        """
        try:
            async with asyncio.timeout(seconds):
                for _ in range(_TRIES):
                    if self._manager is None or len(self._awaited) >= _MOST:
                        return False
                    if await self._next(surface, commit):
                        return True
        except TimeoutError:
            pass
        return False

    def _next(self, surface: Proxy, commit: Callable[[], None]) -> asyncio.Future[bool]:
        assert self._manager is not None
        feedback = self._manager.feedback(surface)
        future = self._awaited[feedback] = asyncio.get_running_loop().create_future()
        feedback.dispatcher["presented"] = lambda feedback, *_: self._answer(feedback, True)
        feedback.dispatcher["discarded"] = lambda feedback: self._answer(feedback, False)
        commit()
        return future

    def _answer(self, feedback: Proxy, presented: bool) -> None:
        future = self._awaited.pop(feedback)
        if not feedback.destroyed:
            feedback._destroy()
        if not future.done():
            future.set_result(presented)

    def _presented(self, feedback: Proxy, high: int, low: int, nanoseconds: int, *_rest: int) -> None:
        self._end(feedback)
        seen = (high << 32 | low) + nanoseconds / 1e9
        self.latency = max(0, min(int((seen - self._committed) * 1000), 1 << 31))

    def _discarded(self, feedback: Proxy) -> None:
        self._end(feedback)
        self.missed += 1

    def _end(self, feedback: Proxy) -> None:
        """The compositor has destroyed it with the event."""
        self._feedback = None
        if not feedback.destroyed:
            feedback._destroy()

    def close(self) -> None:
        """Before the surface goes; also after the connection was lost."""
        if self._feedback is not None:
            self._end(self._feedback)
        self._manager = None
        for feedback in list(self._awaited):
            self._answer(feedback, False)


def _is_clock(clock: int) -> bool:
    """Whether clock_gettime(2) knows it; negative: the compositor has named none."""
    if not 0 <= clock < 1 << 31:
        return False
    try:
        time.clock_gettime(clock)
    except OSError:
        return False
    return True
