# SPDX-License-Identifier: MIT
"""The worker without a guest: the idle pictures of the screens whose guest isn't there.

It has no DomU's page, no event channel and no GPU: its windows show shared memory of its own, and hear no
seat. The supervisor says which there are; when that is another, or gone, they stay as they are. A compositor
that comes again gets them again. Asyncio thread only.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from .. import log as logs
from ..errors import ConnectionLost, ImportRefused, UserError
from ..link import messages
from ..link.messages import IdleScreen, IdleShown, Message, ShowIdle
from ..linux import process
from ..log import RateLimit, fields
from ..pump.loop import Loop
from .keeper import keep_compositor
from .served import Served, confine, link_of

if TYPE_CHECKING:
    from .compositor import Compositor
    from .window import Window

log = logging.getLogger("xen_dmabuf.worker")

_SIZE = (640, 480)
"""Of a window whose size nobody says: its guest wasn't there yet, and the compositor leaves it to the client."""


class _Screen:
    """One of the screens, and its window; None without a compositor."""

    def __init__(self, wanted: IdleScreen) -> None:
        self.wanted = wanted
        self.window: Window | None = None

    def is_as(self, other: IdleScreen) -> bool:
        """Whether the same window would be opened; a size that changed meanwhile moves none."""
        mine = self.wanted
        return (mine.title, mine.app_id, mine.settings) == (other.title, other.app_id, other.settings)

    def open(self, compositor: Compositor) -> None:
        """ConnectionLost, ImportRefused, OSError."""
        from .window import Window

        wanted = self.wanted
        size = (wanted.width, wanted.height) if wanted.width and wanted.height else _SIZE
        self.window = Window(compositor, wanted.title, wanted.app_id, size, wanted.settings, 1)

    def close(self) -> None:
        window, self.window = self.window, None
        if window:
            window.destroy()


class Idle(Served):
    """``status`` is the exit status once run() returns."""

    KNOWN = messages.TO_IDLE
    LONGEST = messages.LONGEST_REPORT

    def __init__(self) -> None:
        super().__init__("idle")
        self._socket = ""
        self._task: asyncio.Task[None] | None = None
        self._compositor: Compositor | None = None
        self._screens: dict[str, _Screen] = {}
        self._quiet = RateLimit()

    # -- what the supervisor says

    def on_message(self, message: Message) -> None:
        assert isinstance(message, ShowIdle)
        wanted = {screen.name: screen for screen in message.screens}
        for name in self._screens.keys() - wanted.keys():
            self._screens.pop(name).close()
        for name, screen in wanted.items():
            if not screen.undecided:
                self._want(name, screen)
        if message.socket != self._socket:
            self._go_to(message.socket)
        self._open()

    def _want(self, name: str, wanted: IdleScreen) -> None:
        known = self._screens.get(name)
        if known is None or not known.is_as(wanted):
            if known:
                known.close()
            self._screens[name] = _Screen(wanted)

    def _go_to(self, socket: str) -> None:
        """Another compositor, or the first."""
        self.close()
        self._socket = socket
        self._task = asyncio.get_running_loop().create_task(keep_compositor(socket, "idle", self._found, self._lost))

    # -- the compositor

    def _found(self, compositor: Any, _at_once: bool) -> None:
        self._compositor = compositor
        self._open()

    def _lost(self) -> None:
        self._compositor = None
        for screen in self._screens.values():
            screen.close()
        self._say()

    def _open(self) -> None:
        """The windows that there are to be and aren't."""
        for name, screen in self._screens.items():
            if self._compositor is None or screen.window:
                continue
            try:
                screen.open(self._compositor)
            except (ConnectionLost, ImportRefused, OSError) as error:
                if self._quiet.allow(asyncio.get_running_loop().time()):
                    log.error("window can't be opened", extra=fields(screen=name, reason=error))
        if self._compositor:
            self._compositor.flush()
        self._say()

    def _say(self) -> None:
        self.send(IdleShown(tuple(name for name, screen in self._screens.items() if screen.window)))

    def close(self) -> None:
        """End the connection; screens that are wanted have no window then."""
        if self._task:
            self._task.cancel()
            self._task = None
        compositor, self._compositor = self._compositor, None
        for screen in self._screens.values():
            screen.close()
        if compositor:
            compositor.close()


async def _run(files: dict[str, int]) -> int:
    return await Idle().run(link_of(files))


def main(files: dict[str, int]) -> int:
    """``files``: what systemd passed. The exit status, as a guest's worker has it."""
    logs.setup("info")
    try:
        confine("idle")
        process.name_process("vdispl-idle")
        with asyncio.Runner(loop_factory=Loop) as runner:
            return runner.run(_run(files))
    except (UserError, OSError) as error:
        log.error("worker ends", extra=fields(domid="idle", reason=error))
        return 2
    except Exception:
        log.exception("internal error")
        return 1
