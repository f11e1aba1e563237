# SPDX-License-Identifier: MIT
"""Hostile frontends of input devices against the running service, by a DomU on real Xen: run as root.

    python3 on_xen_input.py [CASE...]        TAP on standard output; exit status 1 if a case failed

The DomU has several `vkb` of the connector id0, of which the last has no features, all others an absolute
pointer and touches; and its display, which isn't touched. Meanwhile somebody moves the pointer over its
window in Dom0, types into another DomU's, and asks what a DomU can't see
(lib/oeqa/runtime/cases/xen_dmabuf_input.py).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import on_xen
from real_xen import DOMID, SOMEBODY, RealXen, kill_within
from waiting import wait_until

from xen_dmabuf.kbdif import packets
from xen_dmabuf.supervisor.xenstore import XenStore

_DRIVER = Path("/sys/bus/xen/drivers/vkbd")
_DISPLAY = f"/local/domain/{DOMID}/device/vdispl/0/0"
_FRONTS = f"/local/domain/{DOMID}/device/vkbd"
_BACKS = "/local/domain/0/backend/vinput"
_CONS, _PROD = 0, 1
_MASK = 0xFFFFFFFF
_REQUESTS = {"request-abs-pointer": "1", "request-multi-touch": "1"}
_STATES = ("3", "4", "6", "3", "1", "0", "7", "4", "8", "9", "-1", "3x", "", "4" * 60, "5", "2", "3", "6", "1", "4")


def _numbers() -> list[int]:
    store = XenStore()
    try:
        return sorted(int(name) for name in store.list(_FRONTS))
    finally:
        store.close()


NUMBERS = _numbers()
PLAIN = NUMBERS[-1]
"""The device without features."""
_next_number = itertools.cycle(NUMBERS[:-1]).__next__


class Page:
    """A page and a port, as xen-kbdfront has them."""

    def __init__(self, xen: RealXen, index: int = 0) -> None:
        self._xen = xen
        (self.ref,) = xen.allocate(1)
        self.port = xen.new_port()
        self.bytes = xen.page(self.ref)
        self.words = memoryview(self.bytes).cast("I")
        self.words[_CONS] = self.words[_PROD] = index

    def close(self) -> None:
        self.words.release()

    def kick(self) -> None:
        self._xen.kick(self.port)

    def unread(self) -> int:
        return (self.words[_PROD] - self.words[_CONS]) & _MASK

    def take(self, most: int = 51) -> list[bytes]:
        """The events that nobody has read yet; the backend hears that they are. Never a key that is pressed:
        what is typed is for somebody else."""
        cons = self.words[_CONS]
        count = min(self.unread(), most)
        assert self.unread() <= packets.IN_RING_LEN, f"{self.unread()} events in {packets.IN_RING_LEN} slots"
        starts = [packets.IN_RING_OFFS + (cons + n & _MASK) % packets.IN_RING_LEN * 40 for n in range(count)]
        events = [bytes(self.bytes[start : start + 40]) for start in starts]
        self.words[_CONS] = (cons + count) & _MASK
        if events:
            self.kick()
        heard = [event for event in events if event[0] == packets.TYPE_KEY and event[1]]
        assert not heard, f"keys of another DomU: {heard}"
        return events

    def moved(self) -> bytes:
        """Wait for a movement of the pointer."""
        seen: list[bytes] = []

        def any_move() -> bool:
            seen.extend(event for event in self.take() if event[0] in (packets.TYPE_MOTION, packets.TYPE_POS))
            return bool(seen)

        wait_until(any_move, f"the pointer moves; {self.unread()} unread, {list(self.words[:2])}", 60)
        return seen[-1]


class InputDevice:
    """The nodes of one device."""

    def __init__(self, number: int) -> None:
        self.store = XenStore()
        self.front = f"{_FRONTS}/{number}"
        self.back = f"{_BACKS}/{DOMID}/{number}"

    def say(self, state: str) -> None:
        self.write("state", state)

    def write(self, name: str, value: object) -> None:
        self.store.write(f"{self.front}/{name}", str(value))

    def wait(self, states: str, seconds: float = 60) -> None:
        """Until the backend's state is one of the digits."""
        path = f"{self.back}/state"
        wait_until(lambda: (self.store.read(path) or "none") in states, f"{path} is {states}", seconds)

    def publish(self, page: Page, **nodes: object) -> None:
        """``nodes`` (underscores for hyphens) in place of the true ones or beside them."""
        lies = {name.replace("_", "-"): value for name, value in nodes.items()}
        for name, value in {"page-gref": page.ref, "event-channel": page.port, **_REQUESTS, **lies}.items():
            self.write(name, value)
        self.say("3")

    def end(self) -> None:
        """Leave what another frontend finds as this one found it."""
        for name in self.store.list(self.front):
            if name not in ("backend", "backend-id", "state", "handle"):
                self.store.remove(f"{self.front}/{name}")
        self.say("6")
        self.wait("2")
        self.store.close()


