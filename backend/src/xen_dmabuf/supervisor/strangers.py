# SPDX-License-Identifier: MIT
"""Workers whose domain went while no supervisor ran."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ..log import fields
from .units import Units, Which

log = logging.getLogger(__name__)

_RETRY, _LAST_RETRY = 1.0, 10.0


class Strangers:
    """``exists``: whether XenStore has this domain itself (OSError); ``is_known``: whether a worker is to be there.
    Asyncio thread only."""

    def __init__(self, units: Units, exists: Callable[[], bool], is_known: Callable[[Which], bool]) -> None:
        self._units = units
        self._exists = exists
        self._is_known = is_known
        self._left = False

    def leave(self) -> None:
        """Try no more."""
        self._left = True

    async def end(self) -> None:
        """Stop their units; what fails is tried again."""
        pause, reported = _RETRY, ""
        while not self._left:
            reason = await self._try()
            if not reason:
                return
            if reason != reported:
                reported = reason
                log.error("workers of domains that went can't be ended", extra=fields(reason=reason))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_RETRY)

    async def _try(self) -> str:
        """What failed first, empty if nothing did; one that can't be stopped spares no other."""
        failed = ""
        try:
            if not self._exists():
                log.error(
                    "no worker is ended: XenStore doesn't even have this domain, so it lost all others, too;"
                    " `systemctl stop xen-dmabuf-worker@DOMID.*` ends one whose domain went"
                )
                return ""
            running = await self._units.running()
        except OSError as error:
            return str(error)
        for which in sorted(running, key=str):
            if self._is_known(which):
                continue
            try:
                await self._units.stop(which)
            except OSError as error:
                failed = failed or str(error)
            else:
                log.info("worker of a domain without device stopped", extra=fields(domid=which))
        return failed
