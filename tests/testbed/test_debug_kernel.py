# SPDX-License-Identifier: MIT
"""The series on a kernel with all checks on: not one report of any of them.

``make kernel-debug-test``. Not part of ``make test``: the kernel takes longer to compile than all
the rest, and several times longer to run.
"""

import re
from collections import Counter

import pytest
import selftests

from oeqa.runtime.cases import xen_dmabuf_zerocopy as zerocopy
from oeqa.runtime.xen_dmabuf import case, domu
from testbed import deadline, kernel_debug, kernel_programs, machine, pattern
from testbed.deadline import wait_until
from testbed.display import mapped_grants, screenshot, shown_exactly, wait_until_gone
from testbed.layout import REPOSITORY

pytestmark = pytest.mark.debugkernel
FOLDER = REPOSITORY / "build" / "kernel-debug-test"


@pytest.fixture(scope="module")
def booted():
    """(Qemu, Dom0) with the debug kernel in Dom0, booted once; the kernel's log is kept."""
    images = machine.build_debug()
    deadline.slowness = kernel_debug.SLOWNESS
    patience = pytest.MonkeyPatch()
    for module, name in ((case, "SHOWN_SECONDS"), (domu, "BOOT_SECONDS")):
        patience.setattr(module, name, getattr(module, name) * kernel_debug.SLOWNESS)
    try:
        with machine.boot(images, FOLDER) as running:
            running[1].run(f"echo '{kernel_debug.MARK}' > /dev/kmsg")
            yield running
            (FOLDER / "dmesg.txt").write_text(running[1].try_run("dmesg").output, encoding="utf-8")
    finally:
        deadline.slowness = 1
        patience.undo()


class TestPlatform:
    def test_is_dom0_with_the_checks_on(self, scene):
        assert "control_d" in scene.dom0.run("cat /proc/xen/capabilities")
        assert "debug" in scene.dom0.run("uname -r")
        config = scene.dom0.run("zcat /proc/config.gz")
        checks = ("KASAN", "PROVE_LOCKING", "DEBUG_ATOMIC_SLEEP", "DMABUF_DEBUG", "DEBUG_KMEMLEAK", "PAGE_POISONING")
        for name in checks:
            assert f"CONFIG_{name}=y" in config
        log = scene.dom0.run("dmesg")
        assert "KernelAddressSanitizer initialized" in log
        assert "page_owner is disabled" not in log
        scene.dom0.run("modprobe vgem; echo 8 > /proc/sys/vm/nr_hugepages")


class TestKUnit:
    def test_all_suites_of_the_series_hold(self, scene):
        """They are built in and ran at boot."""
        symbols = kernel_debug.kunit_symbols()
        assert symbols, "the series has no KUnit tests"
        results = scene.dom0.run("for f in /sys/kernel/debug/kunit/*/results; do cat $f; done")
        suites = re.findall(r"^(not ok|ok) \d+ (\S+)", results, re.M)
        print("\nKUnit:", ", ".join(name for _, name in suites), flush=True)
        assert len(suites) >= len(symbols), results
        assert "not ok" not in results, results
        assert re.search(r"^# Totals: pass:[1-9]", results, re.M), results


class TestSelftests:
    @pytest.mark.parametrize("name", ["gntdev_dmabuf_map", "gntdev_dmabuf_refuse", "gntdev_dmabuf_2023"])
    def test_every_exporter(self, scene, name):
        seen = selftests.run(scene.dom0, name, timeout=900)
        print(f"\n{name}: {seen.passed} passed, {seen.skipped} skipped", flush=True)
        assert seen.passed > 40
        assert all("nothing outlives the dma-buf" in line for line in seen.skips()), seen.skips()

    def test_access_for_a_minute_each(self, scene):
        seen = selftests.access_in_the_sandbox(scene.dom0, 60)
        print("\n" + "\n".join(line for line in seen.output.splitlines() if "exchanged" in line), flush=True)
        assert seen.passed == 14 and all("not a buffer of a DRM device" in line for line in seen.skips()), seen.output

    def test_caches_are_written_back(self, scene):
        """What the DMA API was asked for: all pages of the buffer, for the device, and nothing else."""
        events = "/sys/kernel/tracing/events/dma/dma_sync_sg_for_device/enable"
        scene.dom0.run(f"echo > /sys/kernel/tracing/trace; echo 1 > {events}")
        seen = selftests.run(scene.dom0, "gntdev_dmabuf_map -t clean")
        trace = scene.dom0.run(f"echo 0 > {events}; cat /sys/kernel/tracing/trace")
        syncs = re.findall(r"dma_sync_sg_for_device: xen!gntdev dir=(\S+) .*?sizes=\{([^}]*)\}", trace)
        assert syncs, trace[-3000:]
        assert {direction for direction, _ in syncs} == {"BIDIRECTIONAL"}, trace[-3000:]
        # The selftest has 37 pages of 4 KiB and asks three times. A huge page's are too many for an event of 6.12.
        calls = Counter(sum(int(size, 0) for size in sizes.split(",")) for _, sizes in syncs)
        assert calls.pop(512 * 4096, 3) == 3
        assert calls == {37 * 4096: (seen.passed - 1) * 3}

    def test_grants_of_another_domain(self, pattern_scene):
        """2,025 pages of a DomU, the size of 1920x1080, over every exporter."""
        domu, dom0 = pattern_scene.domu, pattern_scene.dom0
        program = selftests.install_in_domu(domu, dom0, "gntdev_dmabuf_foreign", FOLDER)
        with selftests.grants(domu, 2025, program) as refs:
            seen = selftests.run(dom0, "gntdev_dmabuf_foreign", f"GNTDEV_MAP_DOMID={domu.domid} GNTDEV_MAP_REFS={refs}")
            assert (seen.passed, seen.skipped) == (1, 0)
            wait_until(
                lambda: "all 2025 pages answered" in domu.run("cat /run/refs"), 60, "the DomU to see all answers"
            )


