# SPDX-License-Identifier: MIT
"""A domain and its worker in a process of their own: it flips until it ends, and says what its devices hear.

    python typed_domain.py SOCKET NAME WIDTH HEIGHT python|compiled

Who serves flips is the last. Lines on stdout: ``ready``, ``key CODE 0|1``, ``at X Y``, and, when stdin
has ended, ``flips N``: of those that were shown. A line on stdin makes it bind its driver anew, so its
window goes and comes; then it is ``ready`` again.
"""

from __future__ import annotations

import asyncio
import os
import sys

import pytest
from fakes import FakeXen
from frontend import Frontend
from hands import Guest
from serving import placed, serving
from waiting import run_as_a_worker, until

from xen_dmabuf.displif import wire
from xen_dmabuf.link.messages import InputConnected
from xen_dmabuf.pump import loop
from xen_dmabuf.worker.worker import Worker


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


async def _line() -> bool:
    """Whether one came on stdin; False: it has ended."""
    loop = asyncio.get_running_loop()
    came: asyncio.Future[bool] = loop.create_future()
    loop.add_reader(0, lambda: came.done() or came.set_result(bool(os.read(0, 1))))
    try:
        return await came
    finally:
        loop.remove_reader(0)


async def _show(worker: Worker, frontend: Frontend, width: int, height: int) -> None:
    await frontend.show(1, width, height)
    await frontend.framebuffer(2, width, height)
    connector = worker._devices[0].connectors[0]
    await until(lambda: bool(placed(connector.window)), "the window", 20)
    _say("ready")


async def _flip_until_told(worker: Worker, frontend: Frontend, width: int, height: int) -> bool:
    """False: stdin has ended; True: it wants the window to go and come."""
    await _show(worker, frontend, width, height)
    tasks = [asyncio.ensure_future(task) for task in (_line(), _flip(frontend))]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert tasks[0] in done, tasks[1].exception()
    tasks[1].cancel()
    await asyncio.wait(tasks)
    return tasks[0].result()


async def _run(xen: FakeXen, path: str, name: str, width: int, height: int) -> None:
    async with serving(xen, path, (width, height), name=name) as (worker, frontend):
        guest = Guest(xen, "id0", width=width, height=height)
        await worker.connect_input(0, guest.spec)
        assert worker.messages[-1] == InputConnected(0)
        listening = asyncio.ensure_future(_listen(guest))
        while await _flip_until_told(worker, frontend, width, height):
            await worker.disconnect(0)
            frontend.close()
            frontend = Frontend(xen, (width, height))
            await worker.connect(0, tuple(frontend.specs))
        assert not listening.done(), listening.exception()
        listening.cancel()
        assert worker.status().inputs["0"].events_dropped == 0
        _say("flips", worker._devices[0].connectors[0].status().flips_shown)
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
