# SPDX-License-Identifier: MIT
"""The image's own cases (lib/oeqa/runtime/cases) on the testbed's Dom0, and what no image test can see.

pytest runs them as the unittest cases that they are, module after module, in one boot.
"""

import os
import re

import pytest
import selftests

from oeqa.runtime.cases.xen_dmabuf_backend import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_guest import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_habits import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_input import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_neighbours import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_platform import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_refusals import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_release import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_soak import *  # noqa: F403
from oeqa.runtime.cases.xen_dmabuf_zerocopy import *  # noqa: F403
from oeqa.runtime.xen_dmabuf import case
from oeqa.runtime.xen_dmabuf.dom0 import Dom0
from testbed import kernel, kernel_programs, person, xen
from testbed.guest import Target

pytestmark = [pytest.mark.testbed, pytest.mark.usefixtures("image_tests")]
SELFTEST = f"{selftests.FOLDER}/gntdev_dmabuf_map"
LOOPS = int(os.environ.get("XEN_DMABUF_MAP_LOOPS") or 50)
MAPTRACK_SLACK = 2
# from its first to its last line; memory that ran out elsewhere is a complaint
LIMITED = r"(?s)invoked oom-killer:(?:(?!invoked oom-killer:).)*?oom-kill:constraint=CONSTRAINT_MEMCG"


class TestKernelSeries:
    """On the Xen that the layer builds; test_another_xen.py has the same for one without its patch."""

    @pytest.mark.parametrize(
        ("name", "least"), [("gntdev_dmabuf_map", 40), ("gntdev_dmabuf_refuse", 40), ("gntdev_dmabuf_2023", 50)]
    )
    def test_selftest(self, scene, name, least):
        """Self-grants on every exporter that Dom0 has; wrong arguments get their errno."""
        assert selftests.run(scene.dom0, name).passed >= least

    def test_access_while_memory_is_exchanged(self, scene):
        """By the CPU and by the kernel, with good references and bad ones, with no more rights than a worker has."""
        seen = selftests.access_in_the_sandbox(scene.dom0, 1)
        assert seen.passed == 14 and all("not a buffer of a DRM device" in line for line in seen.skips()), seen.output
        expected = "replaces" if xen.variant(scene.machine.images.xen) == "patched" else "doesn't replace"
        assert selftests.own_memory_comes_back(scene.dom0) == expected

    def test_other_memory_than_dom0_s_own_is_refused(self, pattern_scene):
        """Ballooned pages, and pages that a grant is mapped to."""
        dom0, built = pattern_scene.dom0, kernel.build()
        kernel_programs.load_module(dom0, built, "dmabuf_odd_exporter")
        program = kernel_programs.install(dom0, built, "gntdev_odd")
        domu = pattern_scene.domu
        granting = selftests.install_in_domu(domu, dom0, "gntdev_dmabuf_foreign", pattern_scene.folder)
        with selftests.grants(domu, 70, granting) as refs:
            seen = selftests.tap(dom0.try_run(f"GNTDEV_MAP_DOMID={domu.domid} GNTDEV_MAP_REFS={refs} {program}"))
        assert (seen.passed, seen.skipped) == (7, 0), seen.output

    def test_loops_leave_nothing(self, scene):
        """A buffer of each exporter is mapped and released again and again; then Dom0 has all that it had before.

        XEN_DMABUF_MAP_LOOPS says how often; the selftest before has done it 20 times.
        """
        dom0 = Dom0(Target(scene.dom0))
        xen, linux = dom0.memory()
        grants, frames = dom0.grants(0), dom0.maptrack_frames()
        command = f"GNTDEV_MAP_LOOPS={LOOPS} {SELFTEST} -t again_and_again"
        exporters = selftests.tap(scene.dom0.try_run(command, timeout=120 + LOOPS)).passed
        assert exporters >= 4, "exporters: udmabuf, system heap, vgem, virtio-gpu"
        assert dom0.grants(0) == grants
        assert dom0.maptrack_frames() - frames <= MAPTRACK_SLACK
        xen_now, linux_now = dom0.memory()
        assert xen_now >= xen - case.XEN_SLACK_MIB and linux_now >= linux - case.DOM0_SLACK_MIB
        print(
            f"\n{LOOPS} maps and releases on each of {exporters} exporters: Xen {xen_now - xen:+} MiB, "
            f"Dom0 {linux_now - linux:+} MiB, {dom0.maptrack_frames() - frames:+} maptrack frames, "
            f"{dom0.grants(0) - grants:+} grants",
            flush=True,
        )


class TestScreen:
    """The screen itself, as QEMU's virtio-gpu scans it out: weston-screenshooter can't see that."""

    def test_pattern_is_exact(self, look):
        look(XenDmabufZeroCopyTest, "test_frames_are_exact_and_in_order")  # noqa: F405

    def test_weston_of_the_domu_is_exact_and_is_typed_into(self, look):
        look(
            person.PersonTest,
            "test_weston_of_the_domu",
            "test_typed_text_arrives",
            "test_clicks_and_touches_land",
        )


class TestAfterwards:
    """Last in the file: looks back on all that the tests above did."""

    def test_kernel_has_not_complained(self, scene):
        """But of the one process that was ended for the limit of its control group."""
        log = re.sub(LIMITED, "", scene.dom0.run("dmesg"))
        bad = [
            line
            for line in log.splitlines()
            if re.search(r"BUG|WARNING|Oops|Call trace|unable to handle|refcount_t|leaked", line)
        ]
        assert not bad, "\n".join(bad)
