# SPDX-License-Identifier: MIT
"""What the Xen that was booted does with a grant over a page of Dom0's own."""

import pytest
import selftests

from testbed import kernel, kernel_programs, xen

pytestmark = pytest.mark.testbed
CASES = 10


def test_page_comes_back(booted):
    """By bare hypercalls: the patched Xen puts the page back in one step, Debian's refuses and changes nothing."""
    qemu, dom0 = booted
    variant = xen.variant(qemu.images.xen)
    extra = dom0.run("xl info xen_extra || xl info | sed -n 's/^xen_extra *: //p'")
    assert (xen.MARK in extra) is (variant == "patched"), extra
    program = kernel_programs.install(dom0, kernel.build(), "gnttab_replace")
    result = dom0.try_run(f"{program} {variant}", timeout=120)
    seen = selftests.tap(result)
    assert (seen.passed, seen.skipped) == ((CASES, 0) if variant == "patched" else (CASES - 1, 1)), seen.output
    print(f"\n{variant} Xen {extra.strip()}: {seen.passed} passed, {seen.skipped} skipped", flush=True)
