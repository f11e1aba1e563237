# SPDX-License-Identifier: MIT
"""A worker that dies and one that goes on for it, in one process; systemd's store is played."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import itertools
import os
from collections.abc import Callable

import pytest
from fakes import FakeXen
from frontend import Frontend
from serving import stop

from xen_dmabuf.config import Config, Display
from xen_dmabuf.link.messages import Connected, Message
from xen_dmabuf.worker import displaybuffers
from xen_dmabuf.worker.backing import CopyBacking
from xen_dmabuf.worker.firstaid import answer_flips
from xen_dmabuf.worker.store import FdStore
from xen_dmabuf.worker.worker import Worker

DOMID = 5


class Store:
    """What systemd keeps of a unit: duplicates of files, by name."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.files: dict[str, int] = {}
        patch.setattr(FdStore, "add", lambda _, name, fd: self._add(name, fd))
        patch.setattr(FdStore, "remove", lambda _, name: self._remove(name))

    def _add(self, name: str, fd: int) -> None:
        assert name not in self.files, f"{name} would be kept twice"
        self.files[name] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 8192)

    def _remove(self, name: str) -> None:
        if name in self.files:
            os.close(self.files.pop(name))

    def close(self) -> None:
        while self.files:
            os.close(self.files.popitem()[1])

    def passed(self) -> dict[str, int]:
        """What a new process gets, at the high numbers that received() gives them."""
        return {name: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 4096) for name, fd in self.files.items()}


def new_worker() -> Worker:
    messages: list[Message] = []
    worker = Worker(messages.append)
    worker.messages = messages
    return worker


class Succession:
    """Workers of one DomU, one after the other; ``worker`` is the one that lives."""

    def __init__(self, xen: FakeXen, store: Store, config: Config, *sizes: tuple[int, int]) -> None:
        self.xen = xen
        self.store = store
        self.config = config
        self.frontend = Frontend(xen, *sizes)
        self.worker = new_worker()
        # a new process has fewer files: none of its own gets the number of a dma-buf
        self._room = [os.open("/dev/null", os.O_RDONLY) for _ in range(32)]

    async def begin(self) -> None:
        self.worker.start(DOMID, "domu", self.config)
        await self.worker.connect(0, tuple(self.frontend.specs))
        assert self.worker.messages == [Connected(0)]

    async def die(self) -> None:
        """As by SIGKILL: nothing is given back, and the kernel closes what this process had."""
        worker = self.worker
        tasks = set(worker._tasks)
        files = [worker._ports.evtchn.fd, worker._state.fd, worker._grants.fd]
        asyncio.get_running_loop().remove_reader(files[0])
        for device in worker._devices.values():
            for connector in device.connectors:
                tasks.add(connector._task)
                connector.flips.forget()  # no timer answers for the dead
            tasks |= device.framebuffers._imports
            for buffer in device.buffers:
                if buffer.backing:
                    files.append(buffer.backing.gntdev.fd)
                    if isinstance(buffer.backing, CopyBacking):
                        files.append(buffer.backing.pool)
                    if buffer.backing.dmabuf is not None:
                        files.append(buffer.backing.dmabuf)
        for release in worker._releases._open:
            files.append(release.backing.gntdev.fd)
        worker._releases._open.clear()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        if worker.scene.compositor:
            worker.scene.compositor.close()
        for fd in files:
            os.close(fd)
        self.xen.process_ends()
        self.worker = new_worker()
        gc.collect()  # the dead one's mappings

    def go_on(self, *, aid: bool = False) -> Worker:
        """Its successor takes over; StateError. ``aid``: first aid comes before, as in __main__."""
        files = self.store.passed()
        if aid and "state" in files and "evtchn" in files:
            answer_flips(DOMID, files["state"], files["evtchn"])
        self.worker = new_worker()
        displaybuffers._number = itertools.count(1)
        self.make_room()
        self.worker.take_over(DOMID, files)
        assert not files
        return self.worker

    def make_room(self) -> None:
        while self._room:
            os.close(self._room.pop())

    async def end(self) -> None:
        self.make_room()
        await stop(self.worker)
        self.frontend.close()
        self.store.close()


@contextlib.asynccontextmanager
async def succession(xen: FakeXen, patch: pytest.MonkeyPatch, socket: str, *sizes: tuple[int, int]):
    """Connected; afterwards nothing may be left mapped or bound."""
    workers = Succession(xen, Store(patch), Config(display=Display(socket=socket)), *sizes)
    await workers.begin()
    try:
        yield workers
    finally:
        await workers.end()
    assert xen.mapped == xen.exported == 0 and not xen.bound


def stop_at(patch: pytest.MonkeyPatch, owner: object, name: str, call: int = 1) -> list[str]:
    """Whoever calls this method of ``owner`` for the ``call``-th time stops there for good.

    The list gets an entry when it has.
    """
    stopped: list[str] = []
    calls = 0
    original: Callable = getattr(owner, name)

    def method(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls < call:
            return original(*arguments)
        stopped.append(name)
        raise asyncio.CancelledError

    patch.setattr(owner, name, method)
    return stopped
