# SPDX-License-Identifier: MIT
"""What all devices of a DomU share: the compositor of the moment, its GPU's caches, input, counters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Config, Display
from .input import Inputs

if TYPE_CHECKING:  # the compositor's code is loaded when the rings are served already
    from .caches import Caches
    from .compositor import Compositor


class Scene:
    """Written by the worker, read by its devices. ``compositor`` and ``caches`` may be None."""

    def __init__(self, domain: str, config: Config, inputs: Inputs | None = None) -> None:
        self.domain = domain
        self.config = config
        self.inputs = inputs or Inputs()
        self.compositor: Compositor | None = None
        self.caches: Caches | None = None
        self.pixel_bytes_copied = 0

    @property
    def display(self) -> Display:
        return self.config.display

    def flush(self) -> None:
        if self.compositor:
            self.compositor.flush()
