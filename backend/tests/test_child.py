# SPDX-License-Identifier: MIT
"""What a worker that was taken over may do to the supervisor: be killed. A small server plays it."""

from __future__ import annotations

import asyncio
import json

import pytest
from waiting import until

from xen_dmabuf import limits
from xen_dmabuf.codec import CodecError
from xen_dmabuf.displif.spec import ConnectorSpec
from xen_dmabuf.link import messages
from xen_dmabuf.link.messages import (
    AskStatus,
    BufferStatus,
    Connect,
    Connected,
    ConnectorStatus,
    DeviceStatus,
    Disconnect,
    Disconnected,
    Failed,
    Held,
    Hello,
    Ready,
    Refused,
    Report,
    Start,
    WorkerStatus,
)
from xen_dmabuf.supervisor import child
from xen_dmabuf.supervisor.child import Child

SPEC = ConnectorSpec(0, "id0", 640, 480, 8, 9, 10, 11)
CONNECTOR = ConnectorStatus(0, "id0", 800, 600, 1, False, 2, 1, 1)
BUFFER = BufferStatus(1, 800, 600, ("XR24",), 3200, 469, "map", "dumb", "first of the list", 1024)
STATUS = WorkerStatus(4711, True, "virtio_gpu", devices={"0": DeviceStatus((CONNECTOR,), (BUFFER,))})

TO_SUPERVISOR = [
    Hello(-1),
    Hello(3, devices=(Held(0, (SPEC,)),)),
    Ready(),
    Connected(0),
    Refused(0, "no"),
    Failed(0, "no"),
    Disconnected(0, True),
    Report(),
    Report(STATUS),
]
TO_WORKER = [Start(3, "domu"), Connect(0, (SPEC, SPEC)), Disconnect(0), AskStatus()]


def report(**changes: object) -> bytes:
    plain = json.loads(messages.line(Report(STATUS)))
    plain["status"] |= changes
    return json.dumps(plain).encode()


def device(**changes: object) -> bytes:
    plain = json.loads(messages.line(Report(STATUS)))
    plain["status"]["devices"]["0"] |= changes
    return json.dumps(plain).encode()


LIES = {
    b"no JSON": "not valid JSON",
    b"\xff": "not valid JSON",
    b"[" * 200_000: "nested",
    b"[]": "unknown message 'None'",
    b'{"type": ["ready"]}': "unknown message",
    b"{}": "unknown message",
    b'{"type": "start", "domid": 1, "name": ""}': "unknown message 'start'",
    b'{"type": "ready", "more": 1}': "ready.more: unknown key",
    b'{"type": "ready", "more": "' + b"x" * 70_000 + b'"}': "ready: 7....? bytes",
    b'{"type": "connected"}': "connected.device is missing",
    b'{"type": "connected", "device": []}': "connected.device: a number",
    b'{"type": "connected", "device": true}': "connected.device: a number",
    b'{"type": "connected", "device": -1}': "connected.device: -1 is not within",
    b'{"type": "failed", "device": 0, "reason": null}': "failed.reason: a text",
    b'{"type": "failed", "device": 0, "reason": "\\ud800"}': "failed.reason: half",
    b'{"type": "failed", "device": 0, "reason": "' + b"x" * 501 + b'"}': "501 characters",
    b'{"type": "disconnected", "device": 0, "released": 1}': "disconnected.released: true or false",
    b'{"type": "hello", "domid": 40000}': "hello.domid: 40000 is not within",
    b'{"type": "report", "status": null}': "report.status: a table",
    report(pixel_bytes_copied="0"): "pixel_bytes_copied: a number",
    report(pixel_bytes_copied=10**4000): "not valid JSON|pixel_bytes_copied: .*not within",
    report(caches=None): "caches: a text",
    report(devices=[]): "devices: a table",
    report(devices={"0": 1}): "devices.0: a table",
    device(connectors={}): "connectors: a list",
    device(connectors=[{}]): r"connectors\[0\].index is missing",
    device(buffers=[{"cookie": 1.0}]): "cookie: a number",
}


@pytest.mark.parametrize("message", TO_SUPERVISOR, ids=lambda message: message.TYPE)
def test_what_a_worker_says(message):
    assert messages.parse(messages.line(message), messages.TO_SUPERVISOR) == message


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda message: message.TYPE)
def test_what_a_supervisor_says(message):
    assert messages.parse(messages.line(message), messages.TO_WORKER) == message


@pytest.mark.parametrize(("line", "why"), LIES.items(), ids=range(len(LIES)))
def test_what_no_worker_says_is_named(line, why):
    with pytest.raises(CodecError, match=why):
        messages.parse(line, messages.TO_SUPERVISOR)


