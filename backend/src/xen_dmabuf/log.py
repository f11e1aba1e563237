# SPDX-License-Identifier: MIT
"""Logging: one line per event, key=value fields, in the journal as XEN_DMABUF_KEY=value as well.

log.info("strategy chosen", extra=fields(domain="domu", cookie=3, strategy="map"))
journalctl XEN_DMABUF_DOMAIN=domu
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys

_STDERR = 2
_SOCKET = "/run/systemd/journal/socket"
_PRIORITY = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


def fields(**values: object) -> dict[str, dict[str, object]]:
    """The ``extra`` of a logging call."""
    return {"fields": values}


def _value(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and text and not any(c in text for c in ' "=\\')
    return text if plain else json.dumps(text)


class _Formatter(logging.Formatter):
    def __init__(self, journal: bool, prefix: bool = True) -> None:
        super().__init__()
        self._journal = journal
        self._prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        parts = [record.getMessage()]
        parts += [f"{key}={_value(value)}" for key, value in getattr(record, "fields", {}).items()]
        text = " ".join(parts)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if not self._prefix:
            return text
        if not self._journal:
            return f"{record.levelname.lower()}: {record.name}: {text}"
        prefix = f"<{_PRIORITY.get(record.levelname, 6)}>{record.name}: "
        return "\n".join(prefix + line for line in text.splitlines())


def setup(level: str) -> None:
    """Log to the journal if it is what stderr leads to, else to stderr."""
    handler: logging.Handler
    if _stderr_is_journal():
        with contextlib.suppress(OSError):
            os.set_blocking(_STDERR, False)  # of this unit's own stream: a journal that stands still stops nobody
        handler = _Journal()
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Formatter(journal=not (sys.stderr and sys.stderr.isatty())))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _stderr_is_journal() -> bool:
    """systemd.exec(5), JOURNAL_STREAM: the stream that systemd gave may have been replaced."""
    try:
        status = os.fstat(_STDERR)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def to_stderr(text: str) -> None:
    """A line for whoever reads it; nothing if nobody can."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


class _Journal(logging.Handler):
    """Sends a line with its fields to journald, or without them to stderr.

    sd_journal_send(3) waits while journald doesn't read: then no DomU would be served. So this writes
    journald's datagrams itself (systemd.io/JOURNAL_NATIVE_PROTOCOL) and counts what finds no room.
    """

    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._lost = 0
        self.setFormatter(_Formatter(journal=False, prefix=False))

    def close(self) -> None:
        self._socket.close()
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            named = {f"XEN_DMABUF_{key.upper()}": value for key, value in getattr(record, "fields", {}).items()}
            self._tell(
                f"{record.name}: {self.format(record)}",
                PRIORITY=_PRIORITY.get(record.levelname, 6),
                CODE_FILE=record.pathname,
                CODE_LINE=record.lineno,
                CODE_FUNC=record.funcName,
                **named,
            )
        except Exception:  # whoever logs has other things to do
            self.handleError(record)

    def _tell(self, message: str, **named: object) -> None:
        try:
            if self._lost:
                self._send(MESSAGE=f"{__name__}: {self._lost} lines lost: journald took none", PRIORITY=4)
                self._lost = 0
            self._send(MESSAGE=message, **named)
        except BlockingIOError:
            self._lost += 1
        except OSError:
            to_stderr(message)

    def _send(self, **named: object) -> None:
        named["SYSLOG_IDENTIFIER"] = "xen-dmabuf"
        self._socket.sendto(b"".join(_entry(name, str(value)) for name, value in named.items()), _SOCKET)


def _entry(name: str, value: str) -> bytes:
    """One field of the journal, whatever is in its value."""
    data = value.encode(errors="backslashreplace")
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def set_level(level: str) -> None:
    logging.getLogger().setLevel(level.upper())


class RateLimit:
    """Lets ``burst`` messages of a kind through per ``period`` seconds and counts the rest.

    A DomU may not fill Dom0's journal. One thread only.
    """

    def __init__(self, burst: int = 20, period: float = 10.0) -> None:
        self._burst = burst
        self._period = period
        self._start = float("-inf")
        self._used = 0
        self.suppressed = 0

    def allow(self, now: float) -> bool:
        if now - self._start >= self._period:
            self._start, self._used = now, 0
        self._used += 1
        if self._used > self._burst:
            self.suppressed += 1
            return False
        return True
