# SPDX-License-Identifier: MIT
"""Measures one row, in Dom0: starts DomUs that flip, looks at the processes' CPU clocks before and after.

    python3 in_dom0.py '{"domus": 1, ...}'

It needs Python's library only, root, and nobody else's DomUs. The argument is :class:`Order`, the last line that
it prints is :class:`Seen`, both as JSON. Between the two marks nothing of it runs: DomUs are told how many flips
to make, and say when they are done.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import tty
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

CONTROL = "/run/xen-dmabuf/control.sock"
COMPOSITOR = "/run/wayland-0"
SERVICE, WORKER = "xen-dmabuf-backend", "xen-dmabuf-worker@{domid}"
MEMCPY_ROUNDS = 5
CONNECT_SECONDS = 120
SECONDS_A_FLIP = 5
SETTLE_SECONDS = 3
IDLE_SPANS = 3
"""The watchdog's feed and the look at the supervisor's loop come every 20 s, so a span of 5 s is without either."""
GROUPS = ("worker", "weston", "supervisor", "kernel", "other")
"""Who a process belongs to: the DomUs' workers, Weston, the service, kernel threads, all others but this one."""


@dataclass(frozen=True)
class Order:
    """What to measure. Times in seconds, ``period`` in microseconds, 0: flat out."""

    domus: int
    connectors: int
    width: int
    height: int
    period: int
    flips: int
    """By each screen."""
    warm_up: int
    idle: float
    kernel: str
    ramdisk: str
    memory: int
    """MiB of each DomU."""
    cpus: str
    """Xen's CPUs that the DomUs may use, "" for all."""
    local: str
    """Command line of the local client, "": none."""
    strace: str
    """Path of strace, "": none."""


@dataclass
class Span:
    """What passed between two marks: nanoseconds of CPU and voluntary context switches, by group."""

    cpu: dict[str, int]
    wakeups: dict[str, int]
    domains: dict[str, int]
    """Nanoseconds of CPU by Xen's account: of "Dom0", and of "DomUs"."""
    passed: int


@dataclass
class Seen:
    """What was measured. Times in nanoseconds."""

    flips: int
    shown: int
    not_shown: int
    flipping: Span
    idle: Span
    """The quietest of IDLE_SPANS while the last picture is held."""
    clients: list[list[int]]
    """Of each DomU: flips, time, and of the latency mean, median, 95th percentile, maximum."""
    local: list[int]
    """The same of the local client; empty: not run."""
    pss: dict[str, int]
    """KiB by group."""
    system_calls: float
    """Of the worker, a flip; -1: not counted."""
    copied: int
    """Bytes of pixels that the backend copied."""
    strategies: list[str]
    start: dict[str, int] = field(default_factory=dict)
    """CPU of a process since it was forked: of the supervisor until it is ready, of a worker until its DomU has its
    screens ("worker") and until its first flip is answered ("flip"), of several workers the mean."""
    memcpy: int = 0
    """CPU of the C library for copying a picture of the row's size in Dom0."""
    failures: list[str] = field(default_factory=list)


class MeasureError(Exception):
    """What can't be measured, and why."""


def status() -> dict[str, Any]:
    """The backend's state."""
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(CONTROL)
        control.sendall(b"status\n")
        answer: dict[str, Any] = json.loads(control.makefile("rb").readline())
    return answer


class DomU:
    """A DomU of clients/flip, by its console."""

    def __init__(self, name: str, order: Order) -> None:
        self.name = name
        settings = {
            "name": f'"{name}"',
            "kernel": f'"{order.kernel}"',
            "ramdisk": f'"{order.ramdisk}"',
            "memory": str(order.memory),
            "vcpus": "1",
            "extra": '"console=hvc0 quiet loglevel=1 panic=-1 mitigations=off"',
            "vdispl": '["backend=Domain-0,be-alloc=0,connectors='
            + ";".join(f"id{n}:{order.width}x{order.height}" for n in range(order.connectors))
            + '"]',
            **({"cpus": f'"{order.cpus}"'} if order.cpus else {}),
        }
        _run("xl", "create", "/dev/null", *[f"{key}={value}" for key, value in settings.items()])
        self.domid = int(_run("xl", "domid", name))
        self._console = os.open(self._tty(), os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._console)
        self._heard = b""

    def _tty(self) -> str:
        path = f"/local/domain/{self.domid}/console/tty"
        end = time.monotonic() + CONNECT_SECONDS
        while time.monotonic() < end:
            done = subprocess.run(["xenstore-read", path], capture_output=True, text=True, check=False)
            if done.stdout.strip():
                return done.stdout.strip()
            time.sleep(0.1)
        raise MeasureError(f"{self.name}: no console")

    def say(self, command: str) -> None:
        """Give a command."""
        os.write(self._console, command.encode() + b"\n")

    def hear(self, word: str, seconds: float) -> list[int]:
        """Wait for the line with that word; its numbers."""
        end = time.monotonic() + seconds
        while True:
            *lines, self._heard = self._heard.split(b"\n")
            for number, line in enumerate(lines):
                found = re.match(rb"flip: (\w+)(.*)", line.strip())
                if found and found[1] == b"failed":
                    raise MeasureError(f"{self.name}: {line.decode(errors='replace')}")
                if found and found[1].decode() == word:
                    self._heard = b"\n".join([*lines[number + 1 :], self._heard])
                    return [int(value) for value in found[2].split()]
            if not select.select([self._console], [], [], max(0, end - time.monotonic()))[0]:
                raise MeasureError(f"{self.name}: no word {word!r} within {seconds:.0f} s, but {self._heard[-200:]!r}")
            self._heard += os.read(self._console, 4096)

    def close(self) -> None:
        """Destroy it."""
        os.close(self._console)
        subprocess.run(["xl", "destroy", self.name], capture_output=True, check=False)


