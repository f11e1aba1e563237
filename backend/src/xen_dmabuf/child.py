# SPDX-License-Identifier: MIT
"""The supervisor's side of a worker: start, talk, end.

What a worker sends is as little trusted as what its DomU sends: a line that is too long or isn't
what messages.py expects ends it, and so do too many.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable

from . import messages
from .config import Config, to_plain
from .log import RateLimit, fields
from .processes import ForkServer, Process

log = logging.getLogger(__name__)

_LINE_LIMIT = 4 << 20  # the status of as many buffers as the configuration allows has 3 MiB
_STOP_SECONDS = 10.0
# the supervisor serves nobody else while it reads; a device has three messages for each connect
_MESSAGES, _PERIOD = 1000, 10.0


class Child:
    """One worker. ``on_message(message)`` and ``on_exit(status)`` run in the asyncio thread.

    ValueError of on_message() says that no worker sends this now.
    """

    def __init__(self, domid: int, on_message: Callable, on_exit: Callable) -> None:
        self.domid = domid
        self._on_message = on_message
        self._on_exit = on_exit
        self._process: Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task | None = None
        self._rate = RateLimit(_MESSAGES, _PERIOD)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    async def start(self, name: str, config: Config, server: ForkServer) -> None:
        """OSError if the process can't be started, UserError if its account is missing."""
        self._process, ours = await server.fork()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=_LINE_LIMIT)
        self._task = asyncio.get_running_loop().create_task(self._run(reader))
        self.send(op="start", domid=self.domid, name=name, config=to_plain(config))

    def send(self, **message: object) -> None:
        if self._writer and not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def _run(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                if not self._rate.allow(asyncio.get_running_loop().time()):
                    raise ValueError(f"more than {_MESSAGES} messages in {_PERIOD:.0f} s")
                self._on_message(messages.parse(line))
        except ValueError as error:  # too long for the limit, or nothing that a worker says
            log.error("worker talks nonsense", extra=fields(domid=self.domid, reason=error))
            self.kill()
        except ConnectionError:
            pass
        assert self._writer is not None
        self._writer.close()
        self._on_exit(await self._end())

    async def _end(self) -> int:
        """Its exit status; killed if it has not ended in time."""
        assert self._process is not None
        try:
            return await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
        except TimeoutError:
            log.error("worker does not end: killed", extra=fields(domid=self.domid))
            self.kill()
            return await self._process.wait()

    def kill(self) -> None:
        if self._process:
            self._process.kill()

    async def stop(self) -> None:
        """Ask it to give everything back and end; kill it if that takes too long."""
        if self._process:
            self.send(op="stop")
            await self._end()
