# SPDX-License-Identifier: MIT
"""What a worker that was taken over may do to the supervisor: be killed. A shell plays it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket

import pytest

from xen_dmabuf import child, messages
from xen_dmabuf.child import Child
from xen_dmabuf.config import Config
from xen_dmabuf.processes import Process

CONNECTOR = {
    "name": "id0",
    "width": 800,
    "height": 600,
    "flips_requested": 2,
    "flips_shown": 1,
    "flips_not_shown": 1,
    "requests_refused": 0,
}
BUFFER = {
    "cookie": 1,
    "width": 800,
    "height": 600,
    "formats": ["XR24"],
    "stride": 3200,
    "strategy": "map",
    "allocator": "dumb",
    "why": "first of the list",
}


def status(**changes: object) -> dict:
    details = {"pixel_bytes_copied": 0, "caches": "not written back: no GPU"}
    details |= {"devices": {"0": {"connectors": [], "buffers": []}}}
    return {"event": "status", "status": details | changes}


def device(**changes: object) -> dict:
    return status(devices={"0": {"connectors": [CONNECTOR], "buffers": [BUFFER]} | changes})


TRUE = [
    {"event": "ready"},
    {"event": "connected", "dev": 0},
    {"event": "refused", "dev": 0, "reason": "no"},
    {"event": "failed", "dev": 0, "reason": "no", "another": 1},
    {"event": "disconnected", "dev": 0, "released": True},
    status(),
    device(),
]

LIES = {
    b"no JSON": "Expecting",
    b"\xff": "utf-8",
    b"[" * 200_000: "nested",
    b"[]": "message: dict",
    b'{"event": ["ready"]}': "message.event: str",
    b"{}": "event is missing",
    b'{"event": "stop"}': "unknown event 'stop'",
    b'{"event": "ready", "more": "' + b"x" * 70_000 + b'"}': "ready: 7....? octets",
    b'{"event": "connected"}': "connected: dev is missing",
    b'{"event": "connected", "dev": []}': "connected.dev: int",
    b'{"event": "connected", "dev": true}': "connected.dev: int",
    b'{"event": "connected", "dev": -1}': "connected.dev: 64 bits",
    b'{"event": "failed", "dev": 0, "reason": null}': "failed.reason: str",
    b'{"event": "failed", "dev": 0, "reason": "\\ud800"}': "failed.reason: half",
    b'{"event": "disconnected", "dev": 0, "released": 1}': "disconnected.released: bool",
    b'{"event": "status", "status": null}': "status.status: dict",
    json.dumps(status(pixel_bytes_copied="0")).encode(): "pixel_bytes_copied: int",
    json.dumps(status(pixel_bytes_copied=10**4000)).encode(): "pixel_bytes_copied: 64 bits",
    json.dumps(status(caches=None)).encode(): "caches: str",
    json.dumps(status(devices=[])).encode(): "devices: dict",
    json.dumps(status(devices={"0": 1})).encode(): "devices.0: dict",
    json.dumps(device(connectors={})).encode(): "connectors: list",
    json.dumps(device(connectors=[CONNECTOR, {}])).encode(): r"connectors\[1\]: name is missing",
    json.dumps(device(buffers=[BUFFER | {"formats": [1]}])).encode(): r"formats\[0\]: str",
    json.dumps(device(buffers=[BUFFER | {"cookie": 1.0}])).encode(): "cookie: int",
}


@pytest.mark.parametrize("message", TRUE, ids=lambda message: message["event"])
def test_what_a_worker_says(message):
    assert messages.parse(json.dumps(message).encode()) == message


@pytest.mark.parametrize(("line", "why"), LIES.items(), ids=range(len(LIES)))
def test_what_no_worker_says_is_named(line, why):
    with pytest.raises(ValueError, match=why):
        messages.parse(line)


class ShellServer:
    """A fork server whose worker is ``script``; its socket is the shell's input."""

    def __init__(self, script: str, *arguments: bytes) -> None:
        self._command = ["sh", "-c", script, "worker", *arguments]

    async def fork(self) -> tuple[Process, socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs:
            actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)]
            pid = os.posix_spawnp("sh", self._command, os.environ, file_actions=actions)
        return Process(pid), ours


def end_of(server: ShellServer) -> tuple[int, list[dict]]:
    """How the worker ended that nobody asked to, and what the supervisor heard of it before."""
    heard: list[dict] = []

    async def run() -> int:
        ended = asyncio.get_running_loop().create_future()
        worker = Child(7, heard.append, ended.set_result)
        await worker.start("domu", Config(), server)
        return await asyncio.wait_for(ended, 60)

    return asyncio.run(run()), heard


def test_a_liar_is_killed_and_what_it_said_before_holds(caplog):
    lie = b'{"event": "connected", "dev": []}'
    script = """echo '{"event": "ready"}' >&0; echo "$1" >&0; exec sleep 600"""
    assert end_of(ShellServer(script, lie)) == (-signal.SIGKILL, [{"event": "ready"}])
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.getMessage() == "worker talks nonsense"
    assert "connected.dev" in str(record.fields["reason"])


def test_a_line_without_end_is_no_memory_of_ours(caplog):
    script = "exec 3>&0; yes | tr -d '\\n' >&3"
    assert end_of(ShellServer(script))[1] == []
    assert "worker talks nonsense" in caplog.messages


def test_a_flood_ends(caplog):
    """While it is read nobody else is served."""
    script = """exec 3>&0; yes '{"event": "ready"}' >&3"""
    assert len(end_of(ShellServer(script))[1]) == child._MESSAGES
    assert any("more than" in str(record.fields["reason"]) for record in caplog.records)


def test_one_that_lives_on_without_its_socket_is_killed(monkeypatch, caplog):
    """Nobody could ask it for the DomU's pages any more."""
    monkeypatch.setattr(child, "_STOP_SECONDS", 0.1)
    assert end_of(ShellServer("exec sleep 600 <&-")) == (-signal.SIGKILL, [])
    assert "worker does not end: killed" in caplog.messages


def test_one_that_does_not_stop_is_killed(monkeypatch, caplog):
    monkeypatch.setattr(child, "_STOP_SECONDS", 0.1)

    async def run() -> None:
        worker = Child(7, lambda message: None, lambda status: None)
        await worker.start("domu", Config(), ShellServer("exec sleep 600"))
        await worker.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(worker.pid, 0)

    asyncio.run(asyncio.wait_for(run(), 60))
    assert "worker does not end: killed" in caplog.messages
