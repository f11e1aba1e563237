# SPDX-License-Identifier: MIT
"""The numbers of xen/io/kbdif.h, and the events that a backend sends. Pure.

An event is 40 bytes, in the byte order of the machine (arm64 and x86 are little endian).
"""

from __future__ import annotations

import struct

IN_EVENT_SIZE = 40
IN_RING_OFFS = 1024
IN_RING_SIZE = 2048
IN_RING_LEN = IN_RING_SIZE // IN_EVENT_SIZE

TYPE_MOTION = 1
TYPE_KEY = 3
TYPE_POS = 4
TYPE_MTOUCH = 5

MT_EV_DOWN = 0
MT_EV_UP = 1
MT_EV_MOTION = 2
MT_EV_SYN = 3

KEY_MAX = 0x2FF
"""Of linux/input-event-codes.h: a frontend takes a greater number for a bit beyond its table."""
POINTER_BUTTONS = range(0x110, 0x118)
"""BTN_LEFT to BTN_TASK: what xen-kbdfront gives to its pointer; all other keys go to its keyboard."""
KEYS = (*range(1, 240), *POINTER_BUTTONS, *range(0x160, KEY_MAX))
"""What xen-kbdfront's devices have; it logs a warning for each other one."""

_MOST, _LEAST = 0x7FFFFFFF, -0x80000000


def _s32(value: int) -> int:
    return min(max(value, _LEAST), _MOST)


def pack_key(code: int, pressed: bool) -> bytes:
    """``code``: a key or button of linux/input-event-codes.h, 1 to KEY_MAX."""
    assert 0 < code <= KEY_MAX
    return struct.pack("<BB2xI32x", TYPE_KEY, pressed, code)


def pack_motion(x: int, y: int, z: int) -> bytes:
    """Differences; ``z``: clicks of the wheel towards the user. What is more than 32 bits is cut."""
    return struct.pack("<B3x3i24x", TYPE_MOTION, _s32(x), _s32(y), _s32(z))


def pack_position(x: int, y: int, z: int) -> bytes:
    """Absolute ``x`` and ``y`` in units of the device, clicks as of pack_motion()."""
    return struct.pack("<B3x3i24x", TYPE_POS, _s32(x), _s32(y), _s32(z))


def pack_touch(event: int, contact: int, x: int = 0, y: int = 0) -> bytes:
    """``event``: one of MT_EV_*; ``x`` and ``y`` in units of the device, for DOWN and MOTION."""
    return struct.pack("<BBB5x2i24x", TYPE_MTOUCH, event, contact, _s32(x), _s32(y))
