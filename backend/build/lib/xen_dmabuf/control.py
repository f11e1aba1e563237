# SPDX-License-Identifier: MIT
"""The control socket: root asks, the supervisor answers with one JSON line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from .errors import UserError

_LIMIT = 16 << 20
_SECONDS = 10.0


class ControlServer:
    """Listens on ``path`` (mode 0600) while the context is open; removes it afterwards."""

    def __init__(self, path: str, status: Callable[[], Awaitable[dict]]) -> None:
        self._path = path
        self._status = status
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
                request = await reader.readline()
                if request.strip() == b"status":
                    answer = await self._status()
                else:
                    answer = {"error": f"unknown request {request!r}; known is: status"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            pass
        finally:
            writer.close()


def ask(path: str, request: str) -> dict:
    """One request to the supervisor; blocks. UserError says why there is no answer."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
            client.settimeout(_SECONDS)
            client.connect(path)
            client.sendall(request.encode() + b"\n")
            with client.makefile("rb") as stream:
                line = stream.readline(_LIMIT)
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror or error}; is xen-dmabuf-backend.service running, and are you"
            " root?"
        ) from error
    if not line:
        raise UserError(f"{path}: the supervisor closed the connection without an answer")
    answer = json.loads(line)
    if "error" in answer:
        raise UserError(answer["error"])
    return answer
