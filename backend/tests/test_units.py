# SPDX-License-Identifier: MIT
"""Workers as units: what systemctl is asked, what the unit files promise, and a real worker process.

systemd is the edge: a script plays systemctl, and the worker gets LISTEN_FDS by hand.
"""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import dataclasses
import errno
import logging
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import wait_until

from xen_dmabuf import limits, log
from xen_dmabuf.config import Quota
from xen_dmabuf.errors import UserError
from xen_dmabuf.link import messages
from xen_dmabuf.link.messages import AskStatus, Hello, Report, Start
from xen_dmabuf.linux import process
from xen_dmabuf.supervisor import units as units_module
from xen_dmabuf.supervisor.lock import Instance
from xen_dmabuf.supervisor.units import Units
from xen_dmabuf.worker import displaybuffers, received, served, statefile, store
from xen_dmabuf.worker.state import StoredFramebuffer, pack
from xen_dmabuf.worker.store import FdStore

DATA = Path(__file__).parents[1] / "data/systemd"
SOURCE = Path(log.__file__).parents[1]
SYSTEMCTL = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
*list-units*)
    echo "xen-dmabuf-worker@3.service loaded active running Display"
    echo "xen-dmabuf-worker@12.socket loaded active running Link"
    ;;
*@9.*) echo "Unit xen-dmabuf-worker@9.socket not found." >&2; exit 5 ;;
esac
"""


@pytest.fixture
def systemctl(tmp_path):
    """(Units, function that returns the command lines so far)."""
    log, program = tmp_path / "log", tmp_path / "systemctl"
    log.touch()
    program.write_text(SYSTEMCTL.format(log=log))
    program.chmod(0o755)

    def asked() -> list[str]:
        return [line.replace("--quiet --no-ask-password ", "") for line in log.read_text().splitlines()]

    return Units(str(program), str(tmp_path)), asked


def test_what_systemctl_is_asked(systemctl):
    units, asked = systemctl

    async def run():
        await units.start(3)
        await units.kill(3)
        assert await units.running() == {3, 12}
        await units.stop(3)
        await units.forgive(3)
        await units.forgive()

    asyncio.run(run())
    assert asked() == [
        "start xen-dmabuf-worker@3.socket",
        "kill --signal=KILL xen-dmabuf-worker@3.service",
        "list-units --plain --no-legend --all xen-dmabuf-worker@*",
        "stop xen-dmabuf-worker@3.socket xen-dmabuf-worker@3.service",
        "reset-failed xen-dmabuf-worker@3.socket xen-dmabuf-worker@3.service",
        "reset-failed xen-dmabuf-worker@3.service",
        "reset-failed xen-dmabuf-backend.service xen-dmabuf-worker@*.service",
    ]


def test_what_systemctl_refuses_is_said(systemctl):
    units, _asked = systemctl
    with pytest.raises(OSError, match=r"start xen-dmabuf-worker@9.socket: Unit .* not found"):
        asyncio.run(units.start(9))


def test_without_systemctl_there_is_a_reason(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        asyncio.run(Units(str(tmp_path / "nowhere")).start(1))


def test_a_systemctl_that_hangs_is_ended_and_said(tmp_path, monkeypatch):
    program = tmp_path / "systemctl"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr(units_module, "_SECONDS", 0.2)
    with pytest.raises(OSError, match=r"start xen-dmabuf-worker@3.socket: no answer in 0 s") as caught:
        asyncio.run(Units(str(program)).start(3))
    assert not isinstance(caught.value, TimeoutError), "that would be a worker's"


def unit(name: str) -> dict[str, list[str]]:
    """A unit file's settings: every value of each name."""
    settings: dict[str, list[str]] = {}
    for line in (DATA / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings.setdefault(key, []).append(value)
    return settings


def test_no_unit_takes_modules_from_the_current_folder():
    """A planted argparse.py would run as root, or as every worker."""
    for name in ("xen-dmabuf-backend.service", "xen-dmabuf-worker@.service"):
        (command,) = unit(name)["ExecStart"]
        assert command.startswith("/usr/bin/python3 -I -m xen_dmabuf."), name


def test_a_worker_is_confined_watched_and_alone():
    worker = unit("xen-dmabuf-worker@.service")
    assert worker["DynamicUser"] == ["yes"] and worker["User"] == ["xen-dmabuf-%i"]
    for name in ("MemoryMax", "TasksMax", "CPUWeight", "LogRateLimitBurst", "WatchdogSec", "FileDescriptorStoreMax"):
        assert worker[name] != [""], name
    assert worker["Restart"] == ["always"] and worker["StartLimitIntervalSec"] == ["0"]
    assert worker["OOMPolicy"] == ["kill"]
    assert "NotifyAccess" in worker and worker["NotifyAccess"] == ["main"]
    assert unit("xen-dmabuf-backend.service")["OOMPolicy"] == ["continue"]
    link = unit("xen-dmabuf-worker@.socket")
    assert link["SocketMode"] == ["0600"] and link["FileDescriptorName"] == ["link"]
    assert link["ListenStream"] == [Units().socket(0).replace("0.sock", "%i.sock")]


def seconds(text: str) -> float:
    return float(text.removesuffix("ms")) / 1000 if text.endswith("ms") else float(text)


@pytest.mark.parametrize("name", ["xen-dmabuf-backend.service", "xen-dmabuf-worker@.service"])
def test_what_never_comes_to_serve_is_restarted_ever_later(name):
    """The pauses as systemd.service(5) has them: from RestartSec= to RestartMaxDelaySec= in RestartSteps=."""
    settings = unit(name)
    first, last = (seconds(*settings[key]) for key in ("RestartSec", "RestartMaxDelaySec"))
    steps = int(*settings["RestartSteps"])
    pauses = [first * (last / first) ** (number / steps) for number in range(steps + 1)]
    assert settings["Restart"] == ["always"] and settings["StartLimitIntervalSec"] == ["0"], "it is never given up"
    assert first > 0, "systemd has no steps from 0 on"
    assert last >= 30
    if "worker" in name:
        assert sum(pauses[:5]) < 0.5 < limits.EVENT - limits.TAKE_OVER, "a guest doesn't notice some restarts in a row"


def test_what_the_largest_quota_allows_outlives_a_worker():
    """Files in the store, their names in the next process's environment, and both processes' descriptors."""
    worker = unit("xen-dmabuf-worker@.service")
    (buffers,) = (f.metadata["high"] for f in dataclasses.fields(Quota) if f.name == "buffers")
    kept = [displaybuffers._store_name(10**9, what) for what in displaybuffers._FILES]
    files = len(kept) * buffers + len({store.STATE, store.EVTCHN, store.GRANTS})
    assert int(*worker["FileDescriptorStoreMax"]) >= files
    # the successor has what it took over at high numbers, and gives dma-bufs back their old ones
    assert int(*worker["LimitNOFILE"]) >= received._FIRST + files + 256
    assert len(kept) * buffers + 256 <= received._FIRST, "what a worker opens has low numbers"
    most_of_a_variable = 32 * resource.getpagesize()
    assert buffers * sum(len(f"{name}:") for name in kept) + 100 < most_of_a_variable, "LISTEN_FDNAMES (execve(2))"
    framebuffer = pack(StoredFramebuffer(2**64 - 1, 2**64 - 1, 65536, 65536, 2**32 - 1))
    assert buffers * (2 * len(framebuffer) + 12) < statefile._TABLE / 2, "the table"


@pytest.mark.parametrize("room", ["4", None])
def test_a_store_that_is_full_is_said_once(monkeypatch, caplog, room):
    """systemd only closes what is too much."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("FDSTORE", raising=False)
    if room:
        monkeypatch.setenv("FDSTORE", room)
    full = FdStore()
    full.adopt(["state", "evtchn"])
    for name in ("b1", "b2", "b1"):
        full.add(name, 0)
    assert not caplog.records
    for name in ("b3", "b4"):
        full.add(name, 0)
    assert len(caplog.records) == (1 if room else 0)
    full.remove("b3")
    full.add("b5", 0)
    assert len(caplog.records) == (1 if room else 0), "a DomU can cause it again and again"
    assert all("FileDescriptorStoreMax" in str(record.fields["reason"]) for record in caplog.records)


@pytest.mark.parametrize("name", ["xen-dmabuf-backend.service", "xen-dmabuf-worker@.service"])
def test_no_unit_has_a_capability(name):
    assert unit(name)["CapabilityBoundingSet"] == [""] and unit(name)["AmbientCapabilities"] == [""]


def test_unit_files_are_well_formed():
    for path in (path for path in DATA.rglob("*") if path.is_file()):
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment]
        parser.read_string(path.read_text())
        assert "Unit" in parser, path


# -- a real worker process

AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "xen_dmabuf.worker", sys.argv[2]])
"""


@contextlib.contextmanager
def worker_process(folder: Path, instance: str = "5", **variables: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """A worker that has its link from us, as from systemd; (process, path of the link)."""
    path = str(folder / "5.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        descriptor = listening.fileno()
        environment = os.environ | {
            "PYTHONPATH": str(SOURCE),
            "LISTEN_FDS": "1",
            "LISTEN_FDNAMES": "link",
        }
        environment.pop("NOTIFY_SOCKET", None)
        environment |= variables
        process = subprocess.Popen(
            [sys.executable, "-c", AS_SYSTEMD, str(descriptor), instance],
            env=environment,
            pass_fds=[descriptor],
            text=True,
            stderr=subprocess.PIPE,
        )
        try:
            yield process, path
        finally:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def linked(path: str):
    """A supervisor's connection, as a file of lines."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(path)
        with client.makefile("rwb", buffering=0) as stream:
            yield stream


def heard(stream) -> messages.Message:
    return messages.parse(stream.readline(), messages.TO_SUPERVISOR)


def test_a_worker_says_hello_to_each_supervisor_and_serves_the_last(tmp_path):
    with worker_process(tmp_path) as (process, path):
        with linked(path) as first:
            assert heard(first) == Hello(-1)
            with linked(path) as second:
                assert heard(second) == Hello(-1)
                assert first.readline() == b"", "the first was given up"
                second.write(messages.line(AskStatus()))
                report = heard(second)
                assert isinstance(report, Report) and report.status.pid == process.pid
        with linked(path) as third:
            assert heard(third) == Hello(-1), "supervisors come and go"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_worker_ends_with_what_is_missing(tmp_path):
    if os.path.exists("/dev/xen/gntdev"):
        pytest.skip("LOUD: this machine has gntdev; a missing device is NOT tested")
    with worker_process(tmp_path) as (process, path), linked(path) as stream:
        heard(stream)
        stream.write(messages.line(Start(5, "domu")))
        assert process.wait(60) == 2
        assert "/dev/xen/gntdev" in process.stderr.read()


@pytest.mark.parametrize("line", [b"nonsense\n", messages.line(Start(6, "another's")), messages.line(Hello(-1))])
def test_a_supervisor_that_talks_to_the_wrong_worker_is_refused(tmp_path, line):
    with worker_process(tmp_path) as (process, path):
        with linked(path) as stream:
            heard(stream)
            stream.write(line)
            assert stream.readline() == b""
        with linked(path) as stream:
            assert heard(stream) == Hello(-1)
        assert process.poll() is None


@pytest.mark.parametrize("arguments", [[], ["five"], ["1", "2"]])
def test_a_worker_without_domain_says_how_it_is_started(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "xen_dmabuf.worker", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        check=False,
    )
    assert done.returncode != 0 and "started by systemd only" in done.stderr


def test_a_worker_without_its_socket_says_what_to_start():
    done = subprocess.run(
        [sys.executable, "-m", "xen_dmabuf.worker", "5"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        check=False,
    )
    assert done.returncode == 2 and "xen-dmabuf-worker@DOMID.socket" in done.stderr


def test_watchdog_is_fed(tmp_path):
    """By the loop: one that stands still feeds nothing."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(address)
        notify.settimeout(60)
        with worker_process(tmp_path, NOTIFY_SOCKET=address, WATCHDOG_USEC="300000"):
            words = [notify.recv(100).decode() for _ in range(5)]
    assert "READY=1" in words and words.count("WATCHDOG=1") >= 3


# -- one supervisor at a time


def test_a_second_supervisor_is_refused_by_name(tmp_path):
    path = str(tmp_path / "folder/control.sock")
    mask = os.umask(0o077)
    try:
        with Instance(path), pytest.raises(UserError, match=f"process {os.getpid()}"), Instance(path):
            pytest.fail("two supervisors")
        with Instance(path):
            pass
    finally:
        os.umask(mask)


def test_a_lock_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="set control_socket"), Instance(str(tmp_path / "file/control.sock")):
        pass


def test_the_lock_ends_with_its_process(tmp_path):
    path = str(tmp_path / "control.sock")
    child = os.fork()
    if child == 0:
        with Instance(path):
            (tmp_path / "held").touch()
            time.sleep(600)
    wait_until((tmp_path / "held").exists, "the other's lock")
    with pytest.raises(UserError, match=f"process {child}"), Instance(path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with Instance(path):
        pass


# -- what a worker may start


def in_a_process(code: str, *arguments: str) -> str:
    """What fresh Python prints."""
    script = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from xen_dmabuf.linux import process; {code}"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize(
    "start",
    [
        "os.fork()",
        "os.execv(sys.executable, ['python'])",
        "os.posix_spawn(sys.executable, ['python'], {})",
        "subprocess.run([sys.executable])",
        "os.execve(os.open(sys.executable, os.O_RDONLY), ['python'], {})",
    ],
)
def test_no_process_and_no_program_is_started(start):
    code = (
        f"import os, subprocess; process.forbid_processes()\ntry: {start}\nexcept OSError as error: print(error.errno)"
    )
    assert in_a_process(code) == str(errno.EPERM)


def test_threads_and_mesa_go_on_without_processes():
    """Threads that were started before are free, so this comes first in a worker."""
    code = """
process.forbid_processes()
import concurrent.futures, ctypes, ctypes.util, os
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(sum(pool.map(lambda number: number, range(5))), pool.submit(os.cpu_count).result() > 0)
def forked():
    try: os.fork()
    except OSError as error: return error.errno
with concurrent.futures.ThreadPoolExecutor(1) as pool:
    print(pool.submit(forked).result())
try: ctypes.CDLL("libgbm.so.1")
except OSError as error: print(0 if "cannot open shared object" in str(error) else error)
else: print(0)
"""
    assert in_a_process(code).split() == ["10", "True", str(errno.EPERM), "0"]


def test_a_worker_starts_threads_only(tmp_path):
    with worker_process(tmp_path) as (process, path), linked(path) as stream:
        heard(stream)
        status = Path(f"/proc/{process.pid}/status").read_text()
    own = Path("/proc/self/status").read_text()
    before, after = (int(text.partition("Seccomp_filters:")[2].split()[0]) for text in (own, status))
    assert after == before + 1
    assert "Seccomp:\t2" in status


def test_a_kernel_without_filters_is_told_and_the_worker_goes_on(monkeypatch, caplog):
    def missing() -> None:
        raise OSError(errno.EINVAL, "Invalid argument", "prctl")

    monkeypatch.setattr(process, "forbid_inspection", lambda: None)
    monkeypatch.setattr(process, "forbid_processes", missing)
    served.confine(5)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "lets a worker start processes" in record.message


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_knows_its_machine(machine):
    """Run by hand: what the kernel of either machine would answer."""
    numbers = {"x86_64": {"fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "clone": 56, "read": 0}}
    numbers["aarch64"] = {"execve": 221, "execveat": 281, "clone": 220, "read": 63}
    audit = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    code = process._filter(process._MACHINES[machine])
    refused, unknown, allowed = (0x50000 | errno.EPERM), (0x50000 | errno.ENOSYS), 0x7FFF0000

    def answer(number: int, flags: int = 0, arch: int = audit) -> int:
        data = struct.pack("<iIQ6Q", number, arch, 0, flags, *[0] * 5)
        place = value = 0
        while True:
            operation, yes, no, constant = struct.unpack_from("<HBBI", code, place * 8)
            place += 1
            if operation == 0x06:
                return constant
            if operation == 0x20:
                (value,) = struct.unpack_from("<I", data, constant)
                continue
            test = {0x15: value == constant, 0x35: value >= constant, 0x45: value & constant}[operation]
            place += yes if test else no

    own = numbers[machine]
    assert {name: answer(number) for name, number in own.items() if name != "read"} == dict.fromkeys(
        own.keys() - {"read"}, refused
    )
    assert answer(own["clone"], 0x3D0F00) == allowed == answer(own["read"])
    assert answer(435) == unknown
    assert answer(own["read"], arch=0x40000003) == refused, "another architecture's calls"
    assert answer(own["read"] | 0x40000000) == refused, "x32"


# -- the journal


class Journald:
    """Its end of the socket."""

    def __init__(self, path, monkeypatch) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        monkeypatch.setattr(log, "_SOCKET", str(path))

    def read(self) -> list[dict[str, str]]:
        """The fields of all that it was sent."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._fields(self.socket.recv(1 << 16)))
        return found

    @staticmethod
    def _fields(data: bytes) -> dict[str, str]:
        fields = {}
        while data:
            name, _line, data = data.partition(b"\n")
            end = 8 + int.from_bytes(data[:8], "little")
            fields[name.decode()] = data[8:end].decode()
            assert data[end : end + 1] == b"\n"
            data = data[end + 1 :]
        return fields


@pytest.fixture
def journald(tmp_path, monkeypatch):
    served = Journald(tmp_path / "journal", monkeypatch)
    yield served
    served.socket.close()


@pytest.fixture
def logger():
    """Its only handler is the journal's."""
    logger = logging.getLogger("xen_dmabuf.test")
    handler = log._Journal()
    logger.addHandler(handler)
    logger.propagate = False
    yield logger
    logger.propagate = True
    logger.removeHandler(handler)
    handler.close()


def test_lines_reach_the_journal_with_their_fields(journald, logger):
    logger.warning("device refused", extra=log.fields(domain="d u", domid=3, reason="no\x1b\ud800\n<0>"))
    (sent,) = journald.read()
    assert sent["MESSAGE"].startswith('xen_dmabuf.test: device refused domain="d u" domid=3 reason="no\\u001b')
    assert sent["PRIORITY"] == "4" and sent["XEN_DMABUF_DOMAIN"] == "d u" and sent["XEN_DMABUF_DOMID"] == "3"
    assert sent["XEN_DMABUF_REASON"] == "no\x1b\\ud800\n<0>"


def test_a_journal_that_is_gone_loses_no_line(journald, logger, capsys):
    journald.socket.close()
    logger.error("a line")
    assert "a line" in capsys.readouterr().err


def test_nobody_who_logs_hears_that_nobody_listens(journald, logger, monkeypatch):
    """journald is stopped, and stderr was its stream."""
    journald.socket.close()
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        logger.error("a line")
        monkeypatch.undo()
        with contextlib.suppress(BrokenPipeError):
            stderr.close()


def test_a_journald_that_stands_still_stops_nobody_and_hears_what_it_missed(journald, logger):
    for number in range(10_000):
        logger.warning("line %d", number, extra=log.fields(reason="x" * 100))
        if logger.handlers[0]._lost == 3:
            break
    assert logger.handlers[0]._lost == 3, "its queue has an end"
    taken = len(journald.read())
    logger.warning("it goes on")
    told, last = journald.read()
    assert taken + 3 == number + 1
    assert told["MESSAGE"] == "xen_dmabuf.log: 3 lines lost: journald took none" and told["PRIORITY"] == "4"
    assert last["MESSAGE"] == "xen_dmabuf.test: it goes on"


def test_the_journal_is_used_if_stderr_leads_there(journald, monkeypatch):
    """Once as systemd starts a unit, and once with stderr somewhere else."""
    script = (
        "import logging, sys; sys.path.insert(0, sys.argv[1]); from xen_dmabuf import log; "
        "log._SOCKET = sys.argv[2]; log.setup('info'); logging.warning('said'); "
        "import os; print(os.get_blocking(2))"
    )
    sources = str(Path(log.__file__).parent.parent)
    for named, journal in ((True, True), (False, False)):
        reading, writing = os.pipe()
        status = os.fstat(writing)
        stream = f"{status.st_dev}:{status.st_ino if named else 1}"
        done = subprocess.run(
            [sys.executable, "-c", script, sources, log._SOCKET],
            env=os.environ | {"JOURNAL_STREAM": stream},
            stdout=subprocess.PIPE,
            stderr=writing,
            check=True,
            text=True,
        )
        os.close(writing)
        with os.fdopen(reading) as stderr:
            assert stderr.read() == ("" if journal else "<4>root: said\n")
        assert [sent["MESSAGE"] for sent in journald.read()] == ["root: said"] * journal
        assert done.stdout.strip() == str(not journal)
