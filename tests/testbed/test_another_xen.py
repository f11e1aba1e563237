# SPDX-License-Identifier: MIT
"""The kernel series on the Xen that the other tests don't run on.

By default that is Debian's, without the patch that puts a frame's own memory back in one step. A
machine of its own, booted before that of the other tests: hence the name, which comes first.
"""

import pytest
import selftests

from testbed import kernel, kernel_programs, machine, xen
from testbed.errors import MissingSourceError
from testbed.layout import REPOSITORY

pytestmark = pytest.mark.testbed
FOLDER = REPOSITORY / "build" / "test-another-xen"


@pytest.fixture(scope="module")
def dom0():
    """Dom0 on the Xen that XEN_DMABUF_XEN doesn't choose."""
    usual = xen.variant(xen.build())
    with pytest.MonkeyPatch.context() as patch:
        other = next(name for name in xen.VARIANTS if name != usual)
        patch.setenv(xen.ENVIRONMENT, other)
        try:
            images = machine.build()
        except MissingSourceError as error:
            pytest.skip(f"only on {usual} Xen: {error}")
    assert xen.variant(images.xen) == other
    with machine.boot(images, FOLDER, (640, 480)) as (_, dom0):
        yield dom0


@pytest.mark.parametrize("name", ["gntdev_dmabuf_map", "gntdev_dmabuf_refuse", "gntdev_dmabuf_2023"])
def test_selftest(dom0, name):
    assert selftests.run(dom0, name).passed >= 40


def test_access_while_memory_is_exchanged(dom0):
    seen = selftests.access_in_the_sandbox(dom0, 1)
    assert seen.passed == 14, seen.output


def test_other_memory_than_dom0_s_own_is_refused(dom0):
    built = kernel.build()
    kernel_programs.load_module(dom0, built, "dmabuf_odd_exporter")
    seen = selftests.tap(dom0.try_run(kernel_programs.install(dom0, built, "gntdev_odd")))
    assert (seen.passed, seen.skipped) == (5, 2), seen.output


def test_xen_is_the_other_one_and_has_not_complained(dom0):
    usual = xen.variant(xen.build())
    assert selftests.own_memory_comes_back(dom0) == ("doesn't replace" if usual == "patched" else "replaces")
    log = dom0.run("dmesg")
    assert not [line for line in log.splitlines() if "grants stay in use" in line or "Call trace" in line], log[-3000:]
