# SPDX-License-Identifier: MIT
"""The debug kernel's configuration, and what reads its log, without a machine."""

import pytest

from testbed import deadline, kernel, kernel_debug


@pytest.mark.parametrize(
    "line",
    [
        "BUG: KASAN: slab-use-after-free in map_destroy+0x5c/0x3a0",
        "WARNING: CPU: 1 PID: 301 at drivers/xen/gntdev-dmabuf-map.c:225",
        "WARNING: possible circular locking dependency detected",
        "BUG: sleeping function called from invalid context at mm/slab.h:337",
        "list_del corruption. prev->next should be ffff, but was 0",
        "refcount_t: underflow; use-after-free.",
        "BUG: Bad page state in process cat  pfn:4a2b1",
        "Internal error: Oops: 0000000096000004 [#1] SMP",
        "UBSAN: shift-out-of-bounds in drivers/xen/gntdev.c:98:12",
        "INFO: task gntdev:214 blocked for more than 600 seconds.",
        "xen:xen_gntdev: frame 0x4a2b1 has no memory any more",
    ],
)
def test_report_is_found(line):
    assert kernel_debug.complaints(f"[    1.0] a\n[    2.0] {line}\n[    3.0] b") == [f"[    2.0] {line}"]


@pytest.mark.parametrize(
    "line",
    [
        "gntdev_faults: page allocation failure: order:0, mode:0xcc0(GFP_KERNEL)",
        "Call trace:",
        "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
        "DMA-API: debugging enabled by kernel config",
        "DEBUG_PAGEALLOC is off",
    ],
)
def test_what_is_no_report(line):
    assert not kernel_debug.complaints(f"[    2.0] {line}")


def test_slow_machine_has_more_time(monkeypatch):
    monkeypatch.setattr(deadline, "slowness", 6)
    assert 50 < deadline.Deadline(10).remaining <= 60


def test_kunit_may_provoke_our_own_reports_at_boot():
    ours, theirs = "xen:xen_gntdev: frame 0x1 has no memory any more", "BUG: KASAN: use-after-free in map_destroy"
    log = "\n".join([ours, theirs, f"[   90.0] {kernel_debug.MARK}", "fine"])
    assert kernel_debug.complaints(log) == [theirs]
    assert kernel_debug.complaints(f"{log}\n{ours}") == [theirs, ours]


def test_kunit_symbols_come_from_the_series(tmp_path, monkeypatch):
    patch = tmp_path / "0005.patch"
    patch.write_text(
        '+config XEN_GNTDEV_DMABUF_KUNIT_TEST\n+\ttristate "tests"\n+config XEN_OTHER\n config OLD_KUNIT\n'
    )
    monkeypatch.setattr(kernel, "patches", lambda extra: [patch])
    assert kernel_debug.kunit_symbols() == ["XEN_GNTDEV_DMABUF_KUNIT_TEST"]


def test_debug_fragment_comes_last():
    wanted = kernel.wanted_symbols([*kernel.fragments(), kernel_debug.FRAGMENT])
    assert wanted["CONFIG_KASAN"] == "y" and wanted["CONFIG_LOCALVERSION"] == '"-xen-dmabuf-debug"'
