# SPDX-License-Identifier: MIT
"""C of this repository that runs in Dom0 and DomU, cross-compiled against their libraries."""

from __future__ import annotations

import sys
from pathlib import Path

from . import cross, debianroot, layout, process
from .debian import Archive


def build_pattern(work: Path, target: Path) -> None:
    """Compile the test-pattern program of clients/pattern."""
    sysroot = work / "sysroot"
    archive = Archive(debianroot.suite())
    archive.update()
    archive.unpack(["libdrm2", "libdrm-dev"], sysroot)
    cross.compile_c(
        sorted(layout.PATTERN.glob("*.c")),
        target,
        f"-I{sysroot}/usr/include",
        f"-I{sysroot}/usr/include/libdrm",
        f"-L{sysroot}/usr/lib/aarch64-linux-gnu",
        "-ldrm",
        # its libdrm wants a newer libc than the host's cross compiler has; the DomU has it
        "-Wl,--allow-shlib-undefined",
        what="pattern program",
    )


def build_pump(work: Path, target: Path) -> None:
    """Compile the module that serves flips (backend/pump_build.py), for any Python since 3.2 (abi3)."""
    sysroot = work / "python-sysroot"
    archive = Archive(debianroot.suite())
    archive.update()
    archive.unpack([f"libpython{debianroot.python()}-dev"], sysroot)
    code = work / "_pump.c"
    process.run([sys.executable, str(layout.BACKEND / "pump_build.py"), "c", str(code)], what="C of the flip pump")
    cross.compile_c(
        [code],
        target,
        "-fPIC",
        "-shared",
        f"-I{sysroot}/usr/include",
        f"-I{sysroot}/usr/include/python{debianroot.python()}",
        what="flip pump",
    )
