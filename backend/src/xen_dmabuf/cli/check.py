# SPDX-License-Identifier: MIT
"""`xen-dmabuf-backend check`: what of the environment is there and what is missing.

Root may open everything, a worker may not: what a worker needs is tried by a process with an
account and groups like a worker's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping

from ..config import Config
from ..displif import fourcc
from ..errors import UserError
from ..linux.memory import fence
from ..worker import gpu
from ..worker.allocators import Allocator, Shape, open_allocator
from ..worker.caches import open_caches
from ..xen import evtchn, gntdev
from ..xen.evtchn import Evtchn
from ..xen.gntdev import Gntdev


def _gntdev(_config: Config) -> str:
    with Gntdev(_NOBODY) as device:
        refusal = device.map_over_refusal()
    if refusal:
        raise UserError(f'{gntdev.PATH}: MAP_REFS_TO_BUF: {refusal}; strategy "map" can\'t work')
    return "MAP_REFS_TO_BUF is there"


def _evtchn(_config: Config) -> str:
    Evtchn(0).close()
    return f"{evtchn.PATH} can be opened"


def _libatomic(_config: Config) -> str:
    fence()
    return "atomic_thread_fence is there"


def _xenstore(_config: Config) -> str:
    from ..supervisor.xenstore import XenStore

    XenStore().close()
    return "connected"


@contextlib.contextmanager
def _card(config: Config) -> Iterator[tuple[int, gpu.Card]]:
    fd, card = gpu.open_card(config.gpu["default"].device, None)
    try:
        yield fd, card
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


def refused_as_ram(device: Gntdev, allocator: Allocator) -> None:
    """Return if a page of the allocator is RAM: then the kernel takes it and Xen refuses the grant.

    OSError of another refusal, with its remedy. Nothing stays mapped.
    """
    bo = allocator.create(Shape(0, 0, 0, 1))
    try:
        device.map_over([_NO_REFERENCE], bo.fd)
    except OSError as error:
        if error.errno != errno.EREMOTEIO:
            raise
        return
    finally:
        bo.destroy()
    raise UserError(f"{gntdev.PATH}: MAP_REFS_TO_BUF took a grant that nobody has given")


def _buffers(config: Config) -> str:
    with _card(config) as (fd, card), Gntdev(_NOBODY) as device:
        settings = config.gpu_for(card.driver)
        if "map" not in settings.strategies:
            return 'not asked, strategy "map" is not configured'
        reasons = []
        for name in settings.allocators:
            try:
                with contextlib.closing(open_allocator(name, fd, card.path)) as allocator:
                    refused_as_ram(device, allocator)
            except (OSError, UserError) as error:
                reasons.append(f"{name}: {error}")
                continue
            return "; ".join([f"{name}: RAM, a DomU's pages can be put behind them", *reasons])
    raise UserError("; ".join(reasons))


def _caches(config: Config) -> str:
    with _card(config) as (fd, card), Gntdev(_NOBODY) as device:
        caches = open_caches(device, config.gpu_for(card.driver).caches, fd, card.path)
        caches.close()
    if caches.missing:
        raise UserError(caches.state)
    return caches.state


def _compositor(config: Config) -> str:
    from ..errors import ConnectionLost
    from ..worker.compositor import Compositor

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

Check = Callable[[Config], str]

_SUPERVISORS: dict[str, Check] = {"XenStore": _xenstore}
_WORKERS: dict[str, Check] = {
    "memory barriers": _libatomic,
    "grant device": _gntdev,
    "event channels": _evtchn,
    "GPU": _allocators,
    "GPU's buffers": _buffers,
    "caches": _caches,
    "compositor": _compositor,
}

GROUPS = ("xen-dmabuf", "wayland", "video", "render")
"""SupplementaryGroups= of xen-dmabuf-worker@.service."""
_RULE = "the udev rule 70-xen-dmabuf.rules gives it to group xen-dmabuf, `udevadm trigger` applies it"
_DENIED = {
    "grant device": _RULE,
    "event channels": _RULE,
    "compositor": "workers are in group wayland: let its socket and folder be open to that group",
}
_NOBODY_ID = 65534  # as little as a DynamicUser= has: no file is its own


def _run(checks: Mapping[str, Check], config: Config) -> int:
    """Print one line per check; how many failed."""
    failed = 0
    for name, check in checks.items():
        try:
            print(f"ok      {name}: {check(config)}")
        except (OSError, UserError) as error:
            failed += 1
            denied = isinstance(error, PermissionError) and name in _DENIED
            print(f"MISSING {name}: {error}{f'; {_DENIED[name]}' if denied else ''}")
    return failed


def _group(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        print(
            f"MISSING group {name}: workers can't start without it; `systemd-sysusers` makes it, if"
            " /usr/lib/sysusers.d/xen-dmabuf.conf is installed"
        )
        return None


def _with_workers_rights(work: Callable[[], int]) -> int:
    """What ``work`` returns, done by a process that may open what a worker may; how many failed."""
    gids = {name: _group(name) for name in GROUPS}
    there = [gid for gid in gids.values() if gid is not None]
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setgroups(there)
            os.setgid(_NOBODY_ID)
            os.setuid(_NOBODY_ID)
            status = work()
            sys.stdout.flush()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        name = signal.Signals(-status).name
        print(f"MISSING the rest: {name} ended a check; `coredumpctl` or the journal may say why")
    return abs(status) + len(gids) - len(there)


def run_checks(config: Config) -> int:
    """Print one line per check; 0 if all hold, 1 otherwise."""
    failed = _run(_SUPERVISORS, config)
    if os.geteuid() == 0:
        failed += _with_workers_rights(lambda: _run(_WORKERS, config))
    else:
        failed += _run(_WORKERS, config)
    return 1 if failed else 0
