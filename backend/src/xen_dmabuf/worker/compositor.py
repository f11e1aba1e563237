# SPDX-License-Identifier: MIT
"""The connection to the compositor: globals, formats, images. Windows are in window.py.

One Compositor per process (pywayland finds the display of a server-created object through its
table of registries, which holds one). All calls and callbacks happen in the asyncio thread; no
call blocks. When the connection ends, every Wayland object of it is gone at once: ``on_lost`` is
called and the owner makes a new Compositor.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import select
import socket
from collections.abc import Callable
from typing import Any

from .. import limits
from ..displif import fourcc
from ..errors import ConnectionLost, ImportRefused
from ..log import fields
from ..pump import loop
from .feedback import IMPLICIT, Feedback, device_number
from .image import Image
from .outputs import Outputs
from .protocols import (
    Display,
    IviApplication,
    Proxy,
    WlCompositor,
    WlRegistry,
    WlShm,
    WlSubcompositor,
    WpPresentation,
    WpViewporter,
    XdgWmBase,
    ZwpLinuxDmabufV1,
    entries,
    ffi,
    lib,
)
from .seat import Seats
from .window import Window

log = logging.getLogger(__name__)

_SINGLE = (
    WlCompositor,
    WlSubcompositor,
    WlShm,
    WpPresentation,
    WpViewporter,
    XdgWmBase,
    ZwpLinuxDmabufV1,
    IviApplication,
)
_KNOWN = {interface.name: interface for interface in _SINGLE}
_REQUIRED = ("wl_compositor", "wl_subcompositor", "wl_shm")
_ROLES = ("xdg_wm_base", "ivi_application")
_HIGHEST = {"zwp_linux_dmabuf_v1": 4, "wp_presentation": 1}
_FIONREAD = 0x541B  # asm-generic/ioctls.h; module termios is a package of its own in OpenEmbedded


class Compositor:
    """A live connection with the globals bound at min(server, known) versions."""

    def __init__(self, path: str, on_lost: Callable[[], None]) -> None:
        self._path = path
        self._on_lost = on_lost
        self._display: Display | None = None
        self._pointer: Any = None  # to its struct: pywayland's methods cost several times the calls that they make
        self._registry: Proxy = None
        self.seats = Seats()
        self._loop = asyncio.get_running_loop()
        self._fd = -1
        self._writing = False
        self._losing = False
        self._globals: dict[str, Proxy] = {}
        self._announcement: Proxy = None
        self._pending: set[asyncio.Future[Proxy]] = set()
        self._imports: set[Proxy] = set()
        self.feedback = Feedback()
        self.shm_formats = {fourcc.ARGB8888, fourcc.XRGB8888}  # wl_shm always has these two
        self.presentation_clock = -1
        """clockid_t of wp_presentation's times, -1: it hasn't said."""
        self.windows: set[Window] = set()
        self.ivi_ids: set[int] = set()
        """Of this connection's ivi surfaces, and those that are asked for."""
        self.no_events: object = None
        """A queue that lane.bind() made; it ends with the connection."""
        self.at_end: dict[object, Callable[[], None]] = {}
        """What to call before the connection ends: of those who have objects that pywayland doesn't know."""
        self.outputs = Outputs(self._outputs_changed)

    # -- connection

    async def connect(self) -> None:
        """OSError if nobody listens, ConnectionLost if the compositor lacks what is needed."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        client.setblocking(False)  # EAGAIN: the compositor's backlog is full
        try:
            client.connect(self._path)
        except OSError as error:
            client.close()
            raise OSError(error.errno, os.strerror(error.errno or 0), self._path) from error
        self._display = Display(client.detach())
        self._display.connect()
        self._pointer = self._display._ptr
        self._fd = self._display.get_fd()
        loop.watch(self._loop, self._fd, self._readable)
        pump = loop.current()
        if pump:
            from .lane import bind

            bind(pump, self, self._display)
        self._registry = self._display.get_registry()
        self._registry.dispatcher["global"] = self._on_global
        self._registry.dispatcher["global_remove"] = self._on_global_remove
        try:
            await self._set_up()
        except BaseException:  # cancelled, too: a live Display must never be left to the collector
            self.close()
            raise

    async def _set_up(self) -> None:
        try:
            async with asyncio.timeout(limits.SETUP):
                await self._sync()  # all globals are bound
                await self._sync()  # all formats are known
        except TimeoutError:
            raise ConnectionLost(f"{self._path}: no answer in {limits.SETUP} s") from None
        missing = [name for name in _REQUIRED if name not in self._globals]
        if not any(name in self._globals for name in _ROLES):
            missing.append(" or ".join(_ROLES))
        if missing:
            raise ConnectionLost(f"{self._path}: the compositor lacks {', '.join(missing)}")

    @property
    def alive(self) -> bool:
        return self._display is not None

    @property
    def path(self) -> str:
        """Of its socket."""
        return self._path

    def close(self) -> None:
        """Drop the connection and every object of it; idempotent."""
        display, self._display, self._pointer = self._display, None, None
        if display is None:
            return
        loop.unwatch(self._loop, self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
            self._writing = False
        for future in self._pending:
            if not future.done():
                future.set_exception(ConnectionLost(self._path))
        self._pending.clear()
        self.seats.close()
        for end in reversed(list(self.at_end.values())):
            end()
        WlRegistry.registry.clear()  # else pywayland would take the dead display for the new one
        self._registry = self._announcement = None
        self._globals.clear()
        self._imports.clear()
        display.disconnect()

    def _lost(self, why: object) -> None:
        """Close soon: this may run inside libwayland's dispatch, which needs its display."""
        if self._losing or self._display is None:
            return
        self._losing = True
        loop.unwatch(self._loop, self._fd)
        log.warning("compositor gone", extra=fields(socket=self._path, why=why))
        self._loop.call_soon(self._finish_loss)

    def _finish_loss(self) -> None:
        if self._display is not None:
            self.close()
            self._on_lost()

    def _readable(self) -> None:
        display = self._pointer
        while lib.wl_display_prepare_read(display):
            if lib.wl_display_dispatch_pending(display) < 0:
                return self._failed()
        if lib.wl_display_read_events(display):
            return self._failed()
        events = lib.wl_display_dispatch_pending(display)
        if events < 0:
            return self._failed()
        if not events and self._has_ended():
            return self._lost("it ended amid an event")
        self.flush()

    def _failed(self) -> None:
        self._lost(os.strerror(lib.wl_display_get_error(self._pointer)))

    def _has_ended(self) -> bool:
        """Whether the other end is closed and all of it was read. libwayland (seen with 1.26) says so only
        between two events: after half a one it finds nothing to read, again and again."""
        poll = select.poll()
        poll.register(self._fd, 0)  # a hang-up is told unasked
        return bool(poll.poll(0)) and not any(fcntl.ioctl(self._fd, _FIONREAD, bytes(4)))

    def flush(self) -> None:
        """Send what was requested; call after a batch of requests."""
        if self._display is None or self._losing:
            return
        if lib.wl_display_flush(self._pointer) >= 0:
            if self._writing:
                self._loop.remove_writer(self._fd)
                self._writing = False
            return
        code = ffi.errno  # type: ignore[attr-defined]  # pywayland's description of cffi lacks it
        if code != errno.EAGAIN:
            return self._lost(os.strerror(code))
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self.flush)

    # -- globals

    def _on_global(self, registry: Proxy, name: int, interface: str, version: int) -> None:
        if interface == "wl_output":
            return self.outputs.bind(registry, name, version)
        if interface == "wl_seat":
            return self.seats.bind(registry, name, version)
        known = _KNOWN.get(interface)
        if known is None or interface in self._globals:
            return
        version = min(version, known.version, _HIGHEST.get(interface, version))
        proxy = registry.bind(name, known, version)
        self._globals[interface] = proxy
        if interface == "wl_shm":
            proxy.dispatcher["format"] = self._add_shm_format
        elif interface == "xdg_wm_base":
            proxy.dispatcher["ping"] = lambda base, serial: base.pong(serial)
        elif interface == "wp_presentation":
            proxy.dispatcher["clock_id"] = self._on_clock
        elif interface == "zwp_linux_dmabuf_v1":
            self._setup_dmabuf(proxy, version)

    def _on_global_remove(self, _registry: Proxy, name: int) -> None:
        self.outputs.unbind(name)
        self.seats.unbind(name)

    def _outputs_changed(self) -> None:
        for window in list(self.windows):
            window.outputs_changed()

    def _setup_dmabuf(self, proxy: Proxy, version: int) -> None:
        feedback = self.feedback
        if version < 4:
            proxy.dispatcher["format"] = lambda _p, code: feedback.add_format(code, IMPLICIT)
            proxy.dispatcher["modifier"] = lambda _p, code, high, low: feedback.add_format(code, high << 32 | low)
            return
        self._announcement = proxy.get_default_feedback()
        hears = self._announcement.dispatcher
        hears["format_table"] = self._on_table
        hears["main_device"] = self._on_main_device
        hears["tranche_target_device"] = lambda _p, device: feedback.tranche_device(device)
        hears["tranche_flags"] = lambda _p, flags: feedback.tranche_flags(flags)
        hears["tranche_formats"] = lambda _p, indices: feedback.tranche_formats(entries("<H", indices))
        hears["tranche_done"] = lambda _p: feedback.tranche_done()
        hears["done"] = lambda _p: feedback.done()

    def _add_shm_format(self, _shm: Proxy, number: int) -> None:
        code = fourcc.from_shm(number)
        if code in fourcc.BITS:
            self.shm_formats.add(code)

    def _on_clock(self, _presentation: Proxy, clock: int) -> None:
        self.presentation_clock = clock

    def _on_table(self, _feedback: Proxy, fd: int, size: int) -> None:
        try:
            self.feedback.read_table(fd, size)
        except OSError as error:
            log.warning("format table can't be read", extra=fields(socket=self._path, reason=error))
        finally:
            os.close(fd)

    def _on_main_device(self, _feedback: Proxy, device: bytes) -> None:
        self.feedback.main_device = device_number(device)

    @property
    def main_device(self) -> int | None:
        """dev_t of the GPU that it names, None for none."""
        return self.feedback.main_device

    def takes_dmabuf(self, code: int) -> bool:
        """Whether linux-dmabuf is there and lists the format with linear or implicit layout."""
        return self.feedback.preferred(code) is not None

    def takes_shm(self, code: int) -> bool:
        return code in self.shm_formats

    # -- objects

    def bound(self, interface: str) -> Proxy:
        """The proxy of a global; ConnectionLost without a connection, or if the compositor lacks it."""
        if self._display is None:
            raise ConnectionLost(self._path)
        if interface not in self._globals:
            raise ConnectionLost(f"{self._path}: the compositor lacks {interface}")
        return self._globals[interface]

    def optional(self, interface: str) -> Proxy | None:
        """The proxy of a global that a compositor may lack."""
        return self._globals.get(interface)

    def _future(self) -> asyncio.Future[Proxy]:
        future: asyncio.Future[Proxy] = self._loop.create_future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    async def _sync(self) -> None:
        assert self._display is not None
        future = self._future()

        def done(_callback: Proxy, _serial: int) -> None:
            if not future.done():
                future.set_result(None)

        callback = self._display.sync()
        callback.dispatcher["done"] = done
        self.flush()
        await future

    async def import_dmabuf(self, fd: int, width: int, height: int, stride: int, offset: int, code: int) -> Image:
        """A wl_buffer over a dma-buf (the fd stays the caller's); never create_immed, so that a
        refusal is ImportRefused and not the end of the connection."""
        modifier = self.feedback.modifier(code)
        if modifier is None:
            raise ImportRefused(f"the compositor's linux-dmabuf does not list {fourcc.name(code)} as linear")
        params = self.bound("zwp_linux_dmabuf_v1").create_params()
        future = self._future()
        # kept until there is an answer, also when nobody waits any more: the buffer that comes with
        # it would otherwise stay in the compositor for ever
        self._imports.add(params)
        params.dispatcher["created"] = lambda _p, buffer: self._imported(future, params, buffer)
        params.dispatcher["failed"] = lambda _p: self._imported(future, params, None)
        params.add(fd, 0, offset, stride, modifier >> 32, modifier & 0xFFFFFFFF)
        params.create(width, height, code, 0)
        self.flush()
        try:
            async with asyncio.timeout(limits.IMPORT):
                buffer = await self._answered(future)
        except TimeoutError:
            raise ImportRefused(f"no answer to the import in {limits.IMPORT} s") from None
        if buffer is None:
            raise ImportRefused(
                f"the compositor can't import {width}x{height} {fourcc.name(code)} stride {stride} offset {offset}"
            )
        return Image(buffer, width, height, fd)

    async def _answered(self, future: asyncio.Future[Proxy]) -> Proxy:
        try:
            return await future
        except asyncio.CancelledError:
            # the answer may have come when this task could not take it any more
            if future.done() and not future.cancelled() and not future.exception():
                self._drop(future.result())
            raise

    def _imported(self, future: asyncio.Future[Proxy], params: Proxy, buffer: Proxy) -> None:
        """Hand over the answer, or drop the buffer of an import that was given up."""
        self._imports.discard(params)
        params.destroy()
        if not future.done():
            future.set_result(buffer)
        else:
            self._drop(buffer)

    def _drop(self, buffer: Proxy) -> None:
        """A wl_buffer that nobody waits for any more; None: the import was refused."""
        if buffer is not None and not buffer.destroyed:
            buffer.destroy()
            self.flush()

    def share_memory(self, fd: int, size: int, width: int, height: int, stride: int, offset: int, code: int) -> Image:
        """A wl_buffer over shared memory; the fd stays the caller's."""
        if not self.takes_shm(code):
            raise ImportRefused(f"the compositor's wl_shm does not list {fourcc.name(code)}")
        pool = self.bound("wl_shm").create_pool(fd, size)
        buffer = pool.create_buffer(offset, width, height, stride, fourcc.to_shm(code))
        pool.destroy()
        self.flush()
        return Image(buffer, width, height)