class FakeUnits:
    """A worker's unit as far as its link goes: ``say`` is what each process of it writes, in turn."""

    def __init__(self, path, *say: bytes) -> None:
        self._path = str(path)
        self._say = list(say)
        self._server: asyncio.Server | None = None
        self.killed = 0
        self.stopped = 0
        self.forgiven = 0
        self.heard: list[bytes] = []

    def socket(self, _domid: int) -> str:
        return self._path

    def pid(self, _domid: int) -> int:
        return 1

    async def start(self, _domid: int) -> None:
        if self._server is None:
            self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while len(self._say) > 1:
                writer.write(self._say.pop(0))
                await writer.drain()
            while line := await reader.readline():
                self.heard.append(line)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def kill(self, _domid: int) -> None:
        self.killed += 1

    async def stop(self, _domid: int) -> None:
        self.stopped += 1

    async def forgive(self, _domid: int) -> None:
        self.forgiven += 1

    def close(self) -> None:
        if self._server:
            self._server.close()


def heard_of(units: FakeUnits, done) -> list[messages.Message]:
    """What the supervisor heard of a worker until ``done(heard, lost)``."""
    heard: list[messages.Message] = []
    lost: list[int] = []

    async def run() -> None:
        worker = Child(7, units, heard.append, lambda: lost.append(1))
        worker.begin()
        try:
            await until(lambda: done(heard, lost), "the worker's end", 30)
        finally:
            worker.leave()
            units.close()

    asyncio.run(asyncio.wait_for(run(), 60))
    return heard


def test_a_liar_is_killed_and_what_it_said_before_holds(tmp_path, caplog):
    said = messages.line(Hello(7)) + messages.line(Ready()) + b'{"type": "connected", "device": []}\n'
    units = FakeUnits(tmp_path / "link", said, b"")
    assert heard_of(units, lambda _heard, lost: lost and units.killed) == [Hello(7), Ready()]
    assert "worker killed: it broke the protocol" in caplog.messages


def test_the_first_word_is_hello(tmp_path):
    units = FakeUnits(tmp_path / "link", messages.line(Ready()), b"")
    assert heard_of(units, lambda _heard, _lost: units.killed) == []


def test_a_line_without_end_is_no_memory_of_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(messages, "LONGEST_REPORT", 1 << 16)
    units = FakeUnits(tmp_path / "link", messages.line(Hello(7)), *[b"y" * (1 << 14)] * 20, b"")
    assert heard_of(units, lambda _heard, _lost: units.killed) == [Hello(7)]


def test_a_flood_ends(tmp_path, caplog):
    """While it is read nobody else is served."""
    flood = messages.line(Ready()) * (child._MESSAGES + 1)
    units = FakeUnits(tmp_path / "link", messages.line(Hello(7)), flood, b"")
    heard = heard_of(units, lambda _heard, _lost: units.killed)
    assert len(heard) == 1 + child._MESSAGES
    assert any("more than" in str(record.fields["reason"]) for record in caplog.records if hasattr(record, "fields"))


def test_one_that_says_nothing_is_killed(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(limits, "HELLO", 0.1)
    units = FakeUnits(tmp_path / "link", b"")
    assert heard_of(units, lambda _heard, _lost: units.killed) == []
    assert "worker killed: it sent no Hello in time" in caplog.messages


def test_a_first_line_without_end_is_no_memory_of_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(messages, "LONGEST_REPORT", 1 << 16)
    units = FakeUnits(tmp_path / "link", *[b"y" * (1 << 14)] * 20, b"")
    assert heard_of(units, lambda _heard, _lost: units.killed) == []


def test_a_systemd_that_does_not_answer_kills_no_worker(tmp_path, monkeypatch, caplog):
    """TimeoutError is an OSError, and not every one is of a worker that keeps silent."""
    units = FakeUnits(tmp_path / "link", messages.line(Hello(7)), b"")
    start, slow = units.start, [TimeoutError("systemctl"), TimeoutError("connect")]

    async def late(domid: int) -> None:
        if slow:
            raise slow.pop()
        await start(domid)

    monkeypatch.setattr(units, "start", late)
    assert heard_of(units, lambda heard, _lost: heard) == [Hello(7)]
    assert units.killed == 0
    assert not any("Hello" in message for message in caplog.messages)


def test_a_successor_is_heard(tmp_path):
    """The link is made anew, and its Hello says what it has."""

    async def run() -> None:
        units = FakeUnits(tmp_path / "link", messages.line(Hello(-1)), messages.line(Hello(7)), b"")
        heard: list[messages.Message] = []
        lost: list[int] = []
        serve = units._serve

        async def dying(reader, writer) -> None:
            if len(units._say) == 3:
                writer.write(units._say.pop(0))
                await writer.drain()
                writer.close()
            else:
                await serve(reader, writer)

        units._serve = dying  # type: ignore[method-assign]
        worker = Child(7, units, heard.append, lambda: lost.append(1))
        worker.begin()
        await until(lambda: len(heard) == 2, "the successor's Hello")
        assert heard == [Hello(-1), Hello(7)] and len(lost) == 1
        await until(lambda: units.forgiven == 1, "that systemd's pauses begin anew")
        worker.send(AskStatus())
        await until(lambda: len(units.heard) == 1, "what it is asked")
        await worker.stop()
        assert units.stopped == 1
        units.close()

    asyncio.run(asyncio.wait_for(run(), 60))
