# SPDX-License-Identifier: MIT
"""The reading side of clients/pattern: which frame does a screenshot show, and is every pixel right?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from oeqa.runtime.xen_dmabuf import picture
from oeqa.runtime.xen_dmabuf.picture import CELLS, FRAME_BITS, MAGIC, cell_size

from .errors import ProofError

Pixels = np.ndarray
"""Pictures are arrays of shape (height, width, 3), uint8, in the order red, green, blue."""


@dataclass(frozen=True)
class Sighting:
    """A pattern found on a screen: position of its top left corner in pixels, and the label's numbers."""

    x: int
    y: int
    stream: int
    frame: int


def frame(width: int, height: int, stream: int, number: int) -> Pixels:
    """The frame that clients/pattern draws."""
    return array(picture.frame(width, height, stream, number))


def array(rows: picture.Picture) -> Pixels:
    """A picture of the image tests'."""
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1, 3)


def _magic_positions(screen: Pixels, cell: int) -> list[tuple[int, int]]:
    """Top left corners (x, y) of all labels with that cell size."""
    white = (screen == 255).all(axis=2)
    black = (screen == 0).all(axis=2)
    columns = screen.shape[1] - CELLS * cell + 1
    rows = screen.shape[0] - cell + 1
    if columns <= 0 or rows <= 0:
        return []
    found = np.ones((rows, columns), bool)
    for i in range(8):
        wanted = white if MAGIC >> (7 - i) & 1 else black
        for dx, dy in ((i * cell, 0), (i * cell + cell - 1, cell - 1)):
            found &= wanted[dy : dy + rows, dx : dx + columns]
    return [(int(x), int(y)) for y, x in np.argwhere(found)]


def _read_bits(screen: Pixels, x: int, y: int, cell: int) -> int:
    middle = cell // 2
    value = 0
    for i in range(8, CELLS):
        value = value << 1 | int(screen[y + middle, x + i * cell + middle, 0] > 127)
    return value


def locate(screen: Pixels, width: int, height: int, stream: int) -> Sighting | None:
    """Find the picture of a stream by its top left label, or, if that is hidden, by its other one."""
    cell = cell_size(width)
    for x, y in _magic_positions(screen, cell):
        value = _read_bits(screen, x, y, cell)
        if value >> FRAME_BITS != stream:
            continue
        number = value & (1 << FRAME_BITS) - 1
        expected = frame(width, height, stream, number)
        corners = ((x, y), (x - width + CELLS * cell, y - height + cell))
        return min(
            (Sighting(cx, cy, stream, number) for cx, cy in corners),
            key=lambda s: len(differences(screen, s.x, s.y, expected)),
        )
    return None


def differences(screen: Pixels, x: int, y: int, expected: Pixels) -> np.ndarray:
    """Positions (y, x) within ``expected`` where the screen differs; outside of the screen all do."""
    height, width = expected.shape[:2]
    if x < 0 or y < 0 or x + width > screen.shape[1] or y + height > screen.shape[0]:
        return np.argwhere(np.ones((height, width), bool))
    shown = screen[y : y + height, x : x + width]
    return np.argwhere((shown != expected).any(axis=2))


def require_exact(screen: Pixels, width: int, height: int, stream: int, number: int) -> Sighting:
    """The screen shows exactly that frame somewhere, every pixel of it; else ProofError says what differs."""
    seen = locate(screen, width, height, stream)
    if seen is None:
        raise ProofError(f"no picture of stream {stream} ({width}x{height}) on the screen")
    if seen.frame != number & (1 << FRAME_BITS) - 1:
        raise ProofError(f"stream {stream}: the screen shows frame {seen.frame}, the DomU drew {number}")
    wrong = differences(screen, seen.x, seen.y, frame(width, height, stream, number))
    if len(wrong):
        y, x = wrong[0]
        raise ProofError(
            f"stream {stream}, frame {number}: {len(wrong)} of {width * height} pixels differ, the first at x={x} y={y}"
        )
    return seen
