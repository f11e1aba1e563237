# SPDX-License-Identifier: MIT
"""The supervisor's end of one worker's link: start, talk, hear its end, end it.

What a worker sends is as little trusted as what its DomU sends: a line that is too long or isn't
what link/messages.py has ends it, and so do too many. A worker that dies is started again by
systemd; the link is then made anew, and its Hello says what it has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from .. import limits
from ..codec import CodecError
from ..link import messages
from ..link.messages import Hello, Message
from ..log import RateLimit, fields
from .units import Units, Which

log = logging.getLogger(__name__)

# the supervisor serves nobody else while it reads; a device has three messages for each connect
_MESSAGES, _PERIOD = 1000, 10.0
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 10.0
_LIVED_LONG = 60.0


class _NoHello(Exception):
    """Of a worker that was given limits.HELLO for it."""


class Child:
    """One worker. The callbacks run in the asyncio thread: ``on_message(message)``, Hello first on
    each link, and ``on_lost()`` when the link ended. CodecError of on_message() says that no worker
    sends this now."""

    def __init__(
        self,
        domid: Which,
        units: Units,
        on_message: Callable[[Message], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.domid = domid
        self._units = units
        self._on_message = on_message
        self._on_lost = on_lost
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._served = False
        self._forgiving: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self._units.pid(self.domid)

    def begin(self) -> None:
        """Keep the link up from now on."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    def send(self, message: Message) -> None:
        if self._writer and not self._writer.is_closing():
            self._writer.write(messages.line(message))

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        pause, reported = _FIRST_PAUSE, ""
        while True:
            began = loop.time()
            try:
                await self._units.start(self.domid)
                await self._serve()
                reason = "the worker ended the link"
            except CodecError as error:
                reason = str(error)
                log.error(
                    "worker killed: it broke the protocol",
                    extra=fields(domid=self.domid, reason=error),
                )
                await self._kill()
            except _NoHello:
                reason = f"no Hello in {limits.HELLO:.0f} s"
                log.error("worker killed: it sent no Hello in time", extra=fields(domid=self.domid))
                await self._kill()
            except OSError as error:
                reason = str(error)
            if reason != reported:
                reported = reason
                log.warning("worker lost", extra=fields(domid=self.domid, reason=reason))
            if loop.time() - began > _LIVED_LONG:
                pause, reported = _FIRST_PAUSE, ""
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_PAUSE)

    async def _serve(self) -> None:
        """One link, to its end."""
        reader, writer = await asyncio.open_unix_connection(
            self._units.socket(self.domid), limit=messages.LONGEST_REPORT
        )
        rate = RateLimit(_MESSAGES, _PERIOD)
        try:
            line = await self._first_line(reader)
            if not line:
                return
            hello = messages.parse(line, (Hello,))
            self._writer = writer
            self._on_message(hello)
            if self._served:
                self._forgiving = asyncio.get_running_loop().create_task(self._forgive())
            self._served = True
            while line := await self._readline(reader):
                if not rate.allow(asyncio.get_running_loop().time()):
                    raise CodecError(f"more than {_MESSAGES} messages in {_PERIOD:.0f} s")
                self._on_message(messages.parse(line, messages.TO_SUPERVISOR))
        except ConnectionError:
            pass
        finally:
            writer.close()
            if self._writer is writer:
                self._writer = None
                self._on_lost()

    async def _first_line(self, reader: asyncio.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(limits.HELLO):
                return await self._readline(reader)
        except TimeoutError:  # an OSError by itself: those of systemctl and connect() end no worker
            raise _NoHello from None

    @staticmethod
    async def _readline(reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readline()
        except ValueError as error:  # asyncio's word for a line beyond the limit
            raise CodecError(str(error)) from error

    async def _forgive(self) -> None:
        """A successor has come so far as to serve."""
        try:
            await self._units.forgive(self.domid)
        except OSError as error:
            log.warning("worker's next restart may be late", extra=fields(domid=self.domid, reason=error))

    async def _kill(self) -> None:
        try:
            await self._units.kill(self.domid)
        except OSError as error:
            log.error("worker can't be killed", extra=fields(domid=self.domid, reason=error))

    async def stop(self) -> None:
        """End the worker and all that systemd keeps of it; tried again until systemd does it."""
        self.leave()
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._units.stop(self.domid)
            except OSError as error:
                log.error("worker can't be stopped", extra=fields(domid=self.domid, reason=error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_PAUSE)

    def leave(self) -> None:
        """Give up the link; the worker goes on."""
        for task in (self._task, self._forgiving):
            if task:
                task.cancel()
        self._task = None
