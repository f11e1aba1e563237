# SPDX-License-Identifier: MIT
"""The handshake against a model of drm_xen_front's state handling, over a XenStore in memory.

Faked edges: handshake_fakes.py; the supervisor, its watches and its decisions are the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket

import pytest
from handshake_fakes import (  # noqa: F401 (edges is a fixture)
    BACK,
    FRONT,
    FakeChild,
    FakeStore,
    FakeUnits,
    Mainline,
    connect,
    edges,
    running,
    states,
    toolstack_creates,
)
from waiting import until

from xen_dmabuf import limits
from xen_dmabuf.codec import CodecError
from xen_dmabuf.config import Config, Gpu, Quota
from xen_dmabuf.errors import UserError
from xen_dmabuf.link.messages import (
    AskStatus,
    Connect,
    Disconnect,
    Failed,
    Held,
    Hello,
    Rename,
    Report,
    WorkerStatus,
)
from xen_dmabuf.supervisor import device as device_module
from xen_dmabuf.supervisor import supervisor as supervisor_module
from xen_dmabuf.supervisor.handshake import Action, Link, State, View, decide
from xen_dmabuf.supervisor.supervisor import Supervisor


def test_init_wait_comes_before_the_frontend_or_the_worker_do_anything(monkeypatch):
    monkeypatch.setattr(FakeChild, "begin", lambda _: None)

    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            await until(lambda: states(store)[0] == "2", "InitWait", 1)
            assert store.read(f"{BACK}/versions") == "1,2"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("caches", "request_", "written_back"), [("auto", "1", False), ("guest", None, False), ("guest", "1", True)]
)
def test_a_guest_writes_back_what_it_was_offered_to(caches, request_, written_back):
    async def run():
        store = FakeStore()
        config = Config(gpu={"default": Gpu(), "imx-drm": Gpu(caches=caches)})
        async with running(store, lambda: config):
            toolstack_creates(store)
            if request_:
                store.write(f"{FRONT}/request-write-back", request_)
            await connect(store)
            assert store.read(f"{BACK}/feature-write-back") == str(int(caches == "guest"))
            (asked,) = [message for message in FakeChild.made[0].sent if isinstance(message, Connect)]
            assert {spec.written_back for spec in asked.connectors} == {written_back}

    asyncio.run(run())


def test_worker_of_a_domain_that_went_while_it_was_started_is_ended(monkeypatch):
    monkeypatch.setattr(FakeChild, "begin", lambda _: None)

    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            await until(lambda: FakeChild.made and states(store)[0] == "2", "InitWait", 1)
            for path in [*store.nodes]:
                if path.startswith(("/local/domain/3", BACK)):
                    del store.nodes[path]
            store._changed(BACK)
            await until(lambda: FakeChild.made[0].stopped, "the end of the worker", 1)

    asyncio.run(run())


def test_workers_of_domains_that_went_without_a_supervisor_are_ended():
    async def run():
        store, units = FakeStore(), FakeUnits()
        toolstack_creates(store)
        units.there = {3, 4}
        async with running(store, units=units) as supervisor:
            await connect(store)
            await supervisor._strangers.end()
            assert units.ended == [4]

    asyncio.run(run())


def test_a_xenstore_that_lost_all_domains_ends_no_worker(caplog):
    """xenstored was restarted with an empty tree: guests draw on."""

    async def run():
        store, units = FakeStore(), FakeUnits()
        store.nodes.clear()
        units.there = {3, 4}
        async with running(store, units=units) as supervisor:
            await supervisor._strangers.end()
        assert units.ended == []

    asyncio.run(run())
    assert sum("no worker is ended" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("failures", [[True], [False, True], [False, False, True, True], [False, True, False, False]])
def test_a_worker_that_cannot_be_ended_spares_no_other(monkeypatch, caplog, failures):
    """Listing them, or stopping one, fails: the others are ended, and it later."""
    monkeypatch.setattr(supervisor_module, "_RETRY", 0.01)

    async def run():
        store, units = FakeStore(), FakeUnits()
        units.there = {4, 5, 6}
        units.failures = failures
        async with running(store, units=units) as supervisor:
            await asyncio.wait_for(supervisor._strangers.end(), 10)
        assert sorted(units.ended) == [4, 5, 6]

    asyncio.run(run())
    assert caplog.messages.count("workers of domains that went can't be ended") == 1


def test_connects_and_hands_over_what_the_frontend_published():
    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            await connect(store)
            (child,) = FakeChild.made
            (message,) = [m for m in child.sent if isinstance(m, Connect)]
            first, second = message.connectors
            assert (first.index, first.name, first.width) == (0, "id0", 640)
            assert (first.req_ref, first.req_port) == (10, 11)
            assert (second.evt_ref, second.evt_port) == (112, 113)
            assert store.history == ["2", "4"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("quota", "served", "why"),
    [
        (4, 2, "connectors 2 are not served: the frontend has not published them"),
        (1, 1, "connectors 1, 2 are not served: the quota is 1"),
    ],
)
def test_connectors_that_are_not_served_are_named_and_cost_no_other(quota, served, why):
    """xl configures five, drm_xen_front publishes four: the four are served."""

    async def run():
        store = FakeStore()
        config = Config(quota={"default": Quota(connectors=quota)})
        async with running(store, lambda: config) as supervisor:
            toolstack_creates(store)
            store.nodes[f"{FRONT}/2/resolution"] = "640x480"
            await connect(store)
            (child,) = FakeChild.made
            (message,) = [m for m in child.sent if isinstance(m, Connect)]
            assert len(message.connectors) == served
            (domain,) = (await supervisor.domains())["domains"]
            assert why in domain["devices"][0]["warning"] and not domain["devices"][0]["reason"]

    asyncio.run(run())


def held() -> Hello:
    """A worker's word that it has what the frontend of connect() has published."""
    (message,) = [m for m in FakeChild.made[0].sent if isinstance(m, Connect)]
    return Hello(3, devices=(Held(0, message.connectors),))


