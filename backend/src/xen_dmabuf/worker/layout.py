# SPDX-License-Identifier: MIT
"""Where a picture goes in its window, and how large the window is: pure arithmetic.

All sizes in pixels: a picture's in its own, everything else in the compositor's (logical) ones.
``scale`` is a screen's setting: "down" only shrinks, "fit" also enlarges, "stretch" fills the window,
"none" changes nothing. Only "stretch" gives up the proportion.
"""

from __future__ import annotations

from dataclasses import dataclass

Size = tuple[int, int]
NO_LIMIT: Size = (0, 0)
_MOST = 16384


def bounded(width: int, height: int) -> Size:
    """A size that a compositor names, within what a screen can have."""
    return max(0, min(width, _MOST)), max(0, min(height, _MOST))


@dataclass(frozen=True)
class Place:
    """``width`` x ``height`` at ``x``, ``y`` of the window show ``source`` of the picture."""

    x: int
    y: int
    width: int
    height: int
    source: Size


def fit(content: Size, limit: Size, scale: str) -> Size:
    """``content`` in proportion within ``limit``, of which 0 means no limit."""
    if not all(limit) or scale == "none":
        return content
    factor = min(limit[0] / content[0], limit[1] / content[1])
    if factor == 1 or (factor > 1 and scale == "down"):
        return content
    return max(1, int(content[0] * factor)), max(1, int(content[1] * factor))


def window(content: Size, wish: Size, must: bool, bounds: Size, scale: str) -> Size:
    """The size of a window for ``content``.

    ``wish``: the compositor's, 0 for none; ``must``: it has to be that. ``bounds``: of the output.
    """
    if must and all(wish):
        return wish
    if all(wish):
        return wish if scale == "stretch" else fit(content, wish, scale)
    return fit(content, bounds, "none" if scale == "none" else "down")


def place(content: Size, area: Size, scale: str) -> Place:
    """``content`` in the middle of a window of ``area``; what is too large with "none" is cut off."""
    if scale == "stretch":
        width, height = area
        source = content
    elif scale == "none":
        width, height = source = min(content[0], area[0]), min(content[1], area[1])
    else:
        width, height = fit(content, area, scale)
        source = content
    return Place((area[0] - width) // 2, (area[1] - height) // 2, width, height, source)
