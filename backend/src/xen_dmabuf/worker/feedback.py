# SPDX-License-Identifier: MIT
"""What a compositor says of dma-bufs (zwp_linux_dmabuf_feedback_v1): which device, and in tranches, the preferred
first, which formats and layouts. Everything in it may be wrong; it is kept within bounds. No Wayland here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from ..displif import fourcc

LINEAR = 0
IMPLICIT = 0x00FF_FFFF_FFFF_FFFF
"""DRM_FORMAT_MOD_INVALID: the driver knows."""
SCANOUT = 1
"""Of zwp_linux_dmabuf_feedback_v1.tranche_flags."""
_ENTRY = struct.Struct("<I4xQ")
_LONGEST_TABLE = _ENTRY.size << 16  # indices have 16 bits
_DEV_T = 8
_MOST = 64  # tranches


def device_number(data: bytes) -> int | None:
    """A dev_t; None if it is none."""
    return int.from_bytes(data, "little") or None if len(data) == _DEV_T else None


class Tranche:
    """``device``: the dev_t of who is to read such buffers. ``formats``: with the layouts, of those that a DomU's
    buffers can have, linear or implicit."""

    def __init__(self) -> None:
        self.device: int | None = None
        self.scanout = False
        self.formats: dict[int, set[int]] = {}

    def add(self, code: int, modifier: int) -> None:
        """Only what may be asked for later: a compositor can name others without end."""
        if code in fourcc.BITS and modifier in (LINEAR, IMPLICIT):
            self.formats.setdefault(code, set()).add(modifier)


class Feedback:
    """The last announcement that was complete, and the one that comes in."""

    def __init__(self) -> None:
        self.tranches: list[Tranche] = []
        self.main_device: int | None = None
        self._table = b""
        self._announced: list[Tranche] = []
        self._open = Tranche()

    # -- what the compositor says

    def read_table(self, fd: int, size: int) -> None:
        """Read, not mapped: a file that is shorter than it says would end this process (SIGBUS). OSError."""
        self._table = os.pread(fd, min(size, _LONGEST_TABLE), 0)

    def add_format(self, code: int, modifier: int) -> None:
        """Of an old compositor, which knows no tranches: all are one."""
        if not self.tranches:
            self.tranches.append(Tranche())
        self.tranches[0].add(code, modifier)

    def tranche_device(self, data: bytes) -> None:
        self._open.device = device_number(data)

    def tranche_flags(self, flags: int) -> None:
        self._open.scanout = bool(flags & SCANOUT)

    def tranche_formats(self, indices: Iterable[tuple[int, ...]]) -> None:
        for (index,) in indices:
            start = index * _ENTRY.size
            if start + _ENTRY.size <= len(self._table):
                self._open.add(*_ENTRY.unpack_from(self._table, start))

    def tranche_done(self) -> None:
        ended, self._open = self._open, Tranche()
        if ended.formats and len(self._announced) < _MOST:
            self._announced.append(ended)

    def done(self) -> None:
        """All tranches are there; what comes after it is another announcement, which replaces this one."""
        self.tranche_done()
        self.tranches, self._announced = self._announced, []

    # -- what follows

    @property
    def formats(self) -> dict[int, set[int]]:
        """All that can be imported, whatever is preferred."""
        found: dict[int, set[int]] = {}
        for tranche in self.tranches:
            for code, modifiers in tranche.formats.items():
                found.setdefault(code, set()).update(modifiers)
        return found

    def preferred(self, code: int) -> Tranche | None:
        """The first tranche that has the format."""
        return next((tranche for tranche in self.tranches if code in tranche.formats), None)

    def modifier(self, code: int) -> int | None:
        """The layout to import a linear buffer of this format with; None: it can't be imported."""
        tranche = self.preferred(code)
        if tranche is None:
            return None
        return LINEAR if LINEAR in tranche.formats[code] else IMPLICIT

    def scans_out(self, code: int, devices: Iterable[int]) -> bool | None:
        """Whether buffers of this format are best made for scan-out by the device whose nodes have these dev_t.

        None: of that device the compositor says nothing that has to do with scan-out.
        """
        ours = set(devices)
        if not any(tranche.scanout and tranche.device in ours for tranche in self.tranches):
            return None
        tranche = self.preferred(code)
        return tranche is not None and tranche.scanout and tranche.device in ours