def forget_supervisor(store) -> None:
    """What is left of one that ended, and what its connection to xenstored took along."""
    assert states(store) == ("4", "4")
    store.watches.clear()
    store.queue.clear()
    store.history.clear()


def test_restarted_supervisor_is_not_noticed(monkeypatch):
    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            front = await connect(store)
        forget_supervisor(store)
        assert not FakeChild.made[0].stopped, "the worker lives on"
        monkeypatch.setattr(FakeChild, "hello", held())
        async with running(store) as supervisor:
            await until(lambda: len(FakeChild.made) == 2, "a link to the worker")
            await until(lambda: supervisor._domains[3].devices[0].link is Link.UP, "what it has")
            supervisor.rescan()
            await until(lambda: not supervisor._scheduled, "another look")
        assert front.refs == 10 and front.drm and store.history == []
        assert FakeChild.made[1].count(Connect) == 0

    asyncio.run(run())


def test_worker_without_its_state_makes_the_frontend_start_over():
    """As after a crash of both: the next supervisor finds 4 and 4, and the worker has nothing."""

    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            front = await connect(store)
        forget_supervisor(store)
        async with running(store):
            await until(lambda: front.refs == 20, "a second publication")
            await until(lambda: states(store) == ("4", "4") and front.drm, "the picture's return")
            assert store.history == ["5", "6", "2", "4"]

    asyncio.run(run())


def test_nothing_is_said_before_the_worker_has_said_what_it_has(monkeypatch):
    monkeypatch.setattr(FakeChild, "begin", lambda _: None)

    async def run():
        store = FakeStore()
        toolstack_creates(store)
        front = Mainline(store)
        front.store.nodes |= {f"{BACK}/state": "4", f"{FRONT}/state": "4"}
        async with running(store) as supervisor:
            await until(lambda: 3 in supervisor._domains, "the domain")
            for _ in range(5):
                supervisor.rescan()
                await until(lambda: not supervisor._scheduled, "a step")
            assert store.history == []

    asyncio.run(run())


def test_frontend_that_connected_anew_without_a_supervisor_is_released(monkeypatch):
    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            front = await connect(store)
        forget_supervisor(store)
        monkeypatch.setattr(FakeChild, "hello", held())
        store.nodes[f"{FRONT}/0/req-ring-ref"] = "77"
        async with running(store):
            await until(lambda: len(FakeChild.made) == 2, "a link to the worker")
            await until(lambda: FakeChild.made[1].count(Disconnect) == 1, "the release")
            await until(lambda: states(store) == ("4", "4") and front.refs == 20, "reconnected")

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


