# SPDX-License-Identifier: MIT
"""A systemd that reads nothing: it stops nobody, and hears all that counts when it reads again.

systemd is the edge: a socket in its place, whose queue is full.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_supervisor_process import starved, supervisor
from test_units import heard, linked, worker_process
from waiting import until

from xen_dmabuf.cli.query import ask
from xen_dmabuf.link import messages
from xen_dmabuf.link.messages import AskStatus, Hello, Report
from xen_dmabuf.notify import Notifier
from xen_dmabuf.worker.store import FdStore


class Systemd:
    """A socket as systemd's; stuff(): let it have no room, hear(): what it was told since then, with files."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(60)

    def stuff(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, contextlib.suppress(BlockingIOError):
            other.setblocking(False)
            while True:
                other.sendto(b"another", self.address)

    def hear(self, words: int) -> list[str]:
        """The next ones but WATCHDOG=1; a file that came with one as what it leads to."""
        told: list[str] = []
        while len(told) < words:
            data, files, _flags, _address = socket.recv_fds(self._socket, 200, 8)
            text = " ".join([*data.decode().splitlines(), *(os.readlink(f"/proc/self/fd/{fd}") for fd in files)])
            for fd in files:
                os.close(fd)
            if text not in ("another", "WATCHDOG=1"):
                told.append(text)
        return told

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path, monkeypatch) -> Iterator[Systemd]:
    deaf = Systemd(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", deaf.address)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    yield deaf
    deaf.close()


def test_the_supervisor_serves(tmp_path, systemd):
    systemd.stuff()
    with supervisor(tmp_path, NOTIFY_SOCKET=systemd.address, WATCHDOG_USEC="150000") as running:
        running.wait_for("serving")
        assert ask(running.control, "domains")["domains"] == []
        assert systemd.hear(1) == ["READY=1"]


def test_a_worker_serves(tmp_path, systemd):
    systemd.stuff()
    with worker_process(tmp_path, NOTIFY_SOCKET=systemd.address, WATCHDOG_USEC="300000") as (process, path):
        with linked(path) as stream:
            assert heard(stream) == Hello(-1)
            for _ in range(3):
                stream.write(messages.line(AskStatus()))
                assert isinstance(heard(stream), Report)
        assert systemd.hear(1) == ["READY=1"]
        process.terminate()
        assert process.wait(60) == 0


def test_a_feed_is_not_waited_for_and_words_are(systemd, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "30000")

    async def run() -> list[str]:
        notifier = Notifier()
        systemd.stuff()
        for word in ("RELOADING=1", "READY=1", "STATUS=x", "RELOADING=1", "READY=1"):
            notifier.say(word)
        notifier.feed()
        told = await asyncio.to_thread(systemd.hear, 3)
        notifier.close()
        return told

    assert asyncio.run(run()) == ["STATUS=x", "RELOADING=1", "READY=1"], "in order, each as it was said last"


def test_files_are_kept_in_the_end(tmp_path, systemd):
    """Whatever a DomU makes and ends meanwhile: of each file what counts now, in order, and no more is waiting."""
    (tmp_path / "file").touch()

    async def run() -> list[str]:
        open_before = len(os.listdir("/proc/self/fd"))
        store = FdStore()
        systemd.stuff()
        with (tmp_path / "file").open() as file:
            store.remove("grants")
            for name in ("grants", "kept", "made and ended", "kept and ended"):
                store.add(name, file.fileno())
            for _ in range(100):
                store.remove("made and ended")
                store.add("made and ended", file.fileno())
            for name in ("made and ended", "kept and ended"):
                store.remove(name)
            assert len(os.listdir("/proc/self/fd")) == open_before + 4, "the socket, the file, two that wait"
        told = await asyncio.to_thread(systemd.hear, 5)
        await until(lambda: len(os.listdir("/proc/self/fd")) == open_before + 1, "what waited is closed")
        store.close()
        return told

    before = [f"FDSTORE=1 FDNAME={name} FDPOLL=0 {tmp_path / 'file'}" for name in ("grants", "kept")]
    after = [f"FDSTOREREMOVE=1 FDNAME={name}" for name in ("grants", "made and ended", "kept and ended")]
    assert asyncio.run(run()) == [after[0], *before, *after[1:]]


def test_a_file_that_can_not_wait_is_said(tmp_path, systemd, caplog):
    async def run() -> None:
        store = FdStore()
        systemd.stuff()
        with starved(0):
            store.add("buffer", 0)
        store.remove("buffer")
        store.close()

    asyncio.run(run())
    assert caplog.messages == ["file descriptor store"]


def test_a_systemd_that_is_gone_is_said_once(systemd, caplog):
    async def run() -> None:
        notifier = Notifier()
        os.unlink(systemd.address)
        notifier.say("READY=1")
        notifier.say("STOPPING=1")
        notifier.close()

    asyncio.run(run())
    assert caplog.messages == ["systemd can't be told"]
