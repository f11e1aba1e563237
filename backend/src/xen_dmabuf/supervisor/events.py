# SPDX-License-Identifier: MIT
"""Hands what changes to everyone who watches.

A watcher that doesn't read must not fill the supervisor's memory: its queue is bounded, and it is
dropped when that is full. All in the asyncio thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

from ..errors import UserError
from ..log import fields
from .status import Event

log = logging.getLogger(__name__)

MOST_WATCHERS = 16
LONGEST_QUEUE = 1000
"""Events. A device has a dozen for one connect of its frontend."""


class _Watcher:
    """``task`` is the one that reads ``queue``; it is cancelled when the watcher is dropped."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(LONGEST_QUEUE)


class Events:
    """publish() never blocks and never fails."""

    def __init__(self) -> None:
        self._watchers: set[_Watcher] = set()

    def publish(self, event: Event) -> None:
        data = dataclasses.asdict(event)
        for watcher in list(self._watchers):
            try:
                watcher.queue.put_nowait(data)
            except asyncio.QueueFull:
                self._watchers.discard(watcher)
                watcher.task.cancel()
                log.warning("watcher dropped: it does not read", extra=fields(events=LONGEST_QUEUE))

    @contextlib.contextmanager
    def watch(self) -> Iterator[asyncio.Queue[dict[str, Any]]]:
        """The queue that each event from now on is put into, as plain data, while the context is
        open. UserError if there are too many watchers. Cancels the task of this call if it doesn't
        read."""
        if len(self._watchers) >= MOST_WATCHERS:
            raise UserError(
                f"{MOST_WATCHERS} watchers are there already: end a `xen-dmabuf-backend status --watch` or `wait`"
            )
        task = asyncio.current_task()
        assert task is not None
        watcher = _Watcher(task)
        self._watchers.add(watcher)
        try:
            yield watcher.queue
        finally:
            self._watchers.discard(watcher)
