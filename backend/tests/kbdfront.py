# SPDX-License-Identifier: MIT
"""A model of xen-kbdfront's states over handshake_fakes.FakeStore, and what the toolstack writes for it."""

from __future__ import annotations

import asyncio

from handshake_fakes import FakeStore

BACK = "/local/domain/0/backend/vinput/3/0"
FRONT = "/local/domain/3/device/vkbd/0"


class Kbdfront:
    """xenkbd_probe() and xenkbd_backend_changed() of drivers/input/misc/xen-kbdfront.c (Linux 6.12)."""

    def __init__(self, store: FakeStore) -> None:
        self.store = store
        self.state = 1
        self.ref = 0
        self.bound = False
        before = store.on_change

        def watch(path: str) -> None:
            before(path)
            if path == f"{store.input_back}/state" and self.bound:
                asyncio.get_running_loop().call_soon(self._changed)

        store.on_change = watch

    def probe(self) -> None:
        for feature in ("abs-pointer", "multi-touch"):
            if self.store.read(f"{self.store.input_back}/feature-{feature}") == "1":
                self.store.write(f"{FRONT}/request-{feature}", "1")
        self.connect()
        self.bound = True
        self._changed()

    def resume(self) -> None:
        """xenkbd_resume(), and the watch that xenbus_dev_resume() sets anew."""
        self.connect()
        self._changed()

    def connect(self) -> None:
        """xenkbd_connect_backend()."""
        self.ref += 1
        self.store.write(f"{FRONT}/page-gref", str(100 + self.ref))
        self.store.write(f"{FRONT}/event-channel", str(200 + self.ref))
        self._say(3)

    def remove(self) -> None:
        """rmmod."""
        self.bound = False
        self._say(6)

    def _say(self, state: int) -> None:
        if state != self.state:
            self.state = state
            self.store.write(f"{FRONT}/state", str(state))

    def _changed(self) -> None:
        back = int(self.store.nodes.get(f"{self.store.input_back}/state", "0"))
        if back in (2, 4):
            self._say(4)
        elif back in (5, 6):
            self._say(6)


def toolstack_adds_input(store: FakeStore, **nodes: str) -> None:
    """What libxl writes for a vkb with backend-type=linux."""
    store.nodes |= {
        "/local/domain/3/domid": "3",
        "/local/domain/3/name": "domu",
        f"{store.input_back}/frontend": FRONT,
        f"{store.input_back}/frontend-id": "3",
        f"{store.input_back}/online": "1",
        f"{store.input_back}/state": "1",
        f"{FRONT}/state": "1",
    }
    store.nodes |= {f"{store.input_back}/{name.replace('_', '-')}": value for name, value in nodes.items()}
    store._changed(store.input_back)
