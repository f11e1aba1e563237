# SPDX-License-Identifier: MIT
"""The handshake of input devices against a model of xen-kbdfront, over a XenStore in memory.

Faked edges: handshake_fakes.py; the supervisor, its watches and its decisions are the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest
from handshake_fakes import (
    BACK as DISPLAY,
)
from handshake_fakes import (  # noqa: F401 (edges is a fixture)
    FakeChild,
    FakeStore,
    FakeUnits,
    connect,
    edges,
    running,
    toolstack_creates,
)
from kbdfront import BACK, FRONT, Kbdfront, toolstack_adds_input
from waiting import until

from xen_dmabuf.kbdif.spec import InputSpec
from xen_dmabuf.link.messages import (
    ConnectInput,
    DisconnectInput,
    Held,
    HeldInput,
    Hello,
    InputConnected,
    InputDisconnected,
    InputRefused,
)
from xen_dmabuf.supervisor.handshake import Action, Link, State, View, decide_input

ERROR = "/local/domain/0/error/backend/vinput/3/0/error"


class Store(FakeStore):
    """Also keeps what the backend of the input device has said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def write(self, path, value):
        if path == f"{BACK}/state":
            self.said.append(value)
        super().write(path, value)

    def states(self) -> tuple[str | None, str | None]:
        return self.read(f"{BACK}/state"), self.read(f"{FRONT}/state")


def toolstack_removes(store: Store, back: str = BACK) -> None:
    """libxl__initiate_device_generic_remove(): it then waits for Closed."""
    store.nodes[f"{back}/online"] = "0"
    store.write(f"{back}/state", "5")


@pytest.fixture(autouse=True)
def answers(monkeypatch):
    FakeChild.answers |= {
        ConnectInput: lambda asked: InputConnected(asked.device),
        DisconnectInput: lambda asked: InputDisconnected(asked.device),
    }


@contextlib.asynccontextmanager
async def typed(**nodes: str):
    """A connected domain with an input device, and its frontend."""
    store = Store()
    async with running(store) as supervisor:
        toolstack_creates(store)
        await connect(store)
        toolstack_adds_input(store, unique_id="id0", **nodes)
        front = Kbdfront(store)
        front.probe()
        await until(lambda: store.states() == ("4", "4"), "input connected")
        yield store, front, supervisor, FakeChild.made[0]


def asked(child: FakeChild) -> list[InputSpec]:
    return [message.spec for message in child.sent if isinstance(message, ConnectInput)]


def test_connects_and_hands_over_what_both_nodes_say():
    async def run():
        features = {"feature_abs_pointer": "1", "width": "1920", "height": "1080"}
        touch = {"feature_multi_touch": "1", "multi_touch_width": "960", "multi_touch_height": "540"}
        async with typed(**features, **touch, multi_touch_num_contacts="10") as (store, _front, _supervisor, child):
            assert asked(child) == [InputSpec(101, 201, "id0", "id0", "id0", 1920, 1080, 960, 540, 10)]
            assert store.said == ["2", "4"]

    asyncio.run(run())


