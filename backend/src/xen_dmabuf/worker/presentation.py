# SPDX-License-Identifier: MIT
"""When frames reach the screen, by samples (wp_presentation): an object for each frame would cost as much
as the flip itself. In the asyncio thread."""

from __future__ import annotations

import time

from .protocols import Proxy, WpPresentationFeedback, forgive_dead_objects

forgive_dead_objects(WpPresentationFeedback)
_INTERVAL = 5.0  # seconds; each sample takes a flip out of C's hands (lane.py)


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


def _is_clock(clock: int) -> bool:
    """Whether clock_gettime(2) knows it; negative: the compositor has named none."""
    if not 0 <= clock < 1 << 31:
        return False
    try:
        time.clock_gettime(clock)
    except OSError:
        return False
    return True
