# SPDX-License-Identifier: MIT
"""gntdev's own exporter of dma-bufs: what a device, the CPU and a compositor get of a granter's pages."""

import pytest
import selftests

from oeqa.runtime.xen_dmabuf import picture
from oeqa.runtime.xen_dmabuf.case import SHOWN_SECONDS, XenDmabufCase
from oeqa.runtime.xen_dmabuf.dom0 import poll
from testbed import kernel, kernel_programs, software_weston

pytestmark = [pytest.mark.testbed, pytest.mark.usefixtures("image_tests")]
CONFIGURATION = f'''
[display]
socket = "{software_weston.SOCKET}"
[gpu.default]
strategies = ["export"]
'''


def test_devices_and_programs_see_the_granters_pages(scene):
    """Self-grants whose frames don't follow each other, imported by a device behind swiotlb-xen."""
    built = kernel.build()
    kernel_programs.load_module(scene.dom0, built, "dmabuf_importer")
    program = kernel_programs.install(scene.dom0, built, "gntdev_export")
    result = scene.dom0.try_run(program, timeout=200)
    print("\n" + "\n".join(line for line in result.output.splitlines() if "segments" in line), flush=True)
    assert selftests.tap(result).passed == 23


class ExportTest(XenDmabufCase):
    """Strategy "export" by a compositor that takes it."""

    def test_export_reaches_a_compositor(self):
        """One that draws by CPU maps gntdev's dma-buf and shows the DomU's pages.

        This compositor keeps its mappings when the wl_buffers are gone (whether that is Weston's doing or Mesa's is not
        known): the grants end with it.
        """
        self.addCleanup(self.dom0.restore_backend)
        self.dom0.configure_backend(CONFIGURATION)
        domu = self.domu()
        with software_weston.running(self.tc.dom0) as weston:
            domu.start()
            for _ in range(3):
                (screen,) = domu.screens("flip 3", 120)
                self.assertFalse(screen["error"])
                drawn = picture.frame(screen["width"], screen["height"], screen["stream"], screen["frame"])
                poll(lambda drawn=drawn: picture.find(weston.screenshot(), drawn), SHOWN_SECONDS, f"frame {screen}")
            buffers = domu.buffers()
            self.assertEqual({buffer["strategy"] for buffer in buffers}, {"export"})
            self.assertEqual((weston.mapped_dmabufs(), len(buffers)), (2, 2))
            self.assert_nothing_is_copied(domu, flips=10)
            shown, pages = self.dom0.grants(domu.domid), domu.pages()
            domu.stop_pattern()
        poll(
            lambda: self.dom0.grants(domu.domid) <= shown - pages,
            60,
            "the grants of both buffers to end with the compositor",
        )
        domu.destroy()
        self.wait_until_gone(domu)
        self.assertEqual(self.dom0.grants(domu.domid), 0)