def test_what_is_not_offered_or_not_asked_for_has_no_effect():
    async def run():
        async with typed() as (store, front, _supervisor, child):
            assert asked(child) == [InputSpec(101, 201, "id0", "id0", "")]
            store.nodes[f"{FRONT}/request-abs-pointer"] = store.nodes[f"{FRONT}/request-multi-touch"] = "1"
            front.resume()
            await until(lambda: len(asked(child)) == 2, "connected again")
            assert asked(child)[1] == InputSpec(102, 202, "id0", "id0", "")
        async with typed(feature_abs_pointer="1", feature_multi_touch="1") as (store, front, _supervisor, child):
            del store.nodes[f"{FRONT}/request-abs-pointer"], store.nodes[f"{FRONT}/request-multi-touch"]
            front.resume()
            await until(lambda: len(asked(FakeChild.made[-1])) == 2, "connected again")
            assert asked(FakeChild.made[-1])[1] == InputSpec(102, 202, "id0", "id0", "")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("unique_id", "names"),
    [
        ("K:left;P:left;T:right", ("left", "left", "right")),
        ("P:id 1;K:id0", ("id0", "id_1", "")),
        ("T:only;", ("", "", "only")),
        ("", ("0", "0", "0")),
        ("a:b", ("a_b", "a_b", "a_b")),
    ],
)
def test_names_of_connectors(unique_id, names):
    async def run():
        store = Store()
        async with running(store):
            toolstack_creates(store)
            await connect(store)
            toolstack_adds_input(store, unique_id=unique_id, feature_multi_touch="1")
            Kbdfront(store).probe()
            await until(lambda: asked(FakeChild.made[0]), "connected")
            (spec,) = asked(FakeChild.made[0])
            assert (spec.keyboard, spec.pointer, spec.touch) == names

    asyncio.run(run())


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ({"feature_disable_pointer": "1"}, ("info->ptr", "NULL", "patch", "feature-disable-pointer")),
        ({"unique_id": "K:a;K:b"}, ("unique-id", "at most once")),
        ({"unique_id": "x" * 129}, ("unique-id", "129 bytes")),
        ({"width": "wide"}, ("width", "wide")),
        ({"feature_multi_touch": "1", "multi_touch_num_contacts": "65"}, ("multi-touch-num-contacts", "65")),
        ({"feature_multi_touch": "1", "multi_touch_num_contacts": "0"}, ("multi-touch-num-contacts",)),
        ({"frontend": "/local/domain/4/device/vkbd/0"}, ("/frontend", "must be")),
    ],
)
def test_what_can_not_be_served_is_refused_with_a_sentence(nodes, words):
    async def run():
        store = Store()
        async with running(store):
            toolstack_creates(store)
            await connect(store)
            toolstack_adds_input(store, **nodes)
            Kbdfront(store).probe()
            await until(lambda: store.states() == ("6", "6"), "refused")
            assert not asked(FakeChild.made[0])
            for word in words:
                assert word in store.nodes[ERROR]

    asyncio.run(run())


def test_touch_alone_is_served():
    async def run():
        nodes = {"feature_disable_pointer": "1", "feature_disable_keyboard": "1", "feature_multi_touch": "1"}
        async with typed(**nodes) as (_store, _front, _supervisor, child):
            assert asked(child) == [InputSpec(101, 201, "", "", "id0", 0, 0, 800, 600, 1)]

    asyncio.run(run())


def test_garbage_of_the_frontend_is_refused_until_it_moves_on():
    async def run():
        async with typed() as (store, front, _supervisor, child):
            store.nodes[f"{FRONT}/page-gref"] = "-1"
            front._say(3)
            await until(lambda: store.states() == ("6", "6"), "closed")
            assert "page-gref" in store.nodes[ERROR]
            front.probe()
            await until(lambda: store.states() == ("4", "4") and len(asked(child)) == 2, "connected")

    asyncio.run(run())


def test_nothing_is_asked_before_the_page_is_there():
    async def run():
        store = Store()
        async with running(store):
            toolstack_creates(store)
            await connect(store)
            toolstack_adds_input(store)
            store.write(f"{FRONT}/state", "4")
            await until(lambda: store.states()[0] == "2" and not store.queue, "InitWait")
            assert not asked(FakeChild.made[0])
            Kbdfront(store).probe()
            await until(lambda: store.states() == ("4", "4"), "connected")

    asyncio.run(run())


# -- restarts


def hello(child: FakeChild) -> Hello:
    """What a worker has after typed()."""
    connectors = next(message.connectors for message in child.sent if hasattr(message, "connectors"))
    return Hello(3, devices=(Held(0, connectors),), inputs=(HeldInput(0, asked(child)[-1]),))


