# SPDX-License-Identifier: MIT
"""Which rows the bench has, and how they are called."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from ..errors import TestbedError

OUTPUTS = {"gl": (640, 480), "pixman": (1920, 1080)}
"""Size of Weston's output in pixels, by its renderer. Software GL takes 26 M instructions for a frame of 640x480:
a larger one would only make the bench slow."""
TINY = (160, 120)
"""So small that a GL output of 640x480 has room for eight windows: one that is covered is never drawn."""
SMALL, FULL_HD, LARGE, UHD = (640, 480), (1920, 1080), (3840, 2040), (3840, 2160)
SLOW_PERIOD = 200_000
FLIPS = {"gl": 60, "pixman": 200}
"""Flips of each screen, where it flips flat out. A hundred flips a second are over soon."""
SLOW_FLIPS = 30


@dataclass(frozen=True)
class Row:
    """What is measured together. ``period``: microseconds between two flips, 0: flat out."""

    strategy: str
    renderer: str
    size: tuple[int, int] = SMALL
    domus: int = 1
    connectors: int = 1
    period: int = 0
    server: str = "compiled"
    """Who serves plain flips, as the backend's status has it: "compiled" or "python"."""

    @property
    def name(self) -> str:
        """As the command line knows it."""
        width, height = self.size
        parts = [self.strategy, self.renderer, f"{width}x{height}"]
        if self.domus > 1:
            parts.append(f"{self.domus}domus")
        if self.connectors > 1:
            parts.append(f"{self.connectors}connectors")
        if self.period:
            parts.append(f"{1_000_000 // self.period}fps")
        if self.server != "compiled":
            parts.append(self.server)
        return "-".join(parts)

    @property
    def flips(self) -> int:
        """How many each screen makes."""
        return SLOW_FLIPS if self.period else max(60, FLIPS[self.renderer] // (self.domus * self.connectors))

    @property
    def guest_series(self) -> bool:
        """Whether the DomU needs the guest's kernel series: mainline's driver has lines up to 2047."""
        return self.size[1] > 2047


def rows() -> list[Row]:
    """All of them, those of a renderer together: changing it takes a restart of Weston."""
    gl = [Row("map", "gl", size) for size in (SMALL, FULL_HD, LARGE, UHD)]
    gl += [Row("map", "gl", TINY, domus=domus) for domus in (1, 2, 4, 8)]
    gl += [Row("map", "gl", TINY, connectors=4), Row("map", "gl", period=SLOW_PERIOD)]
    gl += [Row("map", "gl", server="python")]
    gl += [Row("copy", "gl", size) for size in (SMALL, FULL_HD, LARGE)]
    pixman = [Row("copy", "pixman", size) for size in (SMALL, FULL_HD, LARGE, UHD)]
    pixman += [Row("copy", "pixman", domus=domus) for domus in (2, 4, 8)]
    pixman += [Row("copy", "pixman", connectors=4), Row("copy", "pixman", period=SLOW_PERIOD)]
    pixman += [Row("copy", "pixman", server="python")]
    return gl + pixman


def select(patterns: list[str]) -> list[Row]:
    """Rows whose name matches one of the patterns (of a shell); all if there are none. TestbedError if nothing does."""
    found = [row for row in rows() if not patterns or any(fnmatch.fnmatch(row.name, p) for p in patterns)]
    unknown = [p for p in patterns if not any(fnmatch.fnmatch(row.name, p) for row in rows())]
    if unknown:
        raise TestbedError(f'flip-bench: no row is called "{unknown[0]}"; --list says which there are')
    return found
