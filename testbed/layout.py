# SPDX-License-Identifier: MIT
"""Where the testbed finds the product's files in this repository: nothing is written twice for it."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LAYER = REPOSITORY / "meta-xen-dmabuf"
BACKEND = REPOSITORY / "backend"
PATTERN = REPOSITORY / "clients" / "pattern"
XEN_PATCHES = REPOSITORY / "xen-patches"
KERNEL_FRAGMENTS = (
    LAYER / "recipes-kernel/linux/xen-dmabuf/xen-dmabuf-dom0.cfg",
    LAYER / "recipes-kernel/linux/xen-dmabuf/xen-dmabuf-domu.cfg",
)
TESTBED_KERNEL = REPOSITORY / "testbed/kernel"
TESTBED_FRAGMENT = TESTBED_KERNEL / "qemu-arm64.cfg"
WESTON = LAYER / "recipes-graphics/weston-init/xen-dmabuf"
GUEST = LAYER / "recipes-extended/xen-dmabuf-guest/files"
GUEST_CONFIG = GUEST / "domu.cfg"
IMAGES = "var/lib/xen/images"
"""Where domu.cfg expects the DomU's kernel and file system, in Dom0's root."""
PTEST = "usr/lib/xen-dmabuf-backend/ptest"
HANDS = REPOSITORY / "lib/oeqa/files/xen_dmabuf_hands.py"
FILES = REPOSITORY / "testbed/files"
WESTON_INIT = FILES / "weston-init"
"""What stands in for oe-core's weston-init where it wasn't built."""
KERNEL_PROGRAMS = REPOSITORY / "tests/kernel"
