# SPDX-License-Identifier: MIT
"""One supervisor at a time."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from ..errors import UserError, remedy
from ..log import fields

log = logging.getLogger(__name__)


class Instance:
    """A lock beside ``path`` that holds while the context is open; UserError names the other."""

    def __init__(self, path: str) -> None:
        self._path = f"{path}.lock"
        self._fd = -1

    def __enter__(self) -> Instance:
        folder = Path(self._path).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.pread(self._fd, 16, 0).decode(errors="replace") or "unknown"
            os.close(self._fd)
            raise UserError(
                f"{self._path}: another xen-dmabuf-backend serves already, process {other};"
                " `systemctl status xen-dmabuf-backend` shows it"
            ) from None
        except OSError as error:
            raise UserError(f"{self._path}: {error.strerror}; {remedy(error, 'control_socket')}") from error
        self._sign()
        return self

    def _sign(self) -> None:
        """The lock holds without it."""
        try:
            os.ftruncate(self._fd, 0)
            os.write(self._fd, str(os.getpid()).encode())
        except OSError as error:
            reason = f"{error.strerror}; {remedy(error, 'control_socket')}"
            log.warning("own number not written", extra=fields(path=self._path, reason=reason))

    def __exit__(self, *_exception: object) -> None:
        os.close(self._fd)
