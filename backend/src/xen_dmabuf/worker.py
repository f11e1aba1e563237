# SPDX-License-Identifier: MIT
"""The process of one DomU, forked from forkserver.py.

Runs as an unprivileged user. Talks with the supervisor over a socket, one JSON object a line; it
never sees XenStore. Until "start" names its domain it opens nothing.

From the supervisor: {"op": "start", "domid", "name", "config"}, {"op": "connect", "dev",
"connectors"}, {"op": "disconnect", "dev"}, {"op": "status"}, {"op": "stop"}.
To the supervisor: {"event": "ready"}, {"event": "connected"|"refused"|"disconnected"|"failed",
"dev", "reason"}, {"event": "status", "status"}.

Exit status: 0 asked to stop or the supervisor is gone, 1 internal error, 2 the environment lacks
something (the message says what).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import socket
from concurrent.futures import ThreadPoolExecutor

from . import _sys, drm
from . import log as logs
from .buffers import BackingFactory
from .caches import Caches, open_caches
from .channels import EventChannels
from .config import Config, parse_plain
from .device import Device, Presentation, Totals
from .display import Compositor, ConnectionLost
from .errors import UserError
from .log import fields
from .spec import ConnectorSpec

log = logging.getLogger(__name__)

_COMPOSITOR_WAIT = 1.5
_RETRY_SECONDS = 0.5
LINE_LIMIT = 1 << 20


class Worker:
    """Owns this DomU's files and its Wayland connection; the ``host`` of its devices."""

    def __init__(self, send) -> None:
        self._domid = -1
        self._send = send
        self._devices: dict[int, Device] = {}
        self._executor = ThreadPoolExecutor(8, "release")
        self._channels: EventChannels | None = None
        self._gntdev = -1
        self._drm_fd = -1
        self._factory: BackingFactory | None = None
        self.caches: Caches | None = None
        self._ready = asyncio.Event()
        self._tasks: set[asyncio.Task] = set()
        self.config = Config()
        self.name = ""
        self.driver = ""
        self.compositor: Compositor | None = None
        self.totals = Totals()

    def start(self, domid: int, name: str, config: Config) -> None:
        """Open the devices; OSError or UserError says what is missing."""
        self._domid = domid
        self.name = name
        self.config = config
        _sys.fence()  # fails now, with its sentence, if libatomic is missing
        self._gntdev = _sys.open_device(_sys.GNTDEV)
        self._channels = EventChannels(domid)
        self._spawn(self._keep_compositor())

    def _spawn(self, coroutine) -> asyncio.Task:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            log.error("internal error", exc_info=task.exception(), extra=fields(domain=self.name))

    # -- the compositor

    async def _keep_compositor(self) -> None:
        """Connect, and connect again whenever the compositor went away."""
        reported = ""
        while True:
            lost = asyncio.Event()
            compositor = Compositor(self.config.display.socket, functools.partial(self._lost, lost))
            try:
                await compositor.connect()
            except (OSError, ConnectionLost, RuntimeError, ValueError) as error:
                compositor.close()
                if str(error) != reported:
                    reported = str(error)
                    log.warning("no compositor yet", extra=fields(domain=self.name, reason=error))
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            reported = ""
            self.compositor = compositor
            self._ready.set()
            log.info(
                "compositor connected",
                extra=fields(domain=self.name, socket=self.config.display.socket),
            )
            restore = self._spawn(self._restore())
            await lost.wait()
            restore.cancel()

    def _lost(self, lost: asyncio.Event) -> None:
        """At once, so that nobody uses an object of the dead connection."""
        self.compositor = None
        for device in self._devices.values():
            device.compositor_lost()
        lost.set()

    async def _restore(self) -> None:
        for device in list(self._devices.values()):
            await device.restore()

    def flush(self) -> None:
        if self.compositor:
            self.compositor.flush()

    async def factory(self) -> BackingFactory:
        """The buffer factory; waits a little for the compositor, which names its GPU."""
        if self._factory is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ready.wait(), _COMPOSITOR_WAIT)
            if self._factory is None:
                self._factory = self._make_factory()
        return self._factory

    def _make_factory(self) -> BackingFactory:
        default = self.config.gpu["default"]
        main_device = self.compositor.main_device if self.compositor else None
        path, why = "", ""
        try:
            self._drm_fd, card = drm.open_card(default.device, main_device)
            path, self.driver = card.path, card.driver
        except (OSError, UserError) as error:
            why = str(error)
        log.info(
            "GPU chosen",
            extra=fields(domain=self.name, card=path or "none", driver=self.driver, reason=why),
        )
        gpu = self.config.gpu_for(self.driver)
        self.caches = open_caches(self._gntdev, gpu.caches, self._drm_fd, path)
        log.log(
            logging.WARNING if self.caches.missing else logging.INFO,
            "caches",
            extra=fields(domain=self.name, state=self.caches.state),
        )
        return BackingFactory(self._gntdev, self._domid, gpu, self._drm_fd, path, why)

    # -- what the supervisor asks

    async def connect(self, number: int, specs: list[ConnectorSpec]) -> None:
        await self.disconnect(number)
        assert self._channels is not None
        (await self.factory()).prepare()
        display = self.config.display
        device = Device(
            self,
            self._domid,
            self._gntdev,
            self._channels,
            self.config.quota_for(self.name),
            Presentation(self.name, display.app_id, display.scale, display.hidden_flips_per_second),
            self._executor,
            lambda reason: self._broken(number, reason),
        )
        try:
            await device.connect(specs)
        except OSError as error:
            self._send(event="refused", dev=number, reason=str(error))
            return
        self._devices[number] = device
        self._send(event="connected", dev=number)

    def _broken(self, number: int, reason: str) -> None:
        log.error("frontend unusable", extra=fields(domain=self.name, device=number, reason=reason))
        self._send(event="failed", dev=number, reason=reason)

    async def disconnect(self, number: int) -> bool:
        device = self._devices.pop(number, None)
        if device is None:
            return True
        released = await device.close()
        if not released:
            log.warning(
                "the compositor still holds pages of the DomU",
                extra=fields(domain=self.name, device=number),
            )
        return released

    async def stop(self) -> None:
        for number in list(self._devices):
            await self.disconnect(number)
        for task in list(self._tasks):
            task.cancel()
        if self._factory:
            self._factory.close()
        if self.caches:
            self.caches.close()
        if self.compositor:
            self.compositor.close()
        if self._channels:
            self._channels.close()

    def status(self) -> dict:
        return {
            "name": self.name,
            "compositor": bool(self.compositor),
            "driver": self.driver,
            "caches": self.caches.state if self.caches else "",
            "frames_written_back": self.caches.written_back if self.caches else 0,
            "events_throttled": self._channels.throttled if self._channels else 0,
            **vars(self.totals),
            "devices": {number: device.status() for number, device in self._devices.items()},
        }


