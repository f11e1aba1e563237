# SPDX-License-Identifier: MIT
"""The control socket: root asks, the supervisor answers with one JSON line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from .errors import UserError

_SECONDS = 10.0


class ControlServer:
    """Listens on ``path`` (mode 0600) while the context is open; removes it afterwards.

    ``answers`` names the requests, one word each.
    """

    def __init__(self, path: str, answers: Mapping[str, Callable[[], Awaitable[dict]]]) -> None:
        self._path = path
        self._answers = answers
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> ControlServer:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        mask = os.umask(0o177)
        try:
            Path(self._path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._server = await asyncio.start_unix_server(self._serve, self._path)
        except OSError as error:
            raise UserError(
                f"control socket {self._path}: {error.strerror}; set control_socket"
            ) from error
        finally:
            os.umask(mask)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        assert self._server is not None
        self._server.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                request = (await reader.readline()).decode(errors="replace").strip()
                if request in self._answers:
                    answer = await self._answers[request]()
                else:
                    known = ", ".join(self._answers)
                    answer = {"error": f"unknown request {request!r}; known: {known}"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            pass
        finally:
            writer.close()
