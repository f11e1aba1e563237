# SPDX-License-Identifier: MIT
"""A real supervisor process on a machine that fails it: xenstored hangs, descriptors or room on the disk run out.

xenstored is the edge: a module in the place of Xen's own, which answers, or not, as the test says.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_units import SOURCE, unit

from xen_dmabuf import limits

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


class Running:
    """The process; ``said`` are the lines of its log so far."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        package = folder / "xen/lowlevel"
        package.mkdir(parents=True)
        for file, text in (("xen/__init__.py", ""), ("xen/lowlevel/__init__.py", ""), ("xen/lowlevel/xs.py", XS)):
            (folder / file).write_text(text)
        os.mkfifo(folder / "fifo")
        self.control = str(folder / "run/control.sock")
        self.config = folder / "backend.toml"
        self.config.write_text(f'control_socket = "{self.control}"\n')
        self.said: list[str] = []
        environment = os.environ | {"PYTHONPATH": f"{folder}:{SOURCE}", "XS": str(folder)}
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


def test_no_honest_call_is_taken_for_a_hung_one():
    settings = unit("xen-dmabuf-backend.service")
    assert float(*settings["WatchdogSec"]) >= 3 * limits.STANDSTILL
    assert "TimeoutStartSec" not in settings, "systemd's 90 s: longer than it takes to say why a start is late"
