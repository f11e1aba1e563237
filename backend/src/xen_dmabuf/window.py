# SPDX-License-Identifier: MIT
"""A connector's toplevel window, and the truth about what of it was shown.

present() answers through its callback: ``done(True)`` once the compositor has drawn the image
(wl_surface.frame) and no longer reads the image it replaces (wl_buffer.release); ``done(False)``
when the compositor does not draw the window at all (occluded, minimised, no compositor), at most
``hidden_rate`` times a second. A window counts as hidden after two seconds without a frame event,
until the next one. All in the asyncio thread.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass

from .display import Compositor, Image
from .protocols import XdgToplevel

log = logging.getLogger(__name__)

HIDDEN_AFTER = 2.0  # drm_xen_front gives up on a frame after 3.1 s
_MAX_CALLBACKS = 2  # of a hidden window: it must not pile up objects in the compositor


@dataclass(frozen=True)
class Crop:
    """The part of an image that the connector shows, in pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass
class _Pending:
    done: Callable[[bool], None]
    replaced: Image | None
    drawn: bool = False
    timer: asyncio.TimerHandle | None = None
    expired: bool = False


def fit(
    width: int, height: int, limit: tuple[int, int], scale: str, exact: bool
) -> tuple[int, int]:
    """The size to show ``width`` x ``height`` at, given the compositor's size (0: no wish).

    ``exact``: the compositor demands its size (maximised, tiled). ``scale``: "down" only shrinks,
    "fit" also enlarges; the aspect ratio stays.
    """
    if not limit[0] or not limit[1]:
        return width, height
    if exact:
        return limit
    factor = min(limit[0] / width, limit[1] / height)
    if factor == 1 or (factor > 1 and scale != "fit"):
        return width, height
    return max(1, int(width * factor)), max(1, int(height * factor))


