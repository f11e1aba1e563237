# SPDX-License-Identifier: MIT
"""Building everything and booting it: the one entry for demo, tests and people."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from . import host, kernel, rootfs
from .cache import say
from .deadline import wait_until
from .errors import LostVMError
from .guest import Dom0
from .qemu import Images, Qemu, require_qemu

BOOT_SECONDS = 300


def build() -> Images:
    """Build what is not cached."""
    host.install()
    host.require_root()
    built = kernel.build()
    return Images(xen=rootfs.xen(), kernel=built / "Image", dom0=rootfs.build_dom0(built),
                  domu=rootfs.build_domu(built))


@contextlib.contextmanager
def boot(images: Images, folder: Path, screen: tuple[int, int] = (1280, 800)) -> Iterator[tuple[Qemu, Dom0]]:
    """Boot to a Dom0 whose Weston and backend run; everything ends with the context."""
    require_qemu()
    with Qemu(images, folder, screen=screen) as machine:
        say("booting Xen and Dom0")
        dom0 = Dom0(machine)
        dom0.wait_for_ssh(BOOT_SECONDS)
        say("Dom0 answers to SSH")
        try:
            wait_until(lambda: dom0.try_run("systemctl is-active weston xen-dmabuf-backend").status == 0,
                       BOOT_SECONDS, "Weston and the backend in Dom0")
        except TimeoutError as error:
            journal = dom0.try_run("systemctl --failed; journalctl -b --no-pager -n 40").output
            raise LostVMError(f"{error}\n{journal}") from error
        say("Dom0's Weston and the backend run")
        yield machine, dom0
