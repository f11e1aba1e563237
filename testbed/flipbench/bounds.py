# SPDX-License-Identifier: MIT
"""What a flip may cost: `make test` measures these rows (tests/testbed/test_flips.py)."""

from __future__ import annotations

MEASURED = {"map-gl-640x480": 0.056, "map-gl-640x480-python": 0.197, "copy-pixman-640x480": 0.196}
"""Millions of instructions of the worker, a flip, as `make flip-bench` found them. Who makes a flip cheaper writes
the new figure here, in the same commit."""
STARTS = {"map-gl-640x480": (384, 655), "copy-pixman-640x480": (381, 570)}
"""Millions of instructions from its fork until the supervisor is ready, and until a worker's first flip is answered.
Python that has to compile its library executes far more."""
MARGIN = 1.1
"""Of what differs from run to run, and among versions of Debian's packages."""


def bound(row: str) -> float:
    """Millions of instructions that a flip of that row may cost."""
    return MEASURED[row] * MARGIN
