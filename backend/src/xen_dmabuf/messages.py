# SPDX-License-Identifier: MIT
"""What a worker may say to the supervisor: its lines, checked before anybody uses them.

A worker is as little trusted as its DomU. Only what the supervisor and `xen-dmabuf-backend status`
read has a shape here; further keys pass through to `status --json`.
"""

from __future__ import annotations

import json

_SHORT = 1 << 16  # octets: only a status is longer

# A type; a list of one shape; a dict of names and their shapes; {str: shape}: any names.
_NUMBERS = (
    "width",
    "height",
    "flips_requested",
    "flips_shown",
    "flips_not_shown",
    "requests_refused",
)
_CONNECTOR = {"name": str} | dict.fromkeys(_NUMBERS, int)
_BUFFER = dict.fromkeys(("cookie", "width", "height", "stride"), int)
_BUFFER |= dict.fromkeys(("strategy", "allocator", "why"), str) | {"formats": [str]}
_DEVICE = {"connectors": [_CONNECTOR], "buffers": [_BUFFER]}
_STATUS = {"pixel_bytes_copied": int, "caches": str, "devices": {str: _DEVICE}}
_EVENTS = {
    "ready": {},
    "connected": {"dev": int},
    "refused": {"dev": int, "reason": str},
    "failed": {"dev": int, "reason": str},
    "disconnected": {"dev": int, "released": bool},
    "status": {"status": _STATUS},
}


def _check_value(value: object, kind: type, where: str) -> None:
    if type(value) is not kind:  # a bool is no number here
        raise ValueError(f"{where}: {kind.__name__} is expected")
    if kind is int and not 0 <= value < 1 << 64:
        raise ValueError(f"{where}: 64 bits without sign are expected")
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{where}: half a surrogate pair, XenStore has no such text") from None


def _check(value: object, shape: object, where: str) -> None:
    if isinstance(shape, type):
        _check_value(value, shape, where)
    elif isinstance(shape, list):
        _check_value(value, list, where)
        for number, item in enumerate(value):
            _check(item, shape[0], f"{where}[{number}]")
    else:
        _check_value(value, dict, where)
        names = dict.fromkeys(value, shape[str]) if str in shape else shape
        for name, inner in names.items():
            if name not in value:
                raise ValueError(f"{where}: {name} is missing")
            _check(value[name], inner, f"{where}.{name}"[:200])


def parse(line: bytes) -> dict:
    """The message of one line; worker.py names them. ValueError says what is wrong with it."""
    try:
        message = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check(message, {"event": str}, "message")
    event = message["event"]
    if event not in _EVENTS:
        raise ValueError(f"unknown event {event[:40]!r}")
    if event != "status" and len(line) > _SHORT:
        raise ValueError(f"{event}: {len(line)} octets are too many")
    _check(message, _EVENTS[event], event)
    return message
