# SPDX-License-Identifier: MIT
"""A second Weston in Dom0 that sees no GPU: it draws by CPU, into memory, and imports dma-bufs by mapping them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from oeqa.runtime.xen_dmabuf import picture

from .deadline import wait_until
from .guest import Dom0

UNIT = "software-weston"
FOLDER = f"/run/{UNIT}"
SOCKET = f"{FOLDER}/wayland-0"
SIZE = (800, 600)
_ENVIRONMENT = f"XDG_RUNTIME_DIR={FOLDER}"


class SoftwareWeston:
    """A running one. ``dom0``: where it runs."""

    def __init__(self, dom0: Dom0) -> None:
        self._dom0 = dom0

    def screenshot(self) -> picture.Picture:
        """What it has drawn."""
        self._dom0.run(
            f"cd {FOLDER} && rm -f *.png && {_ENVIRONMENT} WAYLAND_DISPLAY=wayland-0 weston-screenshooter "
            "&& mv *.png screen"
        )
        return picture.read_png(self._dom0.read_file(f"{FOLDER}/screen"))

    def mapped_dmabufs(self) -> int:
        """How many mappings of dma-bufs its process has."""
        return int(self._dom0.run(f"grep -c /dmabuf: /proc/$(systemctl show -P MainPID {UNIT})/maps; true"))


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
