# SPDX-License-Identifier: MIT
"""`xen-dmabuf-backend check`: what of the environment is there and what is missing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Iterator

from . import _sys, drm, fourcc
from .allocators import Allocator, Shape
from .buffers import open_allocator
from .caches import open_caches
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


@contextlib.contextmanager
def _card(config: Config) -> Iterator[tuple[int, drm.Card]]:
    fd, card = drm.open_card(config.gpu["default"].device, None)
    try:
        yield fd, card
    finally:
        os.close(fd)


@contextlib.contextmanager
def _gntdev_file() -> Iterator[int]:
    """Its close releases whatever would still be mapped by it."""
    fd = _sys.open_device(_sys.GNTDEV)
    try:
        yield fd
    finally:
        os.close(fd)


def _allocators(config: Config) -> str:
    with _card(config) as (fd, card):
        found = []
        for name in config.gpu_for(card.driver).allocators:
            try:
                open_allocator(name, fd, card.path).close()
                found.append(name)
            except (OSError, UserError) as error:
                found.append(f"{name} fails ({error})")
    return f"{card.path} ({card.driver}): {', '.join(found)}"


def refused_as_ram(gntdev: int, allocator: Allocator) -> None:
    """Return if a page of the allocator is RAM: then the kernel takes it and Xen refuses the grant.

    OSError of another refusal, with its remedy. Nothing stays mapped.
    """
    bo = allocator.create(Shape(0, 0, 0, 1))
    try:
        _sys.gntdev_map_to_buf(gntdev, _NOBODY, [_NO_REFERENCE], bo.fd)
    except OSError as error:
        if error.errno != errno.EREMOTEIO:
            raise
        return
    finally:
        bo.destroy()
    raise UserError(f"{_sys.GNTDEV}: MAP_REFS_TO_BUF took a grant that nobody has given")


def _buffers(config: Config) -> str:
    with _card(config) as (fd, card), _gntdev_file() as gntdev:
        gpu = config.gpu_for(card.driver)
        if "map" not in gpu.strategies:
            return "not asked, strategy \"map\" is not configured"
        reasons = []
        for name in gpu.allocators:
            try:
                with contextlib.closing(open_allocator(name, fd, card.path)) as allocator:
                    refused_as_ram(gntdev, allocator)
            except (OSError, UserError) as error:
                reasons.append(f"{name}: {error}")
                continue
            return "; ".join([f"{name}: RAM, a DomU's pages can be put behind them", *reasons])
    raise UserError("; ".join(reasons))


def _caches(config: Config) -> str:
    with _card(config) as (fd, card), _gntdev_file() as gntdev:
        caches = open_caches(gntdev, config.gpu_for(card.driver).caches, fd, card.path)
        caches.close()
    if caches.missing:
        raise UserError(caches.state)
    return caches.state


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


# DOMID_FIRST_RESERVED - 1, and a reference beyond any grant table: no map of these can succeed
_NOBODY, _NO_REFERENCE = 0x7FEF, 0xFFFFFFFF

_CHECKS: dict[str, Callable[[Config], str]] = {
    "memory barriers": _libatomic,
    "XenStore": _xenstore,
    "grant device": _gntdev,
    "event channels": _evtchn,
    "GPU": _allocators,
    "GPU's buffers": _buffers,
    "caches": _caches,
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
