# SPDX-License-Identifier: MIT
"""The control socket: root asks by one word, the supervisor answers with lines of JSON."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError, remedy
from ..log import fields

log = logging.getLogger(__name__)

_SECONDS = 10.0
_RETRY = 5.0
_MAY_PASS = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)

Answer = Callable[[], Awaitable[dict[str, Any]]]
Stream = Callable[[], AsyncGenerator[dict[str, Any], None]]


class ControlServer:
    """Listens on ``path`` (mode 0600) while the context is open; removes it afterwards. Where there is no
    room for it now it is made later, and displays are served meanwhile; UserError of any other reason.

    ``answers`` and ``streams`` name the requests, one word each. An answer is one line, a stream is
    one after the other until the asker closes its end, or says more; UserError of a stream is a line
    {"error": …} and its end.
    """

    def __init__(self, path: str, answers: Mapping[str, Answer], streams: Mapping[str, Stream]) -> None:
        self._path = path
        self._answers = answers
        self._streams = streams
        self._server: asyncio.Server | None = None
        self._trying: asyncio.Task[None] | None = None
        self._sending: dict[asyncio.Task[None], asyncio.Task[Any]] = {}

    async def __aenter__(self) -> ControlServer:
        try:
            await self._listen()
        except OSError as error:
            reason = f"{error.strerror}; {remedy(error, 'control_socket')}"
            if error.errno not in _MAY_PASS:
                raise UserError(f"control socket {self._path}: {reason}") from error
            log.error("no status until there is room for its socket", extra=fields(path=self._path, reason=reason))
            self._trying = asyncio.get_running_loop().create_task(self._listen_later())
        return self

    async def _listen_later(self) -> None:
        while self._server is None:
            await asyncio.sleep(_RETRY)
            with contextlib.suppress(OSError):
                await self._listen()
        log.info("status can be asked for", extra=fields(path=self._path))

    async def _listen(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        mask = os.umask(0o177)
        try:
            Path(self._path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._server = await asyncio.start_unix_server(self._serve, self._path)
        finally:
            os.umask(mask)

    async def __aexit__(self, *_exception: object) -> None:
        if self._trying:
            self._trying.cancel()
            await asyncio.wait({self._trying})
        if self._server:
            self._server.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        serving = set(self._sending.values())
        for task in self._sending:
            task.cancel()
        if serving:
            await asyncio.wait(serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                request = (await reader.readline()).decode(errors="replace").strip()
                stream = self._streams.get(request)
                if stream is None:
                    await _say(writer, await self._answer(request))
            if stream is not None:
                await self._stream(stream(), reader, writer)
        except (OSError, TimeoutError, ValueError):
            pass
        finally:
            writer.close()

    async def _answer(self, request: str) -> dict[str, Any]:
        if request in self._answers:
            return await self._answers[request]()
        known = ", ".join([*self._answers, *self._streams])
        return {"error": f"unknown request {request!r}; known: {known}"}

    async def _stream(
        self,
        lines: AsyncGenerator[dict[str, Any], None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        loop = asyncio.get_running_loop()
        sending = loop.create_task(_send_all(lines, writer))
        leaving = loop.create_task(reader.read(1))
        serving = asyncio.current_task()
        assert serving is not None
        self._sending[sending] = serving
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._sending[sending]
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            writer.transport.abort()  # what an asker doesn't read isn't waited for
        if not sending.cancelled():
            sending.result()


async def _send_all(lines: AsyncGenerator[dict[str, Any], None], writer: asyncio.StreamWriter) -> None:
    async with contextlib.aclosing(lines):
        try:
            async for line in lines:
                await _say(writer, line)
        except UserError as error:
            await _say(writer, {"error": str(error)})


async def _say(writer: asyncio.StreamWriter, line: dict[str, Any]) -> None:
    writer.write(json.dumps(line).encode() + b"\n")
    await writer.drain()
