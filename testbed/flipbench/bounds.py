# SPDX-License-Identifier: MIT
"""What a flip may cost: `make test` measures these rows (tests/testbed/test_flips.py)."""

from __future__ import annotations

MEASURED = {"map-gl-640x480": 0.059, "copy-pixman-640x480": 0.197}
"""Millions of instructions of the worker, a flip, as `make flip-bench` found them. Who makes a flip cheaper writes
the new figure here, in the same commit."""
MARGIN = 1.1
"""Of what differs from run to run, and among versions of Debian's packages."""


def bound(row: str) -> float:
    """Millions of instructions that a flip of that row may cost."""
    return MEASURED[row] * MARGIN
