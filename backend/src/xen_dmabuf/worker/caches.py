# SPDX-License-Identifier: MIT
"""Writes back what the CPU's caches hold of a DomU's frame, where the GPU doesn't read caches.

Only buffers of strategy ``map`` need it here: ``copy`` hands the compositor shared memory, and in
``export`` gntdev is the exporter, which syncs in its own begin/end_cpu_access. Asyncio thread only;
the blocking call goes to a thread of its own, so that it never waits for a release.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from typing import TYPE_CHECKING

from ..log import fields
from ..xen.gntdev import Gntdev
from . import coherence
from .backing import Backing, MapBacking

if TYPE_CHECKING:
    from concurrent.futures import Executor

log = logging.getLogger(__name__)

_MISSING = (
    "NOT written back, and {why}: pictures will have stale stripes. This kernel has no MAP_SYNC;"
    ' apply all of kernel-patches, or use strategies = ["copy"] for this GPU'
)


class Caches:
    """``needed``: write_back() has to come before each commit of new content, unless the guest does it.

    ``missing``: it would have to, but the kernel can't. ``state`` says for people what is done, ``why`` the
    reason. ``written_back``: how often it was.
    """

    def __init__(self, gntdev: Gntdev, needed: bool, why: str) -> None:
        self._executor: Executor | None = None
        self._reported = ""
        self.why = why
        self.written_back = 0
        self.needed = needed
        self.missing = False
        if not needed:
            self.state = f"not written back: {why}"
        elif gntdev.has_write_back():
            self.state = f"written back before each frame: {why}"
            from concurrent.futures import ThreadPoolExecutor

            self._executor = ThreadPoolExecutor(1, "caches")
        else:
            self.needed, self.missing = False, True
            self.state = _MISSING.format(why=why)

    def close(self) -> None:
        if self._executor:
            self._executor.shutdown(wait=False)

    async def write_back(self, backing: Backing | None) -> None:
        """Make memory hold what the DomU drew; takes milliseconds. Never fails: it is logged."""
        if not isinstance(backing, MapBacking) or self._executor is None:
            return
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._executor, backing.write_back)
        except OSError as error:
            if error.errno != errno.ENOENT:  # that one was released meanwhile
                self._report(str(error))
            return
        self.written_back += 1

    def _report(self, reason: str) -> None:
        if reason != self._reported:
            self._reported = reason
            log.error("caches not written back", extra=fields(reason=reason))


def open_caches(gntdev: Gntdev, mode: str, drm_fd: int, path: str) -> Caches:
    """For the GPU whose open node is ``drm_fd``, -1: there is none and nothing to write back."""
    if drm_fd < 0:
        return Caches(gntdev, False, "no GPU")
    device = coherence.of_device(os.fstat(drm_fd).st_rdev)
    why = f"{path} {'is' if device.coherent else 'is not'} coherent ({device.why})"
    if mode != "auto":
        why = f'the configuration says "{mode}"; {why}'
    return Caches(gntdev, mode == "always" or (mode in ("auto", "guest") and not device.coherent), why)
