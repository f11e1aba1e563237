# SPDX-License-Identifier: MIT
"""A worker between a frontend over fake pages and a real Weston."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json

from fakes import FakeXen
from frontend import Frontend

from xen_dmabuf.codec import encode
from xen_dmabuf.config import Config, ConnectorConfig, Display, Quota
from xen_dmabuf.link.messages import Connected, Message
from xen_dmabuf.worker.releases import Releases
from xen_dmabuf.worker.worker import Worker


@contextlib.asynccontextmanager
async def serving(
    xen: FakeXen,
    socket: str,
    *sizes: tuple[int, int],
    quota: Quota | None = None,
    screen: ConnectorConfig | None = None,
    screens: dict[str, ConnectorConfig] | None = None,
    version: int = 2,
    name: str = "domu",
):
    """A connected worker and its frontend; afterwards nothing may be left mapped or bound.

    ``screen``: what holds for all connectors but those of ``screens``, by unique-id.
    """
    messages: list[Message] = []
    worker = Worker(messages.append)
    config = Config(display=Display(socket=socket), quota={"default": quota or Quota()})
    named = {f"{name}.{unique_id}": settings for unique_id, settings in (screens or {}).items()}
    config = dataclasses.replace(config, connector={"*": screen or ConnectorConfig(), **named})
    frontend = Frontend(xen, *sizes)
    specs = tuple(dataclasses.replace(spec, version=version) for spec in frontend.specs)
    worker.start(5, name, config)
    worker.messages = messages
    try:
        await worker.connect(0, specs)
        assert messages == [Connected(0)]
        yield worker, frontend
    finally:
        await stop(worker)
        frontend.close()
    assert xen.mapped == 0, "pages of the DomU are still mapped"
    assert xen.exported == 0, "dma-bufs of the DomU's pages are still open"
    assert not xen.bound, "event channels are still bound"


def close_releases(releases: Releases) -> None:
    """As the kernel does it when the process ends: whatever a compositor holds."""
    if releases._timer:
        releases._timer.cancel()
    for release in releases._open:
        release.backing.close()
    releases._open.clear()


async def stop(worker: Worker) -> None:
    """What a process's end and that of its domain do, in a process that goes on."""
    await asyncio.gather(*(worker._give_back(number) for number in list(worker._devices)))
    worker.scene.inputs.close_all()
    for task in list(worker._tasks):
        task.cancel()
    close_releases(worker._releases)
    worker._drop_factory()
    if worker.scene.compositor:
        worker.scene.compositor.close()
    for owner in (worker._ports, worker._grants, worker._state):
        if owner:
            owner.close()


def status_of(worker: Worker, number: int = 0) -> dict:
    """What somebody who asks the worker's supervisor hears of a device."""
    return json.loads(json.dumps(encode(worker.status())))["devices"][str(number)]


def placed(window):
    """The part of the guest's picture that a window shows, and where; None for none."""
    return None if window is None or window.shows(window._idle) else window._picture.placed
