# SPDX-License-Identifier: MIT
"""A wl_buffer, and whether the compositor may still read it. In the asyncio thread."""

from __future__ import annotations

import asyncio
import logging
import os
import select
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..displif.geometry import Crop
from ..log import fields
from .frames import attach_arguments
from .protocols import Proxy

if TYPE_CHECKING:
    from .lane import Lane
    from .picture import Picture

log = logging.getLogger(__name__)


class Image:
    """``busy`` from the commit until the compositor has released it and the GPU has read it.

    A compositor may release a buffer (wl_buffer.release) that its GPU still reads: the dma-buf's
    fences say when that ends, where the driver keeps them (dma-buf.rst, "Implicit Fence Poll
    Support"). ``users`` show it; ``watchers`` hear when it is released. ``fill(crop)`` is called
    before each commit, if the pixels are a copy.
    """

    def __init__(self, buffer: Proxy, width: int, height: int, dmabuf: int = -1) -> None:
        """``dmabuf`` stays the caller's, open until destroy(); -1: shared memory."""
        self.buffer = buffer
        self._attach: object = None
        self.width = width
        self.height = height
        self.busy = False
        self.users: set[Picture] = set()
        self.watchers: set[Picture] = set()
        self.shown_at: float | None = None
        """When it was committed first (loop time)."""
        self.fill: Callable[[Crop], None] | None = None
        self.lane: Lane | None = None
        """Which shows it now without Python."""
        self.dmabuf = dmabuf
        self._waiting = -1
        self._fences: select.poll | None = None
        if dmabuf >= 0:
            self._fences = select.poll()
            self._fences.register(dmabuf, select.POLLOUT)
        buffer.dispatcher["release"] = self._on_release

    @property
    def attach(self) -> object:
        """What attaches it to a surface, until destroy()."""
        if self._attach is None:
            self._attach = attach_arguments(self.buffer)
        return self._attach

    def enter(self, picture: Picture, now: float) -> None:
        """It is committed by ``picture`` (at loop time ``now``); what was released before is not any more."""
        self._stop_waiting()
        self.busy = True
        self.users.add(picture)
        if self.shown_at is None:
            self.shown_at = now

    def leave(self, picture: Picture) -> None:
        """Another takes its place there."""
        self.users.discard(picture)

    @property
    def waiting(self) -> bool:
        """For the GPU's fences."""
        return self._waiting >= 0

    def _on_release(self, _buffer: Proxy) -> None:
        if self.lane:
            self.lane.resume()  # C deals with it, unless there are fences to wait for
        if self._waiting >= 0:
            return
        if self._fences is None or self._fences.poll(0):
            self._released()
            return
        try:
            self._waiting = os.dup(self.dmabuf)  # several images may share one
            asyncio.get_running_loop().add_writer(self._waiting, self._read)
        except OSError as error:
            # the DomU may draw a moment too early; without an answer to its flip its screen would be gone
            log.warning("fences not waited for", extra=fields(reason=error))
            if self._waiting >= 0:
                os.close(self._waiting)
                self._waiting = -1
            self._released()

    def _read(self) -> None:
        self._stop_waiting()
        self._released()

    def _stop_waiting(self) -> None:
        if self._waiting >= 0:
            asyncio.get_running_loop().remove_writer(self._waiting)
            os.close(self._waiting)
            self._waiting = -1

    def _released(self) -> None:
        self.busy = False
        for picture in list(self.watchers):
            picture.settle()

    def destroy(self) -> None:
        """Idempotent; also right after the connection was lost. Counts as released."""
        buffer, self.buffer = self.buffer, None
        self._attach = None
        if buffer is not None and not buffer.destroyed:
            buffer.destroy()
        self._stop_waiting()
        self._fences = None
        self._released()  # the event won't come any more, and a flip may wait for it
