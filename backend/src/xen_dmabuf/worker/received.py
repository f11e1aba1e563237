# SPDX-License-Identifier: MIT
"""What systemd passes to a worker: its link's socket, and what the store has. Loads little."""

from __future__ import annotations

import fcntl
import os

from systemd import daemon

_FIRST = 4096


def received() -> dict[str, int]:
    """The files that systemd passes to this process, by name (LISTEN_FDS and LISTEN_FDNAMES).

    They are moved to high numbers: low ones are needed for files that must have their old number.
    """
    files: dict[str, int] = {}
    for fd, name in daemon.listen_fds_with_names().items():
        moved = _move_up(fd)
        if name in files:
            os.close(moved)
        else:
            files[name] = moved
    return files


def _move_up(fd: int) -> int:
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST)
    os.close(fd)
    return moved
