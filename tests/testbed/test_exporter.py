# SPDX-License-Identifier: MIT
"""gntdev's own exporter of dma-bufs: what a device and the CPU get of a granter's pages."""

import pytest
from test_image import passed

from testbed import kernel, kernel_programs

pytestmark = pytest.mark.testbed


def test_devices_and_programs_see_the_granters_pages(scene):
    """Self-grants whose frames don't follow each other, imported by a device behind swiotlb-xen."""
    built = kernel.build()
    kernel_programs.load_module(scene.dom0, built, "dmabuf_importer")
    program = kernel_programs.install(scene.dom0, built, "gntdev_export")
    result = scene.dom0.try_run(program, timeout=200)
    print("\n" + "\n".join(line for line in result.output.splitlines() if "segments" in line), flush=True)
    assert passed(result) == 23
