# SPDX-License-Identifier: MIT
"""What drm_xen_front sends for habits of KMS programs, to a worker with a real Weston.

clients/pattern/habits.c has the same habits as programs; xen_dmabuf_habits runs them in a DomU.
"""

from __future__ import annotations

import asyncio

from serving import placed, serving, status_of
from waiting import until

from xen_dmabuf.displif import wire as OP

OFF = (0, 0, 0, 0, 0, 0)
FULL = (0, 0, 64, 48, 32)


def test_off_while_a_flip_is_open(xen, weston):
    """The DomU's kernel waits for the event before it says so; a frontend that doesn't gets it all the same."""

    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            connector, control = worker._devices[0].connectors[0], frontend.connectors[0]
            await frontend.show(1, 64, 48)
            await frontend.framebuffer(2, 64, 48)
            flip = control.post(OP.OP_PG_FLIP, 2)
            off = control.post(OP.OP_SET_CONFIG, *OFF)
            answers = []
            await until(lambda: (got := control.response()) and answers.append(got[:3]) or len(answers) == 2, "answers")
            assert answers == [(flip, OP.OP_PG_FLIP, 0), (off, OP.OP_SET_CONFIG, 0)]
            await until(lambda: control.flips_done() == [(0, 2)], "the event")
            assert placed(connector.window) is None
            assert await control.call(OP.OP_PG_FLIP, 2) == 0  # DPMS on: plane first, then the pipe
            assert await control.call(OP.OP_SET_CONFIG, 2, *FULL) == 0
            await until(lambda: placed(connector.window), "the picture")
            assert connector.counters.requests_refused == 0

    asyncio.run(run())


def test_one_of_two_connectors_off(xen, weston):
    async def run():
        async with serving(xen, weston.socket, (64, 48), (64, 48)) as (worker, frontend):
            left, right = worker._devices[0].connectors
            await frontend.show(1, 64, 48)
            await frontend.show(2, 64, 48, connector=1)
            await frontend.framebuffer(3, 64, 48)
            assert await frontend.connectors[1].call(OP.OP_SET_CONFIG, *OFF) == 0
            for number, fb in enumerate((3, 1, 3)):
                assert await frontend.connectors[0].call(OP.OP_PG_FLIP, fb) == 0
                await until(lambda n=number: left.counters.flips_shown == n + 1, "a flip beside a dark screen")
            assert placed(right.window) is None and placed(left.window)
            assert await frontend.connectors[1].call(OP.OP_PG_FLIP, 2) == 0
            assert await frontend.connectors[1].call(OP.OP_SET_CONFIG, 2, *FULL) == 0
            await until(lambda: placed(right.window), "the other picture again")

    asyncio.run(run())


def test_64_buffers(xen, weston):
    """The quota's default; the last ones of a program that has ended don't keep the next from having as many."""

    async def run():
        async with serving(xen, weston.socket) as (worker, frontend):
            connector, control = worker._devices[0].connectors[0], frontend.connectors[0]
            shown = 0
            for _program in range(2):
                for cookie in range(1, 65):
                    await frontend.framebuffer(cookie, 64, 48)
                assert await control.call(OP.OP_SET_CONFIG, 1, *FULL) == 0
                for cookie in range(2, 65):
                    assert await control.call(OP.OP_PG_FLIP, cookie) == 0
                    shown += 1
                    await until(lambda n=shown: connector.counters.flips_shown == n, "a flip")
                assert await control.call(OP.OP_SET_CONFIG, *OFF) == 0
                for cookie in range(1, 65):
                    assert await control.call(OP.OP_FB_DETACH, cookie) == 0
                    assert await control.call(OP.OP_DBUF_DESTROY, cookie) == 0
                assert status_of(worker)["buffers"] == []
            assert connector.counters.requests_refused == 0

    asyncio.run(run())
