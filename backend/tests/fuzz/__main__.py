# SPDX-License-Identifier: MIT
"""`make fuzz [N=inputs] [SEED=number] [TARGET=name]`: hostile inputs for the backend, by seed."""

from __future__ import annotations

import argparse
import concurrent.futures
import ctypes
import functools
import multiprocessing
import os
import random
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import SimpleQueue

from xen_dmabuf.pump import lib

from .base import Failure, Target, failed
from .compositor import Hostile
from .keys import Keys
from .pump import Pump
from .requests import Requests
from .words import Words
from .xenstore import Xenstore

_KINDS = (Requests, Words, Xenstore, Hostile, Keys, *([] if lib is None else [Pump]))  # C may not be built
TARGETS: dict[str, type[Target]] = {kind.name: kind for kind in _KINDS}
SHARES = {"requests": 0.45, "words": 0.15, "xenstore": 0.1, "compositor": 0.1, "keys": 0.1, "pump": 0.1}
"""Of the inputs, so that each target has about the same time."""
PIECE = 20_000
"""Inputs that a process does at a time: then there is something to say."""
_session = memoryview(bytearray(16)).cast("Q")
"""Of this process: which target, from 1 (0: none), and the seed."""


def _enter(slots: SimpleQueue[int], sessions: ctypes.Array[ctypes.c_uint64]) -> None:
    """In a new process: from now on its numbers in ``sessions`` say what it is at."""
    global _session
    slot = 2 * slots.get()
    _session = memoryview(sessions).cast("B").cast("Q")[slot : slot + 2]


def _piece(job: tuple[str, int, int]) -> tuple[int, str]:
    """(inputs done, what failed or nothing) of a target's piece."""
    name, seed, inputs = job
    target = TARGETS[name]()
    target.report = functools.partial(_session.__setitem__, 1)  # type: ignore[method-assign]
    _session[0] = 1 + list(TARGETS).index(name)
    try:
        return target.run(seed, inputs), ""
    except Failure as error:
        return 0, str(error)
    finally:
        _session[0] = 0


def _died(sessions: ctypes.Array[ctypes.c_uint64]) -> str:
    """The failure of a process that ended: it was at one of these."""
    names = list(TARGETS)
    pairs = zip(sessions[::2], sessions[1::2], strict=True)
    return "\n".join(failed(names[kind - 1], seed, "a process died, perhaps of this") for kind, seed in pairs if kind)


def jobs(names: list[str], seed: int, inputs: int) -> list[tuple[str, int, int]]:
    """Pieces of all targets; each has seeds of its own, so that a session is done once."""
    total = sum(SHARES[name] for name in names)
    pieces = []
    for name in names:
        left, start = max(1, round(inputs * SHARES[name] / total)), seed
        while left > 0:
            pieces.append((name, start, min(left, PIECE)))
            left -= PIECE
            start += PIECE  # more than the sessions of a piece
    return pieces


def fuzz(names: list[str], seed: int, inputs: int, processes: int) -> tuple[int, list[str]]:
    """Inputs that were given, and the failures; a progress line for each tenth."""
    todo = jobs(names, seed, inputs)
    done, failures, began, said = 0, [], time.monotonic(), 0
    context = multiprocessing.get_context("fork")
    sessions, slots = context.RawArray("Q", 2 * processes), context.SimpleQueue()
    for slot in range(processes):
        slots.put(slot)
    with concurrent.futures.ProcessPoolExecutor(processes, context, _enter, (slots, sessions)) as pool:
        pieces = [pool.submit(_piece, job) for job in todo]
        for number, piece in enumerate(concurrent.futures.as_completed(pieces), 1):
            try:
                count, failure = piece.result()
            except BrokenProcessPool:
                failures.append(_died(sessions))
                print(failures[-1], flush=True)
                break
            done += count
            if failure:
                failures.append(failure)
                print(failure, flush=True)
            if number * 10 // len(todo) > said or number == len(todo):
                said = number * 10 // len(todo)
                rate = done / (time.monotonic() - began)
                print(f"fuzz: {done:,} inputs, {rate:,.0f} a second, {len(failures)} failures", flush=True)
    return done, failures


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, metavar="N", help="in all (default: a million)")
    parser.add_argument("--seed", type=int, default=None, help="of the first session (default: a random one)")
    parser.add_argument("--target", choices=TARGETS, help="only this one (default: all)")
    options = parser.parse_args(arguments)
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    names = [options.target] if options.target else list(TARGETS)
    print(f"fuzz: {', '.join(names)}, {options.inputs:,} inputs, seed {seed}", flush=True)
    _done, failures = fuzz(names, seed, options.inputs, os.cpu_count() or 1)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
