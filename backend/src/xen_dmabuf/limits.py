# SPDX-License-Identifier: MIT
"""The times that a DomU and a supervisor wait for each other, on one page; tests add them up.

drm_xen_front gives up a request after REQUEST and takes a flip that isn't answered within EVENT for
an unplugged screen (xen_drm_front.c VDRM_TO_MS, xen_drm_front_kms.c FRAME_DONE_TO_MS). All in
seconds. What is no timer isn't here: a write-back of caches takes the kernel milliseconds.
"""

from __future__ import annotations

NO_DEADLINE = float("inf")


def left(seconds: float, by: float, now: float) -> float:
    """How long somebody may wait who may ``seconds``, for a request that is to be answered ``by`` then."""
    return max(0.0, min(seconds, by - now))


REQUEST = 3.0
EVENT = 3.1

# -- within one request, in the worker

GPU_CHOICE = 1.5
"""The first buffer waits for the compositor, which names its GPU."""
DESTROY = 2.2
"""DBUF_DESTROY waits for the compositor to let go."""
PRESENTED = 0.5
"""Before that, and before a device's pages are given back: until a frame without them reached the screen."""
ATTACH = 2.4
"""FB_ATTACH waits for the compositor's import; what comes later is shown later."""
REPLACE = 1.0
"""After a refused import, the next strategy waits for the pages of the last."""
FLIP_TURN = 0.8
"""PG_FLIP waits for the answer to the last one; more than MAX_FLIPS open are refused. The frontend's
clock of a flip's event goes from its request on."""
MAX_FLIPS = 8
HIDDEN = 2.0
"""A window without a frame event for so long is hidden: its flips are answered as not shown."""
STORM = 0.02
"""A port that is notified without end stays masked this long, and so is what comes over it."""
LOOK_FIRST, LOOK_LAST = 0.001, 0.25
"""Whether the kernel has given pages back is asked in growing pauses."""

# -- a worker that goes on from a stored state

TAKE_OVER = 2.3
"""From a worker's end to the moment at which its successor serves the rings: what was measured of an
emulated machine with little else to do (docs/performance.md)."""
REPLAY = 0.5
"""From then on, for all that was in a ring at that moment: its frontend may have waited since."""

# -- among supervisor, worker and compositor

DISCONNECT = 8.0
"""One deadline for all pages of a device that a compositor still holds."""
RELEASE = 12.0
"""Disconnect is answered within this, or the worker is ended: a dead domain's pages are waited for. It
is DISCONNECT and time for a busy machine; the toolstack itself waits 10 s for a backend."""
CONNECT = 60.0
"""The same for Connect. Nobody waits for it but a guest that boots, and a worker that has to load a
GPU's library on a busy machine is slow, not silent: to end it made the machine busier."""
HELLO = 120.0
"""A worker's start, and TimeoutStartSec= of its unit: Python on an emulated machine that is overloaded
needs a third of it."""
XENSTORE = 10.0
"""The first answer of XenStore, after which a backend that starts gives up; systemd starts it again."""
STATUS = 5.0
STANDSTILL = 20.0
"""No honest round of the supervisor's loop takes so long: its calls to xenstored are answered within milliseconds,
on an overloaded machine within a second or two. WatchdogSec= of its unit is three times as much."""
IMPORT = 20.0
"""A compositor that is busy is not one that refuses."""
SETUP = 10.0
"""A compositor's answer to the first requests of a connection."""
