# SPDX-License-Identifier: MIT
"""The guest's series in a DomU whose kernel has all checks on: not one report of any of them.

A part of ``make kernel-debug-test``. Dom0 has the plain kernel, the DomUs' cases are the image's own.
"""

import re
from types import SimpleNamespace

import pytest
from oeqa.runtime.case import OERuntimeTestCase

from oeqa.runtime.cases import xen_dmabuf_guest as guest
from oeqa.runtime.cases import xen_dmabuf_input as typed
from oeqa.runtime.xen_dmabuf import domu
from oeqa.runtime.xen_dmabuf.dom0 import poll
from testbed import kernel_debug, machine
from testbed.guest import Target
from testbed.layout import REPOSITORY
from testbed.qemu import TEST_SCREEN

pytestmark = [pytest.mark.debugkernel, pytest.mark.usefixtures("dom0")]
FOLDER = REPOSITORY / "build" / "kernel-debug-test-guest"
MEMORY = "768"
TRACING = "/sys/kernel/tracing"


@pytest.fixture(scope="module")
def dom0():
    """The Dom0 whose other kernel for DomUs is the debug kernel; it is the cases' target."""
    with (
        machine.boot(machine.build(guest_kernel=kernel_debug.build_guest), FOLDER, TEST_SCREEN) as (_, dom0),
        pytest.MonkeyPatch.context() as patience,
    ):
        patience.setattr(domu, "BOOT_SECONDS", domu.BOOT_SECONDS * kernel_debug.SLOWNESS)
        OERuntimeTestCase.tc = SimpleNamespace(target=Target(dom0), td={})
        yield dom0


class Checked:
    """Every DomU of a case has the debug kernel, and its log is read before it ends."""

    @classmethod
    def guest_series(cls):
        return {**super().guest_series(), "memory": MEMORY}

    @classmethod
    def class_domu(cls, *arguments):
        return read_before_its_end(super().class_domu(*arguments), cls.addClassCleanup)

    def domu(self, *arguments, **more):
        return read_before_its_end(super().domu(*arguments, **more), self.addCleanup)


def read_before_its_end(made, add_cleanup):
    """The DomU, whose log is read at the end of its case, and by destroy()."""
    destroy = made.destroy

    def read_and_destroy():
        require_no_report(made)
        destroy()

    made.destroy = read_and_destroy
    add_cleanup(require_no_report, made)
    return made


def require_no_report(made):
    if made.gone or made.dom0.try_run(f"xl domid {made.name}")[0]:
        return
    log = made.run("dmesg", 120)
    assert "KernelAddressSanitizer initialized" in log
    assert kernel_debug.complaints(log) == [], made.name
    locks = made.run("cat /proc/lockdep_stats")
    assert re.search(r"debug_locks: +1$", locks, re.M), f"{made.name}: lockdep is off"


class TestGuest(Checked, guest.XenDmabufGuestTest):
    def test_what_is_written_back(self):
        """All of a frame in another framebuffer, of the same one only the pages of what was drawn."""
        made = self.offered_to_write_back(options=None)
        # the console's cursor draws, too
        made.run(f"mount -t tracefs tracefs {TRACING}; echo 0 > /sys/class/graphics/fbcon/cursor_blink")
        made.run(f"echo 1 > {TRACING}/events/dma/dma_map_page/enable")
        # of exactly one line DRM's helper makes an empty rectangle
        made.run(f"head -c {2 * 640 * 4} /dev/zero > /dev/fb0")
        self.assert_written_back(made, 2, "two lines of the console's, one and a quarter pages")
        made.resume_pattern()
        made.wait_for_pattern()
        made.screens("hold")
        made.run(f"echo > {TRACING}/trace")
        (screen,) = made.screens("flip 2")
        self.assert_written_back(made, 2 * screen["height"] * screen["pitch"] // 4096, "two frames")

    def assert_written_back(self, made, pages, what):
        def seen():
            events = re.findall(
                r"dma_map_page: .*vdispl-0 dir=(\S+) .*size=(\d+)", made.run(f"cat {TRACING}/trace", 60)
            )
            self.assertLessEqual(set(events), {("TO_DEVICE", "4096")})
            return len(events)

        poll(lambda: seen() >= pages, 60, f"the write back of {what}")
        self.assertEqual(seen(), pages, what)


class TestCore(Checked, guest.XenDmabufGuestCoreTest):
    pass


class TestBadBackend(Checked, guest.XenDmabufBadBackendTest):
    pass


class TestKeyboard(Checked, typed.XenDmabufInputTest):
    @classmethod
    def class_domu(cls, *arguments):
        """Without a look at the log: these have the kernel of the image's guest."""
        return super(Checked, cls).class_domu(*arguments)


for case in [name for name in dir(TestKeyboard) if name.startswith("test_")]:
    if case != "test_a_keyboard_without_a_pointer":
        setattr(TestKeyboard, case, None)  # no other has a guest with the series
