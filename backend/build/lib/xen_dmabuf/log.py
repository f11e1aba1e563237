# SPDX-License-Identifier: MIT
"""Logging: one line per event on stderr, priority prefix for the journal, key=value fields.

    log.info("strategy chosen", extra=fields(domain="domu", cookie=3, strategy="map"))
"""

from __future__ import annotations

import json
import logging
import sys

_PRIORITY = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


def fields(**values: object) -> dict:
    """The ``extra`` of a logging call."""
    return {"fields": values}


def _value(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and text and not any(c in text for c in ' "=\\')
    return text if plain else json.dumps(text)


class _Formatter(logging.Formatter):
    def __init__(self, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        parts = [record.getMessage()]
        parts += [f"{key}={_value(value)}" for key, value in getattr(record, "fields", {}).items()]
        text = " ".join(parts)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if not self._journal:
            return f"{record.levelname.lower()}: {record.name}: {text}"
        prefix = f"<{_PRIORITY.get(record.levelname, 6)}>{record.name}: "
        return "\n".join(prefix + line for line in text.splitlines())


def setup(level: str) -> None:
    """Log to stderr; with the journal's priority prefix unless stderr is a terminal."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(journal=not sys.stderr.isatty()))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


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
