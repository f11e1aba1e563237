# SPDX-License-Identifier: MIT
"""Pages that were given up and that a compositor may still hold: one place for all of a DomU.

They count against the DomU's quota until the kernel has given them back, also when the frontend has
connected anew. The kernel is asked in growing intervals; nobody's thread waits. Asyncio thread only.
"""

from __future__ import annotations

import asyncio
import logging

from .. import limits
from ..log import RateLimit, fields
from .backing import Backing

log = logging.getLogger(__name__)


class Release:
    """One backing on its way out. ``late``: its frontend was told that it takes too long."""

    def __init__(self, backing: Backing, pages: int) -> None:
        self.backing = backing
        self.pages = pages
        self.late = False


class Releases:
    """Owns the backings given to it until they are gone."""

    def __init__(self) -> None:
        self._open: list[Release] = []
        self._changed: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._pause = limits.LOOK_FIRST
        self._quiet = RateLimit()
        self.pages_late = 0

    @property
    def pages(self) -> int:
        return sum(release.pages for release in self._open)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, backing: Backing, pages: int) -> Release:
        """Give up a backing, whose wl_buffers are gone and told to the compositor."""
        try:
            backing.release()
        except OSError as error:
            self._report("release failed", error)
        release = Release(backing, pages)
        self._open.append(release)
        self._pause = limits.LOOK_FIRST
        self._look()
        return release

    async def wait(self, releases: list[Release], seconds: float) -> bool:
        """Whether the kernel gives back all of these within ``seconds``; the others count late."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while left := [release for release in releases if release in self._open]:
            if loop.time() >= end:
                for release in left:
                    self._count_late(release)
                return False
            changed = loop.create_future()
            self._changed.append(changed)
            await asyncio.wait({changed}, timeout=end - loop.time())
        return True

    def _count_late(self, release: Release) -> None:
        if not release.late:
            release.late = True
            self.pages_late += release.pages

    def _look(self) -> None:
        self._timer, timer = None, self._timer
        if timer:
            timer.cancel()
        before = len(self._open)
        for release in list(self._open):
            if self._is_gone(release.backing):
                self._open.remove(release)
                release.backing.close()
        if len(self._open) < before:
            changed, self._changed = self._changed, []
            for future in changed:
                if not future.done():
                    future.set_result(None)
        if self._open:
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._look)
            self._pause = min(self._pause * 1.5, limits.LOOK_LAST)

    def _is_gone(self, backing: Backing) -> bool:
        try:
            return backing.is_gone()
        except OSError as error:
            self._report("asking for the release failed", error)
            return False

    def _report(self, text: str, error: OSError) -> None:
        if self._quiet.allow(asyncio.get_running_loop().time()):
            log.error(text, extra=fields(reason=error))