def _run(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise MeasureError(f"{' '.join(command)}: {done.stdout}")
    return done.stdout.strip()


def _main_pid(unit: str) -> int:
    return int(_run("systemctl", "show", "-P", "MainPID", unit))


def _parent(pid: int) -> int:
    # the command may have brackets and spaces in it
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def groups(state: dict[str, Any]) -> dict[str, list[int]]:
    """Process numbers by group."""
    known = {entry["pid"]: "worker" for entry in state["domains"]}
    known |= {_main_pid(SERVICE): "supervisor", _main_pid("weston"): "weston"}
    found: dict[str, list[int]] = {group: [] for group in GROUPS}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            found[known.get(int(entry), "kernel" if _parent(int(entry)) == 2 else "other")].append(int(entry))
    return found


def _cpu(pid: int) -> int:
    """Nanoseconds of CPU of all threads of a process."""
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)  # Linux's CPUCLOCK_SCHED of a process
    except OSError:
        return 0  # it has ended


def _wakeups(pid: int) -> int:
    """Voluntary context switches of all threads of a process. MeasureError if it has ended."""
    switches = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", (task / "status").read_text(), re.M)
            switches += int(found[1]) if found else 0
    except OSError as error:
        raise MeasureError(f"process {pid} ended while it was measured") from error
    return switches


def _domains() -> dict[str, int]:
    try:
        from xen.lowlevel.xc import xc
    except ImportError:
        return {}
    times = {"Dom0": 0, "DomUs": 0}
    for domain in xc().domain_getinfo():
        times["DomUs" if domain["domid"] else "Dom0"] += domain["cpu_time"]
    return times


class Mark:
    """A point in time: what the clocks of all processes show."""

    def __init__(self, processes: dict[str, list[int]]) -> None:
        self._processes = processes
        # how often kernel threads and others sleep, nobody asks
        self._wakeups = {pid: _wakeups(pid) for group in ("worker", "weston", "supervisor") for pid in processes[group]}
        self._domains = _domains()
        self._time = time.monotonic_ns()
        self._cpu = {pid: _cpu(pid) for group in GROUPS for pid in processes[group]}

    def until(self, end: Mark) -> Span:
        """What passed from this mark to a later one of the same processes."""

        def sums(a: dict[int, int], b: dict[int, int]) -> dict[str, int]:
            return {
                group: sum(max(0, b[pid] - a[pid]) for pid in pids if pid in a)
                for group, pids in self._processes.items()
                if any(pid in a for pid in pids)
            }

        return Span(
            sums(self._cpu, end._cpu),
            sums(self._wakeups, end._wakeups),
            {name: end._domains[name] - before for name, before in self._domains.items()},
            end._time - self._time,
        )


def _counts(state: dict[str, Any]) -> dict[str, int]:
    counts = dict.fromkeys(("flips_shown", "flips_not_shown", "pixel_bytes_copied"), 0)
    for domain in state["domains"]:
        counts["pixel_bytes_copied"] += domain["pixel_bytes_copied"]
        for device in domain["devices"]:
            for connector in device.get("connectors", []):
                counts["flips_shown"] += connector["flips_shown"]
                counts["flips_not_shown"] += connector["flips_not_shown"]
    return counts


def _strategies(state: dict[str, Any]) -> list[str]:
    return sorted(
        {
            f"{buffer['strategy']} {buffer['allocator']}".strip()
            for domain in state["domains"]
            for device in domain["devices"]
            for buffer in device.get("buffers", [])
        }
    )


def _pss(processes: dict[str, list[int]]) -> dict[str, int]:
    sizes = {}
    for group in ("worker", "weston", "supervisor"):
        sizes[group] = 0
        for pid in processes[group]:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
            found = re.search(r"^Pss:\s+(\d+) kB", text, re.M)
            sizes[group] += int(found[1]) if found else 0
    return sizes


def _flip(domus: list[DomU], order: Order, flips: int) -> list[list[int]]:
    """Have all DomUs make so many flips on each screen at the same time."""
    for domu in domus:
        domu.say(f"flip {flips} {order.period}")
    seconds = CONNECT_SECONDS + flips * (SECONDS_A_FLIP * len(domus) * order.connectors + order.period / 1e6)
    return [domu.hear("done", seconds) for domu in domus]


