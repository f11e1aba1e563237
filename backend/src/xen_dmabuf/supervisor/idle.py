# SPDX-License-Identifier: MIT
"""The screens that are shown without their guest: which ones, and the worker that shows them.

Only what the configuration names is shown, so a guest can leave no window behind. One worker shows them all
(worker/idle.py); it has no guest, and lives on without a supervisor. Asyncio thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Protocol

from ..codec import CodecError
from ..config import Config, ConnectorConfig
from ..displif.spec import ConnectorSpec
from ..link.messages import Hello, IdleScreen, IdleShown, Message, ShowIdle
from .child import Child
from .handshake import Link
from .status import IdleState

log = logging.getLogger(__name__)


class Device(Protocol):
    """What is asked of a vdispl device."""

    link: Link

    @property
    def connectors(self) -> tuple[ConnectorSpec, ...]:
        """Those that it connected last."""


class Guest(Protocol):
    """What is asked of a domain."""

    name: str
    devices: dict[int, Any]


class IdleScreens:
    """``make_child(on_message, on_lost)`` makes the worker's link, ``spawn`` runs what ends one."""

    def __init__(
        self,
        make_child: Callable[[Callable[[Message], None], Callable[[], None]], Child],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._make_child = make_child
        self._spawn = spawn
        self._child: Child | None = None
        self._linked = False
        self._wanted = ShowIdle("")
        self._sizes: dict[str, tuple[int, int]] = {}
        self._shown: frozenset[str] = frozenset()
        self._names: tuple[str, ...] = ()

    @property
    def runs(self) -> bool:
        """Whether there is to be a worker for them."""
        return self._child is not None

    def update(self, config: Config, guests: Collection[Guest]) -> None:
        """Look who is there; cheap, and only a change is told."""
        screens = config.idle_screens
        self._names = tuple(screens)
        if not screens:
            return self._end()
        for guest in guests:
            self._remember_sizes(guest)
        found = (self._screen(name, settings, config, guests) for name, settings in screens.items())
        wanted = ShowIdle(config.display.socket, tuple(screen for screen in found if screen))
        changed, self._wanted = wanted != self._wanted, wanted
        if self._child is None:
            self._child = self._make_child(self._on_message, self._on_lost)
            self._child.begin()
        elif changed and self._linked:
            self._child.send(wanted)

    def leave(self) -> None:
        """Give up the link; the windows stay."""
        if self._child:
            self._child.leave()

    def status(self) -> list[IdleState]:
        """One for each configured screen."""
        wanted = {screen.name for screen in self._wanted.screens if not screen.undecided}
        return [IdleState(name, self._state(name in wanted, name in self._shown)) for name in self._names]

    @staticmethod
    def _state(wanted: bool, shown: bool) -> str:
        return "shown" if shown else "waits" if wanted else "guest"

    # -- who is there

    def _remember_sizes(self, guest: Guest) -> None:
        for device in guest.devices.values():
            for spec in device.connectors:
                name = f"{guest.name}.{spec.name}"
                if name in self._names:
                    self._sizes[name] = (spec.width, spec.height)

    def _screen(
        self, name: str, settings: ConnectorConfig, config: Config, guests: Collection[Guest]
    ) -> IdleScreen | None:
        """None: its guest shows it."""
        undecided = False
        for guest in guests:
            if not name.startswith(f"{guest.name}."):
                continue
            for device in guest.devices.values():
                if settings.ivi_id or (device.link is Link.UP and name in _screens(guest, device)):
                    return None  # an ivi surface's id must not be given twice, so it waits for the device's end
                undecided |= device.link is Link.UNKNOWN
        domain, _dot, connector = name.rpartition(".")
        width, height = self._sizes.get(name, (0, 0))
        names = f"{domain} {connector}", f"{config.display.app_id}.{name}"
        return IdleScreen(name, *names, width, height, settings, undecided)

    # -- the worker

    def _on_message(self, message: Message) -> None:
        if isinstance(message, Hello):
            self._linked = True
            assert self._child
            self._child.send(self._wanted)
        elif isinstance(message, IdleShown):
            self._shown = frozenset(message.names)
        else:
            raise CodecError(f"{message.TYPE} from the worker without a guest")

    def _on_lost(self) -> None:
        self._linked, self._shown = False, frozenset()

    def _end(self) -> None:
        child, self._child = self._child, None
        if child:
            self._on_lost()
            self._wanted = ShowIdle("")
            self._sizes.clear()
            self._spawn(child.stop())


def _screens(guest: Guest, device: Device) -> set[str]:
    return {f"{guest.name}.{spec.name}" for spec in device.connectors}
