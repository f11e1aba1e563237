# SPDX-License-Identifier: MIT
"""systemd's file descriptor store (FileDescriptorStoreMax=): what outlives a worker's process.

It holds files by name. Xen sees no unmap and the DomU no change of state when the process ends; its
successor takes the files over and reads the state, which it believes nothing of before it was
checked (state.py). One thread only.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

from systemd import daemon

log = logging.getLogger(__name__)

STATE, EVTCHN, GRANTS = "state", "evtchn", "grants"


class FdStore:
    """The unit's file descriptor store; without systemd it keeps nothing."""

    def __init__(self) -> None:
        self._room = int(os.environ.get("FDSTORE", "0"))  # of systemd 254 and later
        self._kept: set[str] = set()
        self._full = False

    def adopt(self, names: Iterable[str]) -> None:
        """It has these, from another process."""
        self._kept.update(names)

    def add(self, name: str, fd: int) -> None:
        """Let systemd keep a duplicate. It keeps at most FileDescriptorStoreMax= of them, and says nothing here
        of one more."""
        self._kept.add(name)
        if len(self._kept) > self._room > 0 and not self._full:  # once: a DomU can cause it
            self._full = True
            reason = f"more than {self._room} files: raise FileDescriptorStoreMax= in a drop-in of the unit"
            log.error("a restart of this worker will be noticed", extra={"fields": {"reason": reason}})
        self._notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", (fd,))

    def remove(self, name: str) -> None:
        """Let systemd close what it has by this name, soon."""
        self._kept.discard(name)
        self._notify(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _notify(self, text: str, fds: tuple[int, ...] = ()) -> None:
        try:
            daemon.notify(text, fds=list(fds))
        except OSError as error:
            log.error("file descriptor store", extra={"fields": {"reason": error}})
