# SPDX-License-Identifier: MIT
"""systemd's file descriptor store (FileDescriptorStoreMax=): what outlives a worker's process.

It holds files by name. Xen sees no unmap and the DomU no change of state when the process ends; its
successor takes the files over and reads the state, which it believes nothing of before it was
checked (state.py). What systemd has no room for waits, one word of each kind for a file. Asyncio thread only.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

from ..notify import Notifier

log = logging.getLogger(__name__)

STATE, EVTCHN, GRANTS = "state", "evtchn", "grants"


class FdStore:
    """The unit's file descriptor store; without systemd it keeps nothing."""

    def __init__(self) -> None:
        self._room = int(os.environ.get("FDSTORE", "0"))  # of systemd 254 and later
        self._notifier = Notifier()
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
        try:
            self._notifier.say(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", fd, f"+{name}")
        except OSError as error:
            log.error("file descriptor store", extra={"fields": {"reason": error}})

    def remove(self, name: str) -> None:
        """Let systemd close what it has by this name, soon."""
        self._kept.discard(name)
        self._notifier.forget(f"+{name}")
        self._notifier.say(f"FDSTOREREMOVE=1\nFDNAME={name}", key=f"-{name}")

    def close(self) -> None:
        """Say nothing more; what systemd has it keeps."""
        self._notifier.close()
