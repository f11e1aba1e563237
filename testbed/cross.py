# SPDX-License-Identifier: MIT
"""Cross-compiles this repository's C for the guests, which are arm64."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from . import process


def compile_c(sources: Iterable[Path], target: Path, *options: str, what: str) -> None:
    """Compile and link; warnings are errors. Libraries in ``options`` come after the sources that need them.

    ``what`` names the program in the TestbedError of one that doesn't compile.
    """
    process.run(
        [
            "aarch64-linux-gnu-gcc",
            *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"),
            *map(str, sources),
            *options,
            *("-o", str(target)),
        ],
        what=what,
    )
