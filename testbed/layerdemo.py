# SPDX-License-Identifier: MIT
"""``make layer-demo``: what bitbake builds of the layer is what runs on Xen."""

from __future__ import annotations

import hashlib
from pathlib import Path

from . import cache, demo
from .cache import say
from .layerbuild import kernel, run
from .packages import Packages

MACHINE = "qemuarm64"


def play(trees: str, release: str, sources: str, output: Path) -> int:
    """Build a release's packages, make the guests' roots of them, boot, prove. 0, or 1 if a proof did not hold.

    ``trees`` and ``sources`` are the values of OE_TREES and OE_SOURCES. The report goes to ``output``. Raises
    TestbedError if something is missing, or another run in this clone has not ended.
    """
    here = hashlib.sha256(str(output).encode()).hexdigest()[:8]
    busy = f'another "make layer-demo" works in "{output}"; wait until it has ended, or take another clone'
    with cache.locked(f"layer-demo-{here}", busy):
        built = output / "build"
        warned = run.run(run.Wanted(trees, [release], sources, kernel.Until.NONE, images=False), built)
        product = Packages(built / release / MACHINE / "packages")
        for line in product.origin:
            say(line)
        say("the kernel, Xen, and all else are the testbed's: bitbake compiled none of them")
        report = demo.run(output / "demo", product)
        return max(warned, 0 if report.held else 1)
