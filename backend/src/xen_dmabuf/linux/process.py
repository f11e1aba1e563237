# SPDX-License-Identifier: MIT
"""What a process does to itself (prctl(2)). Any thread."""

from __future__ import annotations

import ctypes
import os

from ..errors import oserror

_SET_DUMPABLE, _SET_NAME = 4, 15


def _prctl(option: int, argument: int | bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0):
        raise oserror(ctypes.get_errno(), "prctl")


def forbid_inspection() -> None:
    """Keep other processes of the same account out of this one's memory."""
    _prctl(_SET_DUMPABLE, 0)


def name_process(name: str) -> None:
    """What ps and top show of this process: at most 15 bytes."""
    _prctl(_SET_NAME, name.encode())


def age(then: float) -> float:
    """Seconds from this process's start to ``then``, a time of the monotonic clock."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        started = int(file.read().rsplit(")", 1)[1].split()[19])  # proc_pid_stat(5): starttime
    return then - started / os.sysconf("SC_CLK_TCK")
