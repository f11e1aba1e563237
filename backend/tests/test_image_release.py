# SPDX-License-Identifier: MIT
"""When a compositor has let a buffer go: its word, and then the fences of the dma-buf.

A pipe stands for the dma-buf's file: both are polled for POLLOUT, which is all that is asked of either.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from types import SimpleNamespace

import pytest
from waiting import until

from xen_dmabuf.worker.image import Image


class _Buffer:
    """A wl_buffer without a compositor."""

    def __init__(self) -> None:
        self.dispatcher: dict = {}
        self.destroyed = False

    def destroy(self) -> None:
        self.destroyed = True


@contextlib.contextmanager
def unread():
    """(read end, write end) of a pipe that is full."""
    reading, writing = os.pipe2(os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while os.write(writing, bytes(65536)):
            pass
    yield reading, writing
    os.close(reading)
    os.close(writing)


def shown(fd: int) -> tuple[Image, list[str]]:
    """An image that was committed, and what its picture hears."""
    heard: list[str] = []
    picture = SimpleNamespace(settle=lambda: heard.append("released"))
    image = Image(_Buffer(), 64, 48, fd)
    image.watchers = {0: picture}.values()
    image.users = {1}
    image.busy = True
    return image, heard


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_released_buffer_is_busy_until_its_fences_have_signalled():
    async def run():
        with unread() as (reading, writing):
            before = open_files()
            image, heard = shown(writing)
            image.buffer.dispatcher["release"](image.buffer)
            await asyncio.sleep(0)
            assert image.busy and not heard
            while True:
                try:
                    os.read(reading, 1 << 20)
                except BlockingIOError:
                    break
            await until(lambda: not image.busy, "the fences")
            assert heard == ["released"] and open_files() == before

    asyncio.run(run())


def test_a_buffer_without_fences_is_free_at_its_release():
    async def run():
        reading, writing = os.pipe()
        image, heard = shown(writing)
        image.buffer.dispatcher["release"](image.buffer)
        assert not image.busy and heard == ["released"]
        os.close(reading)
        os.close(writing)

    asyncio.run(run())


def test_a_buffer_that_goes_while_fences_are_waited_for_leaves_nothing():
    async def run():
        with unread() as (_reading, writing):
            before = open_files()
            image, heard = shown(writing)
            image.buffer.dispatcher["release"](image.buffer)
            image.destroy()
            image.destroy()
            assert not image.busy and heard and open_files() == before

    asyncio.run(run())


@pytest.mark.parametrize("step", ["dup", "add_writer"])
def test_without_a_descriptor_the_flip_is_answered(monkeypatch, step):
    """An unanswered flip is an unplugged screen: mainline waits three seconds."""

    def fails(*_arguments):
        raise OSError(errno.EMFILE, "Too many open files")

    async def run():
        with unread() as (_reading, writing):
            before = open_files()
            image, heard = shown(writing)
            monkeypatch.setattr(*((os, "dup") if step == "dup" else (asyncio.get_running_loop(), "add_writer")), fails)
            image.buffer.dispatcher["release"](image.buffer)
            assert not image.busy and heard == ["released"] and open_files() == before

    asyncio.run(run())