def test_restarted_supervisor_is_not_noticed(monkeypatch):
    async def run():
        async with typed() as (store, _front, _supervisor, child):
            pass
        monkeypatch.setattr(FakeChild, "hello", hello(child))
        for kept in (store.watches, store.queue, store.said):
            kept.clear()
        async with running(store) as supervisor:
            await until(lambda: len(FakeChild.made) == 2, "a link to the worker")
            await until(lambda: supervisor._domains[3].inputs[0].link is Link.UP, "what it has")
            supervisor.rescan()
            await until(lambda: not supervisor._scheduled, "another look")
        assert store.said == [] and store.states() == ("4", "4")
        assert not asked(FakeChild.made[1]) and FakeChild.made[1].count(DisconnectInput) == 0

    asyncio.run(run())


@pytest.mark.parametrize("keeps", [False, True])
def test_restarted_worker_is_not_noticed(keeps):
    """Also one that lost all: the page is mapped again without a word to the frontend."""

    async def run():
        async with typed() as (store, front, supervisor, child):
            store.said.clear()
            before = hello(child)
            child.on_lost()
            child.say(before if keeps else Hello(3, devices=before.devices))
            await until(lambda: supervisor._domains[3].inputs[0].link is Link.UP, "served again")
            await until(lambda: not supervisor._scheduled, "all steps")
            assert len(asked(child)) == (1 if keeps else 2)
            assert store.said == [] and front.state == 4

    asyncio.run(run())


def test_a_frontend_that_publishes_anew_is_served_anew_without_closing():
    async def run():
        async with typed() as (store, front, _supervisor, child):
            store.said.clear()
            front.resume()
            await until(lambda: len(asked(child)) == 2, "the new page")
            assert child.count(DisconnectInput) == 1
            assert asked(child)[1].ref == 102
            await until(lambda: store.states() == ("4", "4"), "connected")
            assert store.said == []

    asyncio.run(run())


def test_a_driver_that_is_removed_and_comes_back():
    async def run():
        async with typed() as (store, front, _supervisor, child):
            front.remove()
            await until(lambda: store.states() == ("2", "6"), "open for the next one")
            assert store.said == ["2", "4", "5", "6", "2"]
            assert child.count(DisconnectInput) == 1
            front.probe()
            await until(lambda: store.states() == ("4", "4"), "connected again")
            assert asked(child)[1].ref == 102

    asyncio.run(run())


# -- the toolstack


def test_a_device_made_in_the_place_of_another_has_its_own_features():
    """Nobody saw the first one go."""

    async def run():
        size = {"feature_abs_pointer": "1", "height": "600"}
        async with typed(**size, width="800") as (store, _front, _supervisor, child):
            for node in [node for node in store.nodes if node.startswith((BACK + "/", FRONT + "/"))]:
                del store.nodes[node]
            toolstack_adds_input(store, unique_id="id0", **size, width="1920")
            Kbdfront(store).probe()
            await until(lambda: asked(child)[-1].width == 1920, "the new device's size")

    asyncio.run(run())


def test_removed_device_is_closed_and_forgotten():
    async def run():
        async with typed() as (store, front, supervisor, child):
            toolstack_removes(store)
            await until(lambda: store.states()[0] == "6", "Closed, for which xl waits")
            assert child.count(DisconnectInput) == 1
            store.remove(BACK)
            await until(lambda: not supervisor._domains[3].inputs, "forgotten")
            assert supervisor._domains[3].devices and not child.stopped
            assert f"{FRONT}/state" not in store.watches

    asyncio.run(run())


