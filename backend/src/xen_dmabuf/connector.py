# SPDX-License-Identifier: MIT
"""One connector of a DomU: its two shared pages, its two event channels, its window.

A task takes requests from the ring in order, has the device handle each, and answers. A flip is
answered by an event on the event page once the window says what became of it. All in the asyncio
thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from . import _sys, displif
from .channels import EventChannels
from .log import RateLimit, fields
from .ring import EventPage, RequestRing, RingError
from .spec import ConnectorSpec
from .window import Crop, Window

log = logging.getLogger(__name__)

_FLIP_PATIENCE = 1.0  # how long the next flip waits for the last; < the frontend's 3 s timeout
_MAX_FLIPS = 8


@dataclass
class Counters:
    flips_requested: int = 0
    flips_shown: int = 0
    flips_not_shown: int = 0
    events_dropped: int = 0
    requests_refused: int = 0
    protocol_errors: int = 0


class _SharedPage:
    """One page of the DomU with the ring type over it."""

    def __init__(self, gntdev: int, domid: int, ref: int, kind: type) -> None:
        self._mapping = _sys.gntdev_map(gntdev, domid, [ref], writable=True)
        self.ring = kind(self._mapping.map)

    def close(self) -> None:
        self.ring.close()
        self._mapping.close()


Handler = Callable[["Connector", displif.Request], Awaitable[tuple[int, int]]]


@dataclass
class Configuration:
    """What SET_CONFIG asked for and what was flipped to since."""

    request: displif.SetConfig
    fb_cookie: int
    crop: Crop


@dataclass
class Connector:
    """Owns its pages and ports from open() to close()."""

    spec: ConnectorSpec
    domid: int
    gntdev: int
    channels: EventChannels
    handler: Handler
    on_broken: Callable[[str], None]
    counters: Counters = field(default_factory=Counters)
    window: Window | None = None
    configuration: Configuration | None = None

    def __post_init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._wake = asyncio.Event()
        self._task: asyncio.Task | None = None
        self._flips = 0
        self._flip_done = asyncio.Event()
        self._quiet = RateLimit()
        self._fields = {"domid": self.domid, "connector": self.spec.name}

    def open(self) -> None:
        """Map the pages and bind the channels; OSError leaves nothing behind."""
        try:
            self._requests = self._page(self.spec.req_ref, RequestRing)
            self._events = self._page(self.spec.evt_ref, EventPage)
            self._req_port = self._bind(self.spec.req_port, self._wake.set)
            self._evt_port = self._bind(self.spec.evt_port, lambda: None)
        except OSError:
            self._stack.close()
            raise
        self._wake.set()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def _page(self, ref: int, kind: type):
        page = _SharedPage(self.gntdev, self.domid, ref, kind)
        self._stack.callback(page.close)
        return page.ring

    def _bind(self, port: int, callback: Callable[[], None]) -> int:
        local = self.channels.bind(port, callback)
        self._stack.callback(self.channels.unbind, local)
        return local

    async def close(self) -> None:
        """Stop answering and give the pages back; idempotent."""
        task, self._task = self._task, None
        if task and task is not asyncio.current_task():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._stack.close()

    # -- requests

    async def _run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                for packet in self._requests.take():
                    await self._serve(packet)
        except RingError as error:
            self.counters.protocol_errors += 1
            self.on_broken(f"connector {self.spec.name}: {error}")
        except OSError as error:
            self.on_broken(f"connector {self.spec.name}: {error}")
        except Exception as error:  # a bug of ours must not look like a silent frontend
            log.exception("internal error", extra=fields(**self._fields))
            self.on_broken(f"connector {self.spec.name}: internal error: {error}")

    async def _serve(self, packet: bytes) -> None:
        request = displif.parse_request(packet)
        status, edid_sz = await self.handler(self, request)
        response = displif.pack_response(request.id, request.operation, status, edid_sz)
        if self._requests.respond(response):
            self.channels.notify(self._req_port)

    def refused(self, operation: str, error: Exception) -> None:
        """Count and log a refused request; the log is rate limited per connector."""
        self.counters.requests_refused += 1
        if self._quiet.allow(asyncio.get_running_loop().time()):
            log.warning(
                "request refused",
                extra=fields(**self._fields, operation=operation, reason=error),
            )

    # -- flips

    async def flip_slot(self) -> bool:
        """Wait, within bounds, until the last flip is answered; False if too many are open."""
        if self._flips:
            self._flip_done.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._flip_done.wait(), _FLIP_PATIENCE)
        return self._flips < _MAX_FLIPS

    def flip_started(self, fb_cookie: int) -> Callable[[bool], None]:
        """Count a flip; the returned function answers it with whether it was shown."""
        self._flips += 1
        self.counters.flips_requested += 1

        def answer(shown: bool) -> None:
            self._flips -= 1
            self._flip_done.set()
            if shown:
                self.counters.flips_shown += 1
            else:
                self.counters.flips_not_shown += 1
            self._send(fb_cookie)

        return answer

    def _send(self, fb_cookie: int) -> None:
        if self._task is None:
            return
        try:
            self._events.send_flip(fb_cookie)
            self.channels.notify(self._evt_port)
        except RingError as error:
            self.counters.events_dropped += 1
            if self._quiet.allow(asyncio.get_running_loop().time()):
                log.warning("event dropped", extra=fields(**self._fields, reason=error))
        except OSError as error:
            self.on_broken(f"connector {self.spec.name}: {error}")

    def status(self) -> dict:
        configuration = self.configuration
        return {
            "index": self.spec.index,
            "name": self.spec.name,
            "width": self.spec.width,
            "height": self.spec.height,
            "fb_cookie": configuration.fb_cookie if configuration else 0,
            "hidden": bool(self.window and self.window.hidden),
            **vars(self.counters),
        }
