# SPDX-License-Identifier: MIT
"""What a window shows, and the truth about what of it was shown.

present() answers through its callback: ``done(True)`` once the compositor has drawn the image
(wl_surface.frame) and no longer reads the image it replaces (wl_buffer.release); ``done(False)``
when the compositor does not draw the window at all (occluded, minimised, no compositor), at most
``hidden_rate`` times a second. A window counts as hidden after two seconds without a frame event,
until one comes in time again. All in the asyncio thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import limits
from ..displif.geometry import Crop
from .frames import Callback, Frames
from .layout import Place
from .presentation import Presentation
from .protocols import Proxy

if TYPE_CHECKING:
    from .compositor import Compositor
    from .image import Image

_MAX_CALLBACKS = 2  # of a hidden window: it must not pile up objects in the compositor
_RESOLUTION = 0.001  # a timer of asyncio may come as much too early
_IN_TIME = 0.5  # a frame event that comes later is the heartbeat of a covered window (KWin: 1 Hz)


class _Pending:
    """A presentation without an answer. ``replaced``: the image that has to be released first;
    ``deadline``: when it counts as not shown (loop time)."""

    __slots__ = ("deadline", "done", "drawn", "expired", "replaced")

    def __init__(self, done: Callable[[bool], None], replaced: Image | None, deadline: float) -> None:
        self.done = done
        self.replaced = replaced
        self.deadline = deadline
        self.drawn = False
        self.expired = False


@dataclass
class Flight:
    """A presentation that C began. ``committed``: loop time; ``callback``: the address of its frame
    callback, 0: it was answered."""

    done: Callable[[bool], None]
    replaced: Image | None
    committed: float
    drawn: bool
    callback: int


class Picture:
    """A subsurface of a window, without input of its own: the window's surface gets that.

    ``place(image, crop)`` says where an image goes, whenever that may have changed; ``placed()`` is
    called when that is committed, and the window's surface is to be committed, too. ``entered`` is the handler of
    wl_surface.enter: wlroots 0.18 sends none for a window's surface that the picture covers.
    """

    def __init__(
        self,
        compositor: Compositor,
        parent: Proxy,
        place: Callable[[Image, Crop], Place],
        placed: Callable[[], None],
        entered: Callable[[Proxy, Proxy], None],
        hidden_rate: int,
        *,
        opaque: bool,
    ) -> None:
        self._compositor = compositor
        self._place = place
        self._placed = placed
        self._opaque = opaque
        self._interval = 1 / hidden_rate
        self._loop = asyncio.get_running_loop()
        self._surface = compositor.bound("wl_compositor").create_surface()
        self._surface.dispatcher["enter"] = entered
        self._subsurface = compositor.bound("wl_subcompositor").get_subsurface(self._surface, parent)
        self._subsurface.set_desync()
        viewporter = compositor.optional("wp_viewporter")
        self._viewport = viewporter.get_viewport(self._surface) if viewporter else None
        region = compositor.bound("wl_compositor").create_region()
        self._surface.set_input_region(region)
        region.destroy()
        self.presentation = Presentation(compositor.optional("wp_presentation"), compositor.presentation_clock)
        self._ready = False
        self._next: tuple[Image, Crop] | None = None
        self._shown: tuple[Image, Crop] | None = None
        self._laid_out: tuple[object, ...] | None = None
        self.placed: tuple[Crop, Place] | None = None
        """What part of an image is where, as last committed; None while nothing is shown."""
        self._pending: list[_Pending] = []
        self._timer: asyncio.TimerHandle | None = None
        self._frames = Frames(compositor, self._surface, self._on_frame)
        self._callbacks: list[Callback] = []
        self.hidden = False
        self.drawn = False
        """Whether the compositor has drawn it since it was asked."""
        self._asked: Callback | None = None

    # -- what the window does

    def ready(self) -> None:
        """The window is about to be mapped: what waited for that is shown with it. Again: only the place is new."""
        if self._ready:
            return self.place_again()
        self._ready = True
        if self._next:
            self._commit(*self._next)

    def present(self, image: Image, crop: Crop, done: Callable[[bool], None] | None, wait_release: bool) -> None:
        """Show ``crop`` of ``image``; ``done`` is called once, unless it is forgotten."""
        if image.lane:
            image.lane.resume()
        previous = self._shown or self._next
        replaced = previous[0] if previous and previous[0] is not image else None
        if done:
            deadline = self._loop.time() + (self._interval if self.hidden else limits.HIDDEN)
            self._pending.append(_Pending(done, replaced if wait_release else None, deadline))
            self._watch(deadline)
        image.watchers.add(self)
        if not self._ready or (done is None and self._callbacks):
            # only the last one counts of those that nobody waits for: it is committed with the next
            # frame, so that a client that sends no flips can't make the compositor's work
            self._next = (image, crop)
            return
        self._commit(image, crop)

    def shows(self, image: Image | None) -> bool:
        """Whether ``image`` is what is shown or about to be."""
        return any(entry and entry[0] is image for entry in (self._shown, self._next))

    @property
    def waits_for_frame(self) -> bool:
        return bool(self._callbacks) or not self._alive()

    def replace(self, image: Image | None) -> bool:
        """``image`` is about to go: show at once what was to come after it; False if nothing was."""
        if self._next is None or self._next[0] is image or not self._ready:
            return False
        self._commit(*self._next)
        return True

    def forget(self) -> None:
        """Nobody who waits is answered any more, and what is about to be shown is not."""
        self._pending.clear()
        self._next = None

    async def reach_screen(self, seconds: float) -> None:
        """Wait, no longer than so, until what is shown now is on the screen, and nothing else of before."""
        if self._ready and not self.hidden and self._alive():
            if self._next:
                self._commit(*self._next)
            await self.presentation.reach(self._surface, self._commit_again, seconds)

    def ask(self) -> None:
        """``drawn`` is what the compositor says from now on; what it said already may be under way."""
        self.drawn = False
        if self._shown is None or not self._alive():
            return
        if self._shown[0].lane:
            self._shown[0].lane.resume()
        self._asked = self._frames.callback(self._loop.time())
        self._callbacks.append(self._asked)
        self._commit_again()

    def _commit_again(self) -> None:
        if self._alive():
            self._frames.damage()  # without it a compositor may see nothing to draw
            self._frames.commit()
            self._compositor.flush()

    def place_again(self) -> None:
        """The window has another size; whoever calls this commits its surface."""
        if self._shown and self._alive():
            self._lay_out(*self._shown)
            self._surface.commit()

    def destroy(self) -> None:
        """Idempotent, and works after the connection was lost; nobody is answered any more."""
        self.forget()
        self.presentation.close()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._frames.close()
        self._callbacks.clear()
        if self._shown:
            self._shown[0].leave(self)
        self._shown = self._laid_out = self.placed = None
        if self._alive():
            for proxy in (self._viewport, self._subsurface, self._surface):
                if proxy is not None:
                    proxy.destroy()
        self._surface = self._subsurface = self._viewport = None

    # -- in C's hands

    @property
    def idle(self) -> bool:
        """Whether nobody waits, and the compositor draws what is committed."""
        waits = self._pending or self._callbacks or self._next
        return self._ready and self._shown is not None and not waits and not self.hidden and self._alive()

    def repeats(self, image: Image, crop: Crop) -> bool:
        """Whether to show an image again takes nothing but its commit, and concerns nobody else."""
        same = self._laid_out == (crop, image.width, image.height)
        return same and image.watchers == {self} and not image.waiting

    @property
    def surface(self) -> tuple[Any, Any]:
        """Its pointer, and the arguments of damage_buffer."""
        return self._frames.pointer, self._frames.everything

    def go_on(self, image: Image, flight: Flight | None) -> None:
        """``image`` is shown now, and a flight under way."""
        assert self._shown
        if self._shown[0] is not image:
            self._shown[0].leave(self)
            image.users.add(self)
            self._shown = (image, self._shown[1])
        if flight is None:
            return
        deadline = flight.committed + limits.HIDDEN
        pending = _Pending(flight.done, flight.replaced, deadline)
        pending.drawn = flight.drawn
        self._pending.append(pending)
        if flight.callback:
            self._callbacks.append(self._frames.adopt(flight.callback, flight.committed))
        self._watch(deadline)

    # -- commits

    def _alive(self) -> bool:
        return self._surface is not None and not self._surface.destroyed

    def _commit(self, image: Image, crop: Crop) -> None:
        frames, now = self._frames, self._loop.time()
        if image.fill:
            image.fill(crop)
        frames.attach(image.attach)
        new = self._laid_out != (crop, image.width, image.height)
        if new:
            self._lay_out(image, crop)
        frames.damage()
        if len(self._callbacks) < _MAX_CALLBACKS or not self.hidden:
            self._callbacks.append(frames.callback(now))
        if self._shown and self._shown[0] is not image:
            self._shown[0].leave(self)
        image.enter(self, now)
        if self._pending:
            self.presentation.sample(self._surface, now)
        self._shown, self._next = (image, crop), None
        frames.commit()
        if new:
            self._placed()
        self._compositor.flush()

    def _lay_out(self, image: Image, crop: Crop) -> None:
        place = self._place(image, crop)
        self._laid_out = (crop, image.width, image.height)
        self.placed = (crop, place)
        width, height, x, y = place.width, place.height, place.x, place.y
        viewport = self._viewport
        if viewport is None:
            width, height, x, y = image.width, image.height, x - crop.x, y - crop.y
        else:
            _scale(viewport, image, crop, place)
        if self._opaque:
            # a KMS primary plane has nothing to shine through behind it
            region = self._compositor.bound("wl_compositor").create_region()
            region.add(0, 0, width, height)
            self._surface.set_opaque_region(region)
            region.destroy()
        self._subsurface.set_position(x, y)

    # -- events

    def _on_frame(self, callback: Callback) -> None:
        # what was committed earlier was drawn, too, or replaced: Weston answers the newest commit of a
        # repaint first
        position = self._callbacks.index(callback)
        if self._asked is None or self._asked in self._callbacks[: position + 1]:
            self.drawn, self._asked = True, None
        for earlier in self._callbacks[:position]:
            self._frames.forget(earlier)
        del self._callbacks[: position + 1]
        if self.hidden and self._loop.time() - callback.committed < _IN_TIME:
            self.hidden = False
        if not self._callbacks:
            for pending in self._pending:
                pending.drawn = True
        elif self._pending:
            for pending in self._pending[: max(0, len(self._pending) - len(self._callbacks))]:
                pending.drawn = True
        self.settle()
        if self._next and self._alive():
            self._commit(*self._next)

    def _watch(self, deadline: float) -> None:
        """Look for expired presentations then, or earlier; one timer is enough for all."""
        if self._timer:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time() + _RESOLUTION
        for pending in self._pending:
            if pending.deadline <= now and not pending.expired:
                pending.expired = True
                if not pending.drawn:
                    self.hidden = True
        self.settle()
        waiting = [pending.deadline for pending in self._pending if not pending.expired]
        if waiting:
            self._watch(min(waiting))

    def settle(self) -> None:
        """Answer, in order, every presentation that is drawn or hidden and whose predecessor the
        compositor has let go: an image calls this when it is released."""
        while self._pending:
            pending = self._pending[0]
            if not (pending.drawn or pending.expired):
                return
            # one that is shown again, here or by another connector, is released later
            if pending.replaced and pending.replaced.busy and not pending.replaced.users:
                return
            self._pending.pop(0)
            pending.done(pending.drawn)


def _scale(viewport: Proxy, image: Image, crop: Crop, place: Place) -> None:
    if place.source == (image.width, image.height):
        viewport.set_source(-1, -1, -1, -1)
    else:
        viewport.set_source(crop.x, crop.y, *place.source)
    if place.source == (place.width, place.height):
        viewport.set_destination(-1, -1)
    else:
        viewport.set_destination(place.width, place.height)
