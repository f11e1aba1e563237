# SPDX-License-Identifier: MIT
"""A domain and its worker in a process of their own: it flips until it ends, and says what its devices hear.

    python typed_domain.py SOCKET NAME WIDTH HEIGHT python|compiled

Who serves flips is the last. Lines on stdout: ``ready``, ``key CODE 0|1``, ``at X Y``, and, when stdin
has ended, ``flips N``: of those that were shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

import pytest
from conftest import run_as_a_worker
from fakes import FakeXen
from frontend import Frontend
from hands import Guest
from serving import placed, serving
from waiting import until

from xen_dmabuf.displif import wire
from xen_dmabuf.link.messages import InputConnected
from xen_dmabuf.pump import loop


def _say(*words: object) -> None:
    print(*words, flush=True)


async def _flip(frontend: Frontend) -> None:
    """One after the other, some 20 a second; framebuffer 1 is shown."""
    control, fb = frontend.connectors[0], 2
    while True:
        assert await control.call(wire.OP_PG_FLIP, fb) == 0
        await until(lambda: bool(control.flips_done()), "a flip's event")
        fb = 3 - fb
        await asyncio.sleep(0.03)


async def _listen(guest: Guest) -> None:
    """Say what is new."""
    keys = places = 0
    while True:
        guest.read()
        for code, down in guest.keys[keys:]:
            _say("key", code, int(down))
        for place in guest.places[places:]:
            _say("at", *place)
        keys, places = len(guest.keys), len(guest.places)
        await asyncio.sleep(0.002)


async def _end_of_input() -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, lambda: os.read(0, 1) or ended.set())
    await ended.wait()


async def _run(xen: FakeXen, path: str, name: str, width: int, height: int) -> None:
    async with serving(xen, path, (width, height), name=name) as (worker, frontend):
        guest = Guest(xen, "id0", width=width, height=height)
        await worker.connect_input(0, guest.spec)
        assert worker.messages[-1] == InputConnected(0)
        await frontend.show(1, width, height)
        await frontend.framebuffer(2, width, height)
        connector = worker._devices[0].connectors[0]
        tasks = [asyncio.ensure_future(task) for task in (_listen(guest), _flip(frontend))]
        await until(lambda: placed(connector.window), "the window", 20)
        await until(lambda: worker.status().inputs["0"].events_waiting == 0, "the releases of a start")
        _say("ready")
        ended = asyncio.ensure_future(_end_of_input())
        await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            assert not task.done(), task.exception()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert worker.status().inputs["0"].events_dropped == 0
        _say("flips", connector.status().flips_shown)
        await worker.disconnect_input(0)
        guest.close()


def main(path: str, name: str, width: str, height: str, server: str) -> None:
    """Until the end of stdin."""
    xen = FakeXen()
    with pytest.MonkeyPatch.context() as patch:
        xen.install(patch)
        if server == "compiled":
            xen.install_pump(patch)
        else:
            patch.setattr(loop, "lib", None)
        run_as_a_worker(_run(xen, path, name, int(width), int(height)))
    xen.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
