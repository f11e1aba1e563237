# SPDX-License-Identifier: MIT
"""The image's own cases (lib/oeqa/runtime/cases) on the testbed's Dom0, and what no image test can see.

pytest runs them as the unittest cases that they are, module after module, in one boot.
"""

import os
import re

import pytest
from oeqa.runtime.cases.xen_dmabuf_backend import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_platform import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_refusals import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_release import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_soak import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_zerocopy import *  # noqa: F403

from oeqa.runtime.xen_dmabuf import case
from oeqa.runtime.xen_dmabuf.dom0 import Dom0

from testbed import proofs
from testbed.guest import Target

pytestmark = [pytest.mark.testbed, pytest.mark.usefixtures("image_tests")]
SELFTEST = "/usr/lib/xen-dmabuf/selftests/gntdev_dmabuf_map"
LOOPS = int(os.environ.get("XEN_DMABUF_MAP_LOOPS") or 50)
MAPTRACK_SLACK = 2


def passed(result):
    """How many cases of a TAP program passed; none may have failed."""
    totals = re.search(r"Totals: pass:(\d+) fail:(\d+).*error:(\d+)", result.output)
    assert totals, result.output[-3000:]
    good, failed, errors = map(int, totals.groups())
    # what a case says comes between its RUN and its FAIL
    assert (failed, errors) == (0, 0), "\n".join(
        case for case in re.split(r"(?m)^(?=#  RUN )", result.output) if re.search(r"(?m)^not ok", case))[-4000:]
    return good


class TestKernelSeries:
    def test_selftest_maps_compares_and_releases(self, scene):
        """Self-grants on every exporter that Dom0 has; wrong arguments get their errno."""
        assert passed(scene.dom0.try_run(f"modprobe vgem; {SELFTEST}", timeout=400)) > 50

    def test_loops_leave_nothing(self, scene):
        """A buffer of each exporter is mapped and released again and again; then Dom0 has all that it had before.

        XEN_DMABUF_MAP_LOOPS says how often; the selftest before has done it 20 times.
        """
        dom0 = Dom0(Target(scene.dom0))
        xen, linux = dom0.memory()
        grants, frames = dom0.grants(0), dom0.maptrack_frames()
        command = f"GNTDEV_MAP_LOOPS={LOOPS} {SELFTEST} -t again_and_again"
        exporters = passed(scene.dom0.try_run(command, timeout=120 + LOOPS))
        assert exporters >= 4, "exporters: udmabuf, system heap, vgem, virtio-gpu"
        assert dom0.grants(0) == grants
        assert dom0.maptrack_frames() - frames <= MAPTRACK_SLACK
        xen_now, linux_now = dom0.memory()
        assert xen_now >= xen - case.XEN_SLACK_MIB and linux_now >= linux - case.DOM0_SLACK_MIB
        print(f"\n{LOOPS} maps and releases on each of {exporters} exporters: Xen {xen_now - xen:+} MiB, "
              f"Dom0 {linux_now - linux:+} MiB, {dom0.maptrack_frames() - frames:+} maptrack frames, "
              f"{dom0.grants(0) - grants:+} grants", flush=True)


class TestScreen:
    """The screen itself, as QEMU's virtio-gpu scans it out: weston-screenshooter can't see that."""

    def test_pattern_is_exact(self, scene):
        scene.domu.start_pattern("--hold")
        proofs.pattern_is_exact(scene)

    def test_weston_of_the_domu_is_exact(self, scene):
        scene.domu.boot()
        scene.domu.start_weston()
        proofs.weston_is_exact(scene)


class TestAfterwards:
    """Last in the file: looks back on all that the tests above did."""

    def test_kernel_has_not_complained(self, scene):
        log = scene.dom0.run("dmesg")
        bad = [line for line in log.splitlines()
               if re.search(r"BUG|WARNING|Oops|Call trace|unable to handle|refcount_t|leaked", line)]
        assert not bad, "\n".join(bad)