class TestProduct:
    def test_zero_copy(self, look):
        look(
            zerocopy.XenDmabufZeroCopyTest,
            "test_frames_are_exact_and_in_order",
            "test_memory_is_shared_both_ways",
            "test_grants_equal_pages",
        )

    def test_destroyed_while_flipping(self, pattern_scene):
        """The image's case asks for Dom0's memory, too, of which KASAN keeps what was freed."""
        domu, dom0 = pattern_scene.domu, pattern_scene.dom0
        services = "systemctl show -P MainPID xen-dmabuf-backend weston"
        before, state = dom0.run(services), domu.screens("run")[0]
        wait_until(lambda: domu.screens()[0]["flips"] > state["flips"] + 2, 60, "flips")
        dom0.run(f"xl destroy {domu.domid}")
        wait_until_gone(pattern_scene, domu.domid)
        assert not mapped_grants(dom0, domu.domid)
        assert dom0.run(services) == before
        size, file = (state["width"], state["height"]), FOLDER / "destroyed.png"
        wait_until(
            lambda: not pattern.locate(screenshot(pattern_scene.machine, file), *size, state["stream"]), 30, "no window"
        )

    def test_worker_killed_and_picture_back(self, pattern_scene):
        domu, dom0 = pattern_scene.domu, pattern_scene.dom0
        old = domu.backend_status()["pid"]
        dom0.run(f"kill -9 {old}")

        def flips_again():
            result = domu.try_run("xen-dmabuf-pattern send 'flip 2'", timeout=20)
            return result.status == 0 and '"error": 0' in result.output and domu.backend_status()["pid"] != old

        wait_until(flips_again, 90, "the picture after the worker was killed")
        domu.screens("hold")
        screen = domu.screens("flip 2", timeout=120)[0]
        assert not screen["error"]
        shown_exactly(pattern_scene, "again", screen)


class TestFaults:
    """After the others: a check that isn't given memory switches itself off."""

    @pytest.fixture
    def faults(self, scene):
        """The kernel's fault injection, for allocations of every kind and without its own stack dumps."""
        scene.dom0.run(
            "cd /sys/kernel/debug; echo N > failslab/ignore-gfp-wait; echo N > fail_page_alloc/ignore-gfp-wait; "
            "echo N > fail_page_alloc/ignore-gfp-highmem; echo 0 > fail_page_alloc/min-order; "
            "for f in failslab fail_page_alloc fail_usercopy; do echo 0 > $f/verbose; done"
        )
        return kernel_programs.install(scene.dom0, kernel_debug.build(), "gntdev_faults")

    def test_every_allocation_and_every_grant(self, scene, faults):
        grants = mapped_grants(scene.dom0, 0)
        seen = selftests.tap(scene.dom0.try_run(faults, 600))
        print("\n".join(line for line in seen.output.splitlines() if "places" in line), flush=True)
        assert seen.passed >= 35
        assert len(seen.skips()) == 1 and "huge pages" in seen.skips()[0], seen.skips()
        assert mapped_grants(scene.dom0, 0) == grants


class TestAfterwards:
    """Last in the file: looks back on all that the tests above did."""

    def test_nothing_leaked(self, scene):
        """kmemleak: what no pointer leads to any more, allocated by the code that the series touches."""
        # The second scan reports what was young at the first.
        text = scene.dom0.run(
            "cd /sys/kernel/debug; echo scan > kmemleak; echo scan > kmemleak; cat kmemleak", timeout=300
        )
        found = text.split("unreferenced object ")[1:]
        print(f"\nkmemleak: {len(found)} objects, in all of the kernel", flush=True)
        ours = [leak for leak in found if re.search(r"gnt|dma_?buf|dma_resv|udmabuf", leak)]
        assert not ours, "unreferenced object ".join(["", *ours])

    def test_kernel_has_not_complained(self, scene):
        log = scene.dom0.run("dmesg")
        assert kernel_debug.MARK in log, "the log's beginning is lost: log_buf_len is too small"
        complaints = kernel_debug.complaints(log)
        assert not complaints, "\n".join(complaints)
        # it switches itself off with its first report, or when it has too little memory
        assert re.search(r"debug_locks: +1$", scene.dom0.run("cat /proc/lockdep_stats"), re.M), "lockdep is off"