@contextlib.contextmanager
def offered(number: int | None = None, index: int = 0) -> Iterator[tuple[InputDevice, Page]]:
    """A device that the backend waits for, and a page whose indexes are ``index``."""
    xen = RealXen()
    page = Page(xen, index)
    device = InputDevice(_next_number() if number is None else number)
    device.say("1")
    try:
        device.wait("2")
        yield device, page
    finally:
        device.end()
        page.close()
        xen.close()


@contextlib.contextmanager
def connected(number: int | None = None, index: int = 0, **nodes: object) -> Iterator[tuple[InputDevice, Page]]:
    """The same, connected."""
    with offered(number, index) as (device, page):
        device.publish(page, **nodes)
        device.wait("4")
        device.say("4")
        yield device, page


# --- cases


def honest_pages() -> None:
    """the pointer's places arrive, within the device, also where the page's counters wrap"""
    for index in (0, _MASK - 20):
        with connected(index=index) as (device, page):
            width, height = (int(device.store.read(f"{device.back}/{name}")) for name in ("width", "height"))
            for _ in range(3):
                event = page.moved()
                x, y = struct.unpack_from("<2i", event, 4)
                assert event[0] == packets.TYPE_POS and 0 <= x < width and 0 <= y < height, event


def in_cons_that_lies() -> None:
    """in_cons ahead of in_prod or beyond the ring is like a full page; the truth again, and events go on"""
    with connected() as (_device, page):
        for lie in (1, 51, 1000, 0x7FFFFFFF, 0x80000000, _MASK - 51, _MASK - 1000):
            page.moved()
            page.words[_CONS] = (page.words[_PROD] + lie) & _MASK
            page.kick()
            page.words[_CONS] = page.words[_PROD]
            page.kick()
        page.moved()


def unread_events() -> None:
    """nobody reads: never more than 51 unread, and each one that is read makes room for one"""
    with connected() as (_device, page):
        wait_until(lambda: page.unread() == packets.IN_RING_LEN, "a full page", 30)
        for _ in range(60):
            page.take(1)
            wait_until(lambda: page.unread() == packets.IN_RING_LEN, "the next event", 30)
        page.moved()


def in_prod_and_slots_overwritten() -> None:
    """the backend's own index is never read back: what is written over it lasts until the next event"""
    with connected() as (_device, page):
        for lie in (0, 0xDEADBEEF, _MASK):
            page.moved()
            # with room for the next event, also if the backend has just filled the page
            before = page.words[_CONS] = page.words[_PROD]
            page.bytes[packets.IN_RING_OFFS :] = b"\xff" * (4096 - packets.IN_RING_OFFS)
            page.words[_PROD] = lie
            page.kick()
            wait_until(lambda was=before: 0 < (page.words[_PROD] - was) & _MASK <= 51, f"in_prod from {before} on", 60)


def pages_that_never_agreed() -> None:
    """in_cons and in_prod that can't both be true from the first moment on: nothing comes until they are"""
    with offered() as (device, page):
        page.words[_CONS], page.words[_PROD] = 5, 0x80000000
        device.publish(page)
        device.wait("4")
        page.words[_CONS] = page.words[_PROD]
        page.kick()
        page.moved()


def storm() -> None:
    """20,000 notifications, and the pointer still moves"""
    with connected() as (_device, page):
        for _ in range(20000):
            page.kick()
        page.moved()


def pages_and_ports_of_others() -> None:
    """pages and event channels that are another's, in use, read-only, or none are refused, and numbers that are none"""
    numbers = itertools.cycle(NUMBERS)
    store = XenStore()
    display = store.read(f"{_DISPLAY}/req-event-channel")
    store.close()
    for name, lie in (
        ("page_gref", lambda xen: 0x7FFFFFF0),
        ("page_gref", lambda xen: xen.allocate(1, SOMEBODY)[0]),
        ("page_gref", lambda xen: xen.allocate(1, writable=False)[0]),
        ("page_gref", lambda xen: "-1"),
        ("page_gref", lambda xen: "0"),
        ("page_gref", lambda xen: "9" * 400),
        ("event_channel", lambda xen: _MASK),
        ("event_channel", lambda xen: 4000),
        ("event_channel", lambda xen: xen.new_port(DOMID)),
        ("event_channel", lambda xen: display),
        ("event_channel", lambda xen: "x" * 1000),
        ("request_abs_pointer", lambda xen: "yes"),
        ("request_multi_touch", lambda xen: "9" * 400),
    ):
        with offered(next(numbers)) as (device, page):
            xen = RealXen()
            value = lie(xen)
            device.publish(page, **{name: value})
            device.wait("6")
            xen.close()
            print("# refused:", name, str(value)[:20], flush=True)
    with connected() as (_device, page):
        page.moved()


