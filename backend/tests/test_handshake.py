# SPDX-License-Identifier: MIT
"""The handshake against a model of drm_xen_front's state handling, over a XenStore in memory.

Faked edges: xenstored (FakeStore) and the worker process (FakeChild); the supervisor, its watches
and its decisions are the real ones.
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
from xen_dmabuf.handshake import Action, Link, State, View, decide
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

    async def start(self, name, config, spare):
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


class FakeSpare:
    """No process is started ahead."""

    def __init__(self, config):
        self.config = config

    async def fill(self):
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
    monkeypatch.setattr(supervisor_module, "Spare", FakeSpare)
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


def test_init_wait_comes_before_the_frontend_or_the_worker_do_anything(monkeypatch):
    monkeypatch.setattr(FakeChild, "start", lambda *_: asyncio.sleep(60))

    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            await until(lambda: states(store)[0] == "2", "InitWait", 1)
            assert store.read(f"{BACK}/versions") == "1,2"

    asyncio.run(run())


def test_worker_of_a_domain_that_went_while_it_was_started_is_ended(monkeypatch):
    started = asyncio.Event()

    async def start(child, *_):
        child.running = False
        await started.wait()
        child.running = True

    async def stop(child):
        child.stopped = child.running  # as the real one: what isn't started yet can't be stopped

    monkeypatch.setattr(FakeChild, "start", start)
    monkeypatch.setattr(FakeChild, "stop", stop)

    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            await until(lambda: FakeChild.made and states(store)[0] == "2", "InitWait", 1)
            for path in [path for path in store.nodes if path.startswith(("/local/domain/3", BACK))]:
                del store.nodes[path]
            store._changed(BACK)
            await until(lambda: not store.queue, "the watch", 1)
            started.set()
            await until(lambda: FakeChild.made[0].stopped, "the end of the worker", 1)

    asyncio.run(run())


def test_connects_and_hands_over_what_the_frontend_published():
    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            await connect(store)
            (child,) = FakeChild.made
            (message,) = [m for m in child.sent if m["op"] == "connect"]
            first, second = message["connectors"]
            assert (first["index"], first["name"], first["width"]) == (0, "id0", 640)
            assert (first["req_ref"], first["req_port"]) == (10, 11)
            assert (second["evt_ref"], second["evt_port"]) == (112, 113)
            assert store.history == ["2", "4"]

    asyncio.run(run())


def test_restarted_backend_makes_the_frontend_start_over():
    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            front = await connect(store)
        # kill -9: nobody says anything; the next supervisor finds 4 and 4
        assert states(store) == ("4", "4")
        store.watches.clear()
        store.queue.clear()
        store.history.clear()
        async with running(store):
            await until(lambda: front.refs == 20, "a second publication")
            await until(lambda: states(store) == ("4", "4") and front.drm, "the picture's return")
            assert store.history == ["5", "6", "2", "4"]

    asyncio.run(run())


@pytest.mark.parametrize("back", ["1", "2", "3", "4", "5", "6"])
@pytest.mark.parametrize("front_state", [1, 3, 4])
def test_restart_recovers_from_every_state(back, front_state):
    async def run():
        store = FakeStore()
        toolstack_creates(store)
        front = Mainline(store)
        store.nodes[f"{BACK}/state"] = back
        front.boot()
        front._publish()
        front.drm = front_state == 4
        front._say(front_state)
        await asyncio.sleep(0)
        store.queue.clear()
        async with running(store):
            await until(lambda: states(store) == ("4", "4") and front.drm, "Connected")

    asyncio.run(run())


def test_worker_that_dies_is_replaced_and_the_frontend_reconnects():
    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            front = await connect(store)
            FakeChild.made[0].on_exit(-11)
            await until(lambda: len(FakeChild.made) == 2, "a second worker")
            await until(lambda: states(store) == ("4", "4") and front.refs == 20, "reconnected")

    asyncio.run(run())


def test_frontend_driver_removed_and_loaded_again():
    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            front = await connect(store)
            front.store.on_change = lambda path: None
            store.history.clear()
            front._say(5)  # xen_drv_remove: Closing, then it polls for InitWait
            await until(lambda: states(store)[0] == "2", "InitWait", 0.9)
            assert store.history == ["5", "6", "2"]
            front.drm = False
            front._say(6)
            front.boot()
            await until(lambda: states(store) == ("4", "4"), "Connected again")

    asyncio.run(run())


def test_toolstack_removes_the_device():
    async def run():
        store = FakeStore()
        async with running(store) as supervisor:
            toolstack_creates(store)
            await connect(store)
            store.on_change = lambda path: None
            store.remove(FRONT)
            store.write(f"{BACK}/online", "0")
            store.write(f"{BACK}/state", "5")
            await until(lambda: states(store)[0] == "6", "Closed")
            assert FakeChild.made[0].sent[-1]["op"] == "disconnect"
            store.remove(BACK)
            await until(lambda: FakeChild.made[0].stopped, "the worker's end")
            assert supervisor._domains == {}
            assert FRONT + "/state" not in store.watches

    asyncio.run(run())


def test_domain_gone_without_a_toolstack():
    async def run():
        store = FakeStore()
        async with running(store) as supervisor:
            toolstack_creates(store)
            await connect(store)
            store.on_change = lambda path: None
            del store.nodes["/local/domain/3/domid"]
            supervisor.rescan()  # what @releaseDomain does
            await until(lambda: states(store)[0] == "6", "Closed")
            assert FakeChild.made[0].sent[-1]["op"] == "disconnect"

    asyncio.run(run())


def test_backend_allocation_is_refused_with_a_reason():
    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            store.write(f"{FRONT}/be-alloc", "1")
            await until(lambda: states(store)[0] == "6", "Closed")
            error = store.read("/local/domain/0/error/backend/vdispl/3/0/error")
            assert "be-alloc=0" in error
            assert "2" not in store.history
            store.write(f"{FRONT}/be-alloc", "0")
            store.write(f"{FRONT}/state", "1")
            await until(lambda: states(store)[0] == "2", "InitWait once it is repaired")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("node", "value"),
    [
        ("0/req-ring-ref", "-1"),
        ("0/req-ring-ref", "0"),
        ("0/req-ring-ref", "4294967296"),
        ("0/req-ring-ref", "9" * 4000),
        ("0/req-ring-ref", "12 "),
        ("0/req-ring-ref", "\u0661\u0662"),
        ("0/evt-ring-ref", "10"),  # the same page as the request ring
        ("0/req-event-channel", "0x11"),
        ("1/evt-event-channel", "\ufffd"),
        ("0/resolution", "640"),
        ("0/resolution", "640x480x2"),
        ("0/resolution", "0x480"),
        ("0/resolution", "99999x99999"),
        ("0/resolution", "640x480" + "\n"),
        ("be-alloc", "yes"),
    ],
)
def test_xenstore_garbage_is_refused_and_repairable(node, value):
    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            front = Mainline(store)
            publish = front._publish

            def garbage():
                publish()
                store.nodes[f"{FRONT}/{node}"] = value

            front._publish = garbage
            front.boot()
            await until(lambda: states(store)[0] == "6", "Closed")
            error = store.read("/local/domain/0/error/backend/vdispl/3/0/error")
            assert node.split("/")[-1].replace("evt-ring", "ring") in error
            assert all(message["op"] != "connect" for message in FakeChild.made[0].sent)

    asyncio.run(run())


def test_state_garbage_disconnects():
    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            await connect(store)
            store.on_change = lambda path: None
            for garbage in ("x" * 3000, "99", "-1", ""):
                store.write(f"{FRONT}/state", garbage)
                await until(lambda: FakeChild.made[0].sent[-1]["op"] == "disconnect", "release")
            await until(lambda: states(store)[0] == "2", "InitWait")

    asyncio.run(run())


def test_frontend_that_reconnects_without_end_has_to_wait(monkeypatch):
    """One timer waits for it, however often it asks."""
    timers = []

    async def run():
        store = FakeStore()
        loop = asyncio.get_running_loop()
        later = loop.call_later

        def call_later(delay, back, *rest):
            timers.append(getattr(back, "__name__", ""))
            return later(delay, back, *rest)

        monkeypatch.setattr(loop, "call_later", call_later)
        async with running(store):
            toolstack_creates(store)
            front = await connect(store)
            connects = FakeChild.made[0].sent
            for _ in range(20):
                front.drm = False
                front._say(1)
                with contextlib.suppress(AssertionError):
                    await until(lambda: states(store) == ("4", "4"), "Connected", 0.1)
            assert sum(message["op"] == "connect" for message in connects) == 5
            assert timers.count("_retry_now") == 1

    asyncio.run(run())


def test_decision_is_total_and_reaches_rest():
    """From every state the steps end: no loop of writes, whatever the frontend says."""
    for back in (None, *range(9)):
        for front in (None, *range(9)):
            for online in (True, False):
                for refused in (True, False):
                    current = back
                    for _step in range(6):
                        action = decide(View(current, front, online, refused, Link.DOWN))
                        if not isinstance(action.value, State):
                            break
                        current = int(action.value)
                    else:
                        pytest.fail(f"{back} {front} {online} {refused} does not settle")
                    assert action in (
                        Action.NOTHING,
                        Action.FORGET,
                        Action.CONNECT,
                        Action.REOPEN_LATER,
                    )
