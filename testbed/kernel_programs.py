# SPDX-License-Identifier: MIT
"""C programs and modules of tests/kernel, compiled against a kernel's own headers and run in Dom0."""

from __future__ import annotations

from pathlib import Path

from . import cross, layout
from .guest import Dom0

FOLDER = "/run/kernel-programs"


def compile_program(kernel: Path, name: str, target: Path) -> None:
    """Compile tests/kernel/NAME.c, linked statically, with the headers of a built kernel."""
    headers = kernel / "include"
    cross.compile_c(
        [layout.KERNEL_PROGRAMS / f"{name}.c"],
        target,
        # the selftests' headers are not ours: they have helpers that not everybody calls
        "-Wno-unused-function",
        "-Wno-sign-compare",
        "-static",
        *("-isystem", str(headers / "uapi")),
        *("-isystem", str(headers / "selftests")),
        f"-I{layout.KERNEL_PROGRAMS / 'modules'}",
        what=f"kernel test program {name}",
    )


def install(dom0: Dom0, kernel: Path, name: str) -> str:
    """Compile a program and put it into Dom0; its path there."""
    target = dom0.machine.folder / name
    compile_program(kernel, name, target)
    path = f"{FOLDER}/{name}"
    dom0.run(f"mkdir -p {FOLDER}")
    dom0.copy_to(target, path)
    dom0.run(f"chmod 755 {path}")
    return path


def load_module(dom0: Dom0, kernel: Path, name: str) -> None:
    """Load a module of tests/kernel/modules into Dom0's running kernel, which must be that one."""
    path = f"{FOLDER}/{name}.ko"
    dom0.run(f"mkdir -p {FOLDER}")
    dom0.copy_to(kernel / "test-modules" / f"{name}.ko", path)
    dom0.run(f"grep -q '^{name} ' /proc/modules || insmod {path}")
