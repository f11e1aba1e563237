# SPDX-License-Identifier: MIT
"""Parse-time helpers of meta-xen-dmabuf; bitbake imports them by addpylib.

Nothing here imports bitbake at module level, so that plain pytest can run it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Store = Any
    """bitbake's data store, or what has its getVar(): bitbake has no types."""

BBIMPORTS = ["kernelconfig", "kernelseries", "sanity", "sources", "xen"]
