# SPDX-License-Identifier: MIT
"""`xen-dmabuf-backend status --watch` and `wait`: what scripts need to act on changes."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from .query import Stream, ask
from .report import printable

log = logging.getLogger(__name__)

_CONNECTED = 4  # XenbusStateConnected
_POLL = 0.5
_FLIPPING = 1000
"""Milliseconds since the last flip of a screen that shows something new."""
_STDOUT = 1


def print_events(path: str) -> None:
    """A status and then each event, one JSON object a line, until interrupted or nobody reads them.

    UserError, BrokenPipeError.
    """
    with Stream(path, "watch") as stream:
        while True:
            print(json.dumps(stream.next(None, _STDOUT)), flush=True)


class _Awaited:
    """The devices that `wait` is about: a domain by name or number, and one device or all."""

    def __init__(self, domain: str, device: int | None) -> None:
        self._domain = domain
        self._device = device

    def devices(self, status: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            device
            for domain in status["domains"]
            if self._is_it(domain)
            for device in domain["devices"]
            if self._device in (None, device["device"])
        ]

    def _is_it(self, domain: dict[str, Any]) -> bool:
        return self._domain in (str(domain["domid"]), domain["name"])

    def gone(self, status: dict[str, Any]) -> bool:
        return not self.devices(status)

    def connected(self, status: dict[str, Any]) -> bool:
        devices = self.devices(status)
        return bool(devices) and all(_is_connected(device) for device in devices)

    def flipping(self, status: dict[str, Any]) -> bool:
        ages = [
            connector["flip_age"]
            for device in self.devices(status)
            if _is_connected(device)
            for connector in device.get("connectors", ())
        ]
        return any(0 <= age <= _FLIPPING for age in ages)

    def described(self, status: dict[str, Any]) -> str:
        """What there is instead."""
        devices = self.devices(status)
        if not devices:
            what = "device" if self._device is None else f"vdispl device {self._device}"
            return f"the service knows no {what} of it; `xl list` and the domain's vdispl may say why"
        return "; ".join(_state(device) for device in devices)


def _is_connected(device: dict[str, Any]) -> bool:
    states = (device["link"], device["backend_state"], device["frontend_state"])
    return states == ("up", _CONNECTED, _CONNECTED)


def _state(device: dict[str, Any]) -> str:
    ages = [connector["flip_age"] for connector in device.get("connectors", ())]
    last = min((age for age in ages if age >= 0), default=-1)
    flip = f", last flip {last} ms ago" if last >= 0 else ""
    reason = f", {device['reason']}" if device["reason"] else ""
    return (
        f"vdispl {device['device']} is {device['link']}, backend state {device['backend_state']},"
        f" frontend state {device['frontend_state']}{flip}{reason}"
    )


def wait_for(path: str, domain: str, device: int | None, condition: str, seconds: float | None) -> int:
    """Return 0 once ``condition`` (connected, flipping or gone) holds of the domain's devices.

    1 with a sentence on stderr if it doesn't within ``seconds``; None: wait for ever. UserError.
    """
    awaited = _Awaited(domain, device)
    holds: Callable[[dict[str, Any]], bool] = getattr(awaited, condition)
    # only a worker knows of flips, and one that doesn't answer takes its time
    request = "status" if condition == "flipping" else "domains"
    began = time.monotonic()
    with Stream(path, "watch") as stream:
        status = stream.first()
        while not holds(status):
            rest = None if seconds is None else began + seconds - time.monotonic()
            if rest is not None and rest <= 0:
                text = printable(awaited.described(status))
                log.error("%s: not %s within %g s: %s", domain, condition, seconds, text)
                return 1
            if condition == "flipping":
                rest = _POLL if rest is None else min(rest, _POLL)
            event = stream.next(rest)
            while event is not None:  # all that came together are one look
                event = stream.next(0)
            status = ask(path, request)
    return 0