def test_a_device_that_was_removed_without_a_supervisor_is_released(monkeypatch):
    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            await connect(store)
        forget_supervisor(store)
        more = dataclasses.replace(held(), devices=(*held().devices, Held(1, held().devices[0].connectors)))
        monkeypatch.setattr(FakeChild, "hello", more)
        async with running(store):
            await until(lambda: len(FakeChild.made) == 2, "a link to the worker")
            await until(lambda: FakeChild.made[1].sent == [Disconnect(1)], "the release of the removed one")

    asyncio.run(run())


def test_worker_that_dies_and_goes_on_is_not_noticed():
    async def run():
        store = FakeStore()
        async with running(store) as supervisor:
            toolstack_creates(store)
            front = await connect(store)
            (child,) = FakeChild.made
            child.on_lost()
            supervisor.rescan()
            await until(lambda: not supervisor._scheduled, "a step without a worker")
            child.say(held())
            await until(lambda: supervisor._domains[3].ready, "the worker")
            supervisor.rescan()
            await until(lambda: not supervisor._scheduled, "a step with it")
            assert store.history == ["2", "4"] and front.refs == 10
            assert child.count(Connect) == 1

    asyncio.run(run())


def test_worker_that_dies_and_has_nothing_makes_the_frontend_reconnect():
    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            front = await connect(store)
            (child,) = FakeChild.made
            child.on_lost()
            child.say(Hello(-1))
            await until(lambda: states(store) == ("4", "4") and front.refs == 20, "reconnected")

    asyncio.run(run())


@pytest.mark.parametrize("asked", [Connect, Disconnect])
def test_worker_that_does_not_answer_is_ended(monkeypatch, caplog, asked):
    """A silent worker would keep a dead domain's pages for ever."""
    monkeypatch.setattr(limits, "CONNECT", 0.05)
    monkeypatch.setattr(limits, "RELEASE", 0.05)

    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            monkeypatch.setitem(FakeChild.answers, asked, None)
            if asked is Disconnect:
                await connect(store)
                del store.nodes["/local/domain/3/domid"]
                store._changed("@releaseDomain")
                store.queue.append("@releaseDomain")
            else:
                Mainline(store).boot()
            await until(lambda: FakeChild.made and FakeChild.made[0].begun == 2, "the worker's end")
            assert "worker ended: it does not answer" in caplog.messages
            if asked is Disconnect:
                store.remove(FRONT)
                await until(lambda: states(store)[0] == "6", "Closed, as nothing is held any more")

    asyncio.run(run())


def test_worker_that_lies_about_its_domain_is_ended():
    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            await connect(store)
            with pytest.raises(CodecError, match="says that it is 4's"):
                FakeChild.made[0].on_message(Hello(4))

    asyncio.run(run())


def test_a_fault_in_one_device_spares_the_others(monkeypatch, caplog):
    """XenStore's error in one step, and a bug in another, drop no step of other devices."""

    async def run():
        store = FakeStore()
        read = store.read
        faults = [OSError(12, "XenStore"), RuntimeError("a bug")]

        def failing(path):
            if "/vdispl/2/0/state" in path and faults:
                raise faults.pop()
            return read(path)

        monkeypatch.setattr(store, "read", failing)
        async with running(store):
            store.nodes["/local/domain/0/backend/vdispl/2/0/state"] = "1"
            toolstack_creates(store)
            await connect(store)
            assert "step of a device failed" in caplog.messages
            await until(lambda: not faults and any(c.domid == 2 for c in FakeChild.made), "a retry")

    asyncio.run(run())


def test_watch_of_a_device_that_could_not_be_made_is_given_back(monkeypatch):
    async def run():
        store = FakeStore()
        fault = [OSError(12, "XenStore")]
        watch = store.watch

        def failing(path):
            if path == f"{FRONT}/state" and fault:
                raise fault.pop()
            watch(path)

        monkeypatch.setattr(store, "watch", failing)
        async with running(store):
            toolstack_creates(store)
            await connect(store)
            assert store.watches.count(f"{FRONT}/state") == 1

    asyncio.run(run())


