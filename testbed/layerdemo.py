# SPDX-License-Identifier: MIT
"""``make layer-demo``: what bitbake builds of the layer is what runs on Xen."""

from __future__ import annotations

import functools
import hashlib
import shutil
from pathlib import Path

from . import cache, demo
from . import kernel as testbed_kernel
from .cache import say
from .layerbuild import kernel, run
from .packages import Packages

MACHINE = "qemuarm64"


def play(trees: str, release: str, sources: str, until: kernel.Until, output: Path) -> int:
    """Build a release's packages, make the guests' roots of them, boot, prove. 0, or 1 if a proof did not hold.

    ``trees`` and ``sources`` are the values of OE_TREES and OE_SOURCES. ``until``: a kernel that bitbake has compiled
    is what Dom0 and DomUs boot. The report goes to ``output``. Raises TestbedError if something is missing, or
    another run in this clone has not ended.
    """
    here = hashlib.sha256(str(output).encode()).hexdigest()[:8]
    busy = f'another "make layer-demo" works in "{output}"; wait until it has ended, or take another clone'
    with cache.locked(f"layer-demo-{here}", busy):
        built = output / "build"
        warned = run.run(run.Wanted(trees, [release], sources, until, images=False), built)
        product = Packages(built / release / MACHINE / "packages")
        for line in product.origin:
            say(line)
        compiled = until is kernel.Until.COMPILED
        whose = "Xen and all else are" if compiled else "the kernel, Xen and all else are"
        say(f"{whose} the testbed's: bitbake compiled none of them")
        own = functools.partial(_kernel, built / release / MACHINE / kernel.KERNEL) if compiled else None
        report = demo.run(output / "demo", product, own)
        return max(warned, 0 if report.held else 1)


def _kernel(built: Path) -> Path:
    """The folder of bitbake's kernel in the cache, with what of the testbed's fits any kernel: the selftests."""
    ours = testbed_kernel.build()

    def fill(folder: Path) -> None:
        shutil.copytree(built, folder, dirs_exist_ok=True, symlinks=True)
        shutil.copytree(ours / "selftests", folder / "selftests")

    return cache.stage("kernel-of-bitbake", {"built": cache.digest([built]), "ours": ours.name}, fill)
