# SPDX-License-Identifier: MIT
"""The one shared page of an input device (struct xenkbd_page).

Layout: in_cons, in_prod, out_cons, out_prod; from 1024 on 51 events of 40 bytes to the frontend; from
3072 on events to the backend, of which the header defines none: they are never read.
"""

from __future__ import annotations

from ..eventpage import EventPage
from .packets import IN_EVENT_SIZE, IN_RING_LEN, IN_RING_OFFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..eventpage import Page


class InputPage(EventPage):
    """Producer of input events. A new process goes on where the page says that the last one ended."""

    def __init__(self, page: Page) -> None:
        super().__init__(page, IN_RING_OFFS, IN_RING_LEN, IN_EVENT_SIZE)
