# SPDX-License-Identifier: MIT
"""The first thing that a worker does for another one that died: answer the flips.

drm_xen_front takes a flip without an answer in 3 s for an unplugged screen, and Python takes most of
that to load all of a worker on an emulated machine. So this loads next to nothing: it reads the
journals (statefile.py), answers the flips that are open and those that have come since, as not
shown, and leaves every other request in the ring for the worker. What it finds wrong it leaves, too:
the worker says it. One thread only, before the worker begins.
"""

from __future__ import annotations

import os

from ..displif import packets
from ..displif.ring import FlipEvents, RequestRing, RingError
from ..xen.evtchn import Evtchn
from ..xen.gntdev import Gntdev
from .statefile import MOST_ATTEMPTS, Journal, StateError, StateFile

# where in a journal: see flips.py
_ANSWERED, _POSITION, _LAST, _SHOWN = 0, slice(1, 3), 3, 4
_OPEN, _COOKIES = 5, slice(6, 14)
_COUNTERS, _REQUESTED, _NOT_SHOWN, _RESPONSE = slice(14, 18), 14, 16, slice(18, 20)


def answer_flips(domid: int, state_fd: int, evtchn_fd: int) -> int:
    """How many flips of domain ``domid`` were answered; never fails. The files stay the caller's."""
    answered = 0
    try:
        state = _open(state_fd)
    except (OSError, StateError):
        return 0
    try:
        if state.attempts >= MOST_ATTEMPTS:  # whoever believed it died
            return 0
        evtchn = Evtchn(domid, os.dup(evtchn_fd))
        try:
            with Gntdev(domid) as grants:
                for journal in state.live_journals():
                    try:
                        answered += _answer(grants, evtchn, journal)
                    except (OSError, RingError):
                        continue
        finally:
            evtchn.close()
    except OSError:
        pass
    finally:
        state.close()
    return answered


def _open(state_fd: int) -> StateFile:
    copy = os.dup(state_fd)
    try:
        return StateFile(copy)
    except StateError:
        os.close(copy)
        raise


def _answer(grants: Gntdev, evtchn: Evtchn, journal: Journal) -> int:
    """Those of one connector."""
    described = journal.described()
    values = list(journal.load())
    if described is None or values[_OPEN] > len(values[_COOKIES]) or max(values[_COUNTERS]) >> 63:
        return 0
    req_ref, evt_ref, req_port, evt_port = described
    pages = []
    try:
        for ref in (req_ref, evt_ref):
            pages.append(grants.map([ref], writable=True))
        requests = RequestRing(pages[0].map, values[0])
        events = FlipEvents(pages[1].map, (values[1], values[2]))
        try:
            count = _take(requests, events, journal, values)
            requests.publish()
            events.publish()
        finally:
            requests.close()
            events.close()
    finally:
        for page in pages:
            page.close()
    evtchn.notify(req_port)
    evtchn.notify(evt_port)
    return count


def _take(requests: RequestRing, events: FlipEvents, journal: Journal, values: list[int]) -> int:
    """Write the answers; ``values`` are the journal's, and what they are after it."""
    requests.complete(Journal.RESPONSE.pack(*values[_RESPONSE]).ljust(packets.PACKET_SIZE, b"\0"))
    room = len(values[_COOKIES])
    for packet in requests.take() if values[_SHOWN] else []:
        identifier, operation = packets.HEADER.unpack_from(packet)
        number = (requests.answered + 1) & 0xFFFFFFFF
        begun = values[_LAST] == number  # then its cookie is among the open ones
        if operation != packets.OP_PG_FLIP or (values[_OPEN] == room and not begun):
            break
        if not begun:
            (values[_SHOWN],) = packets.FLIP.unpack_from(packet, packets.HEADER.size)
            values[_COOKIES.start + values[_OPEN]] = values[_SHOWN]
            values[_OPEN] += 1
            values[_REQUESTED] += 1
        response = packets.pack_response(identifier, operation, 0)
        values[_ANSWERED] = values[_LAST] = number
        values[_RESPONSE] = Journal.RESPONSE.unpack_from(response)
        journal.save(*values)  # before the response takes the place of its request
        requests.write(response)
    count = values[_OPEN]
    for cookie in values[_COOKIES][:count]:
        events.write_flip(cookie)
    values[_POSITION] = events.position
    values[_OPEN], values[_COOKIES] = 0, [0] * room
    values[_NOT_SHOWN] += count
    journal.save(*values)
    return count
