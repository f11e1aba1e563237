# SPDX-License-Identifier: MIT
"""A keyboard and a tablet of user space in Dom0: python3 xen_dmabuf_hands.py FIFO, until it is ended.

Each line that is written into FIFO is one thing that is done:

    key CODE...     press and release keys
    press CODE      press a key or button; release CODE
    point X Y       the tablet's pen is there: 0 to 32767 of the screen's width and height
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SET_EVBIT, _SET_KEYBIT, _SET_ABSBIT = 0x40045564, 0x40045565, 0x40045567
_DEV_CREATE, _DEV_SETUP, _ABS_SETUP = 0x5501, 0x405C5503, 0x401C5504
_EV_SYN, _EV_KEY, _EV_ABS = 0, 1, 3
_BUTTONS = range(0x110, 0x113)


def _device(name: bytes, product: int, kinds: Iterable[int], keys: Iterable[int], axes: Iterable[int] = ()) -> int:
    """An open /dev/uinput that is a device now."""
    fd = os.open("/dev/uinput", os.O_WRONLY | os.O_NONBLOCK)
    for kind in kinds:
        fcntl.ioctl(fd, _SET_EVBIT, kind)
    for key in keys:
        fcntl.ioctl(fd, _SET_KEYBIT, key)
    for axis in axes:
        fcntl.ioctl(fd, _SET_ABSBIT, axis)
        fcntl.ioctl(fd, _ABS_SETUP, struct.pack("@H2x6i", axis, 0, 0, 32767, 0, 0, 0))
    fcntl.ioctl(fd, _DEV_SETUP, struct.pack("@4H80sI", 6, 1, product, 1, name, 0))
    fcntl.ioctl(fd, _DEV_CREATE)
    return fd


def _say(fd: int, *events: tuple[int, int, int]) -> None:
    data = b"".join(struct.pack("@qqHHi", 0, 0, *event) for event in (*events, (_EV_SYN, 0, 0)))
    os.write(fd, data)


def main(path: str) -> None:
    """Serve the FIFO."""
    keyboard = _device(b"xen-dmabuf test keyboard", 1, (_EV_KEY,), range(1, 128))
    tablet = _device(b"xen-dmabuf test tablet", 2, (_EV_KEY, _EV_ABS), _BUTTONS, (0, 1))
    os.mkfifo(path)
    # open for writing as well: no end of file between two that write
    with open(os.open(path, os.O_RDWR), encoding="ascii") as lines:
        for line in lines:
            word, *numbers = line.split()
            values = [int(number, 0) for number in numbers]
            if word == "point":
                _say(tablet, (_EV_ABS, 0, values[0]), (_EV_ABS, 1, values[1]))
                continue
            for value in values:
                fd = tablet if value in _BUTTONS else keyboard
                if word in ("key", "press"):
                    _say(fd, (_EV_KEY, value, 1))
                if word in ("key", "release"):
                    _say(fd, (_EV_KEY, value, 0))


if __name__ == "__main__":
    main(sys.argv[1])
