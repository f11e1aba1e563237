# SPDX-License-Identifier: MIT
"""The handshake against a model of drm_xen_front's state handling, over a XenStore in memory.

Faked edges: handshake_fakes.py; the supervisor, its watches and its decisions are the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from handshake_fakes import (  # noqa: F401 (edges is a fixture)
    BACK,
    FRONT,
    FakeChild,
    FakeStore,
    Mainline,
    connect,
    edges,
    running,
    states,
    toolstack_creates,
)
from waiting import until

from xen_dmabuf import supervisor as supervisor_module
from xen_dmabuf.handshake import Action, Link, State, View, decide


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
            for path in [*store.nodes]:
                if path.startswith(("/local/domain/3", BACK)):
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


def test_a_worker_that_does_not_answer_is_waited_for_once(monkeypatch):
    """It may be stopped: whoever asks again gets the others' state at once."""

    async def run():
        store = FakeStore()
        async with running(store) as supervisor:
            toolstack_creates(store)
            await connect(store)
            (child,) = FakeChild.made
            monkeypatch.setattr(supervisor_module, "_STATUS_SECONDS", 0.05)
            for _ in range(2):
                (domain,) = (await supervisor.status())["domains"]
                assert domain["worker"] == "not answering" and "driver" not in domain
                assert child.sent.count({"op": "status"}) == 1
                monkeypatch.setattr(supervisor_module, "_STATUS_SECONDS", 60)
            (summary,) = (await supervisor.domains())["domains"]
            assert summary == domain

            child.on_message({"event": "status", "status": {"driver": "late"}})
            question = asyncio.create_task(supervisor.status())
            await until(lambda: child.sent.count({"op": "status"}) == 2, "another question", 1)
            child.on_message({"event": "status", "status": {"driver": "new"}})
            (domain,) = (await question)["domains"]
            assert domain["worker"] == "ready" and domain["driver"] == "new"
            with pytest.raises(ValueError, match="nobody asked"):
                child.on_message({"event": "status", "status": {"driver": "again"}})

            question = asyncio.create_task(supervisor.status())
            await until(lambda: child.sent.count({"op": "status"}) == 3, "another question", 1)
            child.on_exit(-9)  # nobody waits for the dead
            (domain,) = (await question)["domains"]
            assert domain["worker"] == "starting"

    asyncio.run(asyncio.wait_for(run(), 30))


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
