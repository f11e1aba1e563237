# SPDX-License-Identifier: MIT
"""What all targets share: sessions by seed, virtual time, faults, and what must never be seen in a log."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import random
import signal
import traceback
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from xen_dmabuf import log as logs
from xen_dmabuf.pump import loop as pump_loop

MOST_SECONDS = 60
"""Of processor time, for one session: they take milliseconds. Who is stopped or starved is not at fault."""
MOST_TURNS = 20_000
"""Of an event loop without a pause."""
_WEEK = 7 * 24 * 3600.0


class Wrong(AssertionError):
    """The code under test did what it must not."""


class Failure(Exception):
    """A session failed; the message has the target, the seed, and how to repeat it."""


def check(condition: object, what: str, *details: object) -> None:
    """``details`` are shown after ``what`` if ``condition`` doesn't hold."""
    if not condition:
        raise Wrong(": ".join((what, *map(repr, details))))


class Target:
    """``session(chance)`` gives the code some inputs and returns their number. It may keep nothing for the
    next one: each must be the same whether others came before it or not."""

    name = ""
    report: Callable[[int], None] = staticmethod(lambda _seed: None)
    """Told the seed of each session before it begins: who watches knows it even if the process dies."""

    def session(self, chance: random.Random) -> int:
        raise NotImplementedError

    def run(self, seed: int, inputs: int) -> int:
        """Sessions of ``seed``, ``seed`` + 1 ... until ``inputs`` were given; their number. Failure."""
        done = 0
        with _alarm():
            while done < inputs:
                self.report(seed)
                signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
                try:
                    done += self.session(random.Random(seed))
                except Exception as error:
                    raise Failure(failed(self.name, seed, error)) from error
                seed += 1
        return done


def failed(name: str, seed: int, error: BaseException | str) -> str:
    """The message of a failure."""
    text = error if isinstance(error, str) else "".join(traceback.format_exception(error)).rstrip()
    return f"target {name}, seed {seed}: {text}\nrepeat it: make fuzz TARGET={name} SEED={seed} N=1"


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def ring(_number: int, _frame: object) -> None:
        raise Wrong(f"a session takes longer than {MOST_SECONDS} s")

    old = signal.signal(signal.SIGPROF, ring)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


# -- virtual time


class _Selector(pump_loop.Selector):
    """Where an event loop would sleep, the clock jumps: all that could wake it is in this process."""

    now = 0.0
    turns = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        calls = self.calls
        ready = super().select(0)
        timeout = self._sooner(timeout)
        self.turns += 1
        check(self.turns < MOST_TURNS, "busy without end: time stands still")
        if ready or self.calls != calls:
            return ready
        if timeout is None:
            raise Wrong("all wait for each other: nothing is ready and no timer runs")
        if timeout > 0:
            self.now += timeout
            self.turns = 0
        return ready

    def _sooner(self, timeout: float | None) -> float | None:
        return timeout


