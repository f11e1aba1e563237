# SPDX-License-Identifier: MIT
"""The edges of the handshake: xenstored, the worker process, and a model of drm_xen_front's states.

FakeStore, FakeChild and FakeUnits, Mainline. The supervisor between them is the real one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

import pytest
from waiting import until

from xen_dmabuf.config import Config
from xen_dmabuf.link.messages import Connect, Connected, Disconnect, Disconnected, Hello, Ready, Start
from xen_dmabuf.supervisor import supervisor as supervisor_module
from xen_dmabuf.supervisor.supervisor import Supervisor

BACK = "/local/domain/0/backend/vdispl/3/0"
FRONT = "/local/domain/3/device/vdispl/0"


class FakeStore:
    """xenstored in a dictionary, as domain ``own`` sees it; watches are delivered by deliver()."""

    def __init__(self, own: int = 0) -> None:
        self._own = own
        self.back = f"/local/domain/{own}/backend/vdispl/3/0"
        self.input_back = f"/local/domain/{own}/backend/vinput/3/0"
        self.nodes = {f"/local/domain/{own}/domid": str(own)}
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
        if path == f"{self.back}/state":
            self.history.append(value)
        self._changed(path)

    def write_where(self, existing, path, value, state=None):
        if existing not in self.nodes or state not in (None, int(self.nodes[existing])):
            return False
        self.write(path, value)
        return True

    def own_domid(self):
        return self._own

    def remove(self, path):
        for node in [node for node in self.nodes if node == path or node.startswith(path + "/")]:
            del self.nodes[node]
        self._changed(path)

    def watch(self, path):
        if path in self.watches:
            raise FileExistsError(17, "watched twice", path)
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
    """A worker that takes every connector and gives everything back.

    ``hello`` is what it says first, None: nothing yet; without a domain it is started, as a new one is. Answers are
    by type of what it is asked; None: it keeps silent.
    """

    made: list[FakeChild] = []
    hello: Hello | None = Hello(-1)
    answers = {
        Start: lambda _: Ready(),
        Connect: lambda asked: Connected(asked.device),
        Disconnect: lambda asked: Disconnected(asked.device, True),
    }

    def __init__(self, domid, units, on_message, on_lost):
        self.domid, self.on_message, self.on_lost = domid, on_message, on_lost
        self.sent = []
        self.pid = 100 + len(self.made)
        self.stopped = False
        self.left = False
        self.begun = 0
        self.made.append(self)

    def begin(self):
        self.begun += 1
        self.stopped = False
        if self.hello:
            asyncio.get_running_loop().call_soon(self.say, self.hello)

    def say(self, message):
        """What the worker sends, unless the link was given up."""
        if not self.left and not self.stopped:
            self.on_message(message)

    def send(self, message):
        self.sent.append(message)
        answer = self.answers.get(type(message))
        if answer:
            asyncio.get_running_loop().call_soon(self.say, answer(message))

    def count(self, kind) -> int:
        """How many messages of a type it was sent."""
        return sum(isinstance(message, kind) for message in self.sent)

    async def stop(self):
        self.stopped = True

    def leave(self):
        self.left = True


class FakeUnits:
    """systemd without units but ``there``."""

    def __init__(self):
        self.there = set()
        self.ended = []
        self.failures = []

    async def running(self):
        self._may_fail()
        return set(self.there)

    async def stop(self, domid):
        self._may_fail()
        self.there.discard(domid)
        self.ended.append(domid)

    def _may_fail(self):
        """``failures``: True for each call that fails, in turn."""
        if self.failures and self.failures.pop(0):
            raise OSError("systemctl: no answer")


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
        self._watch(f"{self.store.back}/state")

    def _say(self, state):
        self.state = state
        self.store.write(f"{FRONT}/state", str(state))

    def _watch(self, path):
        if path == f"{self.store.back}/state" and not self.scheduled:
            self.scheduled = True
            asyncio.get_running_loop().call_soon(self._changed)

    def _disconnect(self):
        if self.drm:
            self._say(7)
            self.drm = False
            self._say(1)

    def _changed(self):
        self.scheduled = False
        back = int(self.store.nodes.get(f"{self.store.back}/state", "0"))
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
            for number, node in enumerate(("req-ring-ref", "req-event-channel", "evt-ring-ref", "evt-event-channel")):
                value = self.refs + 100 * index + number
                self.store.write(f"{FRONT}/{index}/{node}", str(value))
            self.store.nodes[f"{FRONT}/{index}/resolution"] = size


def toolstack_creates(store: FakeStore) -> None:
    """What libxl writes for vdispl, in one transaction."""
    store.nodes |= {
        "/local/domain/3/domid": "3",
        "/local/domain/3/name": "domu",
        f"{store.back}/frontend": FRONT,
        f"{store.back}/frontend-id": "3",
        f"{store.back}/online": "1",
        f"{store.back}/state": "1",
        f"{FRONT}/state": "1",
        f"{FRONT}/be-alloc": "0",
        f"{FRONT}/0/resolution": "640x480",
        f"{FRONT}/0/unique-id": "id0",
        f"{FRONT}/1/resolution": "320x240",
        f"{FRONT}/1/unique-id": "id1",
    }
    store._changed(store.back)


@pytest.fixture(autouse=True)
def edges(monkeypatch):
    monkeypatch.setattr(supervisor_module, "Child", FakeChild)
    monkeypatch.setattr(FakeChild, "made", [])
    monkeypatch.setattr(FakeChild, "answers", dict(FakeChild.answers))
    monkeypatch.setattr(FakeChild, "hello", Hello(-1))


@contextlib.asynccontextmanager
async def running(store: FakeStore, load=Config, units=None):
    """A supervisor whose watches are pumped as the event loop would."""
    supervisor = Supervisor(load(), store, load, units or FakeUnits())
    for folder in supervisor.folders:
        store.watch(folder)
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
        supervisor.leave()
        task.cancel()


def states(store: FakeStore) -> tuple[str | None, str | None]:
    return store.read(f"{store.back}/state"), store.read(f"{FRONT}/state")


async def connect(store: FakeStore) -> Mainline:
    front = Mainline(store)
    front.boot()
    await until(lambda: states(store) == ("4", "4"), "Connected on both sides")
    return front