class Window:
    """One xdg_toplevel; destroy() is idempotent and works after the connection was lost."""

    def __init__(
        self, compositor: Compositor, title: str, app_id: str, scale: str, hidden_rate: int
    ) -> None:
        self._compositor = compositor
        self._scale = scale
        self._interval = 1 / hidden_rate
        self._loop = asyncio.get_running_loop()
        self._surface = compositor.bound("wl_compositor").create_surface()
        self._viewport = compositor.bound("wp_viewporter").get_viewport(self._surface)
        self._xdg_surface = compositor.bound("xdg_wm_base").get_xdg_surface(self._surface)
        self._xdg_surface.dispatcher["configure"] = self._on_configure
        self._toplevel = self._xdg_surface.get_toplevel()
        self._toplevel.dispatcher["configure"] = self._on_toplevel_configure
        self._toplevel.dispatcher["close"] = self._on_close
        self._toplevel.set_title(title)
        self._toplevel.set_app_id(app_id)
        self._title = title
        self._limit, self._exact = (0, 0), False
        self._configured = False
        self._waiting: tuple[Image, Crop] | None = None
        self._shown: tuple[Image, Crop] | None = None
        self._pending: list[_Pending] = []
        self._callbacks: list = []
        self.hidden = False
        self._surface.commit()
        compositor.flush()

    # -- what the connector does

    def present(
        self,
        image: Image,
        crop: Crop,
        done: Callable[[bool], None] | None,
        *,
        wait_release: bool = True,
    ) -> None:
        """Show ``crop`` of ``image``; ``done`` is called once, unless the window is destroyed.

        ``wait_release=False``: the DomU's pages aren't what the compositor reads (copied), so
        nothing has to be released before the flip is answered.
        """
        previous = self._shown or self._waiting
        replaced = previous[0] if previous and previous[0] is not image else None
        if done:
            delay = self._interval if self.hidden else HIDDEN_AFTER
            pending = _Pending(done, replaced if wait_release else None)
            pending.timer = self._loop.call_later(delay, self._expire, pending)
            self._pending.append(pending)
        image.on_release = self._settle
        if not self._configured:
            self._waiting = (image, crop)
            return
        self._commit(image, crop)

    def shows(self, image: Image | None) -> bool:
        """Whether ``image`` is what the window shows; then the window goes before the image."""
        return any(entry and entry[0] is image for entry in (self._shown, self._waiting))

    def destroy(self) -> list[Callable[[bool], None]]:
        """Unmap and remove the window; returns the callbacks of what was not answered yet."""
        open_calls = [pending.done for pending in self._pending]
        for pending in self._pending:
            if pending.timer:
                pending.timer.cancel()
        self._pending.clear()
        if self._surface is not None and not self._surface.destroyed:
            for proxy in (self._toplevel, self._xdg_surface, self._viewport, self._surface):
                proxy.destroy()
            for callback in self._callbacks:
                callback._destroy()
            self._compositor.flush()
        if self._shown:
            self._shown[0].busy = False
        self._surface = self._viewport = self._xdg_surface = self._toplevel = None
        self._callbacks.clear()
        self._shown = self._waiting = None
        return open_calls

    # -- commits

    def _commit(self, image: Image, crop: Crop) -> None:
        surface = self._surface
        surface.attach(image.buffer, 0, 0)
        self._place(image, crop)
        surface.damage_buffer(0, 0, 0x7FFFFFFF, 0x7FFFFFFF)
        if len(self._callbacks) < _MAX_CALLBACKS or not self.hidden:
            callback = surface.frame()
            callback.dispatcher["done"] = self._on_frame
            self._callbacks.append(callback)
        image.busy = True
        self._shown, self._waiting = (image, crop), None
        surface.commit()
        self._compositor.flush()

    def _place(self, image: Image, crop: Crop) -> None:
        width, height = fit(crop.width, crop.height, self._limit, self._scale, self._exact)
        if (crop.width, crop.height) == (image.width, image.height):
            self._viewport.set_source(-1, -1, -1, -1)
        else:
            self._viewport.set_source(crop.x, crop.y, crop.width, crop.height)
        if (width, height) == (crop.width, crop.height):
            self._viewport.set_destination(-1, -1)
        else:
            self._viewport.set_destination(width, height)
        # a KMS primary plane has nothing to shine through behind it
        region = self._compositor.bound("wl_compositor").create_region()
        region.add(0, 0, width, height)
        self._surface.set_opaque_region(region)
        region.destroy()

    # -- events

    def _on_toplevel_configure(self, _toplevel, width: int, height: int, states: bytes) -> None:
        self._limit = (width, height)
        numbers = {number for (number,) in struct.iter_unpack("<I", states)}
        state = XdgToplevel.state
        must = {state.maximized.value, *range(5, 9)}  # 5 to 8: tiled left, right, top, bottom
        self._exact = bool(numbers & must) and state.fullscreen.value not in numbers

    def _on_configure(self, xdg_surface, serial: int) -> None:
        xdg_surface.ack_configure(serial)
        self._configured = True
        if self._waiting:
            self._commit(*self._waiting)
        elif self._shown:
            self._place(*self._shown)
            self._surface.commit()
        self._compositor.flush()

    def _on_close(self, _toplevel) -> None:
        log.info("close request ignored: the DomU owns the window title=%s", self._title)

    def _on_frame(self, callback, _time: int) -> None:
        if callback not in self._callbacks:
            return
        # events come in order: this one also answers all earlier commits
        position = self._callbacks.index(callback)
        for done in self._callbacks[: position + 1]:
            done._destroy()
        del self._callbacks[: position + 1]
        self.hidden = False
        if not self._callbacks:
            for pending in self._pending:
                pending.drawn = True
        elif self._pending:
            for pending in self._pending[: max(0, len(self._pending) - len(self._callbacks))]:
                pending.drawn = True
        self._settle()

    def _expire(self, pending: _Pending) -> None:
        pending.timer = None
        pending.expired = True
        if not pending.drawn:
            self.hidden = True
        self._settle()

    def _settle(self) -> None:
        """Answer, in order, every presentation that is drawn or hidden and whose predecessor the
        compositor has let go."""
        while self._pending:
            pending = self._pending[0]
            if not (pending.drawn or pending.expired):
                return
            if pending.replaced and pending.replaced.busy and self._still_replaced(pending):
                return
            self._pending.pop(0)
            if pending.timer:
                pending.timer.cancel()
            pending.done(pending.drawn)

    def _still_replaced(self, pending: _Pending) -> bool:
        """False once the replaced image was presented again: its release will come later."""
        return not (self._shown and self._shown[0] is pending.replaced)
