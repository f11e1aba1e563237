# SPDX-License-Identifier: MIT
"""A bad backend: `python3 xen_dmabuf_liar.py HOW DOMID` in place of `python3 -m xen_dmabuf.worker DOMID`.

Everything is the worker's own but some answers, each of which it tells its log:

refuses  no request succeeds: each is answered by another error, or by what is no error at all
flips    the same for SET_CONFIG and PG_FLIP only
sleeps   every answer comes when the frontend waits no longer
garbles  an EDID is not the size that it is said to have, or not an EDID
dies     of the state that another worker left; without one it is honest
"""

import asyncio
import itertools
import os
import random
import runpy
import signal
import sys

from xen_dmabuf.displif import edid, wire
from xen_dmabuf.worker import worker
from xen_dmabuf.worker.connector import Connector

WAITS = 3  # seconds, of a frontend
STATUSES = itertools.cycle((-5, -11, -4095, -4096, -5000, -(1 << 31), 1, (1 << 31) - 1))
# a frontend doesn't ask again after one of these
BAD_SIZES = (0, 1, 127, 129, 4097, 1 << 31, (1 << 32) - 1)
SIZES = itertools.cycle(size for bad in BAD_SIZES for size in (128, 128, 128, 128, 128, 128, 4096, bad))
CHANCE = random.Random(1)

how, domid = sys.argv[1:]
honest, build_edid = Connector._answer, edid.build_edid


def say(what: str) -> None:
    print(f"liar: {how} {what}", file=sys.stderr, flush=True)


async def refuse(self: Connector, request: wire.Request) -> tuple[int, int]:
    if how == "flips" and request.operation not in (wire.OP_SET_CONFIG, wire.OP_PG_FLIP):
        return await honest(self, request)
    status = next(STATUSES)
    say(f"operation {request.operation}: {status}")
    return status, 0


async def sleep(self: Connector, request: wire.Request) -> tuple[int, int]:
    done = await honest(self, request)
    await asyncio.sleep(WAITS + 0.5)
    say(f"operation {request.operation}: after {WAITS} s")
    return done


async def garble(self: Connector, request: wire.Request) -> tuple[int, int]:
    status, size = await honest(self, request)
    if request.operation == wire.OP_GET_EDID:
        size = next(SIZES)
        say(f"edid_sz {size}")
    return status, size


def mutate(width: int, height: int, name: str) -> bytes:
    """Bytes of an EDID changed; most have a good sum again, else nobody reads on."""
    block = bytearray(build_edid(width, height, name))
    for _ in range(CHANCE.choice((1, 4, 128))):
        block[CHANCE.randrange(len(block))] = CHANCE.choice((0, 1, 0xFF, CHANCE.randrange(256)))
    if CHANCE.random() < 0.8:
        block[:8] = b"\x00\xff\xff\xff\xff\xff\xff\x00"
        block[-1] = -sum(block[:-1]) % 256
    return bytes(block)


def die(_data: bytes, _domid: int) -> None:
    say("now")
    os.kill(os.getpid(), signal.SIGKILL)


answers = {"refuses": refuse, "flips": refuse, "sleeps": sleep, "garbles": garble, "dies": honest}
lies: dict[str, object] = {"_answer": answers[how]}
if how == "dies":
    worker.__dict__["read"] = die
elif how == "garbles":
    edid.build_edid = mutate
else:  # no flip is served without _answer()
    lies |= {"_serve_flip": lambda _self: False, "_lend": lambda _self: None}
for name, lie in lies.items():
    setattr(Connector, name, lie)
sys.argv = ["xen_dmabuf.worker", domid]
runpy.run_module("xen_dmabuf.worker", run_name="__main__")
