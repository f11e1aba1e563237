# SPDX-License-Identifier: MIT
"""The event loop of a worker: who watches a file is called from the selector, and nobody else has to wait for it."""

import asyncio
import os
import signal

import pytest

from xen_dmabuf.pump.loop import Loop, Selector, unwatch, watch


class Pipe:
    def __init__(self):
        self.reads, self.writes = os.pipe()

    def close(self):
        os.close(self.reads)
        os.close(self.writes)

    def ring(self):
        os.write(self.writes, b"x")

    def hear(self):
        return os.read(self.reads, 1)


@pytest.fixture
def pipes():
    made = [Pipe(), Pipe()]
    yield made
    for pipe in made:
        pipe.close()


def run(main):
    selector = Selector()
    with asyncio.Runner(loop_factory=lambda: Loop(selector)) as runner:
        runner.run(asyncio.wait_for(main(), 10))
    return selector.calls


def test_a_watched_file_is_served_without_a_turn_of_the_loop(pipes):
    async def main():
        loop, heard = asyncio.get_running_loop(), []
        done = loop.create_future()

        def hear():
            heard.append(pipes[0].hear())
            if len(heard) < 100:
                pipes[0].ring()
            else:
                done.set_result(None)

        watch(loop, pipes[0].reads, hear)
        pipes[0].ring()
        await done
        unwatch(loop, pipes[0].reads)

    assert run(main) == 100


def test_a_timer_comes_although_a_file_is_always_readable(pipes):
    async def main():
        loop = asyncio.get_running_loop()
        watch(loop, pipes[0].reads, lambda: None)
        pipes[0].ring()
        await asyncio.sleep(0.05)
        unwatch(loop, pipes[0].reads)

    assert run(main) > 1


def test_what_a_callback_asks_for_is_done_at_once(pipes):
    """By the loop, whose turn it is then: a future's waiter, and a timer that is earlier than all others."""

    async def main():
        loop, times = asyncio.get_running_loop(), []
        future = loop.create_future()

        def hear():
            pipes[0].hear()
            loop.call_later(0.05, times.append, loop.time())
            if not future.done():
                future.set_result(None)

        watch(loop, pipes[0].reads, hear)
        loop.call_later(0.01, pipes[0].ring)
        await future
        while not times:
            await asyncio.sleep(0.01)
        pipes[0].ring()
        await asyncio.sleep(0)
        while len(times) < 2:
            await asyncio.sleep(0.01)
        unwatch(loop, pipes[0].reads)

    assert run(main) == 2


def test_two_that_are_ready_are_both_served(pipes):
    async def main():
        loop, heard = asyncio.get_running_loop(), set()
        for number, pipe in enumerate(pipes):
            watch(loop, pipe.reads, lambda number=number, pipe=pipe: (pipe.hear(), heard.add(number)))
            pipe.ring()
        while len(heard) < 2:
            await asyncio.sleep(0)
        for pipe in pipes:
            unwatch(loop, pipe.reads)

    assert run(main) == 0


def test_a_callback_that_raises_is_told_and_called_again(pipes):
    async def main():
        loop, told = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _loop, context: told.append(context["exception"]))

        def hear():
            pipes[0].hear()
            if not told:
                pipes[0].ring()
                raise ValueError("no")
            loop.call_soon(told.append, None)

        watch(loop, pipes[0].reads, hear)
        pipes[0].ring()
        while len(told) < 2:
            await asyncio.sleep(0.01)
        assert isinstance(told[0], ValueError)
        unwatch(loop, pipes[0].reads)

    assert run(main) == 2


def test_unwatched_means_that_nobody_is_called(pipes):
    async def main():
        loop = asyncio.get_running_loop()
        watch(loop, pipes[0].reads, lambda: pytest.fail("called"))
        unwatch(loop, pipes[0].reads)
        unwatch(loop, pipes[0].reads)
        pipes[0].ring()
        await asyncio.sleep(0.01)

    assert run(main) == 0


def test_a_signal_is_heard_while_a_file_is_always_readable(pipes):
    async def main():
        loop = asyncio.get_running_loop()
        heard = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, heard.set)
        watch(loop, pipes[0].reads, lambda: None)
        pipes[0].ring()
        loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        await heard.wait()
        loop.remove_signal_handler(signal.SIGUSR1)
        unwatch(loop, pipes[0].reads)

    run(main)
