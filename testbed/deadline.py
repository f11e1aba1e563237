# SPDX-License-Identifier: MIT
"""Deadlines as objects, and polling a condition up to one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

slowness = 1.0
"""Factor on all deadlines: 1 but for a machine that is known to be slow, as with a debug kernel."""


class Deadline:
    """A point in time, ``seconds`` from its creation."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds * slowness
        self._end = time.monotonic() + self.seconds

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return self.remaining == 0


def wait_until(condition: Callable[[], T | None], seconds: float, what: str) -> T:
    """Poll ``condition`` with growing pauses until it is true; its last value is returned.

    Raises TimeoutError naming ``what`` and the last value.
    """
    deadline = Deadline(seconds)
    pause = 0.05
    while True:
        value = condition()
        if value:
            return value
        if deadline.expired:
            raise TimeoutError(f"{what}: not within {deadline.seconds:.0f} s (last seen: {value!r})")
        time.sleep(min(pause, deadline.remaining))
        pause = min(pause * 1.5, 1.0)
