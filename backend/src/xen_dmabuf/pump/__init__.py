# SPDX-License-Identifier: MIT
"""Plain flips in C, inside of asyncio's selector: pump.h says what it does, loop.py gives it its turn.

The module _pump is built where there are a C compiler and cffi (pump_build.py). Without it, or with
XEN_DMABUF_FLIPS=python in the environment, Python serves all flips, by the same rules.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

ffi: Any = None
lib: Any = None
if os.environ.get("XEN_DMABUF_FLIPS") != "python":
    with contextlib.suppress(ImportError):
        from ._pump import ffi, lib  # type: ignore[import-not-found, no-redef]  # compiled

__all__ = ["ffi", "lib"]
