# SPDX-License-Identifier: MIT
"""The XenbusState handshakes as pure functions of what is known; docs/protocol.md draws them.

decide() is written for mainline drm_xen_front (xen_drm_front.c, displback_changed): it starts over
whenever the backend is Closed or InitWait while it is Connected, by way of Reconfiguring (7) to
Initialising (1), and connects again once the backend is InitWait. A frontend that polls finds each
state for long enough: Closing until it is Closed itself, Closed until it starts over.

decide_input() is written for mainline xen-kbdfront (xenkbd_backend_changed): it publishes, goes to
Initialised (3), and to Connected (4) by itself when it sees InitWait or Connected. On Closing and
Closed it goes to Closed (6), but keeps page and event channel, and is back on the next InitWait.
"""

from __future__ import annotations

import enum

from ..record import record


class State(enum.IntEnum):
    """XenbusState of xen/io/xenbus.h."""

    UNKNOWN = 0
    INITIALISING = 1
    INIT_WAIT = 2
    INITIALISED = 3
    CONNECTED = 4
    CLOSING = 5
    CLOSED = 6
    RECONFIGURING = 7
    RECONFIGURED = 8


class Link(enum.Enum):
    """What the worker holds of the frontend. UNKNOWN: it has not said yet, because it or the
    supervisor was started again."""

    UNKNOWN = "unknown"
    DOWN = "down"
    CONNECTING = "connecting"
    UP = "up"
    RELEASING = "releasing"


@record
class View:
    """``back``/``front``: states in XenStore, None if the node is gone. ``online``: the toolstack
    wants the device. ``refused``: the configuration or the frontend is wrong, for now. ``renewed``:
    the frontend has published something else than what the worker holds."""

    back: int | None
    front: int | None
    online: bool
    refused: bool
    link: Link
    renewed: bool = False


class Action(enum.Enum):
    NOTHING = "nothing"
    FORGET = "forget"
    CONNECT = "connect"
    RELEASE = "release"
    RENEW = "renew"
    SAY_INIT_WAIT = State.INIT_WAIT
    SAY_CONNECTED = State.CONNECTED
    SAY_CLOSING = State.CLOSING
    SAY_CLOSED = State.CLOSED
    CLOSE_LATER = "close later"
    REOPEN_LATER = "reopen later"


def decide(view: View) -> Action:
    """The next single step; called again after each step until NOTHING."""
    if view.link is Link.RELEASING:
        return Action.NOTHING
    if view.link is Link.UNKNOWN and view.back not in (None, State.UNKNOWN, State.INITIALISING):
        return Action.NOTHING  # it may be connected: nothing is said before that is known
    gone = view.back is None or view.front is None or not view.online
    if view.link in (Link.UP, Link.CONNECTING):
        staying = view.front in (State.INITIALISED, State.CONNECTED)
        if gone or view.refused or not staying:
            return Action.RELEASE
        if view.link is Link.UP and view.back != State.CONNECTED:
            return Action.SAY_CONNECTED
        return Action.NOTHING
    if view.back is None:
        return Action.FORGET
    if gone or view.refused:
        return _towards_closed(view.back)
    return _towards_connected(view.back, view.front)


# A driver of Linux being removed waits for InitWait, a guest shutting down for Closing. Others look at our
# state now and then: what they wait for has to stay until they have seen it.
_LATER = {State.CLOSING: Action.CLOSE_LATER, State.CLOSED: Action.REOPEN_LATER}


def _towards_closed(back: int) -> Action:
    if back == State.CLOSED:
        return Action.NOTHING
    return Action.SAY_CLOSED if back == State.CLOSING else Action.SAY_CLOSING


def _towards_connected(back: int, front: int | None) -> Action:
    if front in (State.CONNECTED, State.RECONFIGURING):
        # it lives on an older connection of ours: Closed makes it start over
        return Action.NOTHING if back == State.INIT_WAIT else _towards_closed(back)
    if front == State.CLOSING and back != State.INIT_WAIT:
        return _LATER.get(State(back), Action.SAY_CLOSING)
    if front == State.CLOSED and back not in (State.UNKNOWN, State.INITIALISING, State.INIT_WAIT):
        return _towards_closed(back)  # it has seen Closing, and may wait for Closed
    if back != State.INIT_WAIT:
        return Action.SAY_INIT_WAIT
    return Action.CONNECT if front == State.INITIALISED else Action.NOTHING


def decide_input(view: View) -> Action:
    """decide() for an input device. While the toolstack wants it nothing is ever said that the
    frontend takes for an end: a page can be mapped and a channel bound again without its help."""
    if view.link is Link.RELEASING:
        return Action.NOTHING
    if view.link is Link.UNKNOWN and view.back not in (None, State.UNKNOWN, State.INITIALISING):
        return Action.NOTHING
    gone = view.back is None or view.front is None or not view.online
    published = view.front in (State.INITIALISED, State.CONNECTED)
    if view.link in (Link.UP, Link.CONNECTING):
        if gone or view.refused or not published:
            return Action.RELEASE
        if view.link is Link.UP and view.renewed:
            return Action.RENEW
        if view.link is Link.UP and view.back != State.CONNECTED:
            return Action.SAY_CONNECTED
        return Action.NOTHING
    if view.back is None:
        return Action.FORGET
    if gone or view.refused or view.front == State.CLOSING:
        return _towards_closed(view.back)
    if view.front == State.CLOSED and view.back == State.CONNECTED:
        return Action.SAY_CLOSING
    if view.front == State.CLOSED and view.back == State.CLOSING:
        return Action.SAY_CLOSED
    # also for one that is closed: a driver that comes back closes at once if it finds Closed
    if view.back not in (State.INIT_WAIT, State.CONNECTED):
        return Action.SAY_INIT_WAIT
    return Action.CONNECT if published else Action.NOTHING
