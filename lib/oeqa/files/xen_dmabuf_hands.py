# SPDX-License-Identifier: MIT
"""Keyboard, tablet, mouse and touch screen of user space in Dom0: python3 xen_dmabuf_hands.py FIFO, until it
is ended.

Each line that is written into FIFO is one thing that is done:

    key CODE...           press and release keys
    press CODE            press a key or button; release CODE
    point X Y             the tablet's pen is there: 0 to 32767 of the screen's width and height
    wheel CLICKS          the mouse's wheel, away from the user
    touch FINGER X Y ...  fingers (0 to 9) come down there, or move there, at once
    lift FINGER...        and go
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

EV_SYN, EV_KEY, EV_REL, EV_ABS = range(4)
REL_X, REL_Y, REL_WHEEL = 0, 1, 8
BUTTONS = range(0x110, 0x113)
LARGEST = 32767
_SET_BIT = {EV_KEY: 0x40045565, EV_REL: 0x40045566, EV_ABS: 0x40045567}
_SET_EVBIT, _SET_PROPBIT = 0x40045564, 0x4004556E
_DEV_CREATE, _DEV_SETUP, _ABS_SETUP = 0x5501, 0x405C5503, 0x401C5504
_DIRECT = 1
_TOUCH = 0x14A
_SLOT, _MT_X, _MT_Y, _TRACKING = 0x2F, 0x35, 0x36, 0x39
_FINGERS = 10


def device(
    name: str,
    product: int,
    codes: dict[int, Iterable[int]],
    largest: dict[int, int] | None = None,
    direct: bool = False,
) -> int:
    """An open /dev/uinput that is a device now. ``codes`` by type, ``largest`` value of an axis that has not
    LARGEST, ``direct``: on the screen."""
    fd = os.open("/dev/uinput", os.O_WRONLY | os.O_NONBLOCK)
    for kind, codes_of_it in codes.items():
        fcntl.ioctl(fd, _SET_EVBIT, kind)
        for code in codes_of_it:
            fcntl.ioctl(fd, _SET_BIT[kind], code)
            if kind == EV_ABS:
                most = (largest or {}).get(code, LARGEST)
                fcntl.ioctl(fd, _ABS_SETUP, struct.pack("@H2x6i", code, 0, 0, most, 0, 0, 0))
    if direct:
        fcntl.ioctl(fd, _SET_PROPBIT, _DIRECT)
    fcntl.ioctl(fd, _DEV_SETUP, struct.pack("@4H80sI", 6, 1, product, 1, name.encode(), 0))
    fcntl.ioctl(fd, _DEV_CREATE)
    return fd


def keyboard() -> int:
    return device("xen-dmabuf test keyboard", 1, {EV_KEY: range(1, 128)})


def tablet() -> int:
    return device("xen-dmabuf test tablet", 2, {EV_KEY: BUTTONS, EV_ABS: (0, 1)})


def mouse() -> int:
    return device("xen-dmabuf test mouse", 3, {EV_KEY: BUTTONS, EV_REL: (REL_X, REL_Y, REL_WHEEL)})


def touch_screen() -> int:
    axes = (0, 1, _SLOT, _MT_X, _MT_Y, _TRACKING)
    largest = {_SLOT: _FINGERS - 1, _TRACKING: 0xFFFF}
    return device("xen-dmabuf test touch screen", 4, {EV_KEY: (_TOUCH,), EV_ABS: axes}, largest, direct=True)


def say(fd: int, *events: tuple[int, int, int]) -> None:
    """Events, and what ends them."""
    data = b"".join(struct.pack("@qqHHi", 0, 0, *event) for event in (*events, (EV_SYN, 0, 0)))
    os.write(fd, data)


class _Touch:
    """Who touches the touch screen."""

    def __init__(self) -> None:
        self._fd = touch_screen()
        self._down: set[int] = set()

    def touch(self, places: list[int]) -> None:
        """Finger, x, y, and so on."""
        events = []
        for finger, x, y in zip(places[::3], places[1::3], places[2::3]):
            events += [(EV_ABS, _SLOT, finger)]
            if finger not in self._down:
                events += [(EV_ABS, _TRACKING, finger)]
            events += [(EV_ABS, _MT_X, x), (EV_ABS, _MT_Y, y)]
            self._down.add(finger)
        say(self._fd, *events, (EV_KEY, _TOUCH, 1))

    def lift(self, fingers: list[int]) -> None:
        events = []
        for finger in fingers:
            events += [(EV_ABS, _SLOT, finger), (EV_ABS, _TRACKING, -1)]
            self._down.discard(finger)
        say(self._fd, *events, (EV_KEY, _TOUCH, int(bool(self._down))))


def main(path: str) -> None:
    """Serve the FIFO."""
    keys, pen, wheel, fingers = keyboard(), tablet(), mouse(), _Touch()
    os.mkfifo(path)
    # open for writing as well: no end of file between two that write
    with open(os.open(path, os.O_RDWR), encoding="ascii") as lines:
        for line in lines:
            word, *numbers = line.split()
            values = [int(number, 0) for number in numbers]
            if word == "point":
                say(pen, (EV_ABS, 0, values[0]), (EV_ABS, 1, values[1]))
            elif word == "wheel":
                say(wheel, (EV_REL, REL_WHEEL, values[0]))
            elif word == "touch":
                fingers.touch(values)
            elif word == "lift":
                fingers.lift(values)
            else:
                _press(word, values, keys, pen)


def _press(word: str, codes: list[int], keys: int, pen: int) -> None:
    for code in codes:
        fd = pen if code in BUTTONS else keys
        if word in ("key", "press"):
            say(fd, (EV_KEY, code, 1))
        if word in ("key", "release"):
            say(fd, (EV_KEY, code, 0))


if __name__ == "__main__":
    main(sys.argv[1])
