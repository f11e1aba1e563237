# SPDX-License-Identifier: MIT
"""Which DRM device buffers are allocated from: the compositor's."""

from __future__ import annotations

import contextlib
import logging
import os

from ..errors import UserError
from ..linux import drm
from ..log import fields
from ..record import record

log = logging.getLogger(__name__)

# never a compositor's device: no display behind them, or this very protocol's frontend
_NOT_A_GPU = ("vgem", "vkms", "xendrm-du")


@record
class Card:
    """A DRM node with its driver's name and whether a connector of it is connected."""

    path: str
    driver: str
    connected: bool


def _names(folder: str) -> list[str]:
    """What is in a folder; nothing if it isn't there."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _primary_nodes(folder: str) -> list[str]:
    """The names of cards in it, in the order of their numbers; not those of their connectors (card0-HDMI-A-1)."""
    names = [name for name in _names(folder) if name.startswith("card") and name[4:].isdecimal()]
    return sorted(names, key=lambda name: int(name[4:]))


def _is_connected(connector: str) -> bool:
    try:
        with open(f"{connector}/status", encoding="ascii", errors="replace") as status:
            return status.read().strip() == "connected"
    except OSError:
        return False


def _connected(name: str, sysfs: str) -> bool:
    folder = f"{sysfs}/class/drm"
    return any(_is_connected(f"{folder}/{entry}") for entry in _names(folder) if entry.startswith(f"{name}-"))


def list_cards(sysfs: str = "/sys", dev: str = "/dev/dri") -> list[Card]:
    """All primary nodes that can be opened and aren't virtual, in the order of their numbers."""
    cards = []
    for name in _primary_nodes(dev):
        path = f"{dev}/{name}"
        try:
            fd = drm.open_node(path)
        except OSError as error:
            log.warning("DRM node left out", extra=fields(path=path, error=error))
            continue
        try:
            driver = drm.driver(fd, path)
        finally:
            os.close(fd)
        if driver not in _NOT_A_GPU:
            cards.append(Card(path, driver, _connected(name, sysfs)))
    return cards


def card_of_device(number: int, sysfs: str = "/sys") -> str | None:
    """The primary node's path of the device that dev_t ``number`` (card or render node) is of."""
    names = _primary_nodes(f"{sysfs}/dev/char/{os.major(number)}:{os.minor(number)}/device/drm")
    return f"/dev/dri/{names[0]}" if names else None


def device_numbers(path: str, sysfs: str = "/sys") -> set[int]:
    """The dev_t of a node, and of the other nodes of the same device; none if there is no such node."""
    try:
        own = os.stat(path).st_rdev
    except OSError:
        return set()
    folder = f"{sysfs}/dev/char/{os.major(own)}:{os.minor(own)}/device/drm"
    numbers = {own}
    for name in _names(folder):
        with contextlib.suppress(OSError, ValueError), open(f"{folder}/{name}/dev", encoding="ascii") as file:
            major, minor = file.read().split(":")
            numbers.add(os.makedev(int(major), int(minor)))
    return numbers


def choose(cards: list[Card], main_device: str | None) -> Card:
    """The compositor's card, else the first with a connected connector, else the first."""
    if not cards:
        raise UserError(
            "no usable DRM card in /dev/dri: load the display's driver, check that the worker is in"
            ' group "video", or name the node with [gpu.default] device'
        )
    for card in cards:
        if card.path == main_device:
            return card
    return next((card for card in cards if card.connected), cards[0])


def open_card(configured: str, main_device: int | None) -> tuple[int, Card]:
    """Open the configured node or the compositor's; returns its fd, owned by the caller, too."""
    if configured:
        fd = drm.open_node(configured)
        return fd, Card(configured, drm.driver(fd, configured), False)
    card = choose(list_cards(), card_of_device(main_device) if main_device else None)
    return drm.open_node(card.path), card
