# SPDX-License-Identifier: MIT
"""The image's own cases (lib/oeqa/runtime/cases) on the testbed's Dom0, and what no image test can see.

pytest runs them as the unittest cases that they are, module after module, in one boot.
"""

import re

import pytest
from oeqa.runtime.cases.xen_dmabuf_backend import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_platform import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_refusals import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_release import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_soak import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_zerocopy import *  # noqa: F403

from testbed import proofs

pytestmark = [pytest.mark.testbed, pytest.mark.usefixtures("image_tests")]
SELFTEST = "/usr/lib/xen-dmabuf/selftests/gntdev_dmabuf_map"


class TestKernelSeries:
    def test_selftest_maps_compares_and_releases(self, scene):
        """Self-grants on every exporter that Dom0 has; wrong arguments get their errno."""
        result = scene.dom0.try_run(f"modprobe vgem; {SELFTEST}", timeout=400)
        totals = re.search(r"Totals: pass:(\d+) fail:(\d+).*error:(\d+)", result.output)
        assert totals, result.output[-3000:]
        passed, failed, errors = map(int, totals.groups())
        assert (failed, errors) == (0, 0), "\n".join(
            line for line in result.output.splitlines() if "not ok" in line or line.startswith("# "))[-4000:]
        assert passed > 50, result.output[-3000:]


class TestScreen:
    """The screen itself, as QEMU's virtio-gpu scans it out: weston-screenshooter can't see that."""

    def test_pattern_is_exact(self, scene):
        scene.domu.start_pattern("--hold")
        proofs.pattern_is_exact(scene)


class TestAfterwards:
    """Last in the file: looks back on all that the tests above did."""

    def test_kernel_has_not_complained(self, scene):
        log = scene.dom0.run("dmesg")
        bad = [line for line in log.splitlines()
               if re.search(r"BUG|WARNING|Oops|Call trace|unable to handle|refcount_t|leaked", line)]
        assert not bad, "\n".join(bad)
