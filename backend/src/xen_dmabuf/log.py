# SPDX-License-Identifier: MIT
"""Logging: one line per event, key=value fields, in the journal as XEN_DMABUF_KEY=value as well.

log.info("strategy chosen", extra=fields(domain="domu", cookie=3, strategy="map"))
journalctl XEN_DMABUF_DOMAIN=domu
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable

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
    """Log to stderr; with the journal's priority prefix unless stderr is a terminal."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(journal=not sys.stderr.isatty()))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class _Journal(logging.Handler):
    """Sends what a line has to journald as fields, too; a line that it doesn't take goes to stderr."""

    def __init__(self, send: Callable[..., None]) -> None:
        super().__init__()
        self._send = send
        self.setFormatter(_Formatter(journal=False, prefix=False))

    def emit(self, record: logging.LogRecord) -> None:
        named = {f"XEN_DMABUF_{key.upper()}": str(value) for key, value in getattr(record, "fields", {}).items()}
        try:
            self._send(
                f"{record.name}: {self.format(record)}",
                PRIORITY=str(_PRIORITY.get(record.levelname, 6)),
                CODE_FILE=record.pathname,
                CODE_LINE=record.lineno,
                CODE_FUNC=record.funcName,
                **named,
            )
        except OSError:
            print(self.format(record), file=sys.stderr)


def to_journal() -> None:
    """From now on with fields, if stderr is the journal. Loads what takes a tenth of a second: a
    worker does it when it serves."""
    if "JOURNAL_STREAM" not in os.environ:
        return
    from systemd import journal

    logging.getLogger().handlers[:] = [_Journal(journal.send)]


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
