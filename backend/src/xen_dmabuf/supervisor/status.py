# SPDX-License-Identifier: MIT
"""What the supervisor says of itself: the parts of a status that no worker sends, and the events.

docs/status-schema.md names every field of these and of link/messages.py's WorkerStatus.
"""

from __future__ import annotations

from ..record import record

SCHEMA = 1
"""Of all that the control socket answers; docs/status-schema.md says what changes it."""


@record
class DeviceState:
    """A vdispl or vkb device: XenbusStates in XenStore, None if the node is gone, and what its worker
    holds (handshake.Link). ``reason``: why it may not connect, empty if it may; ``warning``: what of
    it isn't served, or won't be seen, and why."""

    device: int
    backend_state: int | None
    frontend_state: int | None
    link: str
    reason: str
    warning: str


@record
class DomainState:
    """A domain with a vdispl or vkb device. ``pid``: its worker's process, 0 if there is none;
    ``worker``: starting, ready, not answering, or none: it has no vdispl device."""

    domid: int
    name: str
    pid: int
    worker: str


@record
class IdleState:
    """A screen that the configuration shows without its guest. ``state``: shown, its idle picture has a window;
    guest, its guest is there or may be; waits, it is to be shown, and there is no compositor or no worker yet."""

    name: str
    state: str


@record
class Totals:
    """Of all domains: their number, bytes of pixels that were copied."""

    domains: int
    pixel_bytes_copied: int


@record
class Event:
    """One change. ``event``: domain, domain-gone, worker, worker-gone, device, device-gone,
    input, input-gone; the fields below ``name`` are a DeviceState's, None where no device changed."""

    event: str
    domid: int
    name: str
    device: int | None = None
    backend_state: int | None = None
    frontend_state: int | None = None
    link: str | None = None
    reason: str | None = None
    warning: str | None = None