def test_a_device_that_could_not_be_forgotten_connects_in_the_next_ones_place(monkeypatch):
    """It connected too often and waits; it is removed, XenStore fails, and the toolstack has made another meanwhile."""
    monkeypatch.setattr(device_module, "_CONNECT_BURST", 1)
    monkeypatch.setattr(device_module, "_CONNECT_WINDOW", 0.5)
    monkeypatch.setattr(supervisor_module, "_RETRY", 0.05)  # done before it may connect

    async def run():
        store = FakeStore()
        remove = store.remove

        def failing(_path):
            monkeypatch.setattr(store, "remove", remove)
            toolstack_creates(store)
            raise OSError(12, "XenStore")

        async with running(store) as supervisor:
            toolstack_creates(store)
            mainline = await connect(store)
            mainline.boot()
            device = supervisor._domains[3].devices[0]
            await until(lambda: device._retry, "that the frontend has to wait")
            monkeypatch.setattr(store, "remove", failing)
            for path in [path for path in store.nodes if path.startswith((BACK, FRONT))]:
                del store.nodes[path]
            store._changed(BACK)
            await until(lambda: states(store)[0] == "2", "InitWait in the next one's place")
            assert supervisor._domains[3].devices[0] is device
            await connect(store)

    asyncio.run(run())


def test_a_failure_that_comes_with_the_frontends_next_state_is_not_forgotten():
    """It goes to Connected while its worker says that its ring lies: the supervisor knew of Initialised only."""

    async def run():
        store = FakeStore()
        async with running(store) as supervisor:
            toolstack_creates(store)
            await connect(store)
            store.nodes[f"{FRONT}/state"] = "3"
            supervisor._domains[3].devices[0].step()
            store.nodes[f"{FRONT}/state"] = "4"
            FakeChild.made[0].say(Failed(0, "the ring lies"))
            await until(lambda: FakeChild.made[0].count(Disconnect) == 1, "what gives its pages back", 2)
            assert "5" in store.history, "the frontend is told"

    asyncio.run(run())


def test_a_removed_backend_node_is_not_made_again():
    async def run():
        store = FakeStore()
        async with running(store) as supervisor:
            toolstack_creates(store)
            await connect(store)
            device = supervisor._domains[3].devices[0]
            del store.nodes[f"{BACK}/state"]
            device._say(State.CLOSING)
            assert f"{BACK}/state" not in store.nodes

    asyncio.run(run())


def test_a_state_for_the_last_device_is_not_said_to_one_made_in_its_place(monkeypatch):
    """The toolstack removes and makes it while a step is decided."""

    async def run():
        store = FakeStore()
        async with running(store):
            toolstack_creates(store)
            await connect(store)
            read, made = store.read, []

            def slow(path):
                value = read(path)
                if path == f"{BACK}/online" and store.nodes.get(f"{BACK}/state") == "5" and not made:
                    made.append(path)
                    store.remove(BACK)
                    toolstack_creates(store)
                    store.history.clear()
                return value

            monkeypatch.setattr(store, "read", slow)
            store.write(f"{BACK}/online", "0")
            await until(lambda: made and states(store) == ("4", "4"), "another device")
            assert store.history == ["2", "4"]

    asyncio.run(run())


def test_a_device_made_in_the_place_of_another_is_offered_what_the_first_was():
    """Nobody saw the first one go."""

    async def run():
        store = FakeStore()
        async with running(store) as supervisor:
            toolstack_creates(store)
            await connect(store)
            for node in [node for node in store.nodes if node.startswith((BACK, FRONT))]:
                del store.nodes[node]
            toolstack_creates(store)
            supervisor._domains[3].devices[0].fail("of the first")
            await connect(store)
            assert store.read(f"{BACK}/versions") == "1,2"

    asyncio.run(run())


def test_a_failure_is_not_held_against_a_frontend_that_begins():
    """Mainline stays at Initialising until it sees InitWait: it would wait for ever."""

    async def run():
        store = FakeStore()
        async with running(store) as supervisor:
            toolstack_creates(store)
            await until(lambda: states(store) == ("2", "1"), "InitWait")
            device = supervisor._domains[3].devices[0]
            device.fail("a worker's word that came late")
            device.step()
            assert states(store) == ("2", "1")
            await connect(store)

    asyncio.run(run())


