# SPDX-License-Identifier: MIT
"""A worker's end of its link: one supervisor at a time, systemd's watchdog, the end.

systemd passes a listening socket, which it made for this unit alone. A new connection replaces the last,
so a supervisor may come and go while frames are shown.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import struct

from ..codec import CodecError
from ..errors import UserError
from ..link import messages
from ..link.messages import Hello, Message
from ..linux import process
from ..log import fields
from ..notify import Notifier

log = logging.getLogger("xen_dmabuf.worker")

_PEER = struct.Struct("@iII")  # struct ucred of unix(7)


class Served:
    """What a kind of worker adds: hello(), on_message(), leave(). ``who``: of log lines."""

    KNOWN: tuple[type[Message], ...]
    """What a supervisor may send it."""
    LONGEST = messages.LONGEST

    def __init__(self, who: int | str) -> None:
        self._who = who
        self._writer: asyncio.StreamWriter | None = None
        self._ending = asyncio.Event()
        self.status = 0

    def hello(self) -> Hello:
        """The first message to each supervisor."""
        return Hello(-1)

    def on_message(self, message: Message) -> None:
        """One of KNOWN. CodecError: a supervisor that says this now isn't ours; UserError, OSError: the end."""
        raise NotImplementedError

    def leave(self) -> None:
        """This process was asked to end."""

    def end(self, status: int) -> None:
        """Let run() return."""
        self.status = status
        self._ending.set()

    def send(self, message: Message) -> None:
        if self._writer and not self._writer.is_closing():
            self._writer.write(messages.line(message))

    async def run(self, listening: socket.socket) -> int:
        """Serve until SIGTERM; the exit status."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._ending.set)
        notifier = Notifier()
        notifier.feed()
        # not start_unix_server(): it looks for the socket's file, which only root may see
        server = await asyncio.start_server(self._serve, sock=listening, limit=self.LONGEST)
        notifier.say("READY=1")
        await self._ending.wait()
        server.close()
        notifier.close()
        if self.status == 0:
            self.leave()
        return self.status

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not _is_trusted(writer.get_extra_info("socket")):
            writer.close()
            return
        if self._writer:
            self._writer.close()
        self._writer = writer
        self.send(self.hello())
        try:
            while line := await reader.readline():
                self.on_message(messages.parse(line, self.KNOWN))
        except (CodecError, ValueError) as error:
            log.error("supervisor can't be understood", extra=fields(reason=error))
        except ConnectionError:
            pass
        except (UserError, OSError) as error:
            log.error("worker ends", extra=fields(domid=self._who, reason=error))
            self.end(2)
        finally:
            writer.close()
            if self._writer is writer:
                self._writer = None


def _is_trusted(connection: socket.socket) -> bool:
    """Whether root, or whoever this process is itself, is at the other end (SO_PEERCRED)."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return _PEER.unpack(data)[1] in (0, os.getuid())


def link_of(files: dict[str, int]) -> socket.socket:
    """Takes the listening socket out of what systemd passed; UserError if it isn't there."""
    listening = files.pop("link", -1)
    if listening < 0:
        raise UserError('no socket "link" from systemd: start xen-dmabuf-worker@DOMID.socket, not this program')
    return socket.socket(fileno=listening)


def confine(who: int | str) -> None:
    """What the unit can't do, before there is another thread."""
    process.forbid_inspection()
    try:
        process.forbid_processes()
    except OSError as error:
        log.warning("this kernel lets a worker start processes", extra=fields(domid=who, reason=error))
