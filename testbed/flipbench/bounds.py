# SPDX-License-Identifier: MIT
"""What a flip may cost: `make test` measures these rows (tests/testbed/test_flips.py)."""

from __future__ import annotations

MEASURED = {"map-gl-640x480": 0.0, "copy-pixman-640x480": 0.0}
"""Millions of instructions of the worker, a flip, as `make flip-bench` found them. Who makes a flip cheaper writes
the new figure here, in the same commit."""
MARGIN = 1.1
"""Counts of one build differ by less than 3 % from run to run; the rest is for other versions of Debian's packages."""


def bound(row: str) -> float:
    """Millions of instructions that a flip of that row may cost."""
    return MEASURED[row] * MARGIN
