# SPDX-License-Identifier: MIT
"""One vdispl device as the supervisor sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..config import Config, Quota
from ..displif import wire
from ..displif.spec import ConnectorSpec
from ..link.messages import Connect, Connected, Disconnect, Disconnected, Failed, Message, Refused
from .device import Device, Ties
from .handshake import Action, Link, View, decide
from .xenstore import XenStore, left_out, read_connectors, read_number


class VDispl(Device):
    """``config`` returns the domain's configuration; all others: Device."""

    BACKEND = FRONTEND = "vdispl"

    def __init__(self, store: XenStore, ties: Ties, config: Callable[[], Config]) -> None:
        self._config = config
        super().__init__(store, ties)

    def _quota(self) -> Quota:
        return self._config().quota_for(self.name)

    @property
    def connectors(self) -> tuple[ConnectorSpec, ...]:
        """What its frontend published when it connected last."""
        return self._published or ()

    def _decide(self, view: View) -> Action:
        return decide(view)

    def _offer(self) -> None:
        write_back = str(int(self._config().guests_write_back))
        for node, value in (("versions", wire.VERSIONS), ("feature-write-back", write_back)):
            self._store.write_where(f"{self.path}/state", f"{self.path}/{node}", value)

    def _unfit(self) -> str:
        if read_number(self._store, f"{self.frontend}/be-alloc", 0, 1):
            return (
                f"{self.frontend}/be-alloc=1: the backend never allocates for a DomU (XSA-363);"
                " set be-alloc=0 in the domain's vdispl"
            )
        return ""

    def _read(self) -> tuple[ConnectorSpec, ...]:
        offers_write_back = self._store.read(f"{self.path}/feature-write-back") == "1"
        return tuple(read_connectors(self._store, self.frontend, self._quota(), offers_write_back))

    def _connect_message(self, published: Any) -> Message:
        self._warn(left_out(self._store, self.frontend, self._quota(), len(published)))
        return Connect(self.number, published)

    def _disconnect_message(self) -> Message:
        return Disconnect(self.number)

    def _renew(self) -> None:
        self.release()  # drm_xen_front connects again when it sees Closed

    def on_worker(self, message: Message) -> None:
        if isinstance(message, Connected):
            self._connected()
        elif isinstance(message, Refused):
            self._refused(message.reason)
        elif isinstance(message, Failed) and self.link in (Link.CONNECTING, Link.UP):
            self.fail(message.reason)
        elif isinstance(message, Disconnected):
            self._disconnected(complete=message.released)