def one_port_for_two_devices() -> None:
    """the second device that names a port is refused, the first one goes on"""
    with connected() as (_device, page), offered() as (second, other):
        second.publish(other, event_channel=page.port)
        second.wait("6")
        page.moved()


def requests_that_disagree() -> None:
    """features that were not offered have no effect, nor have sizes, contacts and another's name in own nodes"""
    own = {"width": 0, "height": _MASK, "multi-touch-num-contacts": _MASK, "multi-touch-width": "x" * 400}
    others = {"unique-id": "K:other;P:other", "feature-abs-pointer": 1, "feature-disable-pointer": 1}
    lies = {name.replace("-", "_"): value for name, value in (own | others).items()}
    for number, requested, kind in (
        (PLAIN, "1", packets.TYPE_MOTION),
        (None, "0", packets.TYPE_MOTION),
        (None, str(_MASK), packets.TYPE_POS),
    ):
        asked = {"request_abs_pointer": requested, "request_multi_touch": requested}
        with connected(number, **asked, **lies) as (_device, page):
            assert page.moved()[0] == kind, (number, requested)


def nodes_of_others() -> None:
    """a DomU writes nodes that say whose keys it gets, and another domain's: XenStore refuses"""
    with connected() as (device, page):
        theirs = f"{_BACKS}/{SOMEBODY}/0"
        nodes = ("unique-id", "feature-abs-pointer", "feature-disable-pointer", "width", "frontend", "state")
        for path in (*(f"{device.back}/{node}" for node in nodes), f"{theirs}/unique-id", f"{theirs}/state"):
            try:
                device.store.write(path, "6")
            except OSError as error:
                assert error.errno == errno.EACCES, (path, error)
            else:
                raise AssertionError(f"{path} was written")
        page.moved()


def states_that_jump() -> None:
    """connected without nodes, closed while connected, connected again by another page, or by no word at all"""
    with offered() as (device, page):
        for state in "434":
            device.say(state)
        device.publish(page)
        device.wait("4")
        page.moved()
        device.say("6")
        device.wait("2")
        device.say("4")
        device.wait("4")
        page.moved()
        device.store.remove(f"{device.front}/state")
        device.wait("6")
        device.say("3")
        device.wait("4")
        page.moved()
        xen = RealXen()
        other = Page(xen)
        device.publish(other)
        other.moved()
        other.close()
        device.publish(page)
        page.moved()
        xen.close()


def killed_while_events_flow() -> None:
    """a frontend is killed while the pointer moves; the next one starts without a word"""
    number = _next_number()

    @contextlib.contextmanager
    def moving() -> Iterator[None]:
        with connected(number) as (_device, page):
            page.moved()
            yield

    kill_within(moving)
    with connected(number) as (_device, page):
        page.moved()


def storm_of_states() -> None:
    """states in any order, reconnecting without end by one page after the other"""
    with connected(PLAIN) as (device, page):
        xen = RealXen()
        pages = itertools.cycle([page, Page(xen)])
        for number in range(400):
            device.say(_STATES[number % len(_STATES)])
            if number % 7 == 0:
                device.write("page-gref", next(pages).ref)


CASES = (
    honest_pages,
    in_cons_that_lies,
    unread_events,
    in_prod_and_slots_overwritten,
    pages_that_never_agreed,
    storm,
    pages_and_ports_of_others,
    one_port_for_two_devices,
    requests_that_disagree,
    nodes_of_others,
    states_that_jump,
    killed_while_events_flow,
    storm_of_states,
)


@contextlib.contextmanager
def _kernel_frontend_off() -> Iterator[None]:
    """Its input devices only."""
    for number in NUMBERS:
        (_DRIVER / "unbind").write_text(f"vkbd-{number}")
    try:
        yield
    finally:
        for number in NUMBERS:
            (_DRIVER / "bind").write_text(f"vkbd-{number}")


def main() -> int:
    if len(NUMBERS) < 3:
        sys.exit("this DomU has fewer than three vkb devices")
    names = sys.argv[1:]
    with _kernel_frontend_off():
        return 0 if on_xen.run_tap([case for case in CASES if not names or case.__name__ in names]) else 1


if __name__ == "__main__":
    sys.exit(main())