class Control:
    """The worker's end of the supervisor's socket."""

    def __init__(self, reader: asyncio.StreamReader, writer) -> None:
        self._reader = reader
        self._writer = writer
        self._worker = Worker(self.send)

    def send(self, **message: object) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def run(self) -> None:
        """Serve until the supervisor says stop or is gone."""
        try:
            while line := await self._reader.readline():
                message = json.loads(line)
                if message["op"] == "stop":
                    break
                await self._serve(message)
        finally:
            await self._worker.stop()
            with contextlib.suppress(OSError):
                await self._writer.drain()

    async def _serve(self, message: dict) -> None:
        operation = message["op"]
        if operation == "start":
            config = parse_plain(message["config"])
            logs.setup(config.log_level)
            _sys.name_process(f"vdispl-{message['domid']}")
            self._worker.start(message["domid"], message["name"], config)
            self.send(event="ready")
        elif operation == "connect":
            specs = [ConnectorSpec(**spec) for spec in message["connectors"]]
            await self._worker.connect(message["dev"], specs)
        elif operation == "disconnect":
            released = await self._worker.disconnect(message["dev"])
            self.send(event="disconnected", dev=message["dev"], released=released)
        elif operation == "status":
            self.send(event="status", status=self._worker.status())


async def _run(control: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=control, limit=LINE_LIMIT)
    await Control(reader, writer).run()


def serve(control: socket.socket) -> int:
    """Serve the supervisor's socket until it ends; returns the exit status of the process."""
    try:
        asyncio.run(_run(control))
    except (UserError, OSError) as error:
        log.error("worker ends", extra=fields(reason=error))
        return 2
    except Exception:
        log.exception("internal error")
        return 1
    return 0
