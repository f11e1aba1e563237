# SPDX-License-Identifier: MIT
"""What a frontend publishes of a connector in XenStore."""

from __future__ import annotations

from dataclasses import dataclass

from ..codec import number, text

_U32 = 0xFFFFFFFF


@dataclass(frozen=True)
class ConnectorSpec:
    """``name`` is the unique-id or the index; sizes in pixels; references and ports of the DomU."""

    index: int = number(high=15)
    name: str = text(longest=32)
    width: int = number(low=1, high=1 << 16)
    height: int = number(low=1, high=1 << 16)
    req_ref: int = number(low=1, high=_U32)
    req_port: int = number(low=1, high=_U32)
    evt_ref: int = number(low=1, high=_U32)
    evt_port: int = number(low=1, high=_U32)