class _PumpSelector(_Selector, pump_loop.Pump):
    """C has the same clock, and may wait for less."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = pump_loop.ffi.callback("double(void)", lambda: self.now)
        self.state.clock = self._clock

    def _sooner(self, timeout: float | None) -> float | None:
        patience = pump_loop.lib.pump_patience(self.state) if self.state.lent else _WEEK
        return min(patience, _WEEK if timeout is None else timeout) if patience < _WEEK else timeout


class Loop(pump_loop.Loop):
    """Knows every task that was made and every exception that nobody caught."""

    def __init__(self, compiled: bool) -> None:
        """``compiled``: C may serve flips."""
        self._clock = _PumpSelector() if compiled else _Selector()
        super().__init__(self._clock)
        self.tasks: list[asyncio.Task[Any]] = []
        self.uncaught: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _loop, context: self.uncaught.append(context))
        self.set_task_factory(self._new_task)

    def time(self) -> float:
        return self._clock.now

    def _new_task(self, loop: Loop, coroutine: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=loop, **options)
        self.tasks.append(task)
        return task


def run(main: Coroutine[Any, Any, Any], compiled: bool = False) -> Any:
    """As asyncio.run(), in virtual time. Wrong if a task is left or anything raised where nobody looks."""
    loop = Loop(compiled)
    asyncio.set_event_loop(loop)
    try:
        result = loop.run_until_complete(main)
        left = [task for task in loop.tasks if not task.done()]
        check(not left, "tasks are left", left)
        for task in loop.tasks:
            if task._log_traceback:  # nobody has asked for its exception
                raise task.exception()  # type: ignore[misc]
        for context in loop.uncaught:
            raise Wrong(f"uncaught: {context['message']}") from context.get("exception")
        return result
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def settle(condition: Callable[[], bool], what: str, seconds: float = 300.0) -> None:
    """Let virtual time go on until ``condition`` holds; Wrong after ``seconds`` of it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    pause = 0.0
    while not condition():
        check(loop.time() < end, "timed out", what)
        await asyncio.sleep(pause)
        pause = min(pause * 1.5 + 0.0005, 1.0)


# -- faults


class Faults:
    """While ``rate`` isn't 0, so many of the calls of what wrap() made fail, with one of ``codes``."""

    def __init__(self, chance: random.Random, codes: tuple[int, ...]) -> None:
        self._chance = chance
        self._codes = codes
        self.rate = 0.0
        self.raised = 0

    def strike(self, path: str) -> None:
        """OSError, or not."""
        if self.rate and self._chance.random() < self.rate:
            self.raised += 1
            code = self._chance.choice(self._codes)
            raise OSError(code, os.strerror(code), path)

    def wrap(self, function: Callable[..., Any], path: str) -> Callable[..., Any]:
        @functools.wraps(function, updated=())
        def called(*arguments: Any, **options: Any) -> Any:
            self.strike(path)
            return function(*arguments, **options)

        return called


# -- logs


class _Strict(logging.Handler):
    """Formats every line as the journal gets it; what may never be in one is kept in ``wrong``."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.setFormatter(logs._Formatter(journal=True))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            if record.exc_info or "internal error" in text:
                self.wrong.append(text)
            elif not text.isprintable():
                self.wrong.append(f"no plain line: {text!r}")
        except Exception as error:
            self.wrong.append(f"can't be logged: {record.msg}: {error!r}")


@contextlib.contextmanager
def strict_log() -> Iterator[None]:
    """Wrong if an exception was logged, or a line that isn't one line of printable text."""
    logger, handler = logging.getLogger("xen_dmabuf"), _Strict()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
    if handler.wrong:
        raise Wrong(handler.wrong[0])


@contextlib.contextmanager
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def open_files() -> int:
    """The descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


# -- plain values


def number(chance: random.Random, bits: int) -> int:
    """An unsigned number: often small, or next to a power of two."""
    kind = chance.random()
    if kind < 0.5:
        return chance.randrange(9)
    if kind < 0.8:
        return max(0, (1 << chance.randrange(bits + 1)) + chance.randrange(-2, 2)) & ((1 << bits) - 1)
    return chance.getrandbits(bits)


def garble(chance: random.Random, data: bytes) -> bytes:
    """Some bits flipped, bytes replaced, a piece removed, doubled, or the end cut off."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        if not changed:
            return bytes(chance.randbytes(chance.randrange(64)))
        place, kind = chance.randrange(len(changed)), chance.randrange(6)
        if kind == 0:
            changed[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[place] = chance.choice(b'\0\n\r\t "\\{}[],:0123456789-+.eE\x7f\x80\xff')
        elif kind == 2:
            del changed[place : place + chance.randrange(1, 16)]
        elif kind == 3:
            changed[place:place] = changed[place : place + chance.randrange(1, 32)]
        elif kind == 4:
            del changed[place:]
        else:
            changed[place : place + 8] = chance.randbytes(8)
    return bytes(changed)
