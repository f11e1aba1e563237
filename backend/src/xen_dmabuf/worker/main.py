# SPDX-License-Identifier: MIT
"""What xen-dmabuf-worker@DOMID.service runs: `python3 -m xen_dmabuf.worker DOMID`.

systemd passes the link (served.py), and what an earlier process left in the file descriptor store.

Exit status: 0 asked to end (SIGTERM), 1 internal error, 2 the environment lacks something.
"""

from __future__ import annotations

import asyncio
import logging
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
    Hello,
    Message,
    Ready,
    Rename,
    Report,
    Start,
)
from ..linux import process
from ..log import fields
from ..pump.loop import Loop
from .served import Served, confine, link_of
from .statefile import StateError
from .worker import Worker

log = logging.getLogger("xen_dmabuf.worker")


class Control(Served):
    """The worker's end of the link."""

    KNOWN = messages.TO_WORKER

    def __init__(self, domid: int) -> None:
        super().__init__(domid)
        self._domid = domid
        self._jobs: dict[tuple[str, int], asyncio.Task[None]] = {}
        self.worker = Worker(self.send)

    def hello(self) -> Hello:
        return self.worker.hello()

    def leave(self) -> None:
        self.worker.leave()

    def on_message(self, message: Message) -> None:
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
            self.end(1)


async def _run(domid: int, files: dict[str, int]) -> int:
    listening = link_of(files)
    control = Control(domid)
    if files:
        try:
            control.worker.take_over(domid, files)
        except StateError as error:
            log.error("begins anew", extra=fields(domid=domid, reason=error))
        else:
            log.info("goes on from a stored state", extra=fields(domid=domid))
    return await control.run(listening)


def main(domid: int, files: dict[str, int], answered: int, answered_at: float) -> int:
    """``files``: what systemd passed; ``answered``: flips that first aid answered already, when."""
    logs.setup("info")
    try:
        confine(domid)
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
