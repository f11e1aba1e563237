# SPDX-License-Identifier: MIT
"""The fork server and its workers: real processes, without Xen."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
from pathlib import Path

import pytest

from xen_dmabuf import config, forkserver, processes
from xen_dmabuf.config import Config, parse


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(processes.__file__).parents[1]))
    monkeypatch.setattr(processes, "_account", lambda _: {})  # this machine need not have it


def with_server(test):
    """Run ``test(server)``; the fork server has ended after it."""

    async def run():
        server = processes.ForkServer(Config())
        try:
            await test(server)
        finally:
            await server.close()
            if server._process:
                with contextlib.suppress(ProcessLookupError):
                    server._process.send_signal(signal.SIGCONT)
                await server._process.wait()

    asyncio.run(asyncio.wait_for(run(), 90))


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def test_workers_are_children_that_end_with_their_sockets():
    async def test(server):
        await server.start()
        started = server.pid
        first, ours = await server.fork()
        second, other = await server.fork()
        assert server.pid == started and len({started, first.pid, second.pid}) == 3
        assert parent(first.pid) == parent(second.pid) == os.getpid()
        ours.close()  # as when this process dies
        assert await first.wait() == 0
        second.kill()
        assert await second.wait() == -signal.SIGKILL
        second.kill()  # the number may be another process's by now
        other.close()

    with_server(test)


def test_a_killed_server_is_replaced_and_its_workers_live():
    async def test(server):
        worker, ours = await server.fork()
        killed = server.pid
        assert len(os.listdir(f"/proc/{killed}/task")) == 1, "a thread would not be forked"
        server._process.kill()
        await server._process.wait()
        another, other = await server.fork()
        assert server.pid != killed
        assert not worker._ended.done()
        ours.close()
        other.close()
        assert [await worker.wait(), await another.wait()] == [0, 0]

    with_server(test)


def test_a_hung_server_costs_one_worker(monkeypatch):
    async def test(server):
        await server.start()
        hung = server._process
        hung.send_signal(signal.SIGSTOP)
        with monkeypatch.context() as patience:
            patience.setattr(processes, "_FORK_SECONDS", 0.1)
            with pytest.raises(OSError, match="does not answer"):
                await server.fork()
        assert await hung.wait() == -signal.SIGKILL
        worker, ours = await server.fork()
        ours.close()
        assert await worker.wait() == 0

    with_server(test)


def test_nobody_gets_the_answer_to_a_question_that_was_given_up():
    async def test(server):
        await server.start()
        old = server._process
        old.send_signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(server.fork(), 0.1)
        old.send_signal(signal.SIGCONT)
        assert await old.wait() == 0
        worker, ours = await server.fork()
        assert parent(worker.pid) == os.getpid()
        ours.close()
        assert await worker.wait() == 0, "the socket is another worker's"

    with_server(test)


def test_another_account_needs_another_server():
    async def test(server):
        await server.start()
        old = server._process
        server.config = parse('[worker]\nuser = "another"')
        worker, ours = await server.fork()
        assert server.pid != old.pid
        ours.close()
        assert [await old.wait(), await worker.wait()] == [0, 0]

    with_server(test)


def test_a_closed_server_is_not_started_again():
    async def test(server):
        await server.start()
        await server.close()
        assert await server._process.wait() == 0
        await server.start()
        assert server._process.returncode == 0
        with pytest.raises(OSError, match="the service ends"):
            await server.fork()

    with_server(test)


def test_what_python_lacks_is_said_once_by_the_server(tmp_path, monkeypatch, capfd):
    """pywayland is broken: no worker, and no traceback."""
    (tmp_path / "pywayland").mkdir()
    (tmp_path / "pywayland" / "__init__.py").write_text("raise ImportError('broken')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ['PYTHONPATH']}")

    async def test(server):
        with pytest.raises(OSError, match="fork server has ended"):
            await server.fork()
        assert await server._process.wait() == 2

    with_server(test)
    error = capfd.readouterr().err
    assert "pywayland is needed" in error and "Traceback" not in error


def test_no_process_left_is_said_and_costs_one_worker(monkeypatch):
    """os.fork() fails in the server, in this process: as root no limit would do that."""
    ours, control = socket.socketpair(type=socket.SOCK_SEQPACKET)
    _kept, given = socket.socketpair()

    def fork():
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", fork)
    with ours, control, _kept, given:
        socket.send_fds(ours, [b"f"], [given.fileno()])
        ours.shutdown(socket.SHUT_WR)
        before = len(os.listdir("/proc/self/fd"))
        forkserver._serve(control, None)
        assert ours.recv(16) == b"0"
        assert len(os.listdir("/proc/self/fd")) == before


def test_worker_without_xen_says_so_and_ends_with_2(capfd):
    """A real worker, forked and asked as the supervisor does it."""
    if Path("/dev/xen/gntdev").exists():
        pytest.skip("this machine has Xen")

    async def test(server):
        worker, ours = await server.fork()
        start = {"op": "start", "domid": 3, "name": "domu", "config": config.to_plain(Config())}
        ours.sendall(json.dumps(start).encode() + b"\n")
        assert await worker.wait() == 2
        ours.close()

    with_server(test)
    error = capfd.readouterr().err
    assert "/dev/xen/gntdev" in error and "Traceback" not in error
