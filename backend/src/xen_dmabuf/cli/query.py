# SPDX-License-Identifier: MIT
"""The asking end of the control socket; without asyncio, which takes most of a command's start."""

from __future__ import annotations

import json
import select
import socket
import time
from typing import Any

from ..errors import UserError

_LIMIT = 16 << 20
_SECONDS = 10.0


class Stream:
    """The lines that the supervisor sends after one request. A context manager; blocks.

    UserError of any call says why there is none.
    """

    def __init__(self, path: str, request: str) -> None:
        self._path = path
        self._data = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(_SECONDS)
            self._socket.connect(path)
            self._socket.sendall(request.encode() + b"\n")
        except OSError as error:
            self._socket.close()
            raise self._no_answer(error) from error

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def first(self) -> dict[str, Any]:
        """The first line, which comes at once."""
        line = self.next(_SECONDS)
        if line is None:
            raise UserError(
                f"{self._path}: no answer within {_SECONDS:.0f} s; `journalctl -u xen-dmabuf-backend` may say why"
            )
        return line

    def next(self, seconds: float | None, output: int = -1) -> dict[str, Any] | None:
        """The next line, or None if none comes within ``seconds`` (None: however long it takes).

        ``output``: a descriptor that the lines are for; BrokenPipeError once nobody reads it.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        end = self._data.find(b"\n")
        while end < 0:
            looked = len(self._data)
            if not self._wait(deadline, output):
                return None
            self._receive()
            end = self._data.find(b"\n", looked)
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise UserError(answer["error"])
        return answer

    def _wait(self, deadline: float | None, output: int) -> bool:
        """Whether there is something to read; False: the deadline came first."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if output >= 0:
            poll.register(output, 0)  # errors only
        rest = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = [fd for fd, _ in poll.poll(rest)]
        if output in ready:
            raise BrokenPipeError
        return bool(ready)

    def _receive(self) -> None:
        try:
            data = self._socket.recv(1 << 16)
        except OSError as error:
            raise self._no_answer(error) from error
        if not data:
            raise UserError(
                f"{self._path}: the supervisor closed the connection; `systemctl status"
                " xen-dmabuf-backend` says whether it runs"
            )
        self._data += data
        if len(self._data) > _LIMIT:
            raise UserError(f"{self._path}: a line of more than {_LIMIT} bytes is no answer")

    def _no_answer(self, error: OSError) -> UserError:
        return UserError(
            f"{self._path}: {error.strerror or error}; is xen-dmabuf-backend.service running, and are you root?"
        )


def ask(path: str, request: str) -> dict[str, Any]:
    """One request to the supervisor and its answer; blocks. UserError says why there is none."""
    with Stream(path, request) as stream:
        return stream.first()
