# SPDX-License-Identifier: MIT
"""C of this repository that runs in Dom0 and DomU, cross-compiled against trixie's libraries."""

from __future__ import annotations

import sys
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


def build_pump(work: Path, target: Path) -> None:
    """Compile the module that serves flips (backend/pump_build.py), for any Python since 3.2 (abi3)."""
    sysroot = work / "python-sysroot"
    archive = Archive()
    archive.update()
    archive.unpack(["libpython3.13-dev"], sysroot)
    code = work / "_pump.c"
    process.run([sys.executable, str(layout.BACKEND / "pump_build.py"), "c", str(code)], what="C of the flip pump")
    process.run(
        [
            "aarch64-linux-gnu-gcc",
            "-std=gnu11",
            "-O2",
            "-fPIC",
            "-shared",
            f"-I{sysroot}/usr/include",
            f"-I{sysroot}/usr/include/python3.13",
            str(code),
            "-o",
            str(target),
        ],
        what="flip pump",
    )
