# SPDX-License-Identifier: MIT
"""What a frontend publishes of a connector in XenStore."""

from __future__ import annotations

from ..codec import number, text
from ..record import record

_U32 = 0xFFFFFFFF
_PLAIN = 4095, 2047
"""The largest width and height that an unpatched drm_xen_front gives a mode (xen_drm_front_kms.c)."""


@record
class ConnectorSpec:
    """``name`` is the unique-id or the index; sizes in pixels; references and ports of the DomU.

    ``version`` is the protocol's that the frontend has chosen, ``written_back`` says that it writes caches back
    (feature-write-back); both hold for the whole device.
    """

    index: int = number(high=15)
    name: str = text(longest=32)
    width: int = number(low=1, high=1 << 16)
    height: int = number(low=1, high=1 << 16)
    req_ref: int = number(low=1, high=_U32)
    req_port: int = number(low=1, high=_U32)
    evt_ref: int = number(low=1, high=_U32)
    evt_port: int = number(low=1, high=_U32)
    version: int = number(1, low=1, high=2)
    written_back: bool = False

    @property
    def warning(self) -> str:
        """Why this connector may stay black, "" if there is no reason: which frontend it is can't be seen."""
        if self.width <= _PLAIN[0] and self.height <= _PLAIN[1]:
            return ""
        return (
            f"{self.width}x{self.height} is more than {_PLAIN[0]}x{_PLAIN[1]}: Linux gives this connector no mode"
            " unless the guest's kernel has the patches of kernel-patches/guest"
        )
