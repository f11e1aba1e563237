# SPDX-License-Identifier: MIT
"""From what was measured to what a flip costs."""

from __future__ import annotations

from dataclasses import dataclass

from ..qemu import INSTRUCTION_NS
from .in_dom0 import Seen, Span


def instructions(nanoseconds: float) -> float:
    """How many the machine executed in that time; valid only for the bench's machine."""
    return nanoseconds / INSTRUCTION_NS


@dataclass(frozen=True)
class Figures:
    """A row's results. Instructions in millions, times in milliseconds, memory in MB of 10^6 bytes."""

    worker: float
    """Instructions a flip, as the next ones."""
    supervisor: float
    kernel: float
    weston: float
    other: float
    domu: float
    """What Xen accounts the DomUs with; NaN if it doesn't say."""
    rate: float
    """Flips a second, of all DomUs and screens."""
    flips: int
    shown: int
    not_shown: int
    latency: float
    """Median from PAGE_FLIP to its event, in the DomU."""
    latency_p95: float
    local: float
    """Median from a local client's commit to the frame callback; NaN: not measured."""
    wakeups: float
    """Of the workers, a flip."""
    system_calls: float
    """The same; NaN: not counted."""
    pss: float
    """Workers and supervisor."""
    idle_instructions: float
    """Of workers and supervisor together, while a picture is held, a second."""
    idle_wakeups: float
    """The same."""
    memcpy: float
    """Instructions of the C library for copying a picture; NaN: the backend copies none, or it was not measured."""
    start_supervisor: float
    """Instructions from its fork until it is ready; NaN: not measured, as in the next two."""
    start_worker: float
    """From its fork until its DomU has its screens."""
    start_flip: float
    """From its fork until its DomU's first flip is answered."""


def _ours(values: dict[str, int]) -> int:
    return values.get("worker", 0) + values.get("supervisor", 0)


def figures(seen: Seen) -> Figures:
    """Divide. ``seen.flips`` is above 0."""

    def each(span: Span, group: str) -> float:
        return instructions(span.cpu.get(group, 0)) / seen.flips / 1e6

    nan = float("nan")

    def start(what: str) -> float:
        return instructions(seen.start.get(what, nan)) / 1e6

    longest = max(client[1] for client in seen.clients)
    seconds = seen.idle.passed / 1e9
    domus = seen.flipping.domains.get("DomUs")
    return Figures(
        worker=each(seen.flipping, "worker"),
        supervisor=each(seen.flipping, "supervisor"),
        kernel=each(seen.flipping, "kernel"),
        weston=each(seen.flipping, "weston"),
        other=each(seen.flipping, "other"),
        domu=nan if domus is None else instructions(domus) / seen.flips / 1e6,
        rate=seen.flips / (longest / 1e9),
        flips=seen.flips,
        shown=seen.shown,
        not_shown=seen.not_shown,
        # of several DomUs the slowest
        latency=max(client[3] for client in seen.clients) / 1e6,
        latency_p95=max(client[4] for client in seen.clients) / 1e6,
        local=seen.local[3] / 1e6 if seen.local else nan,
        wakeups=seen.flipping.wakeups.get("worker", 0) / seen.flips,
        system_calls=nan if seen.system_calls < 0 else seen.system_calls,
        pss=_ours(seen.pss) * 1024 / 1e6,
        idle_instructions=instructions(_ours(seen.idle.cpu)) / seconds / 1e6,
        idle_wakeups=_ours(seen.idle.wakeups) / seconds,
        memcpy=instructions(seen.memcpy or nan) / 1e6 if seen.copied else nan,
        start_supervisor=start("supervisor"),
        start_worker=start("worker"),
        start_flip=start("flip"),
    )
