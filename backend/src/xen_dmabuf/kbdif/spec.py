# SPDX-License-Identifier: MIT
"""What toolstack and frontend publish of an input device in XenStore."""

from __future__ import annotations

from ..codec import number, text
from ..record import record

MOST_CONTACTS = 64
"""Touches at once; a hand has five, and the guest's kernel has memory for each."""

_U32 = 0xFFFFFFFF
_SIZE = 1 << 16


@record
class InputSpec:
    """``keyboard``, ``pointer`` and ``touch`` name the connectors whose windows they are for; empty:
    the device has none. The device's units: ``width`` x ``height`` of the absolute pointer, both 0 if
    it is a relative one, and of the touch screen, with ``contacts`` touches at once."""

    ref: int = number(low=1, high=_U32)
    port: int = number(low=1, high=_U32)
    keyboard: str = text("", longest=32)
    pointer: str = text("", longest=32)
    touch: str = text("", longest=32)
    width: int = number(0, high=_SIZE)
    height: int = number(0, high=_SIZE)
    touch_width: int = number(0, high=_SIZE)
    touch_height: int = number(0, high=_SIZE)
    contacts: int = number(0, high=MOST_CONTACTS)
