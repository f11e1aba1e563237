# SPDX-License-Identifier: MIT
"""A compositor that is honest but for its linux-dmabuf feedback, which is as a test likes it."""

from __future__ import annotations

import contextlib
import os
import random
import struct
from collections.abc import AsyncIterator, Callable

from fuzz.wayland import Server, array, u32

from xen_dmabuf.displif import fourcc
from xen_dmabuf.worker.compositor import Compositor

TABLE = b"".join(struct.pack("<I4xQ", code, 0) for code in (fourcc.XRGB8888, fourcc.RGB565))
DEVICE = struct.pack("<Q", 0xE280)
INDICES = struct.pack("<2H", 0, 1)
CODES = {fourcc.XRGB8888, fourcc.RGB565}


def memory(data: bytes) -> int:
    fd = os.memfd_create("table")
    os.write(fd, data)
    return fd


class Scripted(Server):
    """One that is honest but for its feedback, as the test likes it."""

    def __init__(self, file: Callable[[], int], size: int, device: bytes, indices: bytes) -> None:
        super().__init__(random.Random(1))
        self.behave()
        self._said = file, size, device, indices

    def _feedback(self, feedback: int) -> None:
        file, size, device, indices = self._said
        fd = file()
        self.send(feedback, 1, u32(size), (fd,))
        os.close(fd)
        self.send(feedback, 2, array(device))
        self.send(feedback, 5, array(indices))
        self.send(feedback, 0)

    def configure(self, states: bytes) -> None:
        for toplevel in self._of("xdg_toplevel"):
            self.send(toplevel, 0, u32(640, 480) + array(states))


@contextlib.asynccontextmanager
async def connected(
    file: Callable[[], int] = lambda: memory(TABLE),
    size: int = len(TABLE),
    device: bytes = DEVICE,
    indices: bytes = INDICES,
) -> AsyncIterator[tuple[Compositor, Scripted, list[bool]]]:
    lost: list[bool] = []
    server = Scripted(file, size, device, indices)
    compositor = Compositor(server.path, lambda: lost.append(True))
    try:
        await compositor.connect()
        yield compositor, server, lost
    finally:
        compositor.close()
        server.close()
