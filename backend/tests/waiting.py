# SPDX-License-Identifier: MIT
"""Waiting for a condition, to a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from xen_dmabuf.pump import loop


def _pauses(what: str, seconds: float) -> Iterator[float]:
    """Ever longer ones to the deadline: to ask XenStore from a DomU costs others their time."""
    deadline = time.monotonic() + seconds
    pause = 0.005
    while time.monotonic() < deadline:
        yield pause
        pause = min(pause * 1.3, 0.1)
    raise AssertionError(f"timed out: {what}")


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Poll ``condition`` to a deadline."""
    pauses = _pauses(what, seconds)
    while not condition():
        time.sleep(next(pauses))


async def until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """wait_until() for coroutines."""
    pauses = _pauses(what, seconds)
    while not condition():
        await asyncio.sleep(next(pauses))


def run_as_a_worker(main: Coroutine[Any, Any, Any]) -> Any:
    """asyncio.run(), as the worker does it."""
    with asyncio.Runner(loop_factory=loop.Loop) as runner:
        return runner.run(main)
