# SPDX-License-Identifier: MIT
"""A real supervisor process on a machine that fails it: xenstored hangs, descriptors or room on the disk run out.

xenstored is the edge: a module in the place of Xen's own, which answers, or not, as the test says.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_child import FakeUnits
from test_units import SOURCE, unit
from waiting import until, wait_until

from xen_dmabuf import limits
from xen_dmabuf.cli.query import Stream, ask
from xen_dmabuf.errors import UserError
from xen_dmabuf.link import messages
from xen_dmabuf.link.messages import Hello
from xen_dmabuf.supervisor import control
from xen_dmabuf.supervisor.child import Child
from xen_dmabuf.supervisor.control import ControlServer
from xen_dmabuf.supervisor.lock import Instance
from xen_dmabuf.supervisor.units import Units

XS = """
import os, signal, time
folder = os.environ["XS"]
class Error(Exception): pass
def may_hang():
    while os.path.exists(folder + "/hang"):
        time.sleep(0.01)
class xs:
    def __init__(self):
        self._fifo = os.open(folder + "/fifo", os.O_RDWR)
    def fileno(self): return self._fifo
    def close(self): pass
    def read(self, _transaction, path):
        may_hang()
        raise Error(2, "No such file or directory")
    ls = read
    def watch(self, _path, _token): may_hang()
    unwatch = watch
    def check_watch(self):
        os.read(self._fifo, 1)
        may_hang()
