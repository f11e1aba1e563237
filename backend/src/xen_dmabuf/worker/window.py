# SPDX-License-Identifier: MIT
"""A connector's window: the monitor that the DomU's cable ends in.

It is mapped as long as the connector is connected, so it keeps its place and takes nobody's focus
again. A black surface (or the configured idle picture) is its ground, and gets all input; the
guest's picture lies on it. Where it is, and how large, is what configuration, compositor and output
say together. All in the asyncio thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import limits
from ..config import ConnectorConfig
from ..displif.geometry import Crop
from ..errors import ImportRefused
from ..log import fields
from . import layout
from .claim import Claim
from .ground import ground, load_idle
from .layout import Place, Size
from .picture import Picture
from .presentation import Presentation
from .protocols import Proxy, WlSurface, XdgToplevel, entries, forgive_dead_objects

if TYPE_CHECKING:
    from .compositor import Compositor
    from .image import Image

log = logging.getLogger(__name__)

forgive_dead_objects(WlSurface)  # it is on an output that is gone already
_LOOKS = 3  # at windows after one was mapped, whether they are drawn
_TILED = range(5, 9)  # of xdg_toplevel.state: left, right, top, bottom


class Window:
    """One surface with a role, and the Picture on it; destroy() is idempotent and works after the
    connection was lost."""

    def __init__(
        self,
        compositor: Compositor,
        title: str,
        app_id: str,
        size: Size,
        settings: ConnectorConfig,
        hidden_rate: int,
    ) -> None:
        """``size``: the connector's, in pixels. ConnectionLost without a connection, or without a
        role for the surface; OSError, ImportRefused."""
        self._ivi: Proxy = compositor.optional("ivi_application") if settings.ivi_id else None
        self._base: Proxy = None if self._ivi else compositor.bound("xdg_wm_base")
        # what may fail comes first: it is tried again and again, and must leave nothing in the compositor
        self._ground = ground(compositor, (1, 1), settings)
        try:
            self._idle = load_idle(compositor, settings) or ground(compositor, (1, 1), settings)
        except (OSError, ImportRefused):
            self._ground.destroy()
            raise
        self._connector = size
        self._compositor = compositor
        self._settings = settings
        self._title, self._app_id = title, app_id
        self._content = size
        self._wish: Size = layout.NO_LIMIT
        self._must = self._fullscreen = False
        self._configured = False
        self._area: Size = layout.NO_LIMIT
        self._bounds: Size = layout.NO_LIMIT
        self._asked: str | None = None
        self._entered = ""
        self._looking: asyncio.TimerHandle | None = None
        self.surface: Proxy = compositor.bound("wl_compositor").create_surface()
        """The surface that gets input; None once destroyed."""
        self.surface.dispatcher["enter"] = self._on_enter
        viewporter = compositor.optional("wp_viewporter")
        self._viewport = viewporter.get_viewport(self.surface) if viewporter else None
        self._scale = settings.scale if viewporter else "none"
        compositor.windows.add(self)
        opaque = not settings.alpha
        self._picture = Picture(
            compositor, self.surface, self._place, self._commit, self._on_enter, hidden_rate, opaque=opaque
        )
        self.blank()  # the subsurface is mapped with the window, and always shows something
        self._role()

    def _role(self) -> None:
        compositor = self._compositor
        self._xdg_surface: Proxy = None
        self._toplevel: Proxy = None
        self._ivi_surface: Proxy = None
        self._claim: Claim | None = None
        if self._ivi:
            self._claim = Claim(compositor, self._settings.ivi_id, self._title, self._on_claimed)
            return
        self._xdg_surface = self._base.get_xdg_surface(self.surface)
        self._xdg_surface.dispatcher["configure"] = self._on_configure
        self._toplevel = self._xdg_surface.get_toplevel()
        self._toplevel.dispatcher["configure"] = self._on_toplevel_configure
        self._toplevel.dispatcher["close"] = self._on_close
        self._toplevel.dispatcher["configure_bounds"] = self._on_bounds
        self.rename(self._title, self._app_id)
        self.outputs_changed()
        if self._settings.placement == "maximised":
            self._toplevel.set_maximized()
        self.surface.commit()
        compositor.flush()

    # -- what the connector does

    def rename(self, title: str, app_id: str) -> None:
        """What the compositor calls it; an ivi surface has its id."""
        self._title, self._app_id = title, app_id
        if self._toplevel:
            self._toplevel.set_title(title)
            self._toplevel.set_app_id(app_id)

    def present(
        self,
        image: Image,
        crop: Crop,
        done: Callable[[bool], None] | None,
        *,
        wait_release: bool = True,
    ) -> None:
        """Show ``crop`` of ``image``; ``done`` is called once, unless the window is blanked.

        ``wait_release=False``: the DomU's pages aren't what the compositor reads (copied), so
        nothing has to be released before the flip is answered.
        """
        self._picture.present(image, crop, done, wait_release)

    def blank(self) -> None:
        """Show the idle picture, or black; nobody is answered any more."""
        self._picture.forget()
        self._picture.present(self._idle, Crop(0, 0, self._idle.width, self._idle.height), None, False)
        self._compositor.flush()

    @property
    def picture(self) -> Picture:
        """What the connector shows on it."""
        return self._picture

    @property
    def hidden(self) -> bool:
        return self._picture.hidden

    @property
    def output(self) -> str:
        """The name of the output that it came to last, "" if the compositor hasn't said."""
        return self._entered

    @property
    def presentation(self) -> Presentation:
        """When its frames reach the screen."""
        return self._picture.presentation

    @property
    def waits_for_frame(self) -> bool:
        """Whether the compositor hasn't drawn the last picture yet."""
        return self._picture.waits_for_frame

    def shows(self, image: Image | None) -> bool:
        """Whether ``image`` is what the window shows or is about to."""
        return self._picture.shows(image)

    def replace(self, image: Image | None) -> bool:
        """``image`` is about to go: show at once what was to come after it; False if nothing was."""
        return self._picture.replace(image)

    # -- what a seat asks

    @property
    def size(self) -> Size:
        """Pixels of what the guest shows, or, without that, of the connector."""
        placed = self._guest()
        return (placed[0].width, placed[0].height) if placed else self._connector

    def _guest(self) -> tuple[Crop, Place] | None:
        return None if self._picture.shows(self._idle) else self._picture.placed

    def locate(self, x: float, y: float) -> tuple[float, float]:
        """What pixel of ``size`` is at these surface coordinates, as last committed.

        Not clamped: what is beside the picture is beyond it.
        """
        placed = self._guest()
        if placed is None:
            width, height = self._area
            return x * self._connector[0] / max(1, width), y * self._connector[1] / max(1, height)
        _, place = placed
        source_width, source_height = place.source
        return (x - place.x) * source_width / place.width, (y - place.y) * source_height / place.height

    def destroy(self) -> None:
        """Unmap and remove the window; nobody is answered any more."""
        self._compositor.windows.discard(self)
        if self._looking:
            self._looking.cancel()
        self._give_up()
        self._picture.destroy()
        if self.surface is not None and not self.surface.destroyed:
            for proxy in (self._ivi_surface, self._toplevel, self._xdg_surface, self._viewport, self.surface):
                if proxy is not None:
                    proxy.destroy()
            self._compositor.flush()
        if self._claim:
            self._claim.close()
        self._idle.destroy()
        self._ground.destroy()
        self.surface = self._viewport = self._xdg_surface = self._toplevel = self._ivi_surface = self._claim = None

    def _give_up(self) -> None:
        """Show nothing of the guest's before the window goes: sway 1.10 keeps the last picture
        of a window, so its pages, until it ends."""
        if self._guest() and self.surface is not None and not self.surface.destroyed:
            self.blank()
            self._picture.replace(None)  # at once, not with the next frame

    # -- where

    def outputs_changed(self) -> None:
        """Outputs have come, gone or changed: go where the configuration says."""
        if self._toplevel is None:
            return
        if self._settings.placement == "fullscreen":
            name, proxy = self._compositor.outputs.named(self._settings.output)
            if name != self._asked:
                self._asked = name
                self._toplevel.set_fullscreen(proxy)
                if name != self._settings.output:
                    there = ", ".join(self._compositor.outputs.names())
                    log.warning(
                        "output isn't there: the compositor chooses another until it comes",
                        extra=fields(title=self._title, output=self._settings.output, there=there),
                    )
        self._fit()

    def _limit(self) -> Size:
        """What there is room for: the compositor's word, or the output's size."""
        if all(self._bounds):
            return self._bounds
        return self._compositor.outputs.size(self._settings.output or self._entered)

    def _fit(self) -> None:
        """After anything that may change the window's size."""
        if self._configured and self._resize():
            self._picture.place_again()
            self._commit()
        self._compositor.flush()

    def _resize(self) -> bool:
        """Give the ground its size, which a commit makes true; whether it changed."""
        area = layout.window(self._content, self._wish, self._must, self._limit(), self._scale)
        if area == self._area:
            return False
        self._area = area
        if self._viewport is None:
            self._lay_ground(area)
        else:
            self._viewport.set_destination(*area)
        self.surface.damage_buffer(0, 0, 0x7FFFFFFF, 0x7FFFFFFF)
        if self._xdg_surface is not None:
            self._xdg_surface.set_window_geometry(0, 0, *area)
        return True

    def _lay_ground(self, size: Size) -> None:
        """Without viewporter a buffer has to be as large as what it covers.

        A line more, beyond the window: cage 0.1.4, which has no viewporter, shows a buffer of the output's
        size without the picture on it.
        """
        try:
            larger = ground(self._compositor, (size[0], size[1] + 1), self._settings)
        except (OSError, ImportRefused) as error:
            log.error("window can't get its size", extra=fields(title=self._title, reason=error))
            return
        self.surface.attach(larger.buffer, 0, 0)
        self._ground.destroy()
        self._ground = larger

    def _place(self, image: Image, crop: Crop) -> Place:
        content = (crop.width, crop.height)
        if image is self._idle:
            scale = "none" if self._viewport is None else "stretch" if content == (1, 1) else "fit"
            return layout.place(content, self._area, scale)
        self._content = content
        self._resize()
        return layout.place(content, self._area, self._scale)

    def _commit(self) -> None:
        if self.surface is not None and not self.surface.destroyed:
            self.surface.commit()

    # -- events

    def _on_toplevel_configure(self, _toplevel: Proxy, width: int, height: int, states: bytes) -> None:
        self._wish = layout.bounded(width, height)
        numbers = {number for (number,) in entries("<I", states)}
        state = XdgToplevel.state
        self._must = bool(numbers & {state.maximized.value, state.fullscreen.value, *_TILED})
        self._fullscreen = state.fullscreen.value in numbers

    def _on_bounds(self, _toplevel: Proxy, width: int, height: int) -> None:
        self._bounds = layout.bounded(width, height)

    def _on_configure(self, xdg_surface: Proxy, serial: int) -> None:
        xdg_surface.ack_configure(serial)
        if self._configured:
            self._resize()
            self._picture.place_again()
            self._commit()
            self._compositor.flush()
        else:
            self._show()

    def _on_claimed(self) -> None:
        """The ivi surface's id is free."""
        self._ivi_surface = self._ivi.surface_create(self._settings.ivi_id, self.surface)
        self._ivi_surface.dispatcher["configure"] = self._on_ivi_configure
        self._show()

    def _on_ivi_configure(self, _surface: Proxy, width: int, height: int) -> None:
        """The rectangle that a controller scales the surface to, in no proportion."""
        self._wish = layout.bounded(width, height)
        self._must = True
        self._fit()

    def _show(self) -> None:
        """Map the window, and what is on it."""
        self._configured = True
        self.surface.attach(self._ground.buffer, 0, 0)
        self._resize()
        self._picture.ready()
        self._commit()
        self._compositor.flush()
        if self._toplevel is not None and self._looking is None:
            self._look(1)
            for window in self._compositor.windows - {self}:
                window.another_is_mapped()

    def another_is_mapped(self) -> None:
        """Ask whether this one is drawn still; one that doesn't fill its output may be covered by then."""
        if self._fullscreen and not self._picture.hidden:
            self._picture.ask()
            self._look(1)

    def _look(self, number: int) -> None:
        """Look later whether it is drawn, each time after twice as long."""
        if self._looking:
            self._looking.cancel()
        seconds = limits.HIDDEN * 2 ** (number - 1)
        self._looking = asyncio.get_running_loop().call_later(seconds, self._map_again, number)

    def _map_again(self, look: int) -> None:
        """Where it isn't drawn, while another window is, or after the last look. The kiosk shell of Weston 14 puts one
        below its background: when a connection with windows on two outputs ends, it keeps a pointer to the list of
        the second, and the next window that is mapped there takes the first one with it out of sight, drawn or not.
        A compositor that draws none is busy.
        """
        if self._picture.drawn or self.surface is None or self.surface.destroyed:
            return
        if look < _LOOKS:
            self._look(look + 1)
            if not any(window.picture.drawn for window in self._compositor.windows):
                return
        log.warning("window isn't drawn: it is mapped again", extra=fields(title=self._title))
        self.surface.attach(None, 0, 0)
        self.surface.commit()
        self._toplevel.destroy()
        self._xdg_surface.destroy()
        self._configured, self._asked = False, None
        self._wish = self._area = layout.NO_LIMIT
        self._must = self._fullscreen = False
        self._role()

    def _on_enter(self, _surface: Proxy, output: Proxy) -> None:
        self._entered = self._compositor.outputs.name_of(output)
        self._fit()

    def _on_close(self, _toplevel: Proxy) -> None:
        log.info("close request ignored: the DomU owns the window title=%s", self._title)