def test_a_worker_that_does_not_answer_is_waited_for_once(monkeypatch):
    """It may be stopped: whoever asks again gets the others' state at once."""

    async def run():
        store = FakeStore()
        async with running(store) as supervisor:
            toolstack_creates(store)
            await connect(store)
            (child,) = FakeChild.made
            monkeypatch.setattr(limits, "STATUS", 0.05)
            for _ in range(2):
                (domain,) = (await supervisor.status())["domains"]
                assert domain["worker"] == "not answering" and domain["driver"] == ""
                assert child.count(AskStatus) == 1
                monkeypatch.setattr(limits, "STATUS", 60)
            (summary,) = (await supervisor.domains())["domains"]
            assert summary.items() <= domain.items()

            child.say(Report(WorkerStatus(driver="late")))
            question = asyncio.create_task(supervisor.status())
            await until(lambda: child.count(AskStatus) == 2, "another question", 1)
            child.say(Report(WorkerStatus(driver="new")))
            (domain,) = (await question)["domains"]
            assert domain["worker"] == "ready" and domain["driver"] == "new"
            with pytest.raises(CodecError, match="nobody asked"):
                child.say(Report(WorkerStatus(driver="again")))

            question = asyncio.create_task(supervisor.status())
            await until(lambda: child.count(AskStatus) == 3, "another question", 1)
            child.on_lost()  # nobody waits for the dead
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


def test_a_frontend_that_polls_sees_each_state():
    """It writes a state and waits for the same one, looking twenty times a second."""

    async def run():
        store = FakeStore()
        async with running(store) as supervisor:
            toolstack_creates(store)
            front = await connect(store)
            front.store.on_change = lambda path: None
            front._say(5)
            await polled(store, "5")
            front._say(6)
            await polled(store, "6")
            await until(lambda: supervisor._domains[3].devices[0]._reopen is None, "the end of all timers")
            assert states(store)[0] == "6"
            front.drm = False
            front.boot()
            await until(lambda: states(store) == ("4", "4"), "Connected again")

    asyncio.run(run())


async def polled(store, state):
    """Look at the backend's state each 50 ms until it is ``state``."""
    seen = []
    for _ in range(40):
        await asyncio.sleep(0.05)
        seen.append(states(store)[0])
        if seen[-1] == state:
            return
    pytest.fail(f"{state} not seen: {seen}")


def test_a_renamed_domain_is_called_so():
    """At once, and by a worker that a supervisor finds later."""

    async def run():
        store = FakeStore()
        async with running(store) as supervisor:
            toolstack_creates(store)
            await connect(store)
            store.write("/local/domain/3/name", "new")
            await until(lambda: FakeChild.made[0].sent[-1] == Rename("new"), "the worker hears of it")
            (domain,) = (await supervisor.domains())["domains"]
            assert domain["name"] == "new"
            store.write("/local/domain/3/name", "new")
            FakeChild.made[0].say(dataclasses.replace(held(), name="old"))
            await until(lambda: FakeChild.made[0].count(Rename) == 2, "a worker with the old name hears of it")
            store.on_change = lambda path: None
            store.remove(FRONT)
            store.remove(BACK)
            await until(lambda: not supervisor._domains, "the domain's end")
            assert "/local/domain/3/name" not in store.watches

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
            assert isinstance(FakeChild.made[0].sent[-1], Disconnect)
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
            assert isinstance(FakeChild.made[0].sent[-1], Disconnect)

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
            assert FakeChild.made[0].count(Connect) == 0

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
                await until(lambda: isinstance(FakeChild.made[0].sent[-1], Disconnect), "release")
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
            for _ in range(20):
                front.drm = False
                front._say(1)
                with contextlib.suppress(AssertionError):
                    await until(lambda: states(store) == ("4", "4"), "Connected", 0.1)
            assert FakeChild.made[0].count(Connect) == 5
            assert timers.count("_retry_now") == 1

    asyncio.run(run())


def test_a_lost_xenstore_ends_the_supervisor_with_a_reason(monkeypatch, tmp_path):
    """It would be told for ever that there is something to read; the next one connects anew."""
    left, right = socket.socketpair()

    async def run():
        store = FakeStore()
        monkeypatch.setattr(store, "fileno", left.fileno, raising=False)
        config = dataclasses.replace(Config(), control_socket=str(tmp_path / "control.sock"))
        supervisor = Supervisor(config, store, lambda: config, FakeUnits())
        task = asyncio.create_task(supervisor.run())
        toolstack_creates(store)
        right.send(b"watch")
        await until(lambda: FakeChild.made, "the worker")
        left.recv(16)

        def lost():
            raise OSError(107, "XenStore")

        monkeypatch.setattr(store, "fired", lost)
        right.send(b"end")
        with pytest.raises(UserError, match="XenStore's connection is lost"):
            await asyncio.wait_for(task, 10)
        assert FakeChild.made[0].left and not FakeChild.made[0].stopped, "workers go on"

    with left, right:
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
                        Action.CLOSE_LATER,
                        Action.REOPEN_LATER,
                    )
