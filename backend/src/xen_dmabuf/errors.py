# SPDX-License-Identifier: MIT
"""The exceptions of this package.

``UserError``     what an administrator can repair: configuration, missing device, missing library.
``RequestError``  what a frontend asked for and may not have; becomes the response's status.
``ConnectionLost``, ``ImportRefused``  what the compositor does.
``OSError``       what the kernel said, always with errno and the path of the file asked.
"""

from __future__ import annotations

import errno
import os


class UserError(Exception):
    """The message names the object and the remedy; ends the program with exit status 2."""


class RequestError(Exception):
    """A request of the frontend is refused.

    ``errno`` is positive; the response carries its negative (displif.h: "-XEN_EXX on failure").
    ``field`` and ``value`` name what the frontend sent.
    """

    def __init__(self, code: int, field: str, value: object, expected: str) -> None:
        super().__init__(f"{field}={value}: {expected} ({errno.errorcode.get(code, code)})")
        self.errno = code
        self.field = field
        self.value = value
        self.expected = expected


class ImportRefused(Exception):
    """The compositor can't use this buffer; the message says what was offered."""


class ConnectionLost(Exception):
    """There is no compositor, or it went away during the call."""


def remedy(error: OSError, setting: str) -> str:
    """What to do about a file that can't be made: where there is no room, another ``setting`` is no help."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room there (`df`, `df -i`)"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "raise LimitNOFILE= of the service, or fs.file-max"
    return f"set {setting}"


def oserror(code: int, path: str) -> OSError:
    """An OSError of the right subclass for ``code`` that names ``path``."""
    return OSError(code, os.strerror(code), path)
