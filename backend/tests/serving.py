# SPDX-License-Identifier: MIT
"""A worker between a frontend over fake pages and a real Weston."""

from __future__ import annotations

import contextlib

from fakes import FakeXen
from frontend import Frontend

from xen_dmabuf.config import Config, Display, Quota
from xen_dmabuf.worker import Worker


@contextlib.asynccontextmanager
async def serving(xen: FakeXen, socket: str, *sizes: tuple[int, int], quota: Quota | None = None):
    """A connected worker and its frontend; afterwards nothing may be left mapped or bound."""
    messages: list[dict] = []
    worker = Worker(lambda **message: messages.append(message))
    config = Config(display=Display(socket=socket), quota={"default": quota or Quota()})
    frontend = Frontend(xen, *sizes)
    worker.start(5, "domu", config)
    worker.messages = messages
    try:
        await worker.connect(0, frontend.specs)
        assert messages == [{"event": "connected", "dev": 0}]
        yield worker, frontend
    finally:
        await worker.stop()
        frontend.close()
    assert xen.mapped == 0, "pages of the DomU are still mapped"
    assert not xen.bound, "event channels are still bound"


def status_of(worker: Worker) -> dict:
    return worker.status()["devices"][0]
