# SPDX-License-Identifier: MIT
"""Memory order among CPUs, for the pages shared with a DomU. Any thread."""

from __future__ import annotations

import ctypes
import functools

from ..errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


@functools.cache
def _fence() -> Callable[[int], None]:
    """atomic_thread_fence of libatomic: Python has no barrier and arm64 reorders."""
    try:
        function = ctypes.PyDLL("libatomic.so.1").atomic_thread_fence
    except (OSError, AttributeError) as error:
        raise UserError(
            f"libatomic.so.1 with atomic_thread_fence is needed for the shared rings: {error};"
            " install libatomic1 (Debian) or libatomic (OpenEmbedded)"
        ) from error
    function.argtypes = [ctypes.c_int]
    function.restype = None
    return function


def fence() -> None:
    """A full memory barrier among CPUs (memory_order_seq_cst; on arm64 `dmb ish`)."""
    _fence()(5)