def test_input_without_a_window_says_so_and_waits_for_one():
    async def run():
        store = Store()
        units = FakeUnits()
        async with running(store, units=units) as supervisor:
            toolstack_adds_input(store, unique_id="id0")
            Kbdfront(store).probe()
            await until(lambda: ERROR in store.nodes, "the error")
            assert "no vdispl" in store.nodes[ERROR] and store.states() == ("2", "4")
            (domain,) = (await supervisor.status())["domains"]
            assert domain["worker"] == "none" and "no vdispl" in domain["inputs"][0]["reason"]
            assert not any(child.begun for child in FakeChild.made), "there is no worker for it"
            toolstack_creates(store)
            await connect(store)
            await until(lambda: store.states() == ("4", "4"), "connected with the window's worker")
            assert (await supervisor.domains())["domains"][0]["inputs"][0]["reason"] == ""
            toolstack_removes(store, DISPLAY)
            await until(lambda: store.read(f"{DISPLAY}/state") == "6", "the window closed")
            store.remove(DISPLAY)
            await until(lambda: FakeChild.made[0].stopped, "the worker's end")
            await until(lambda: "no vdispl" in supervisor._domains[3].inputs[0].reason, "it says so again")
            toolstack_removes(store)
            await until(lambda: store.states()[0] == "6", "closed, though nobody serves it")
            store.remove(BACK)
            await until(lambda: not supervisor._domains, "all is forgotten")

    asyncio.run(run())


def test_domain_that_dies():
    async def run():
        async with typed() as (store, _front, supervisor, _child):
            for path in [*store.nodes]:
                if path.startswith("/local/domain/3"):
                    del store.nodes[path]
            supervisor.rescan()
            await until(lambda: store.states()[0] == "6" and store.read(f"{DISPLAY}/state") == "6", "closed")

    asyncio.run(run())


def test_a_refusal_of_the_worker_is_the_frontends_end():
    async def run():
        FakeChild.answers[ConnectInput] = lambda asked: InputRefused(asked.device, "no such grant")
        store = Store()
        async with running(store):
            toolstack_creates(store)
            await connect(store)
            toolstack_adds_input(store)
            Kbdfront(store).probe()
            await until(lambda: store.states() == ("6", "6"), "closed")
            assert "no such grant" in store.nodes[ERROR]

    asyncio.run(run())


def test_a_frontend_that_connects_without_end_waits():
    async def run():
        async with typed() as (store, front, supervisor, child):
            for _ in range(20):
                front.resume()
                await until(lambda: not supervisor._scheduled and not store.queue, "a step")
            assert len(asked(child)) <= 5

    asyncio.run(run())


def test_hosts_of_the_devices_are_told_apart():
    """Device 0 of both kinds: an answer for one is none for the other."""

    async def run():
        async with typed() as (store, _front, supervisor, child):
            child.say(InputDisconnected(0))
            child.say(InputRefused(0, "lie"))
            assert supervisor._domains[3].devices[0].link is supervisor._domains[3].inputs[0].link is Link.UP
            assert store.states() == ("4", "4") and store.read(f"{DISPLAY}/state") == "4"

    asyncio.run(run())


def test_nothing_is_said_that_ends_a_frontend_which_is_wanted():
    for back, front, link, renewed in itertools.product(
        [*State], [State.INITIALISING, State.INIT_WAIT, State.INITIALISED, State.CONNECTED], Link, (False, True)
    ):
        action = decide_input(View(back, front, True, False, link, renewed))
        assert action not in (Action.SAY_CLOSING, Action.SAY_CLOSED), (back, front, link)
        if link is not Link.UP:
            assert action is not Action.RENEW
        if link in (Link.UP, Link.CONNECTING) and front in (State.INITIALISED, State.CONNECTED):
            assert action is not Action.RELEASE


def test_all_ways_to_the_end_end():
    """Removed, refused or dead: from every state it gets to Closed, or is forgotten."""
    for back, front, link in itertools.product([None, *State], [None, *State], (Link.DOWN, Link.UP)):
        for _ in range(8):
            action = decide_input(View(back, front, False, False, link))
            if action is Action.RELEASE:
                link = Link.DOWN
            elif isinstance(action.value, State):
                back = int(action.value)
            else:
                break
        assert action is (Action.FORGET if back is None else Action.NOTHING)
        assert back in (None, State.CLOSED) and link is Link.DOWN
