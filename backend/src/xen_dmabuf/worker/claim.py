# SPDX-License-Identifier: MIT
"""The id of an ivi surface, which nobody else may have: to ask for one that is taken ends a connection, and with it
all windows of the DomU. So it is asked for over a connection of its own first, and again in growing pauses while
somebody has it. Asyncio thread only.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import limits
from ..log import fields

if TYPE_CHECKING:
    from .compositor import Compositor

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LAST_PAUSE = 0.25, 8.0
_OURS = "another screen of this DomU has the id"
_OTHERS = "another program's surface, or another DomU's, has the id"
_REMEDY = "give each screen an ivi_id of its own: a table whose name has a * gives one to all that fit"


class Claim:
    """Until close(): ``given`` is called once the id is free, and is this claim's in this process from then on."""

    def __init__(self, compositor: Compositor, ivi_id: int, title: str, given: Callable[[], None]) -> None:
        self._compositor = compositor
        self._id = ivi_id
        self._title = title
        self._given = given
        self._mine = False
        self._task = asyncio.get_running_loop().create_task(self._run())

    def close(self) -> None:
        """Idempotent; the surface, if there is one, is destroyed already."""
        self._task.cancel()
        self._give_back()

    def _give_back(self) -> None:
        if self._mine:
            self._mine = False
            self._compositor.ivi_ids.discard(self._id)

    async def _run(self) -> None:
        before, told, pause = "", "", _FIRST_PAUSE
        while self._compositor.alive:
            obstacle = await self._obstacle()
            if not obstacle:
                return self._given()
            if obstacle == before != told:  # not of what passes: the idle picture's window goes as this one comes
                told = obstacle
                values = {"remedy": _REMEDY} if obstacle in (_OURS, _OTHERS) else {}
                log.error(
                    "screen isn't shown", extra=fields(title=self._title, ivi_id=self._id, reason=obstacle, **values)
                )
            before = obstacle
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)

    async def _obstacle(self) -> str:
        """Why the id can't be had now; "": it is this claim's."""
        ids = self._compositor.ivi_ids
        if self._id in ids:
            return _OURS
        ids.add(self._id)  # at once: claims wait side by side
        self._mine, why = True, _OTHERS
        try:
            async with asyncio.timeout(limits.SETUP):
                if await _is_free(self._compositor.path, self._id):
                    return ""
        except TimeoutError:  # which is an OSError
            why = f"the compositor can't be asked: no answer in {limits.SETUP} s"
        except OSError as error:
            why = f"the compositor can't be asked: {error}"
        self._give_back()
        return why


# numbers of objects, in the order in which they are made
_DISPLAY, _REGISTRY, _GLOBALS, _COMPOSITOR, _IVI, _SURFACE, _IVI_SURFACE, _ASKED, _ENDED = range(1, 10)
_HEADER = struct.Struct("@II")
_NEEDED = ("wl_compositor", "ivi_application")


class _Connection:
    """As much of Wayland as the question needs: when one of pywayland's connections ends, it forgets the objects of
    all that a process has (WlRegistry.registry), and a connection that was refused ends."""

    def __init__(self, client: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = client
        self._data = b""

    async def send(self, *requests: tuple[int, int, bytes]) -> None:
        data = b"".join(
            _HEADER.pack(number, (8 + len(body)) << 16 | opcode) + body for number, opcode, body in requests
        )
        await self._loop.sock_sendall(self._socket, data)

    async def event(self) -> tuple[int, int, bytes]:
        """Object, opcode, arguments."""
        number, word = _HEADER.unpack(await self._read(_HEADER.size))
        size = max(_HEADER.size, word >> 16)
        return number, word & 0xFFFF, await self._read(size - _HEADER.size)

    async def _read(self, size: int) -> bytes:
        while len(self._data) < size:
            more = await self._loop.sock_recv(self._socket, 4096)
            if not more:
                raise OSError(errno.EPIPE, "it ended the connection")
            self._data += more
        data, self._data = self._data[:size], self._data[size:]
        return data

    async def globals(self) -> dict[str, int]:
        """Those of _NEEDED that there are, and their numbers."""
        await self.send((_DISPLAY, 1, _u32(_REGISTRY)), (_DISPLAY, 0, _u32(_GLOBALS)))
        found: dict[str, int] = {}
        while True:
            number, opcode, body = await self.event()
            if number == _GLOBALS:
                return found
            if (number, opcode) == (_REGISTRY, 0) and len(body) >= 12:
                name, length = struct.unpack_from("@II", body)
                interface = body[8 : 8 + length].rstrip(b"\0").decode(errors="replace")
                if interface in _NEEDED:
                    found[interface] = name


def _u32(*numbers: int) -> bytes:
    return struct.pack(f"@{len(numbers)}I", *numbers)


def _bind(name: int, interface: str, new: int) -> tuple[int, int, bytes]:
    text = interface.encode() + b"\0"
    return _REGISTRY, 0, _u32(name, len(text)) + text.ljust(-(-len(text) // 4) * 4, b"\0") + _u32(1, new)


async def _is_free(path: str, ivi_id: int) -> bool:
    """Whether the compositor gives a surface this id now; that surface is gone again then. OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
        client.setblocking(False)
        client.connect(path)
        connection = _Connection(client)
        names = await connection.globals()
        if len(names) < len(_NEEDED):
            raise OSError(errno.ENOTSUP, "it has no ivi_application any more")
        await connection.send(
            _bind(names["wl_compositor"], "wl_compositor", _COMPOSITOR),
            _bind(names["ivi_application"], "ivi_application", _IVI),
            (_COMPOSITOR, 0, _u32(_SURFACE)),
            (_IVI, 0, _u32(ivi_id, _SURFACE, _IVI_SURFACE)),
            (_DISPLAY, 0, _u32(_ASKED)),
        )
        while True:
            number, opcode, body = await connection.event()
            if (number, opcode) == (_DISPLAY, 0):  # an error, after which the connection is dead
                if body[:4] == _u32(_IVI):
                    return False
                raise OSError(errno.EPROTO, repr(body[12:200]))
            if number == _ASKED:
                break
        await connection.send((_IVI_SURFACE, 0, b""), (_SURFACE, 0, b""), (_DISPLAY, 0, _u32(_ENDED)))
        while (await connection.event())[0] != _ENDED:
            pass
        return True
