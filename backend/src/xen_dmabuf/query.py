# SPDX-License-Identifier: MIT
"""The asking end of the control socket; without asyncio, which takes most of a command's start."""

from __future__ import annotations

import json
import socket

from .errors import UserError

_LIMIT = 16 << 20
_SECONDS = 10.0


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
