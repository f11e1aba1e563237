# SPDX-License-Identifier: MIT
"""Which DRM device buffers are allocated from: the compositor's."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..linux import drm
from ..log import fields

log = logging.getLogger(__name__)

# never a compositor's device: no display behind them, or this very protocol's frontend
_NOT_A_GPU = ("vgem", "vkms", "xendrm-du")


@dataclass(frozen=True)
class Card:
    """A DRM node with its driver's name and whether a connector of it is connected."""

    path: str
    driver: str
    connected: bool


def _connected(name: str, sysfs: Path) -> bool:
    statuses = sysfs.glob(f"class/drm/{name}-*/status")
    return any(status.read_text().strip() == "connected" for status in statuses)


def list_cards(sysfs: Path = Path("/sys"), dev: Path = Path("/dev/dri")) -> list[Card]:
    """All primary nodes that can be opened and aren't virtual, in the order of their numbers."""
    cards = []
    for node in sorted(dev.glob("card[0-9]*"), key=lambda node: (len(node.name), node.name)):
        try:
            fd = drm.open_node(str(node))
        except OSError as error:
            log.warning("DRM node left out", extra=fields(path=node, error=error))
            continue
        try:
            driver = drm.driver(fd, str(node))
        finally:
            os.close(fd)
        if driver not in _NOT_A_GPU:
            cards.append(Card(str(node), driver, _connected(node.name, sysfs)))
    return cards


def card_of_device(number: int, sysfs: Path = Path("/sys")) -> str | None:
    """The primary node's path of the device that dev_t ``number`` (card or render node) is of."""
    siblings = sysfs / f"dev/char/{os.major(number)}:{os.minor(number)}/device/drm"
    for node in sorted(siblings.glob("card[0-9]*")):
        return f"/dev/dri/{node.name}"
    return None


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
