# SPDX-License-Identifier: MIT
"""What the supervisor knows of one DomU."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from ..config import Config
from ..link.messages import WorkerStatus
from .child import Child
from .device import Device
from .status import DeviceState, DomainState
from .vdispl import VDispl
from .vkbd import VKbd


class Domain:
    """A DomU with at least one device. ``config`` is what its worker has; there is one as long as there
    are vdispl ``devices``, ``inputs`` alone have none. ``begun``: its link is kept up."""

    def __init__(self, domid: int, name: str, config: Config, child: Child) -> None:
        self.domid = domid
        self.name = name
        self.config = config
        self.child = child
        self.devices: dict[int, VDispl] = {}
        self.inputs: dict[int, VKbd] = {}
        self.begun = False
        self.ready = False
        self.silent = False
        self.status: asyncio.Future[WorkerStatus | None] | None = None
        self.published: dict[tuple[str, int], DeviceState] = {}

    def summary(self) -> dict[str, Any]:
        """What `xen-dmabuf-backend status` says of it without asking its worker."""
        state = DomainState(self.domid, self.name, self.child.pid if self.begun else 0, self._worker())
        devices = [asdict(device.status()) for device in self.devices.values()]
        inputs = [asdict(device.status()) for device in self.inputs.values()]
        return {**asdict(state), "devices": devices, "inputs": inputs}

    def _worker(self) -> str:
        if self.ready:
            return "not answering" if self.silent else "ready"
        return "starting" if self.begun else "none"

    def rename(self, name: str) -> None:
        self.name = name
        for device in self.all_devices():
            device.name = name

    def all_devices(self) -> list[Device]:
        return [*self.devices.values(), *self.inputs.values()]

    def of_kind(self, kind: type[Device]) -> dict[int, Any]:
        return self.devices if kind is VDispl else self.inputs

    def ready_child(self) -> Child | None:
        return self.child if self.ready else None
