# SPDX-License-Identifier: MIT
"""Building everything and booting it: the one entry for demo, tests and people."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from . import debianroot, host, kernel, kernel_debug, kernel_guest, rootfs, xen
from .cache import say
from .deadline import wait_until
from .errors import LostVMError
from .guest import Dom0
from .product import KIOSK, Product, chosen
from .qemu import SCREEN, Images, Qemu, command_lines, require_qemu

BOOT_SECONDS = 300


def _prepare() -> None:
    """What can't be built is said before anything is."""
    xen.choice()
    kernel.line()
    command_lines()
    debianroot.suite()
    host.install(host.TESTBED)
    host.require_root()


def build(
    product: Product | None = None,
    guest_kernel: Callable[[], Path] = kernel_guest.build,
    more: Sequence[str] = (),
    own_kernel: Callable[[], Path] | None = None,
) -> Images:
    """Build what is not cached, with the product that is chosen by the environment if none is given.

    ``guest_kernel`` builds the folder of the kernel with the guest's series, which DomUs can boot, too.
    ``more``: packages of Debian that Dom0 has besides. ``own_kernel`` builds the folder of a kernel with both series,
    which Dom0 and all DomUs boot in place of the testbed's.
    """
    product = product or chosen()
    _prepare()
    built = (own_kernel or kernel.build)()
    return Images(
        xen=xen.build(),
        kernel=built / "Image",
        dom0=rootfs.build_dom0(product, built, built if own_kernel else guest_kernel(), more),
        domu=rootfs.build_domu(product, built),
    )


_MAKE_KIOSK = """
cp -r /{kiosk}/. /
printf '%b' '{more}' >> /etc/xen-dmabuf/kiosk/weston/weston.ini
systemctl daemon-reload && systemctl restart weston && systemctl reload xen-dmabuf-backend
"""


def kiosk(dom0: Dom0, more: str = "") -> None:
    """Make a running Dom0 a kiosk, as the layer's xen-dmabuf-weston-kiosk does; ``more``: for weston.ini."""
    dom0.run(_MAKE_KIOSK.format(kiosk=KIOSK, more=more), timeout=240)


def _booted(machine: Qemu) -> bool:
    machine.check_alive()
    return bool(re.search(r"Reached target.*graphical\.target", machine.serial_log.read_text(errors="replace")))


def build_debug() -> Images:
    """The same with the debug kernel in Dom0; DomUs keep the plain one."""
    product = chosen()
    _prepare()
    plain, debug = kernel.build(), kernel_debug.build()
    return Images(
        xen=xen.build(),
        kernel=debug / "Image",
        dom0=rootfs.build_dom0(product, kernel_debug.dom0_parts(debug, plain), kernel_guest.build()),
        domu=rootfs.build_domu(product, plain),
        xen_options=kernel_debug.XEN_OPTIONS,
        dom0_options=kernel_debug.DOM0_OPTIONS,
    )


def read_ahead(images: Images) -> None:
    """Read the disks' images, so that the host has them in its memory.

    The clock of an icount machine with ``sleep=off`` goes to the guest's next timer whenever the guest waits. It waits
    for the host's disk, too: minutes of its own time pass then, and systemd ends Weston's start.
    """
    for disk in (images.dom0, images.domu):
        with disk.open("rb") as file:
            while file.read(1 << 20):
                pass


@contextlib.contextmanager
def boot(
    images: Images,
    folder: Path,
    screen: tuple[int, int] = SCREEN,
    outputs: int = 1,
    display: tuple[str, ...] = ("-display", "none"),
    icount: bool = False,
) -> Iterator[tuple[Qemu, Dom0]]:
    """Boot to a Dom0 whose Weston and backend run; everything ends with the context.

    ``screen`` is (width, height) in pixels; all others: Qemu.
    """
    require_qemu()
    if icount:
        read_ahead(images)
    with Qemu(images, folder, screen=screen, outputs=outputs, display=display, icount=icount) as machine:
        say("booting Xen and Dom0")
        dom0 = Dom0(machine)
        # The console tells for nothing; each attempt of SSH costs a booting guest a second.
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: _booted(machine), BOOT_SECONDS, "Dom0's graphical.target")
        dom0.wait_for_ssh(BOOT_SECONDS)
        # is-active of several units is content with one
        active = dom0.try_run("systemctl is-active weston && systemctl is-active xen-dmabuf-backend")
        if active.status:
            journal = dom0.try_run("systemctl --failed; journalctl -b --no-pager -n 40").output
            raise LostVMError(f"Weston and the backend do not run in Dom0\n{active.output}\n{journal}")
        say("Dom0's Weston and the backend run")
        yield machine, dom0
