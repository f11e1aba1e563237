# SPDX-License-Identifier: MIT
"""`xen-dmabuf-backend check`: what of the environment is there and what is missing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from . import _sys, drm, fourcc
from .buffers import open_allocator
from .config import Config
from .errors import UserError


def _gntdev(_config: Config) -> str:
    fd = _sys.open_device(_sys.GNTDEV)
    try:
        refusal = _sys.gntdev_map_refusal(fd)
        if refusal:
            raise UserError(
                f"{_sys.GNTDEV}: MAP_REFS_TO_BUF: {refusal}; strategy \"map\" can't work"
            )
    finally:
        os.close(fd)
    return "MAP_REFS_TO_BUF is there"


def _evtchn(_config: Config) -> str:
    os.close(_sys.open_device(_sys.EVTCHN))
    return "can be opened"


def _libatomic(_config: Config) -> str:
    _sys.fence()
    return "atomic_thread_fence is there"


def _xenstore(_config: Config) -> str:
    from .xenstore import XenStore

    XenStore().close()
    return "connected"


def _allocators(config: Config) -> str:
    gpu = config.gpu["default"]
    fd, card = drm.open_card(gpu.device, None)
    try:
        found = []
        for name in config.gpu_for(card.driver).allocators:
            try:
                open_allocator(name, fd, card.path).close()
                found.append(name)
            except (OSError, UserError) as error:
                found.append(f"{name} fails ({error})")
    finally:
        os.close(fd)
    return f"{card.path} ({card.driver}): {', '.join(found)}"


def _compositor(config: Config) -> str:
    from .display import Compositor, ConnectionLost

    async def formats() -> str:
        compositor = Compositor(config.display.socket, lambda: None)
        try:
            await compositor.connect()
        except ConnectionLost as error:
            raise UserError(str(error)) from error
        takes = [fourcc.name(code) for code in fourcc.BITS if compositor.takes_dmabuf(code)]
        compositor.close()
        return f"linux-dmabuf takes {' '.join(takes) or 'nothing: pixels will be copied'}"

    return asyncio.run(formats())


_CHECKS: dict[str, Callable[[Config], str]] = {
    "memory barriers": _libatomic,
    "XenStore": _xenstore,
    "grant device": _gntdev,
    "event channels": _evtchn,
    "GPU": _allocators,
    "compositor": _compositor,
}


def run_checks(config: Config) -> int:
    """Print one line per check; 0 if all hold, 1 otherwise."""
    failed = 0
    for name, check in _CHECKS.items():
        try:
            print(f"ok      {name}: {check(config)}")
        except (OSError, UserError) as error:
            failed += 1
            print(f"MISSING {name}: {error}")
    return 1 if failed else 0
