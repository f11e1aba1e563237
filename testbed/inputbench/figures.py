# SPDX-License-Identifier: MIT
"""Figures of what was measured, without a machine. Times in nanoseconds."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from statistics import median
from typing import Any

from ..errors import ProofError

EVENT = struct.Struct("<qqHHi")
EV_KEY, EV_ABS = 1, 3
ABS_X = 0
LARGEST = 32767
KEY, BUTTON = 30, 0x110
PINGS_COUNTED = 10
FRAME = 1e9 / 60


@dataclass(frozen=True)
class Offset:
    """How far a DomU's clock is ahead of Dom0's, and how far that may be wrong either way."""

    ahead: float
    wrong: float


def offset(pings: list[list[int]]) -> Offset:
    """Of pairs (how long the answer took, how far ahead if it was written half way): by the fastest ones."""
    best = sorted(pings)[:PINGS_COUNTED]
    return Offset(median(ahead for _took, ahead in best), best[0][0] / 2)


@dataclass(frozen=True)
class Heard:
    """What a device of the DomU has said: (time, type, code, value)."""

    events: list[tuple[int, int, int, int]]

    @classmethod
    def of(cls, data: bytes) -> Heard:
        """As read from its evdev node."""
        whole = data[: len(data) // EVENT.size * EVENT.size]
        return cls([(s * 10**9 + us * 1000, *rest) for s, us, *rest in EVENT.iter_unpack(whole)])

    def keys(self, code: int) -> list[int]:
        """When a key changed."""
        return [time for time, kind, found, _value in self.events if (kind, found) == (EV_KEY, code)]

    def places(self) -> list[tuple[int, int]]:
        """When the pointer was where, along x."""
        return [(time, value) for time, kind, code, value in self.events if (kind, code) == (EV_ABS, ABS_X)]

    def arrivals(self, places: list[int], width: int) -> list[int]:
        """When the pointer came to each of these in turn, 0 to LARGEST along x; without those that it left out."""
        reports, found = iter(self.places()), []
        for place in places:
            expected = place * width / (LARGEST + 1)
            time = next((time for time, x in reports if abs(x - expected) <= 1), None)
            if time is None:
                break
            found.append(time)
        return found

    def presses(self, code: int) -> tuple[int, int]:
        """How often a key was pressed and released."""
        values = [value for _time, kind, found, value in self.events if (kind, found) == (EV_KEY, code)]
        return values.count(1), values.count(0)


def latencies(sent: list[int], heard: list[int], ahead: float, what: str) -> list[float]:
    """How long each event took; ProofError if one is missing, as then nothing is known of which."""
    if len(heard) != len(sent):
        raise ProofError(f"{what}: {len(sent)} in Dom0, {len(heard)} in the DomU: input was lost or put together")
    return [there - ahead - here for here, there in zip(sent, heard, strict=True)]


def line(what: str, took: list[float]) -> str:
    """A row: median, 95th percentile, worst, milliseconds, and how many came within a frame."""
    ordered = sorted(took)
    values = (median(ordered), ordered[len(ordered) * 95 // 100], ordered[-1])
    cells = " | ".join(f"{value / 1e6:.1f}" for value in values)
    return f"| {what} | {len(took)} | {cells} | {sum(value <= FRAME for value in took)} |"


def load(seen: dict[str, Any]) -> tuple[float, ...]:
    """CPU of each process, per cent of one."""
    return tuple(100 * used / seen["passed"] for used in seen["cpu"])