def _local(command: str) -> list[int]:
    if not command:
        return []
    output = _run(*command.split())
    found = re.match(r"local: done (.*)", output)
    if not found:
        raise MeasureError(f"{command}: {output}")
    return [int(value) for value in found[1].split()]


def _memcpy(size: int) -> int:
    """Nanoseconds of CPU that the C library takes to copy so many bytes between pages that are there already."""
    source, target = ((ctypes.c_char * size).from_buffer(mmap.mmap(-1, size)) for _ in range(2))
    ctypes.memset(source, 1, size)  # pages that nobody has written are all the same one
    ctypes.memmove(target, source, size)
    start = _cpu(os.getpid())
    for _ in range(MEMCPY_ROUNDS):
        ctypes.memmove(target, source, size)
    return (_cpu(os.getpid()) - start) // MEMCPY_ROUNDS


def _start_supervisor() -> int:
    """CPU that it takes until systemd holds it for started."""
    _run("systemctl", "restart", SERVICE)
    return _cpu(_main_pid(SERVICE))


def _started(workers: list[int]) -> int:
    """CPU that each of these processes has had up to now, the mean."""
    return sum(_cpu(worker) for worker in workers) // len(workers)


def _system_calls(domus: list[DomU], order: Order, worker: int) -> float:
    """How many the worker makes a flip, by strace, which makes each of them slow."""
    if not order.strace:
        return -1
    counted = Path("/run/flip-bench/counted")
    tracer = subprocess.Popen([order.strace, "-c", "-f", "-qq", "-o", str(counted), "-p", str(worker)])
    tracing = Path(f"/proc/{worker}/status")
    end = time.monotonic() + CONNECT_SECONDS
    while f"TracerPid:\t{tracer.pid}" not in tracing.read_text(encoding="utf-8"):
        if tracer.poll() is not None or time.monotonic() > end:
            raise MeasureError("strace does not attach to the worker")
        time.sleep(0.1)
    try:
        flips = sum(client[0] for client in _flip(domus, order, order.warm_up))
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
    found = re.search(r"^100\.00\s+\S+\s+(?:\S+\s+)?(\d+)\s+(?:\d+\s+)?total", counted.read_text(), re.M)
    if not found:
        raise MeasureError(f"strace counted nothing: {counted.read_text()[-300:]}")
    return int(found[1]) / flips


def _begin(order: Order, domus: list[DomU]) -> dict[str, int]:
    """Wait for the DomUs' screens and first flips: what the workers' starts cost."""
    for domu in domus:
        screens = domu.hear("ready", CONNECT_SECONDS)
        if screens != [order.connectors]:
            raise MeasureError(f"{domu.name}: {screens} screens, {order.connectors} were asked for")
    workers = [_main_pid(WORKER.format(domid=domu.domid)) for domu in domus]
    connected = _started(workers)
    _flip(domus, order, 1)
    return {"worker": connected, "flip": _started(workers)}


def _idle(processes: dict[str, list[int]], seconds: float) -> Span:
    mark = Mark(processes)
    time.sleep(seconds)
    return mark.until(Mark(processes))


def quietest(spans: list[Span]) -> Span:
    """The one with the fewest wakeups: what comes back within seconds is in each of them, systemd's watchdog isn't."""
    return min(spans, key=lambda span: sum(span.wakeups.values()))


def _measure(order: Order, domus: list[DomU]) -> Seen:
    start = _begin(order, domus)
    _flip(domus, order, order.warm_up)
    state = status()
    before, processes = _counts(state), groups(state)
    mark = Mark(processes)
    clients = _flip(domus, order, order.flips)
    span = mark.until(Mark(processes))
    state = status()
    after = _counts(state)
    time.sleep(SETTLE_SECONDS)
    idle = quietest([_idle(processes, order.idle) for _ in range(IDLE_SPANS)])
    return Seen(
        flips=sum(client[0] for client in clients),
        shown=after["flips_shown"] - before["flips_shown"],
        not_shown=after["flips_not_shown"] - before["flips_not_shown"],
        flipping=span,
        idle=idle,
        clients=clients,
        local=[],
        pss=_pss(processes),
        system_calls=_system_calls(domus, order, processes["worker"][0]),
        copied=after["pixel_bytes_copied"] - before["pixel_bytes_copied"],
        strategies=_strategies(state),
        start=start,
    )


def measure(order: Order) -> Seen:
    """Start the DomUs, measure, destroy them. Raises MeasureError."""
    local = _local(order.local)
    memcpy = _memcpy(order.width * order.height * 4)
    supervisor = _start_supervisor()
    domus: list[DomU] = []
    try:
        for number in range(order.domus):
            domus.append(DomU(f"flip{number}", order))
        seen = _measure(order, domus)
    finally:
        for domu in domus:
            domu.close()
    return replace(seen, local=local, memcpy=memcpy, start={"supervisor": supervisor} | seen.start)


def main() -> int:
    """One row; status 1 and a sentence if it can't be measured."""
    try:
        seen = measure(Order(**json.loads(sys.argv[1])))
    except MeasureError as error:
        print(f"flip-bench: {error}")
        return 1
    print(json.dumps(asdict(seen)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
