# SPDX-License-Identifier: MIT
"""The edges of the handshake: xenstored, the worker process, and a model of drm_xen_front's states.

FakeStore, FakeChild and FakeForkServer, Mainline. The supervisor between them is the real one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

import pytest
from waiting import until

from xen_dmabuf import supervisor as supervisor_module
from xen_dmabuf import vdispl as vdispl_module
from xen_dmabuf.config import Config
from xen_dmabuf.supervisor import Supervisor

BACK = "/local/domain/0/backend/vdispl/3/0"
FRONT = "/local/domain/3/device/vdispl/0"


class FakeStore:
    """xenstored in a dictionary; watches are delivered by deliver()."""

    def __init__(self) -> None:
        self.nodes: dict[str, str] = {}
        self.watches: list[str] = []
        self.queue: deque[str] = deque()
        self.on_change = lambda path: None
        self.history: list[str] = []

    def read(self, path):
        return self.nodes.get(path)

    def list(self, path):
        depth = path.count("/") + 1
        prefix = path + "/"
        return sorted({p.split("/")[depth] for p in self.nodes if p.startswith(prefix)})

    def write(self, path, value):
        self.nodes[path] = value
        if path == f"{BACK}/state":
            self.history.append(value)
        self._changed(path)

    def remove(self, path):
        for node in [node for node in self.nodes if node == path or node.startswith(path + "/")]:
            del self.nodes[node]
        self._changed(path)

    def watch(self, path):
        assert path not in self.watches, "watched twice"
        self.watches.append(path)
        self.queue.append(path)

    def unwatch(self, path):
        self.watches.remove(path)

    def fired(self):
        paths, self.queue = list(self.queue), deque()
        return paths

    def domain_exists(self, domid):
        return f"/local/domain/{domid}/domid" in self.nodes

    def _changed(self, path):
        self.queue.extend(path for w in self.watches if path == w or path.startswith(w + "/"))
        # a removed parent fires the watches below it
        self.queue.extend(w for w in self.watches if w.startswith(path + "/"))
        self.on_change(path)


class FakeChild:
    """A worker that takes every connector and gives everything back."""

    made: list[FakeChild] = []
    answers = {"connect": "connected", "disconnect": "disconnected"}

    def __init__(self, domid, on_message, on_exit):
        self.domid, self.on_message, self.on_exit = domid, on_message, on_exit
        self.sent: list[dict] = []
        self.pid = 100 + len(self.made)
        self.stopped = False
        self.made.append(self)

    async def start(self, name, config, server):
        self.config = config
        asyncio.get_running_loop().call_soon(self.on_message, {"event": "ready"})

    def send(self, **message):
        self.sent.append(message)
        event = self.answers.get(message["op"])
        if event:
            reply = {"event": event, "dev": message["dev"], "released": True}
            asyncio.get_running_loop().call_soon(self.on_message, reply)

    async def stop(self):
        self.stopped = True


class FakeForkServer:
    """Starts no process."""

    def __init__(self, config):
        self.config = config

    async def start(self):
        pass


class Mainline:
    """displback_changed() of drivers/gpu/drm/xen/xen_drm_front.c (Linux 6.12), be_alloc = 0."""

    def __init__(self, store):
        self.store = store
        self.state = 1
        self.drm = False
        self.refs = 0
        self.scheduled = False

    def boot(self):
        self.state = 1
        self._say(1)
        self.store.on_change = self._watch
        self._watch(f"{BACK}/state")

    def _say(self, state):
        self.state = state
        self.store.write(f"{FRONT}/state", str(state))

    def _watch(self, path):
        if path == f"{BACK}/state" and not self.scheduled:
            self.scheduled = True
            asyncio.get_running_loop().call_soon(self._changed)

    def _disconnect(self):
        if self.drm:
            self._say(7)
            self.drm = False
            self._say(1)

    def _changed(self):
        self.scheduled = False
        back = int(self.store.nodes.get(f"{BACK}/state", "0"))
        if back == 1:
            if self.state != 7:
                self._disconnect()
        elif back == 2 and self.state != 7:
            self._disconnect()
            if self.state == 1:
                self._publish()
                self._say(3)
        elif back == 4 and self.state == 3:
            self.drm = True
            self._say(4)
        elif back in (0, 6) and self.state != 6:
            self._disconnect()

    def _publish(self):
        self.refs += 10
        for index, size in enumerate(("640x480", "320x240")):
            for number, node in enumerate(
                ("req-ring-ref", "req-event-channel", "evt-ring-ref", "evt-event-channel")
            ):
                value = self.refs + 100 * index + number
                self.store.write(f"{FRONT}/{index}/{node}", str(value))
            self.store.nodes[f"{FRONT}/{index}/resolution"] = size


def toolstack_creates(store: FakeStore) -> None:
    """What libxl writes for vdispl, in one transaction."""
    store.nodes |= {
        "/local/domain/3/domid": "3",
        "/local/domain/3/name": "domu",
        f"{BACK}/frontend": FRONT,
        f"{BACK}/frontend-id": "3",
        f"{BACK}/online": "1",
        f"{BACK}/state": "1",
        f"{FRONT}/state": "1",
        f"{FRONT}/be-alloc": "0",
        f"{FRONT}/0/resolution": "640x480",
        f"{FRONT}/0/unique-id": "id0",
        f"{FRONT}/1/resolution": "320x240",
        f"{FRONT}/1/unique-id": "id1",
    }
    store._changed(BACK)


@pytest.fixture(autouse=True)
def edges(monkeypatch):
    monkeypatch.setattr(supervisor_module, "Child", FakeChild)
    monkeypatch.setattr(supervisor_module, "ForkServer", FakeForkServer)
    monkeypatch.setattr(supervisor_module, "_FIRST_DELAY", 0.01)
    monkeypatch.setattr(FakeChild, "made", [])
    monkeypatch.setattr(FakeChild, "answers", dict(FakeChild.answers))


@contextlib.asynccontextmanager
async def running(store: FakeStore, load=Config):
    """A supervisor whose watches are pumped as the event loop would."""
    supervisor = Supervisor(load(), store, load)
    store.watch(vdispl_module.BACKENDS)
    supervisor.rescan()

    async def pump():
        while True:
            if store.queue:
                supervisor.on_watch()
            await asyncio.sleep(0)

    task = asyncio.get_running_loop().create_task(pump())
    try:
        yield supervisor
    finally:
        supervisor._ended = True
        task.cancel()


def states(store: FakeStore) -> tuple[str | None, str | None]:
    return store.read(f"{BACK}/state"), store.read(f"{FRONT}/state")


async def connect(store: FakeStore) -> Mainline:
    front = Mainline(store)
    front.boot()
    await until(lambda: states(store) == ("4", "4"), "Connected on both sides")
    return front
