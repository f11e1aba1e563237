# SPDX-License-Identifier: MIT
"""SIGHUP: the configuration is read again, pictures stay. Edges are faked by handshake_fakes.py."""

from __future__ import annotations

import asyncio
import socket

from handshake_fakes import (  # noqa: F401 (edges is a fixture)
    BACK,
    FakeChild,
    FakeStore,
    connect,
    edges,
    running,
    states,
    toolstack_creates,
)
from waiting import until

from xen_dmabuf.config import load
from xen_dmabuf.link.messages import Hello, Start

SHIPPED = ""
CHANGED = '[quota.default]\nconnectors = 1\n[gpu.default]\nstrategies = ["copy"]\n'


class File:
    """A configuration file that somebody edits."""

    def __init__(self, folder) -> None:
        self.path = folder / "backend.toml"
        self.text = SHIPPED

    def load(self):
        self.path.write_text(self.text)
        return load(str(self.path), must_exist=True)


def test_running_workers_keep_their_configuration_and_new_ones_get_the_new_one(tmp_path):
    async def run():
        store, file = FakeStore(), File(tmp_path)
        async with running(store, file.load) as supervisor:
            toolstack_creates(store)
            await connect(store)
            (first,) = FakeChild.made
            file.text = CHANGED
            supervisor.reload()
            assert states(store) == ("4", "4")
            assert not first.stopped and FakeChild.made == [first]
            first.on_lost()
            first.say(Hello(-1))
            await until(lambda: first.count(Start) == 2, "another worker's start")
            old, new = (m.config for m in first.sent if isinstance(m, Start))
            assert old.gpu_for("").strategies == ("map", "export", "copy")
            assert new.gpu_for("").strategies == ("copy",)

    asyncio.run(run())


def test_a_running_domain_keeps_its_quota_on_both_sides(tmp_path):
    """Its worker has the old one: the supervisor would promise what the worker refuses."""

    async def run():
        store, file = FakeStore(), File(tmp_path)
        async with running(store, file.load) as supervisor:
            toolstack_creates(store)
            front = await connect(store)
            file.text = CHANGED
            supervisor.reload()
            front.drm = False
            front._say(1)
            await until(lambda: states(store) == ("4", "4") and front.refs == 20, "two connectors")

    asyncio.run(run())


def test_a_wrong_configuration_changes_nothing_and_is_logged(caplog, tmp_path):
    async def run():
        store, file = FakeStore(), File(tmp_path)
        async with running(store, file.load) as supervisor:
            before = supervisor._config
            file.text = 'strategy = "map"'
            supervisor.reload()
            assert supervisor._config is before

    asyncio.run(run())
    assert "configuration not changed" in caplog.text


def test_a_new_control_socket_needs_a_restart_and_is_said(caplog, tmp_path):
    async def run():
        file = File(tmp_path)
        async with running(FakeStore(), file.load) as supervisor:
            supervisor.reload()
            assert "control_socket" not in caplog.text
            file.text = 'control_socket = "/run/other.sock"'
            supervisor.reload()

    asyncio.run(run())
    assert "control_socket stays as it is until the service is restarted" in caplog.text


def test_systemd_is_told_as_notify_reload_wants_it(tmp_path, monkeypatch):
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)

    async def run(server):
        async with running(FakeStore()) as supervisor:
            supervisor.reload()
        return [server.recv(200).decode() for _ in range(2)]

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address)
        server.settimeout(5)
        reloading, ready = asyncio.run(run(server))
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert ready == "READY=1"
