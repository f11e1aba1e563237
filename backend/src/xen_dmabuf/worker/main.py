# SPDX-License-Identifier: MIT
"""What xen-dmabuf-worker@DOMID.service runs: `python3 -m xen_dmabuf.worker DOMID`.

systemd passes a listening socket, which it made for this unit alone, and what an earlier process
left in the file descriptor store. One supervisor at a time is served; a new connection replaces the
last, so a supervisor may come and go while frames are shown.

Exit status: 0 asked to end (SIGTERM), 1 internal error, 2 the environment lacks something.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import struct
from collections.abc import Awaitable

from .. import log as logs
from ..codec import CodecError
from ..errors import UserError
from ..link import messages
from ..link.messages import (
    AskStatus,
    Connect,
    ConnectInput,
    Disconnect,
    DisconnectInput,
    Message,
    Ready,
    Rename,
    Report,
    Start,
)
from ..linux import process
from ..log import fields
from ..notify import Notifier
from ..pump.loop import Loop
from .statefile import StateError
from .worker import Worker

log = logging.getLogger("xen_dmabuf.worker")

_PEER = struct.Struct("@iII")  # struct ucred of unix(7)


class Control:
    """The worker's end of the link."""

    def __init__(self, domid: int) -> None:
        self._domid = domid
        self._writer: asyncio.StreamWriter | None = None
        self._jobs: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._ending = asyncio.Event()
        self.status = 0
        self.worker = Worker(self.send)

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
        server = await asyncio.start_server(self._serve, sock=listening, limit=messages.LONGEST)
        notifier.say("READY=1")
        await self._ending.wait()
        server.close()
        notifier.close()
        if self.status == 0:
            self.worker.leave()
        return self.status

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not _is_trusted(writer.get_extra_info("socket")):
            writer.close()
            return
        if self._writer:
            self._writer.close()
        self._writer = writer
        self.send(self.worker.hello())
        try:
            while line := await reader.readline():
                self._on_message(messages.parse(line, messages.TO_WORKER))
        except (CodecError, ValueError) as error:
            log.error("supervisor can't be understood", extra=fields(reason=error))
        except ConnectionError:
            pass
        except (UserError, OSError) as error:
            log.error("worker ends", extra=fields(domid=self._domid, reason=error))
            self.status = 2
            self._ending.set()
        finally:
            writer.close()
            if self._writer is writer:
                self._writer = None

    def _on_message(self, message: Message) -> None:
        if isinstance(message, Start):
            self._start(message)
        elif isinstance(message, Connect):
            self._begin("vdispl", message.device, self.worker.connect(message.device, message.connectors))
        elif isinstance(message, Disconnect):
            self._begin("vdispl", message.device, self.worker.disconnect(message.device))
        elif isinstance(message, ConnectInput):
            self._begin("vkb", message.device, self.worker.connect_input(message.device, message.spec))
        elif isinstance(message, DisconnectInput):
            self._begin("vkb", message.device, self.worker.disconnect_input(message.device))
        elif isinstance(message, Rename):
            self.worker.rename(message.name)
        elif isinstance(message, AskStatus):
            self.send(Report(self.worker.status()))

    def _start(self, message: Start) -> None:
        if message.domid != self._domid or self.worker.domid >= 0:
            raise CodecError(f"start for domain {message.domid}: this is {self._domid}'s worker")
        logs.set_level(message.config.log_level)
        self.worker.start(message.domid, message.name, message.config)
        self.send(Ready())

    def _begin(self, kind: str, device: int, coroutine: Awaitable[None]) -> None:
        """One job of a device after the other, but devices don't wait for each other."""
        before = self._jobs.get((kind, device))

        async def job() -> None:
            if before:
                await asyncio.wait({before})
            await coroutine

        task = self._jobs[kind, device] = asyncio.get_running_loop().create_task(job())
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception():
            log.error("internal error", exc_info=task.exception())
            self.status = 1
            self._ending.set()


def _is_trusted(connection: socket.socket) -> bool:
    """Whether root, or whoever this process is itself, is at the other end (SO_PEERCRED)."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return _PEER.unpack(data)[1] in (0, os.getuid())


async def _run(domid: int, files: dict[str, int]) -> int:
    listening = files.pop("link", -1)
    if listening < 0:
        raise UserError('no socket "link" from systemd: start xen-dmabuf-worker@DOMID.socket, not this program')
    control = Control(domid)
    if files:
        try:
            control.worker.take_over(domid, files)
        except StateError as error:
            log.error("begins anew", extra=fields(domid=domid, reason=error))
        else:
            log.info("goes on from a stored state", extra=fields(domid=domid))
    return await control.run(socket.socket(fileno=listening))


def _confine(domid: int) -> None:
    """What the unit can't do, before there is another thread."""
    process.forbid_inspection()
    try:
        process.forbid_processes()
    except OSError as error:
        log.warning("this kernel lets a worker start processes", extra=fields(domid=domid, reason=error))


def main(domid: int, files: dict[str, int], answered: int, answered_at: float) -> int:
    """``files``: what systemd passed; ``answered``: flips that first aid answered already, when."""
    logs.setup("info")
    try:
        _confine(domid)
        process.name_process(f"vdispl-{domid}")
        if answered:
            log.info(
                "flips of the last process answered",
                extra=fields(domid=domid, flips=answered, after=f"{process.age(answered_at):.2f} s"),
            )
        with asyncio.Runner(loop_factory=Loop) as runner:
            return runner.run(_run(domid, files))
    except (UserError, OSError) as error:
        log.error("worker ends", extra=fields(domid=domid, reason=error))
        return 2
    except Exception:
        log.exception("internal error")
        return 1
