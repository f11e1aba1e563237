# SPDX-License-Identifier: MIT
"""The main paths of a backend in a domain of another number than 0. Edges are faked by handshake_fakes.py."""

from __future__ import annotations

import asyncio

import pytest
from handshake_fakes import (  # noqa: F401 (edges is a fixture)
    FRONT,
    FakeChild,
    FakeStore,
    FakeUnits,
    connect,
    edges,
    running,
    states,
    toolstack_creates,
)
from kbdfront import Kbdfront, toolstack_adds_input
from waiting import until

from xen_dmabuf.link.messages import Connect, ConnectInput, Disconnect, Held, Hello, InputConnected
from xen_dmabuf.supervisor.handshake import Link
from xen_dmabuf.supervisor.xenstore import XenStore


@pytest.fixture(params=[0, 7], ids=["Dom0", "domain 7"])
def store(request, monkeypatch) -> FakeStore:
    """Of the domain that the backend runs in, and nobody may look for the backend in another one."""
    store = FakeStore(request.param)
    asked = store.read

    def read(path):
        assert path.startswith((f"/local/domain/{request.param}/", "/local/domain/3/")), path
        return asked(path)

    monkeypatch.setattr(store, "read", read)
    FakeChild.answers[ConnectInput] = lambda message: InputConnected(message.device)
    return store


def test_a_device_connects_and_goes(store):
    async def run():
        async with running(store) as supervisor:
            toolstack_creates(store)
            await connect(store)
            (child,) = FakeChild.made
            assert child.count(Connect) == 1 and store.history == ["2", "4"]
            store.on_change = lambda path: None
            store.remove(FRONT)
            store.write(f"{store.back}/online", "0")
            store.write(f"{store.back}/state", "5")
            await until(lambda: states(store)[0] == "6", "Closed")
            assert isinstance(child.sent[-1], Disconnect)
            store.remove(store.back)
            await until(lambda: child.stopped, "the worker's end")
            assert supervisor._domains == {}

    asyncio.run(run())


def test_a_restarted_supervisor_is_not_noticed(store, monkeypatch):
    async def run():
        async with running(store):
            toolstack_creates(store)
            front = await connect(store)
        (message,) = [message for message in FakeChild.made[0].sent if isinstance(message, Connect)]
        monkeypatch.setattr(FakeChild, "hello", Hello(3, devices=(Held(0, message.connectors),)))
        store.watches.clear()
        store.queue.clear()
        store.history.clear()
        async with running(store) as supervisor:
            await until(lambda: len(FakeChild.made) == 2, "a link to the worker")
            await until(lambda: supervisor._domains[3].devices[0].link is Link.UP, "what it has")
            supervisor.rescan()
            await until(lambda: not supervisor._scheduled, "another look")
        assert front.refs == 10 and front.drm and store.history == []

    asyncio.run(run())


def test_a_refusal_is_said_where_the_toolstack_of_this_domain_looks(store):
    async def run():
        async with running(store):
            toolstack_creates(store)
            store.write(f"{FRONT}/be-alloc", "1")
            error = store.back.replace("/backend/", "/error/backend/") + "/error"
            await until(lambda: error in store.nodes, "the reason")
            assert "be-alloc" in store.nodes[error]

    asyncio.run(run())


def test_an_input_device_connects(store):
    async def run():
        async with running(store):
            toolstack_creates(store)
            await connect(store)
            toolstack_adds_input(store, unique_id="id0")
            Kbdfront(store).probe()
            await until(lambda: store.nodes.get(f"{store.input_back}/state") == "4", "input connected")
            assert FakeChild.made[0].count(ConnectInput) == 1

    asyncio.run(run())


def test_strangers_are_ended(store):
    async def run():
        units = FakeUnits()
        toolstack_creates(store)
        units.there = {3, 4}
        async with running(store, units=units) as supervisor:
            await connect(store)
            await supervisor._strangers.end()
        assert units.ended == [4]

    asyncio.run(run())


@pytest.mark.parametrize(("text", "own"), [("0", 0), ("7", 7), (None, 0), ("seven", 0), ("-1", 0)])
def test_the_own_number_comes_from_xenstore(monkeypatch, text, own):
    store = XenStore.__new__(XenStore)
    monkeypatch.setattr(store, "read", {"domid": text}.get)
    assert store.own_domid() == own
