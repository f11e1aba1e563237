# SPDX-License-Identifier: MIT
"""One input device (vkb with backend-type=linux) as the supervisor sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..errors import RequestError
from ..kbdif.spec import InputSpec
from ..link.messages import ConnectInput, DisconnectInput, InputConnected, InputDisconnected, InputRefused, Message
from .device import Device, Ties
from .handshake import Action, Link, State, View, decide_input
from .xenstore import InputFeatures, XenStore, read_input, read_input_features

_NO_WINDOW = (
    "the domain has no vdispl device: without a window of its own nothing is typed into it;"
    " add vdispl to its configuration, or `xl vdispl-attach`"
)
_PUBLISHED = (State.INITIALISED, State.CONNECTED)


class VKbd(Device):
    """``alone`` says whether the domain has no vdispl device, and so no worker; all others: Device."""

    BACKEND, FRONTEND = "vinput", "vkbd"

    def __init__(self, store: XenStore, ties: Ties, alone: Callable[[], bool]) -> None:
        self._alone = alone
        self._features: InputFeatures | None = None
        self._failed_texts: tuple[str | None, ...] = ()
        super().__init__(store, ties)

    def _decide(self, view: View) -> Action:
        return decide_input(view)

    def _view(self) -> View:
        view = super()._view()
        if view.refused or not view.online or view.link is not Link.UP or view.front not in _PUBLISHED:
            return view
        return replace(view, renewed=not self._is_published(self._published))

    def _lacking(self) -> str:
        """Not said before the guest runs: the toolstack makes its devices one after the other."""
        return _NO_WINDOW if self.front in _PUBLISHED and self._alone() else ""

    def _unfit(self) -> str:
        if self._features is None:  # the toolstack writes them once, before it makes the device
            self._features = read_input_features(self._store, self.path, self.number)
        return ""

    def _read(self) -> InputSpec | None:
        if self._features is None:
            self._features = read_input_features(self._store, self.path, self.number)
        return read_input(self._store, self.frontend, self._features)

    def _is_published(self, held: Any) -> bool:
        try:
            published = self._read()
        except RequestError:
            return False
        return published is None or published == held

    def _made_anew(self) -> None:
        super()._made_anew()
        self._features = None

    def _texts(self) -> tuple[str | None, ...]:
        return tuple(self._store.read(f"{self.frontend}/{node}") for node in ("page-gref", "event-channel"))

    def fail(self, reason: str) -> None:
        super().fail(reason)
        self._failed_texts = self._texts()

    def _moved_on(self) -> bool:
        """Its states follow ours, so they mean nothing: it must have published something else."""
        return self._texts() != self._failed_texts

    def _connect_message(self, published: Any) -> Message:
        return ConnectInput(self.number, published)

    def _disconnect_message(self) -> Message:
        return DisconnectInput(self.number)

    def _renew(self) -> None:
        self.ask_back()

    def on_worker(self, message: Message) -> None:
        if isinstance(message, InputConnected):
            self._connected()
        elif isinstance(message, InputRefused):
            self._refused(message.reason)
        elif isinstance(message, InputDisconnected):
            self._disconnected()
