# SPDX-License-Identifier: MIT
"""Memory order among CPUs, for the pages shared with a DomU. Any thread."""

from __future__ import annotations

import ctypes

from ..errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _load(order: int) -> None:
    """atomic_thread_fence of libatomic: Python has no barrier and arm64 reorders."""
    global _call
    try:
        _call = ctypes.PyDLL("libatomic.so.1").atomic_thread_fence
    except (OSError, AttributeError) as error:
        raise UserError(
            f"libatomic.so.1 with atomic_thread_fence is needed for the shared rings: {error};"
            " install libatomic1 (Debian) or libatomic (OpenEmbedded)"
        ) from error
    _call.restype = None
    _call(order)


_call: Any = _load
"""Loaded when it is needed first. Without argtypes an int is passed as C's int, and fastest."""


def fence() -> None:
    """A full memory barrier among CPUs (memory_order_seq_cst; on arm64 `dmb ish`)."""
    _call(5)
