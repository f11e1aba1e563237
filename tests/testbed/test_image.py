# SPDX-License-Identifier: MIT
"""The product on real Xen: boot, zero copy, crash-release, hostile input."""

import re

import pytest

from testbed import proofs
from testbed.deadline import wait_until
from testbed.layout import BACKEND

pytestmark = pytest.mark.testbed
SELFTEST = "/usr/lib/xen-dmabuf/selftests/gntdev_dmabuf_map"


class TestPlatform:
    def test_runs_as_dom0_on_xen_with_our_kernel(self, scene):
        assert scene.dom0.run("cat /sys/hypervisor/type").strip() == "xen"
        assert "control_d" in scene.dom0.run("cat /proc/xen/capabilities")

    def test_backend_finds_all_that_it_needs(self, scene):
        result = scene.dom0.try_run("xen-dmabuf-backend check")
        assert result.status == 0, result.output
        assert "MISSING" not in result.output, result.output

    def test_devices_belong_to_the_workers_group(self, scene):
        out = scene.dom0.run("stat -c '%n %G %a' /dev/xen/gntdev /dev/xen/evtchn")
        assert out.split("\n")[:2] == ["/dev/xen/gntdev xen-dmabuf 660", "/dev/xen/evtchn xen-dmabuf 660"]

    def test_worker_has_no_privilege(self, pattern_scene):
        pid = pattern_scene.domu.backend_status()["pid"]
        status = pattern_scene.dom0.run(f"cat /proc/{pid}/status")
        uids = re.search(r"^Uid:\s+(\d+)\s+(\d+)\s+(\d+)", status, re.M).groups()
        assert "0" not in uids, status
        assert re.search(r"^CapEff:\s+0+$", status, re.M), status
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.M), status


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


class TestZeroCopy:
    def test_pattern_is_exact(self, pattern_scene):
        proofs.pattern_is_exact(pattern_scene)

    def test_memory_is_shared(self, pattern_scene):
        proofs.memory_is_shared(pattern_scene)

    def test_nothing_is_copied(self, pattern_scene):
        proofs.nothing_is_copied(pattern_scene)

    def test_grants_equal_pages(self, pattern_scene):
        proofs.grants_equal_pages(pattern_scene)

    def test_two_connectors(self, scene):
        scene.domu.start_pattern(
            vdispl='["backend=Domain-0,be-alloc=0,connectors=id0:640x480;id1:320x240"]')
        screens = scene.domu.screens("flip 3", timeout=120)
        assert [(s["width"], s["height"]) for s in screens] == [(640, 480), (320, 240)]
        # Windows may overlap: the later one is on top, so it is compared.
        proofs.shown_exactly(scene, "two-small", screens[1])


class TestRelease:
    def test_destroyed_while_flipping(self, pattern_scene):
        free = proofs.xen_free_mib(pattern_scene.dom0)
        proofs.crash_is_survived(pattern_scene)
        assert proofs.xen_free_mib(pattern_scene.dom0) > free

    def test_panic_while_flipping(self, scene):
        domu, dom0 = scene.domu, scene.dom0
        # A panic ends as a reboot on Arm (panic=-1): without this, xl would start the domain again.
        domu.start_pattern(on_reboot='"destroy"')
        domu.screens("run")
        domu.try_run("echo c > /proc/sysrq-trigger & sleep 2", timeout=10)
        domu.forget()
        wait_until(lambda: not dom0.domains() and not dom0.status()["domains"], proofs.RELEASE_SECONDS,
                   "the domain that panicked to vanish")
        assert proofs.mapped_grants(dom0, domu.domid) == 0

    def test_worker_killed_and_picture_back(self, pattern_scene):
        domu, dom0 = pattern_scene.domu, pattern_scene.dom0
        old = domu.backend_status()["pid"]
        dom0.run(f"kill -9 {old}")

        def flips_again():
            result = domu.try_run("xen-dmabuf-pattern send 'flip 2'", timeout=20)
            return result.status == 0 and '"error": 0' in result.output and domu.backend_status()["pid"] != old

        wait_until(flips_again, 90, "the picture after the worker was killed")
        proofs.pattern_is_exact(pattern_scene, rounds=1)


class TestRefusals:
    def test_hostile_frontends(self, scene):
        """Lying rings, looping directories, overflowing sizes, event storms …: the service serves on."""
        dom0 = scene.dom0
        dom0.run("mkdir -p /run/hostile")
        for name in ("on_xen.py", "frontend.py", "waiting.py"):
            dom0.copy_to(BACKEND / "tests" / name, f"/run/hostile/{name}")
        result = dom0.try_run("python3 /run/hostile/on_xen.py", timeout=400)
        assert result.status == 0, result.output
        assert re.search(r"^1\.\.\d+$", result.output, re.M), result.output
        assert "not ok" not in result.output, result.output

    def test_backend_allocation_is_refused(self, scene):
        """be-alloc=1 would export Dom0's memory to a DomU (XSA-363)."""
        scene.dom0.try_run(
            "xl create /etc/xen/domu.cfg 'name=\"domu\"' 'kernel=\"/boot/Image\"' "
            "'disk=[\"phy:/dev/vdb,xvda,r\"]' 'vdispl=[\"backend=Domain-0,be-alloc=1,connectors=id0:640x480\"]'",
            timeout=120)

        def refused():
            return "be-alloc" in scene.dom0.run("journalctl -b --no-pager -u xen-dmabuf-backend | tail -50")

        wait_until(refused, 60, "a log line that names be-alloc")
        assert scene.dom0.run("systemctl is-active xen-dmabuf-backend").strip() == "active"


class TestAfterwards:
    """Last in the file: looks back on all that the tests above did."""

    def test_kernel_has_not_complained(self, scene):
        log = scene.dom0.run("dmesg")
        bad = [line for line in log.splitlines()
               if re.search(r"BUG|WARNING|Oops|Call trace|unable to handle|refcount_t|leaked", line)]
        assert not bad, "\n".join(bad)
