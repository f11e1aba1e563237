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
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import limits
from ..displif.geometry import Crop
from .protocols import Proxy, XdgToplevel, entries

if TYPE_CHECKING:
    from .compositor import Compositor, Image

log = logging.getLogger(__name__)

_MAX_CALLBACKS = 2  # of a hidden window: it must not pile up objects in the compositor


class _Pending:
    """A presentation without an answer. ``replaced``: the image that has to be released first."""

    def __init__(self, done: Callable[[bool], None], replaced: Image | None) -> None:
        self.done = done
        self.replaced = replaced
        self.drawn = False
        self.expired = False
        self.timer: asyncio.TimerHandle | None = None


def fit(width: int, height: int, limit: tuple[int, int], scale: str, exact: bool) -> tuple[int, int]:
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

    def __init__(self, compositor: Compositor, title: str, app_id: str, scale: str, hidden_rate: int) -> None:
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
        self._extent = (1, 1)
        self._configured = False
        self._next: tuple[Image, Crop] | None = None
        self._shown: tuple[Image, Crop] | None = None
        self._pending: list[_Pending] = []
        self._callbacks: list[Proxy] = []
        self.hidden = False
        self._surface.commit()
        compositor.flush()

    # -- what a seat asks (seat.py)

    @property
    def surface(self) -> Proxy:
        """The wl_surface that gets input, None once it is destroyed."""
        return self._surface

    @property
    def size(self) -> tuple[int, int]:
        """Pixels of the connector."""
        crop = self._shown[1] if self._shown else None
        return (crop.width, crop.height) if crop else (1, 1)

    def locate(self, x: float, y: float) -> tuple[float, float]:
        """Where a place of the surface is in the connector, in pixels; it may be outside."""
        width, height = self.size
        return x * width / self._extent[0], y * height / self._extent[1]

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
        previous = self._shown or self._next
        replaced = previous[0] if previous and previous[0] is not image else None
        if done:
            delay = self._interval if self.hidden else limits.HIDDEN
            pending = _Pending(done, replaced if wait_release else None)
            pending.timer = self._loop.call_later(delay, self._expire, pending)
            self._pending.append(pending)
        image.on_release = self._settle
        if not self._configured or (done is None and self._callbacks):
            # only the last one counts of those that nobody waits for: it is committed with the next
            # frame, so that a client that sends no flips can't make the compositor's work
            self._next = (image, crop)
            return
        self._commit(image, crop)

    def shows(self, image: Image | None) -> bool:
        """Whether ``image`` is what the window shows or is about to."""
        return any(entry and entry[0] is image for entry in (self._shown, self._next))

    def replace(self, image: Image | None) -> bool:
        """``image`` is about to go: show at once what was to come after it; False if nothing was."""
        if self._next is None or self._next[0] is image or not self._configured:
            return False
        self._commit(*self._next)
        return True

    def destroy(self) -> None:
        """Unmap and remove the window; nobody is answered any more."""
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
        self._shown = self._next = None

    # -- commits

    def _commit(self, image: Image, crop: Crop) -> None:
        surface = self._surface
        if image.fill:
            image.fill(crop)
        surface.attach(image.buffer, 0, 0)
        self._place(image, crop)
        surface.damage_buffer(0, 0, 0x7FFFFFFF, 0x7FFFFFFF)
        if len(self._callbacks) < _MAX_CALLBACKS or not self.hidden:
            callback = surface.frame()
            callback.dispatcher["done"] = self._on_frame
            self._callbacks.append(callback)
        image.busy = True
        self._shown, self._next = (image, crop), None
        surface.commit()
        self._compositor.flush()

    def _place(self, image: Image, crop: Crop) -> None:
        width, height = self._extent = fit(crop.width, crop.height, self._limit, self._scale, self._exact)
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

    def _on_toplevel_configure(self, _toplevel: Proxy, width: int, height: int, states: bytes) -> None:
        self._limit = (width, height)
        numbers = {number for (number,) in entries("<I", states)}
        state = XdgToplevel.state
        must = {state.maximized.value, *range(5, 9)}  # 5 to 8: tiled left, right, top, bottom
        self._exact = bool(numbers & must) and state.fullscreen.value not in numbers

    def _on_configure(self, xdg_surface: Proxy, serial: int) -> None:
        xdg_surface.ack_configure(serial)
        self._configured = True
        if self._next:
            self._commit(*self._next)
        elif self._shown:
            self._place(*self._shown)
            self._surface.commit()
        self._compositor.flush()

    def _on_close(self, _toplevel: Proxy) -> None:
        log.info("close request ignored: the DomU owns the window title=%s", self._title)

    def _on_frame(self, callback: Proxy, _time: int) -> None:
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
        if self._next and self._surface is not None:
            self._commit(*self._next)

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