"""
MAIN = "import sys, xen_dmabuf.limits as limits; limits.STANDSTILL = 0.2; " + (
    "from xen_dmabuf.cli.main import main; sys.exit(main(sys.argv[1:]))"
)


SYSTEMCTL = """#!/bin/sh
echo "$@" >> "$XS/systemctl"
"""


class Running:
    """The process; ``said`` are the lines of its log so far."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        package = folder / "xen/lowlevel"
        package.mkdir(parents=True)
        for file, text in (("xen/__init__.py", ""), ("xen/lowlevel/__init__.py", ""), ("xen/lowlevel/xs.py", XS)):
            (folder / file).write_text(text)
        os.mkfifo(folder / "fifo")
        (folder / "bin").mkdir()
        (folder / "bin/systemctl").write_text(SYSTEMCTL)
        (folder / "bin/systemctl").chmod(0o755)
        self.control = str(folder / "run/control.sock")
        self.config = folder / "backend.toml"
        self.config.write_text(f'control_socket = "{self.control}"\n')
        self.said: list[str] = []
        environment = os.environ | {"PYTHONPATH": f"{folder}:{SOURCE}", "XS": str(folder)}
        environment["PATH"] = f"{folder}/bin:{os.environ['PATH']}"
        for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, "run", "--config", str(self.config)],
            env=environment | variables,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self._more:
                self.said.append(line)
                self._more.notify_all()

    def wait_for(self, text: str, seconds: float = 60.0) -> None:
        with self._more:
            found = self._more.wait_for(lambda: self.count(text), seconds)
        assert found, f"{text!r} is not among {self.said}"

    def count(self, text: str) -> int:
        return sum(text in line for line in self.said)

    def asked(self) -> str:
        """Of systemctl."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "systemctl").read_text()
        return ""

    def pipes(self) -> list[str]:
        """To a child of it."""
        folder = f"/proc/{self.process.pid}/fd"
        numbers = [number for number in os.listdir(folder) if int(number) > 2]
        return [
            number for number in numbers if os.readlink(f"{folder}/{number}").startswith(("pipe:", "anon_inode:[pid"))
        ]

    def poke(self) -> None:
        """A watch has fired."""
        (self.folder / "fifo").write_bytes(b"x")

    def end(self) -> None:
        self.process.kill()
        self.process.wait(60)
        self._reader.join()
        assert self.process.stderr
        self.process.stderr.close()


@contextlib.contextmanager
def supervisor(folder: Path, **variables: str) -> Iterator[Running]:
    running = Running(folder, **variables)
    try:
        yield running
    finally:
        running.end()


@contextlib.contextmanager
def systemd(folder: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(folder / "notify"))
        notify.settimeout(60)
        yield notify


def test_the_watchdog_is_fed_by_the_loop_alone(tmp_path):
    """One that hangs in a call to xenstored feeds nothing, and says why once."""
    variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "150000"}
    with systemd(tmp_path) as notify, supervisor(tmp_path, **variables) as running:
        words = [notify.recv(100).decode() for _ in range(5)]
        wait_until(lambda: "reset-failed xen-dmabuf-backend.service" in running.asked(), "systemd's pauses anew")
        assert words[0] == "READY=1" and words[1:] == ["WATCHDOG=1"] * 4
        (tmp_path / "hang").touch()
        running.poke()
        running.wait_for("XenStore does not answer")
        notify.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while notify.recv(100):
                pass
        notify.settimeout(0.5)
        with pytest.raises(TimeoutError):
            notify.recv(100)
        assert running.count("XenStore does not answer") == 1
        (tmp_path / "hang").unlink()
        running.wait_for("goes on")
        notify.settimeout(60)
        assert notify.recv(100) == b"WATCHDOG=1"


def test_a_start_that_waits_for_xenstore_says_so(tmp_path):
    (tmp_path / "hang").touch()
    with supervisor(tmp_path) as running:
        running.wait_for("XenStore does not answer")
        (tmp_path / "hang").unlink()
        running.wait_for("serving")
        assert running.count("XenStore does not answer") == 1


@contextlib.contextmanager
def starved(pid: int) -> Iterator[None]:
    """The process, 0 for this one, can open nothing more; what it has it keeps."""
    name = pid or "self"
    has = {int(number) for number in os.listdir(f"/proc/{name}/fd") if os.path.lexists(f"/proc/{name}/fd/{number}")}
    free = next(number for number in itertools.count() if number not in has)
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_the_supervisor_lives_on(tmp_path):
    """It feeds the watchdog, says what it can't do, and can do it when there are some again."""
    variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "150000"}
    with systemd(tmp_path) as notify, supervisor(tmp_path, **variables) as running:
        running.wait_for("serving")
        pid = running.process.pid
        wait_until(running.asked, "systemctl")
        wait_until(lambda: not running.pipes(), "its end")  # what it closes later would be free
        with contextlib.ExitStack() as asking:
            with starved(pid):
                asked = asking.enter_context(Stream(running.control, "domains"))
                running.wait_for("no descriptor left")
                os.kill(pid, signal.SIGHUP)
                running.wait_for("configuration not changed")
                wait_until(lambda: notify.recv(100).startswith(b"RELOADING=1"), "the reload's beginning")
                assert notify.recv(100) == b"READY=1"
                assert [notify.recv(100) for _ in range(10)] == [b"WATCHDOG=1"] * 10
            assert asked.first()["domains"] == []
        os.kill(pid, signal.SIGHUP)
        running.wait_for("configuration read again")
        with Stream(running.control, "domains") as asked:
            assert asked.first()["domains"] == []
        assert running.count("no descriptor left") == 1
        assert len(running.said) < 10, running.said


def test_without_descriptors_no_worker_is_ended(tmp_path, caplog):
    units = FakeUnits(tmp_path / "link", messages.line(Hello(7)), b"")
    heard: list[messages.Message] = []

    async def run() -> None:
        await units.start(7)
        worker = Child(7, units, heard.append, lambda: None)
        with starved(0):
            worker.begin()
            await until(lambda: "worker lost" in caplog.messages, "that it is said")
            with pytest.raises(OSError, match="Too many open files"):
                await Units("true").start(7)
        await until(lambda: heard, "the worker's Hello")
        await Units("true").start(7)
        worker.leave()
        units.close()

    asyncio.run(asyncio.wait_for(run(), 60))
    assert heard == [Hello(7)] and units.killed == 0
    assert caplog.messages.count("worker lost") == 1


