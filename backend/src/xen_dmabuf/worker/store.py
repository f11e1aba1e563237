# SPDX-License-Identifier: MIT
"""systemd's file descriptor store (FileDescriptorStoreMax=): what outlives a worker's process.

It holds files by name. Xen sees no unmap and the DomU no change of state when the process ends; its
successor takes the files over and reads the state, which it believes nothing of before it was
checked (state.py). One thread only.
"""

from __future__ import annotations

import logging

from systemd import daemon

log = logging.getLogger(__name__)

STATE, EVTCHN, GRANTS = "state", "evtchn", "grants"


class FdStore:
    """The unit's file descriptor store; without systemd it keeps nothing."""

    def add(self, name: str, fd: int) -> None:
        """Let systemd keep a duplicate. It keeps at most FileDescriptorStoreMax= of them."""
        self._notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", (fd,))

    def remove(self, name: str) -> None:
        """Let systemd close what it has by this name, soon."""
        self._notify(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _notify(self, text: str, fds: tuple[int, ...] = ()) -> None:
        try:
            daemon.notify(text, fds=list(fds))
        except OSError as error:
            log.error("file descriptor store", extra={"fields": {"reason": error}})
