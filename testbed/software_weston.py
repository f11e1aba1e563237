# SPDX-License-Identifier: MIT
"""A second Weston in Dom0 that sees no GPU: it draws by CPU, into memory, and imports dma-bufs by mapping them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from .deadline import wait_until
from .guest import Dom0
from .pattern import Pixels

UNIT = "software-weston"
FOLDER = f"/run/{UNIT}"
SOCKET = f"{FOLDER}/wayland-0"
SIZE = (800, 600)
_ENVIRONMENT = f"XDG_RUNTIME_DIR={FOLDER}"


class SoftwareWeston:
    """A running one. ``dom0``: where it runs."""

    def __init__(self, dom0: Dom0) -> None:
        self._dom0 = dom0

    def screenshot(self) -> Pixels:
        """What it has drawn."""
        self._dom0.run(
            f"cd {FOLDER} && rm -f *.png && {_ENVIRONMENT} WAYLAND_DISPLAY=wayland-0 weston-screenshooter "
            "&& mv *.png screen"
        )
        with Image.open(io.BytesIO(self._dom0.read_file(f"{FOLDER}/screen"))) as image:
            return np.asarray(image.convert("RGB"))

    def mapped_dmabufs(self) -> int:
        """How many mappings of dma-bufs its process has."""
        return self._dom0.mapped_dmabufs(UNIT)


@contextlib.contextmanager
def running(dom0: Dom0) -> Iterator[SoftwareWeston]:
    """Start it and end it. Its EGL finds no DRM node, so Mesa's software renderer isn't bound to one: bound to a
    virtio-gpu, it hands dma-bufs to that driver, which refuses foreign ones.
    """
    dom0.run(
        f"systemd-run --quiet --collect --unit={UNIT} -p InaccessiblePaths=/dev/dri -p RuntimeDirectory={UNIT} "
        f"-E {_ENVIRONMENT} -E XDG_CONFIG_DIRS=/etc/xen-dmabuf/dom0:/etc/xdg -E LIBGL_ALWAYS_SOFTWARE=1 "
        f"weston --backend=headless --renderer=gl --socket=wayland-0 --width={SIZE[0]} --height={SIZE[1]} --debug"
    )
    try:
        wait_until(lambda: dom0.try_run(f"test -S {SOCKET} && chmod 777 {SOCKET}").status == 0, 60, f"{UNIT}'s socket")
        yield SoftwareWeston(dom0)
    finally:
        dom0.try_run(f"systemctl stop {UNIT}")  # it may have crashed