@contextlib.contextmanager
def small_disk(folder: Path, files: int) -> Iterator[Callable[..., None]]:
    """A file system of one page in ``folder`` that holds so many files; call it to change that."""
    if os.geteuid() != 0:
        pytest.skip("LOUD: not root; a full disk is NOT tested")
    folder.mkdir()

    def mount(files: int, *options: str) -> None:
        words = ",".join((f"size={resource.getpagesize()}", f"nr_inodes={files + 1}", "mode=755", *options))
        subprocess.run(["mount", "-t", "tmpfs", "-o", words, "tmpfs", str(folder)], check=True)

    try:
        mount(files)
    except subprocess.CalledProcessError:
        pytest.skip("LOUD: this machine lets nobody mount a tmpfs; a full disk is NOT tested")
    try:
        yield lambda files: mount(files, "remount")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_costs_no_lock(tmp_path, caplog):
    with small_disk(tmp_path / "run", 3):
        (tmp_path / "run/full").write_bytes(bytes(resource.getpagesize()))
        path = str(tmp_path / "run/control.sock")
        with Instance(path), pytest.raises(UserError, match="another xen-dmabuf-backend"), Instance(path):
            pytest.fail("two supervisors")
    assert caplog.messages == ["own number not written"]
    assert "make room there" in str(caplog.records[0].fields["reason"])


def test_no_room_for_the_lock_is_said(tmp_path):
    path = str(tmp_path / "run/control.sock")
    with small_disk(tmp_path / "run", 0), pytest.raises(UserError, match=r"run/control.sock.lock: No space.*make room"):
        Instance(path).__enter__()


def test_no_room_for_the_control_socket_costs_only_the_status(tmp_path, monkeypatch, caplog):
    """Displays are served, and the socket is there when there is room."""
    monkeypatch.setattr(control, "_RETRY", 0.05)
    path = str(tmp_path / "run/control.sock")

    async def status() -> dict[str, int]:
        return {"schema": 1}

    async def run(grow: Callable[..., None]) -> None:
        with Instance(path):
            async with ControlServer(path, {"status": status}, {}):
                assert not os.path.exists(path)
                grow(3)
                await until(lambda: os.path.exists(path), "the control socket")
                assert await asyncio.to_thread(ask, path, "status") == {"schema": 1}
            assert not os.path.exists(path)
            grow(1)
            async with ControlServer(path, {"status": status}, {}):
                pass

    with small_disk(tmp_path / "run", 1) as grow:
        asyncio.run(run(grow))
    said = "no status until there is room for its socket"
    assert caplog.messages.count(said) == 2


def test_output_to_a_full_disk_is_said(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    with supervisor(tmp_path) as running, open("/dev/full", "w") as full:
        running.wait_for("serving")
        for form in ("--metrics", "--watch"):
            command = [sys.executable, "-m", "xen_dmabuf.cli", "status", "--socket", running.control, form]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
            assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
            assert "make room" in done.stderr


def test_a_start_with_an_error_in_a_drop_in_says_what_happens_now(tmp_path):
    (tmp_path / "backend.toml.d").mkdir()
    (tmp_path / "backend.toml.d/1.toml").write_text("[quota.domu]\nbuffers = 0\n")
    with supervisor(tmp_path) as running:
        assert running.process.wait(60) == 2
        running.wait_for("1.toml: quota.domu.buffers: 0 is not within 1 to")
        assert len(running.said) == 1 and "systemd tries again" in running.said[0]
        assert running.asked() == "", "its pauses go on growing"


def test_no_honest_call_is_taken_for_a_hung_one():
    settings = unit("xen-dmabuf-backend.service")
    assert float(*settings["WatchdogSec"]) >= 3 * limits.STANDSTILL
    assert "TimeoutStartSec" not in settings, "systemd's 90 s: longer than it takes to say why a start is late"
