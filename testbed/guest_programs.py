# SPDX-License-Identifier: MIT
"""C programs of this repository that run in a DomU, cross-compiled against trixie's libdrm."""

from __future__ import annotations

from pathlib import Path

from . import layout, process
from .debian import Archive


def build_pattern(work: Path, target: Path) -> None:
    """Compile the test-pattern program of clients/pattern."""
    sysroot = work / "sysroot"
    archive = Archive()
    archive.update()
    archive.unpack(["libdrm2", "libdrm-dev"], sysroot)
    process.run(
        [
            "aarch64-linux-gnu-gcc",
            "-std=gnu11",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            f"-I{sysroot}/usr/include",
            f"-I{sysroot}/usr/include/libdrm",
            *sorted(str(p) for p in layout.PATTERN.glob("*.c")),
            f"-L{sysroot}/usr/lib/aarch64-linux-gnu",
            "-ldrm",
            # trixie's libdrm wants a newer libc than the host's cross compiler has; the DomU has it
            "-Wl,--allow-shlib-undefined",
            "-o",
            str(target),
        ],
        what="pattern program",
    )
