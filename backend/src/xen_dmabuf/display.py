# SPDX-License-Identifier: MIT
"""The connection to the compositor: globals, formats, images. Windows are in window.py.

One Compositor per process (pywayland finds the display of a server-created object through its
table of registries, which holds one). All calls and callbacks happen in the asyncio thread; no
call blocks. When the connection ends, every Wayland object of it is gone at once: ``on_lost`` is
called and the owner makes a new Compositor.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import mmap
import os
import socket
import struct
from collections.abc import Callable

from . import fourcc
from .log import fields
from .protocols import (
    Display,
    WlCompositor,
    WlRegistry,
    WlShm,
    WpViewporter,
    XdgWmBase,
    ZwpLinuxDmabufV1,
    ffi,
)

log = logging.getLogger(__name__)

_KNOWN = {
    interface.name: interface
    for interface in (WlCompositor, WlShm, WpViewporter, XdgWmBase, ZwpLinuxDmabufV1)
}
_REQUIRED = ("wl_compositor", "wl_shm", "xdg_wm_base", "wp_viewporter")
_HIGHEST = {"zwp_linux_dmabuf_v1": 4}
_MOD_LINEAR = 0
_MOD_INVALID = 0x00FF_FFFF_FFFF_FFFF
_SETUP_SECONDS = 10.0
_IMPORT_SECONDS = 20.0  # a compositor that is busy is not one that refuses


class ImportRefused(Exception):
    """The compositor can't use this buffer; the message says what was offered."""


class ConnectionLost(Exception):
    """There is no compositor, or it went away during the call."""


class Image:
    """A wl_buffer. ``busy`` from the commit until wl_buffer.release: the compositor may read it."""

    def __init__(self, buffer, width: int, height: int) -> None:
        self.buffer = buffer
        self.width = width
        self.height = height
        self.busy = False
        self.on_release: Callable[[], None] | None = None
        buffer.dispatcher["release"] = self._release

    def _release(self, _buffer) -> None:
        self.busy = False
        if self.on_release:
            self.on_release()

    def destroy(self) -> None:
        """Idempotent; also right after the connection was lost. Counts as released."""
        buffer, self.buffer = self.buffer, None
        if buffer is not None and not buffer.destroyed:
            buffer.destroy()
        self._release(buffer)  # the event won't come any more, and a flip may wait for it


