# SPDX-License-Identifier: MIT
"""A Compositor and its windows against a server (wayland.py) that says anything at any time.

Meanwhile this process runs out of descriptors and files can't be read. After each connection nothing of it
may be left, and a server that behaves is served as ever and has got all its objects back.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import os
import random
import resource
import socket
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pywayland.dispatcher

from xen_dmabuf.config import PLACEMENTS, SCALES, ConnectorConfig
from xen_dmabuf.displif import fourcc
from xen_dmabuf.displif.geometry import Crop
from xen_dmabuf.errors import ConnectionLost, ImportRefused
from xen_dmabuf.worker import compositor as module
from xen_dmabuf.worker import gpu
from xen_dmabuf.worker.compositor import Compositor
from xen_dmabuf.worker.image import Image
from xen_dmabuf.worker.window import Window

from .base import Faults, Target, Wrong, check, open_files, patched, run, settle, strict_log
from .device import device_session
from .shown import Shown
from .wayland import Server

_HANDLED = (ConnectionLost, ImportRefused, OSError)
_FAULTS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
_CODES = (fourcc.XRGB8888, fourcc.XRGB8888, fourcc.RGB565, 0x20202020)


class _Client:
    """One connection and what a device does with it."""

    def __init__(self, chance: random.Random, server: Server) -> None:
        self.chance = chance
        self.lost = 0
        self.compositor = Compositor(server.path, self._lost)
        self.windows: list[Window] = []
        self.images: list[Image] = []
        self.imports: list[asyncio.Task[Image]] = []
        self.pool = os.memfd_create("pool")
        os.ftruncate(self.pool, 12288)
        self.answers: dict[Window, list[list[bool]]] = {}

    def _lost(self) -> None:
        self.lost += 1
        check(not self.compositor.alive, "lost, and alive")

    async def connect(self) -> bool:
        try:
            await self.compositor.connect()
        except (OSError, ConnectionLost, RuntimeError, ValueError):  # as Worker._keep_compositor()
            self.compositor.close()
            check(not self.compositor.alive, "alive after close()")
            return False
        if self.chance.random() < 0.2:  # what is sent soon has no room
            with socket.socket(fileno=os.dup(self.compositor._fd)) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        device = self.compositor.main_device
        if device:
            gpu.card_of_device(device)
        return True

    def act(self) -> None:
        """What a connector may do now."""
        chance, kind = self.chance, self.chance.random()
        code = chance.choice(_CODES)
        if not self.windows or kind < 0.03:
            settings = ConnectorConfig(
                output=chance.choice(("", "DP-1")), placement=chance.choice(PLACEMENTS), scale=chance.choice(SCALES)
            )
            window = Window(self.compositor, "domu \u2028", "app", (64, 48), settings, 10)
            self.windows.append(window)
            self.answers[window] = []
        elif kind < 0.2:
            task = asyncio.get_running_loop().create_task(
                self.compositor.import_dmabuf(self.pool, 64, 48, 256, 0, code)
            )
            self.imports.append(task)
        elif kind < 0.3:
            self.images.append(self.compositor.share_memory(self.pool, 12288, 64, 48, 256, 0, code))
        elif kind < 0.35 and self.imports:
            chance.choice(self.imports).cancel()
        elif kind < 0.42 and self.images:
            self._drop(chance.choice(self.images))
        elif kind < 0.44:
            self._hide(self.windows[-1])
        elif kind < 0.46:
            self._blank(chance.choice(self.windows))
        elif self.images:
            self._present(chance.choice(self.windows), chance.choice(self.images))
        self.compositor.flush()

    def _drop(self, image: Image) -> None:
        """As Connector.drop() does before a framebuffer goes."""
        for window in list(self.windows):
            if window.shows(image) and not window.replace(image):
                self._blank(window)
        image.destroy()
        self.images.remove(image)

    def _hide(self, window: Window) -> None:
        """Nobody is answered after it."""
        window.destroy()
        self.windows.remove(window)
        self._at_most_once(self.answers.pop(window))

    def _blank(self, window: Window) -> None:
        """Nobody is answered who waits."""
        window.blank()
        self._at_most_once(self.answers[window])
        self.answers[window] = []

    def _present(self, window: Window, image: Image) -> None:
        chance = self.chance
        answers: list[bool] = []
        crop = Crop(*chance.choice(((0, 0, 64, 48), (1, 1, 10, 10), (0, 0, 1, 48))))
        done = answers.append if chance.random() < 0.7 else None
        if done:
            self.answers[window].append(answers)
        window.present(image, crop, done, wait_release=chance.random() < 0.7)

    def collect(self) -> None:
        """Imports that were answered."""
        for task in [task for task in self.imports if task.done()]:
            self.imports.remove(task)
            if task.cancelled():
                continue
            error = task.exception()
            if error is None:
                self.images.append(task.result())
            elif not isinstance(error, _HANDLED):
                raise error
        for answers in self.answers.values():
            self._at_most_once(answers)

    @staticmethod
    def _at_most_once(answers: list[list[bool]]) -> None:
        check(all(len(answer) <= 1 for answer in answers), "a flip was answered twice", answers)

    @property
    def answered(self) -> bool:
        """Whether every flip is, of the windows that there are, and every import."""
        self.collect()
        return not self.imports and all(all(answers) for answers in self.answers.values())

    async def give_back(self) -> None:
        """All objects but the globals."""
        for task in self.imports:
            task.cancel()
        if self.imports:
            await asyncio.wait(self.imports)
        self.collect()
        for window in list(self.windows):
            self._hide(window)
        for image in self.images:
            image.destroy()
        self.images.clear()
        self.compositor.flush()

    async def close(self) -> None:
        await self.give_back()
        self.compositor.close()
        self.compositor.close()
        os.close(self.pool)
        check(not self.compositor._pending and not self.compositor._imports, "futures are left")
        check(self.lost <= 1, "lost twice", self.lost)


async def _talk(client: _Client, server: Server, faults: Faults) -> None:
    chance = client.chance
    for _ in range(chance.randrange(1, 60)):
        for _ in range(chance.choice((0, 1, 1, 3))):
            if not client.compositor.alive:
                return
            with contextlib.suppress(*_HANDLED), _shortage(faults):
                client.act()
        for _ in range(chance.choice((0, 1, 1, 4))):
            server.act()
        for _ in range(chance.choice((1, 1, 4))):
            await asyncio.sleep(0)
        if chance.random() < 0.03:
            await asyncio.sleep(chance.choice((0.1, 2.5, 25)))
        client.collect()


async def _honest(chance: random.Random, server: Server, faults: Faults) -> None:
    """After all that, a compositor that behaves is served as ever, and gets back what it made."""
    faults.rate = 0.0
    server.behave()
    client = _Client(chance, server)
    try:
        check(await client.connect(), "no connection to an honest compositor")
        await _talk(client, server, faults)
        await settle(lambda: client.answered, "all answers of an honest compositor", 30)
        await client.give_back()
        with contextlib.suppress(Wrong):  # that it timed out, where the next line says more
            await settle(lambda: not server.objects(), "no objects", 30)
        check(not server.objects(), "objects are left in the compositor", server.objects())
        check(client.compositor.alive and not client.lost, "the connection to an honest compositor is lost")
    finally:
        await client.close()


async def _begin(chance: random.Random, faults: Faults) -> int:
    server = Server(chance)
    try:
        for _ in range(chance.randrange(1, 4)):
            before = open_files()
            faults.rate = chance.choice((0.0, 0.0, 0.01, 0.1))
            client = _Client(chance, server)
            try:
                if await client.connect():
                    await _talk(client, server, faults)
                    if chance.random() < 0.3:
                        server.break_off()
                        await settle(lambda c=client: not c.compositor.alive, "the loss of a compositor", 30)
            finally:  # a live display must not be left to the collector
                await client.close()
            server.hang_up()
            check(open_files() == before, "descriptors are left", open_files() - before)
        if chance.random() < 0.3:
            await _honest(chance, server, faults)
    finally:
        server.close()
    return server.events


def _interfaces() -> list[Any]:
    return [
        kind
        for name, package in sys.modules.items()
        if name.startswith("pywayland.protocol.")
        for kind in vars(package).values()
        if hasattr(kind, "registry")
    ]


# -- faults


@contextlib.contextmanager
def _shortage(faults: Faults) -> Iterator[None]:
    """Now and then, no descriptor is free meanwhile."""
    try:
        faults.strike("")
    except OSError:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # all three are taken
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    else:
        yield


def _fail(patch: pytest.MonkeyPatch, faults: Faults) -> None:
    def short(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def called(*arguments: Any) -> None:
            with _shortage(faults):
                function(*arguments)

        return called

    names = {name: getattr(socket, name) for name in ("AF_UNIX", "SOCK_STREAM", "SOCK_CLOEXEC")}
    client = faults.wrap(socket.socket, "socket")
    patch.setattr(module, "socket", types.SimpleNamespace(socket=client, **names))
    patch.setattr(os, "pread", faults.wrap(os.pread, "table"))
    patch.setattr(Compositor, "_readable", short(Compositor._readable))


# -- what is printed only


@contextlib.contextmanager
def _watched() -> Iterator[pytest.MonkeyPatch]:
    """What pywayland and cffi would only print is an error; what libwayland prints isn't read."""
    raised: list[BaseException] = []

    def remember() -> None:
        error = sys.exc_info()[1]
        assert error
        raised.append(error)

    def unraisable(found: object) -> None:
        error = found.exc_value  # type: ignore[attr-defined]
        if not isinstance(error, UnicodeDecodeError):  # pywayland's own: a text that is none is dropped
            raised.append(error)

    errors, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    try:
        with patched() as patch:
            patch.setattr(pywayland.dispatcher, "traceback", types.SimpleNamespace(print_exc=remember))
            patch.setattr(sys, "unraisablehook", unraisable)
            yield patch
    finally:
        os.dup2(errors, 2)
        os.close(errors)
    if raised:
        raise Wrong(f"in a callback: {raised[0]!r}") from raised[0]


def connections(chance: random.Random) -> int:
    """An input is an event."""
    faults = Faults(chance, _FAULTS)
    with _watched() as patch, strict_log():
        _fail(patch, faults)
        return int(run(_begin(chance, faults)))


def devices(chance: random.Random) -> int:
    """An input is a request or an event."""
    with _watched():
        return device_session(chance, Shown)


class Hostile(Target):
    name = "compositor"
    parts: dict[Callable[[random.Random], int], int] = {connections: 3, devices: 1}

    def session(self, chance: random.Random) -> int:
        (part,) = chance.choices(list(self.parts), list(self.parts.values()))
        inputs = part(chance)
        if chance.random() < 0.01:  # it takes long
            gc.collect()
            left = [proxy for kind in _interfaces() for proxy in kind.registry.values()]
            check(not left, "proxies are left", left)
        return inputs