class Compositor:
    """A live connection with the globals bound at min(server, known) versions."""

    def __init__(self, path: str, on_lost: Callable[[], None]) -> None:
        self._path = path
        self._on_lost = on_lost
        self._display: Display | None = None
        self._registry = None
        self._loop = asyncio.get_running_loop()
        self._fd = -1
        self._writing = False
        self._losing = False
        self._globals: dict[str, object] = {}
        self._feedback = None
        self._table: list[tuple[int, int]] = []
        self._pending: set[asyncio.Future] = set()
        self.dmabuf_formats: dict[int, set[int]] = {}
        self.shm_formats: set[int] = set()
        self.main_device: int | None = None

    # -- connection

    async def connect(self) -> None:
        """OSError if nobody listens, ConnectionLost if the compositor lacks what is needed."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            client.connect(self._path)
        except OSError as error:
            client.close()
            raise OSError(error.errno, os.strerror(error.errno or 0), self._path) from error
        self._display = Display(client.detach())
        self._display.connect()
        self._fd = self._display.get_fd()
        self._loop.add_reader(self._fd, self._readable)
        self._registry = self._display.get_registry()
        self._registry.dispatcher["global"] = self._on_global
        try:
            await self._set_up()
        except BaseException:  # cancelled, too: a live Display must never be left to the collector
            self.close()
            raise

    async def _set_up(self) -> None:
        try:
            async with asyncio.timeout(_SETUP_SECONDS):
                await self._sync()  # all globals are bound
                await self._sync()  # all formats are known
        except TimeoutError:
            raise ConnectionLost(f"{self._path}: no answer in {_SETUP_SECONDS} s") from None
        missing = [name for name in _REQUIRED if name not in self._globals]
        if missing:
            raise ConnectionLost(f"{self._path}: the compositor lacks {', '.join(missing)}")

    @property
    def alive(self) -> bool:
        return self._display is not None

    def close(self) -> None:
        """Drop the connection and every object of it; idempotent."""
        display, self._display = self._display, None
        if display is None:
            return
        self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
            self._writing = False
        for future in self._pending:
            if not future.done():
                future.set_exception(ConnectionLost(self._path))
        self._pending.clear()
        WlRegistry.registry.clear()  # else pywayland would take the dead display for the new one
        self._registry = self._feedback = None
        self._globals.clear()
        display.disconnect()

    def _lost(self, why: object) -> None:
        """Close soon: this may run inside libwayland's dispatch, which needs its display."""
        if self._losing or self._display is None:
            return
        self._losing = True
        self._loop.remove_reader(self._fd)
        log.warning("compositor gone", extra=fields(socket=self._path, why=why))
        self._loop.call_soon(self._finish_loss)

    def _finish_loss(self) -> None:
        if self._display is not None:
            self.close()
            self._on_lost()

    def _readable(self) -> None:
        assert self._display is not None
        try:
            self._display.read()
            self._display.dispatch(block=False)
        except RuntimeError as error:
            return self._lost(error)
        self.flush()

    def flush(self) -> None:
        """Send what was requested; call after a batch of requests."""
        if self._display is None or self._losing:
            return
        if self._display.flush() >= 0:
            if self._writing:
                self._loop.remove_writer(self._fd)
                self._writing = False
            return
        if ffi.errno != errno.EAGAIN:
            return self._lost(os.strerror(ffi.errno))
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self.flush)

    # -- globals

    def _on_global(self, registry, name: int, interface: str, version: int) -> None:
        known = _KNOWN.get(interface)
        if known is None or interface in self._globals:
            return
        version = min(version, known.version, _HIGHEST.get(interface, version))
        proxy = registry.bind(name, known, version)
        self._globals[interface] = proxy
        if interface == "wl_shm":
            proxy.dispatcher["format"] = lambda _shm, code: self.shm_formats.add(
                fourcc.from_shm(code)
            )
        elif interface == "xdg_wm_base":
            proxy.dispatcher["ping"] = lambda base, serial: base.pong(serial)
        elif interface == "zwp_linux_dmabuf_v1":
            self._setup_dmabuf(proxy, version)

    def _setup_dmabuf(self, proxy, version: int) -> None:
        if version < 4:
            proxy.dispatcher["format"] = lambda _p, code: self._add_format(code, _MOD_INVALID)
            proxy.dispatcher["modifier"] = lambda _p, code, high, low: self._add_format(
                code, high << 32 | low
            )
            return
        self._feedback = proxy.get_default_feedback()
        self._feedback.dispatcher["format_table"] = self._on_table
        self._feedback.dispatcher["main_device"] = self._on_main_device
        self._feedback.dispatcher["tranche_formats"] = self._on_tranche

    def _add_format(self, code: int, modifier: int) -> None:
        self.dmabuf_formats.setdefault(code, set()).add(modifier)

    def _on_table(self, _feedback, fd: int, size: int) -> None:
        try:
            with mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as table:
                self._table = [
                    (code, modifier) for code, modifier in struct.iter_unpack("<I4xQ", table[:])
                ]
        finally:
            os.close(fd)

    def _on_main_device(self, _feedback, device: bytes) -> None:
        self.main_device = int.from_bytes(device, "little") or None

    def _on_tranche(self, _feedback, indices: bytes) -> None:
        for (index,) in struct.iter_unpack("<H", indices):
            if index < len(self._table):
                self._add_format(*self._table[index])

    def takes_dmabuf(self, code: int) -> bool:
        """Whether linux-dmabuf is there and lists the format with linear or implicit layout."""
        return bool(self.dmabuf_formats.get(code, set()) & {_MOD_LINEAR, _MOD_INVALID})

    def takes_shm(self, code: int) -> bool:
        return code in self.shm_formats

    # -- objects

    def bound(self, interface: str):
        """The proxy of a required global; ConnectionLost without a connection."""
        if self._display is None:
            raise ConnectionLost(self._path)
        return self._globals[interface]

    def _future(self) -> asyncio.Future:
        future = self._loop.create_future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    async def _sync(self) -> None:
        assert self._display is not None
        future = self._future()
        callback = self._display.sync()
        callback.dispatcher["done"] = lambda _c, _serial: future.done() or future.set_result(None)
        self.flush()
        await future

    async def import_dmabuf(
        self, fd: int, width: int, height: int, stride: int, offset: int, code: int
    ) -> Image:
        """A wl_buffer over a dma-buf (the fd stays the caller's); never create_immed, so that a
        refusal is ImportRefused and not the end of the connection."""
        if not self.takes_dmabuf(code):
            raise ImportRefused(
                f"the compositor's linux-dmabuf does not list {fourcc.name(code)} as linear"
            )
        modifiers = self.dmabuf_formats[code]
        modifier = _MOD_LINEAR if _MOD_LINEAR in modifiers else _MOD_INVALID
        params = self.bound("zwp_linux_dmabuf_v1").create_params()
        future = self._future()
        params.dispatcher["created"] = lambda _p, buffer: _settle(future, buffer)
        params.dispatcher["failed"] = lambda _p: _settle(future, None)
        params.add(fd, 0, offset, stride, modifier >> 32, modifier & 0xFFFFFFFF)
        params.create(width, height, code, 0)
        self.flush()
        try:
            async with asyncio.timeout(_IMPORT_SECONDS):
                buffer = await future
        except TimeoutError:
            raise ImportRefused(f"no answer to the import in {_IMPORT_SECONDS} s") from None
        finally:
            with contextlib.suppress(ValueError):
                params.destroy()
        if buffer is None:
            raise ImportRefused(
                f"the compositor can't import {width}x{height} {fourcc.name(code)} stride {stride}"
                f" offset {offset}"
            )
        return Image(buffer, width, height)

    def share_memory(
        self, fd: int, size: int, width: int, height: int, stride: int, offset: int, code: int
    ) -> Image:
        """A wl_buffer over shared memory; the fd stays the caller's."""
        if not self.takes_shm(code):
            raise ImportRefused(f"the compositor's wl_shm does not list {fourcc.name(code)}")
        pool = self.bound("wl_shm").create_pool(fd, size)
        buffer = pool.create_buffer(offset, width, height, stride, fourcc.to_shm(code))
        pool.destroy()
        self.flush()
        return Image(buffer, width, height)


def _settle(future: asyncio.Future, buffer) -> None:
    """Hand over the answer, or drop the buffer of an import that was given up."""
    if not future.done():
        future.set_result(buffer)
    elif buffer is not None:
        buffer.destroy()
