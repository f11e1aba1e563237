# SPDX-License-Identifier: MIT
"""Who hears what is typed: seats of a real Weston with somebody at it, and of a compositor that says anything."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import select
import subprocess
import sys
from pathlib import Path

import pytest
from hands import HEIGHT, WIDTH, Desk, Guest, desk
from odd_seats import KEYBOARD, POINTER, TOUCH, OddSeats
from serving import placed, serving
from succession import Store, Succession
from test_display import connected, open_window
from waiting import until, wait_until

from xen_dmabuf import limits
from xen_dmabuf.config import Config, ConnectorConfig, Display
from xen_dmabuf.kbdif import packets
from xen_dmabuf.link.messages import InputConnected, InputDisconnected, InputRefused
from xen_dmabuf.worker.compositor import Compositor
from xen_dmabuf.worker.input import Input, Inputs
from xen_dmabuf.worker.ports import Ports
from xen_dmabuf.xen.evtchn import Evtchn
from xen_dmabuf.xen.gntdev import Gntdev

BTN_LEFT, KEY_A, KEY_B, KEY_LEFTSHIFT = 0x110, 30, 48, 42
SIZES = ((WIDTH, HEIGHT), (WIDTH, HEIGHT))


@pytest.fixture
def there():
    with desk() as made:
        yield made


async def hand(function, *arguments) -> None:
    await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


@contextlib.asynccontextmanager
async def typed(xen, there: Desk, keyboard: str = "after-click", **features: int):
    """A worker with two connectors, each with an input device; the windows are on the desk's screens."""
    screen = ConnectorConfig(keyboard=keyboard)
    async with serving(xen, there.socket, *SIZES, screen=screen) as (worker, frontend):
        guests = [Guest(xen, f"id{number}", **features) for number in (0, 1)]
        for number, guest in enumerate(guests):
            await worker.connect_input(number, guest.spec)
            assert worker.messages[-1] == InputConnected(number)
            await frontend.show(1 + number, WIDTH, HEIGHT, number)
        reading = asyncio.get_running_loop().create_task(read_all(guests))
        try:
            await until(lambda: _shown(worker) == 2, "both windows", 20)
            await until(lambda: all(device.status().events_sent >= 662 for device in worker.scene.inputs), "releases")
            yield worker, frontend, guests
        finally:
            reading.cancel()
            for number, guest in enumerate(guests):
                await worker.disconnect_input(number)
                guest.read()
                assert not guest.pressed, "a key stays pressed"
                guest.close()


def _shown(worker) -> int:
    """Windows that a compositor has drawn: the kiosk shell of Weston 14 has one behind its ground at first."""
    windows = [connector.window for connector in worker._devices[0].connectors]
    return sum(placed(window) is not None and window.picture.drawn for window in windows)


async def read_all(guests: list[Guest]) -> None:
    while True:
        for guest in guests:
            guest.read()
        await asyncio.sleep(0.002)


async def aim(there: Desk, guest: Guest, screen: int, x: int, y: int) -> None:
    """As somebody who looks: Weston's x11 backend now and then misses that the pointer is in its other window."""
    for _ in range(20):
        await hand(there.point, screen, x, y)
        with contextlib.suppress(AssertionError):
            return await until(lambda: guest.places[-1:] == [(x, y)], "the place", 0.5)
        await hand(there.point, 1 - screen, WIDTH // 2, HEIGHT // 2)
    raise AssertionError(f"the pointer never got to {x},{y} of screen {screen}")


async def click(there: Desk, guests: list[Guest], screen: int) -> None:
    """The focus goes there; the click is heard."""
    before = len(guests[screen].keys)
    await aim(there, guests[screen], screen, WIDTH // 2, HEIGHT // 2)
    await hand(there.look_at, screen)
    await hand(there.do, "click", "1")
    await until(lambda: guests[screen].keys[before:] == [(BTN_LEFT, True), (BTN_LEFT, False)], "the click")


def test_what_is_done_in_a_window_is_heard_by_its_guest(xen, there):
    async def run():
        async with typed(xen, there, width=WIDTH, height=HEIGHT) as (worker, _frontend, guests):
            left, right = guests
            for screen, guest in enumerate(guests):
                await click(there, guests, screen)
                await hand(there.do, "key", "a")
                await until(lambda g=guest: (KEY_A, False) in g.keys, "the key")
            assert left.keys == right.keys == [(code, d) for code in (BTN_LEFT, KEY_A) for d in (True, False)]
            for x, y in ((0, 0), (WIDTH - 1, 0), (0, HEIGHT - 1), (WIDTH - 1, HEIGHT - 1), (7, 9)):
                await hand(there.point, 1, x, y)
                await until(lambda x=x, y=y: right.places[-1] == (x, y), f"{x},{y}, not {right.places[-1]}")
            clicks = right.clicks
            await hand(there.do, "click", "--repeat", "3", "5")
            await until(lambda: right.clicks == clicks + 3, "the wheel, towards the user")
            await hand(there.do, "click", "4")
            await until(lambda: right.clicks == clicks + 2, "the wheel, away")
            assert left.clicks == 0
            assert worker.status().inputs["0"].events_dropped == 0

    asyncio.run(run())


def test_places_are_in_units_of_the_device(xen, there):
    async def run():
        async with typed(xen, there, width=1000, height=60) as (_worker, _frontend, guests):
            for x, y in ((0, 0), (WIDTH - 1, HEIGHT - 1), (100, 100)):
                await hand(there.point, 0, x, y)
                await until(
                    lambda x=x, y=y: guests[0].places[-1:] == [(x * 1000 // WIDTH, y * 60 // HEIGHT)], "the place"
                )

    asyncio.run(run())


def test_a_pointer_without_absolute_places_gets_differences(xen, there):
    async def run():
        async with typed(xen, there) as (_worker, _frontend, guests):
            await hand(there.point, 1, 10, 10)
            await hand(there.point, 0, 50, 60)
            await hand(there.point, 0, 53, 58)
            await until(lambda: guests[0].motion == [3, -2], "the difference, and not the way to the window")
            await hand(there.point, 0, 60, 60)
            await until(lambda: guests[0].motion == [10, 0], "the second one")
            assert guests[0].places == []

    asyncio.run(run())


def test_a_window_that_comes_hears_no_key_before_a_click(xen, there):
    async def run():
        async with typed(xen, there, width=WIDTH, height=HEIGHT) as (worker, _frontend, guests):
            await click(there, guests, 0)
            await hand(there.do, "key", "a")
            await until(lambda: (KEY_A, False) in guests[0].keys, "the key after a click")
            worker.scene.compositor._lost("test")
            await until(lambda: _shown(worker) == 0, "the windows go")
            await until(lambda: _shown(worker) == 2, "windows are there again", 20)
            heard = [list(guest.keys) for guest in guests]

            def withheld() -> bool:
                """The kiosk shell gives a new window the keyboard: the guest may not hear."""
                there.do("key", "a")
                return sum(device.keys_withheld for device in worker.status().inputs.values()) > 0

            await until(withheld, "a key that was withheld", 20)
            assert [guest.keys for guest in guests] == heard
            await click(there, guests, 0)
            await hand(there.do, "key", "b")
            await until(lambda: (KEY_B, False) in guests[0].keys, "the key after the click")

    asyncio.run(run())


def test_a_kiosk_hears_keys_at_once(xen, there):
    async def run():
        async with typed(xen, there, "always") as (worker, _frontend, guests):

            def heard() -> bool:
                there.do("key", "a")
                return any(guest.keys for guest in guests)

            await until(heard, f"a key without a click: {worker.status().inputs}", 20)

    asyncio.run(run())


def test_a_drawn_window_that_goes_out_of_sight_is_mapped_again(there, monkeypatch, caplog):
    """Once. Of two windows on an output a kiosk shows the later one, and Weston 14's takes one away elsewhere, too."""
    if there.version < 13:
        pytest.skip("LOUD: this Weston's kiosk draws what is out of sight; windows that are lost are NOT tested")
    monkeypatch.setattr(limits, "HIDDEN", 0.5)

    async def run():
        async with connected(there.socket) as (compositor, lost):
            first = open_window(compositor)
            first.rename("first", "test")
            await until(lambda: first.picture.drawn, "the first window")
            second = open_window(compositor)
            await until(lambda: second.picture.drawn and not first.picture.drawn, "the second window, in its place")
            await until(lambda: first.picture.drawn, "the first window again")
            clock = asyncio.get_running_loop().time
            await until(lambda: all(w._looking.when() <= clock() for w in (first, second)), "the last looks")
            assert first.picture.drawn and not lost

    asyncio.run(run())
    warnings = [record for record in caplog.records if record.msg == "window isn't drawn: it is mapped again"]
    assert [record.fields["title"] for record in warnings] == ["first"]


@pytest.mark.parametrize("end", ["leave", "window", "compositor", "device"])
def test_a_key_that_is_held_is_released_in_the_guest(xen, there, end):
    async def run():
        async with typed(xen, there, width=WIDTH, height=HEIGHT) as (worker, frontend, guests):
            await click(there, guests, 0)
            await hand(there.do, "keydown", "a")
            held = {KEY_A}
            if end != "leave":  # a button that is held keeps the pointer's focus where it is
                await hand(there.do, "mousedown", "1")
                held.add(BTN_LEFT)
            await until(lambda: guests[0].pressed == held, "all is held")
            assert worker.status().inputs["0"].pressed == len(held)
            if end == "leave":
                await click(there, guests, 1)
            elif end == "window":
                await worker.disconnect(0)
            elif end == "compositor":
                worker.scene.compositor._lost("test")
            else:
                await worker.disconnect_input(0)
                assert worker.messages[-1] == InputDisconnected(0)
                guests[0].read()
            await until(lambda: not guests[0].pressed, "released")
            await hand(there.do, "keyup", "a")
            await hand(there.do, "mouseup", "1")
            assert guests[1].pressed == set()
            assert (KEY_A, True) not in guests[1].keys, "what is held elsewhere is not told"

    asyncio.run(run())


def test_a_worker_that_dies_with_a_key_held(xen, there, monkeypatch):
    async def run():
        config = Config(display=Display(socket=there.socket))
        workers = Succession(xen, Store(monkeypatch), config, *SIZES)
        await workers.begin()
        guest = Guest(xen, "id0", width=WIDTH, height=HEIGHT)
        await workers.worker.connect_input(0, guest.spec)
        reading = asyncio.get_running_loop().create_task(read_all([guest]))
        try:
            await workers.frontend.show(1, WIDTH, HEIGHT, 0)
            await until(lambda: _shown(workers.worker) == 1, "the window", 20)
            await click(there, [guest], 0)
            await hand(there.do, "keydown", "a")
            await until(lambda: guest.pressed == {KEY_A}, "held")
            port = xen.bound
            device = next(iter(workers.worker.scene.inputs))
            device._outbox = None  # as by SIGKILL: nothing is released
            device._stack.pop_all()
            workers.worker.scene.inputs.close_all()
            await workers.die()
            assert guest.pressed == {KEY_A}
            worker = workers.go_on()
            assert [held.device for held in worker.hello().inputs] == [0]
            assert xen.bound == port, "the channel is the same"
            await until(lambda: not guest.pressed, "released by the successor")
            await until(lambda: _shown(worker) == 1, "the window again", 20)
            await hand(there.do, "keyup", "a")
            await click(there, [guest], 0)
            await hand(there.do, "key", "b")
            await until(lambda: (KEY_B, False) in guest.keys, "it goes on")
        finally:
            reading.cancel()
            await workers.end()
            guest.close()
        assert xen.mapped == 0 and not xen.bound

    asyncio.run(run())


class Domain:
    """typed_domain.py's process, and what it has said."""

    def __init__(self, socket: str, name: str, server: str) -> None:
        program = Path(__file__).with_name("typed_domain.py")
        environment = os.environ | {"PYTHONPATH": f"{program.parents[1] / 'src'}:{program.parent}"}
        self._process = subprocess.Popen(
            [sys.executable, program, socket, name, str(WIDTH), str(HEIGHT), server],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        os.set_blocking(self.fileno(), False)
        self._rest = b""
        self.ready = 0
        self.keys: list[tuple[int, bool]] = []
        self.place = (-1, -1)
        self.flips = 0

    def read(self) -> Domain:
        """All that it has said so far."""
        assert self._process.poll() is None or not self._process.returncode, "the domain's process failed"
        *lines, self._rest = (self._rest + (self._process.stdout.read() or b"")).split(b"\n")
        for line in lines:
            word, *numbers = line.split()
            values = [int(number) for number in numbers]
            if word == b"key":
                self.keys.append((values[0], bool(values[1])))
            elif word == b"at":
                self.place = (values[0], values[1])
            elif word == b"flips":
                self.flips = values[0]
            else:
                assert word == b"ready", line
                self.ready += 1
        return self

    def reopen(self) -> None:
        """Its window goes and comes."""
        before = self.ready
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        wait_until(lambda: self.read().ready > before, "the window again", 20)

    def end(self) -> None:
        """Ask for the flips, and wait for its end."""
        self._process.stdin.close()
        self._process.wait(20)
        self.read()

    def fileno(self) -> int:
        """Readable when it has said more."""
        return self._process.stdout.fileno()

    def kill(self) -> None:
        self._process.kill()
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@contextlib.contextmanager
def two_domains(there: Desk, server: str):
    """A domain on each of the desk's screens, each with a worker of its own."""
    domains = [Domain(there.socket, name, server) for name in ("domu", "other")]
    try:
        for domain in domains:
            wait_until(lambda d=domain: d.read().ready, "the domain", 30)
        yield domains
    finally:
        for domain in domains:
            domain.kill()


def _hear(domains: list[Domain], keys: int) -> None:
    """Wait until they have said so many keys; each time that somebody says something there are 10 s."""
    while sum(len(domain.read().keys) for domain in domains) < keys:
        assert select.select(domains, [], [], 10)[0], "keys that nobody hears"


def _clicked(domains: list[Domain], expected: list[list[tuple[int, bool]]]) -> int:
    """Who hears a click, and nothing else, after what is expected."""
    _hear(domains, sum(map(len, expected)) + 2)
    new = [domain.keys[len(keys) :] for domain, keys in zip(domains, expected, strict=True)]
    click = [(BTN_LEFT, True), (BTN_LEFT, False)]
    assert sorted(new) == [[], click], new
    return new.index(click)


def test_each_guest_gets_what_was_typed_while_it_had_the_focus(xen, there, request):
    """1,000 steps: a click at random takes the focus to one of two domains that flip, and keys are typed at
    once. Who has the focus is who heard the click: Weston's x11 backend now and then thinks the pointer still
    at the edge of its other window."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    letters = {"q": 16, "w": 17, "e": 18, "r": 19, "t": 20, "y": 21, "u": 22}
    expected: list[list[tuple[int, bool]]] = [[], []]
    moves, focus = 0, 0
    with two_domains(there, request.node.callspec.params["xen"]) as domains:
        for _ in range(1000):
            there.do_all(f"mousemove {chance.randrange(2 * WIDTH)} {chance.randrange(HEIGHT)} mousedown 1 mouseup 1")
            last, focus = focus, _clicked(domains, expected)
            moves += focus != last
            typed_now = chance.choices(list(letters), k=chance.randrange(4))
            if typed_now:
                there.do_all(f"key --delay 1 {' '.join(typed_now)}")
            expected[focus] += [(BTN_LEFT, True), (BTN_LEFT, False)]
            expected[focus] += [(letters[letter], down) for letter in typed_now for down in (True, False)]
        _hear(domains, sum(map(len, expected)))
        for domain in domains:
            domain.end()
        assert [domain.keys for domain in domains] == expected
        assert moves > 250, "the focus moved"
        assert min(domain.flips for domain in domains) > 100, "both flipped all the time"


def test_a_guest_whose_window_comes_again_and_again_hears_no_key(xen, there, request):
    """Each time it gets the keyboard, which was another's; and both domains have the same unique-id."""
    with two_domains(there, request.node.callspec.params["xen"]) as (typed_into, thief):
        there.do_all(f"mousemove {WIDTH // 2} {HEIGHT // 2} mousedown 1 mouseup 1 key --delay 1 q")
        _hear([typed_into, thief], 4)
        assert len(typed_into.keys) == 4, "who was clicked hears the key"
        for _ in range(5):
            thief.reopen()
            there.do("key", "w", "e")
        there.do_all("mousedown 1 mouseup 1 key --delay 1 r")
        wait_until(lambda: (19, False) in typed_into.read().keys, "the key after another click")
        there.do_all(f"mousemove {WIDTH + WIDTH // 2} {HEIGHT // 2} mousemove {WIDTH + 9} 9 mousedown 1 mouseup 1")
        _hear([typed_into, thief], len(typed_into.keys) + 2)
        there.do("key", "t")
        wait_until(lambda: (20, False) in thief.read().keys + typed_into.read().keys, "a key at last")
        assert not {code for code, _down in thief.keys} & {16, 17, 18, 19}, thief.keys


def test_a_guest_that_does_not_read_gets_all_that_ends_a_press(xen, there):
    async def run():
        async with typed(xen, there, width=WIDTH, height=HEIGHT) as (worker, _frontend, guests):
            await click(there, guests, 0)
            guests[0].asleep = True
            for _ in range(4):
                await hand(there.do, "type", "--delay", "0", "the quick brown fox jumps over the lazy dog, " * 3)
            await until(lambda: worker.status().inputs["0"].events_waiting >= 256, "what waits", 30)
            guests[0].asleep = False
            guests[0].read()
            await until(lambda: worker.status().inputs["0"].events_waiting == 0, "all is written")
            await until(lambda: not guests[0].pressed, "all is released")

    asyncio.run(run())


# -- a compositor that says anything


class _Window:
    """A surface that shows a connector of 100x100 at half its size."""

    size = (100, 100)

    def __init__(self, compositor: Compositor) -> None:
        self.surface = compositor.bound("wl_compositor").create_surface()

    def locate(self, x: float, y: float) -> tuple[float, float]:
        return 2 * x, 2 * y

    def destroy(self) -> None:
        self.surface.destroy()
        self.surface = None


class _Odd:
    """A compositor's seats, two windows and the two guests that hear them."""

    def __init__(self, xen, odd: OddSeats, compositor: Compositor) -> None:
        self.odd, self.compositor = odd, compositor
        self._gntdev, self._ports = Gntdev(5), Ports(Evtchn(5))
        self.inputs = Inputs(lambda _name: True)
        self.guests = [Guest(xen, f"id{n}", touch_width=200, touch_height=200, contacts=3) for n in (0, 1)]
        self.windows: list[_Window] = []
        self.surfaces: list[int] = []
        for number, guest in enumerate(self.guests):
            device = Input(number, guest.spec, self._gntdev, self._ports)
            device.open()
            self.inputs.add(device)

    async def begin(self) -> None:
        for number, _guest in enumerate(self.guests):
            window = _Window(self.compositor)
            self.windows.append(window)
            self.compositor.seats.add(window, self.inputs.at(f"id{number}"))
            self.compositor.flush()
            count = number + 1
            await until(lambda n=count: self._surfaces() == n, "the surface", 5)
            self.surfaces.append(self.odd.find("wl_surface"))

    def _surfaces(self) -> int:
        return list(self.odd.objects.values()).count("wl_surface")

    async def settled(self) -> None:
        """All that was said is heard, and all that was done is read."""
        await self.compositor._sync()
        idle = 0
        while idle < 5:  # what a guest has read makes room for what waits
            idle = 0 if any([guest.read() for guest in self.guests]) else idle + 1
            await asyncio.sleep(0)

    def close(self) -> None:
        self.compositor.close()
        self.inputs.close_all()
        self._ports.close()
        self._gntdev.close()
        for guest in self.guests:
            guest.read()
            assert not guest.pressed
            guest.close()


@contextlib.asynccontextmanager
async def odd_seats(xen, tmp_path):
    path = str(tmp_path / "odd")
    with OddSeats(path) as odd:
        compositor = Compositor(path, lambda: None)
        await compositor.connect()
        there = _Odd(xen, odd, compositor)
        try:
            await there.begin()
            yield there, odd
        finally:
            there.close()
    assert xen.mapped == 0 and not xen.bound


def drive(xen, tmp_path, body) -> None:
    async def run():
        async with odd_seats(xen, tmp_path) as (there, odd):
            await body(there, odd)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_touches(xen, tmp_path):
    async def body(there, odd):
        seat = await odd.seat(TOUCH)
        guest, surface = there.guests[0], there.surfaces[0]
        await there.settled()
        guest.touches.clear()
        odd.touch(seat, "down", 1, 0, surface, 7, 10, 20)
        odd.touch(seat, "down", 2, 0, surface, 9, 0, 0)
        odd.touch(seat, "frame")
        odd.touch(seat, "motion", 0, 7, 30, 20)
        odd.touch(seat, "motion", 0, 8, 1, 1)  # a finger that is not there
        odd.touch(seat, "frame")
        odd.touch(seat, "up", 3, 0, 7)
        odd.touch(seat, "frame")
        odd.touch(seat, "down", 4, 0, surface, 11, 49, 49)
        odd.touch(seat, "frame")
        odd.touch(seat, "cancel")
        await there.settled()
        down, up, move, syn = packets.MT_EV_DOWN, packets.MT_EV_UP, packets.MT_EV_MOTION, packets.MT_EV_SYN
        assert guest.touches == [
            *((down, 0, 40, 80), (down, 1, 0, 0), (syn, 0, 0, 0)),
            *((move, 0, 120, 80), (syn, 0, 0, 0)),
            *((up, 0, 0, 0), (syn, 0, 0, 0)),
            *((down, 0, 196, 196), (syn, 0, 0, 0)),  # the lowest contact that is free
            *((up, 1, 0, 0), (up, 0, 0, 0), (syn, 0, 0, 0)),
        ]
        assert there.guests[1].touches[-1][0] == syn and len(there.guests[1].touches) == 4, "only the first ups"

    drive(xen, tmp_path, body)


def test_more_fingers_than_contacts(xen, tmp_path):
    async def body(there, odd):
        seat = await odd.seat(TOUCH)
        for finger in range(300):
            odd.touch(seat, "down", 1, 0, there.surfaces[0], finger, 1, 1)
            if finger % 50 == 49:
                await there.settled()  # the socket has room for some hundred events
        odd.touch(seat, "frame")
        await there.settled()
        contacts = [touch[1] for touch in there.guests[0].touches if touch[0] == packets.MT_EV_DOWN]
        assert contacts == [0, 1, 2]
        status = next(iter(there.inputs)).status()
        assert status.touches == 3 and status.events_dropped > 200
        there.compositor.seats.remove(there.windows[0])
        await there.settled()
        assert next(iter(there.inputs)).status().touches == 0

    drive(xen, tmp_path, body)


def test_wheels_of_all_versions(xen, tmp_path):
    async def body(there, odd):
        guest, surface = there.guests[0], there.surfaces[0]

        async def turned(seat: int, *events: tuple) -> int:
            before = guest.clicks
            odd.pointer(seat, "enter", 1, surface, 5, 5)
            for event in events:
                odd.pointer(seat, *event)
            await there.settled()
            odd.pointer(seat, "leave", 2, surface)
            return guest.clicks - before

        fine, coarse, old = [await odd.seat(POINTER, version) for version in (8, 5, 4)]
        eighth = (("value120", 0, 15), ("axis", 0, 0, 1.25), ("frame",))
        assert await turned(fine, *eighth * 7) == 0
        assert await turned(fine, *eighth * 17) == 2, "summed, the rest kept"
        assert await turned(fine, ("value120", 0, -240), ("frame",)) == -2
        assert await turned(fine, ("value120", 1, 240), ("frame",)) == 0, "there is no horizontal one"
        assert await turned(coarse, ("axis", 0, 0, 10), ("discrete", 0, 1), ("frame",)) == 1, "not both"
        assert await turned(coarse, *(("axis", 0, 0, 4), ("frame",)) * 5) == 2, "of a touch pad"
        assert await turned(old, ("axis", 0, 0, 10)) == 1, "without frames"

    drive(xen, tmp_path, body)


def test_the_pointer_is_hidden_and_buttons_come_after_their_place(xen, tmp_path):
    async def body(there, odd):
        seat = await odd.seat(POINTER)
        odd.pointer(seat, "enter", 1, there.surfaces[0], 0, 0)
        odd.pointer(seat, "frame")
        odd.pointer(seat, "motion", 0, 10, 10)
        odd.pointer(seat, "button", 2, 0, BTN_LEFT, 1)
        odd.pointer(seat, "motion", 0, 30, 10)
        odd.pointer(seat, "frame")
        await there.settled()
        await until(lambda: (f"wl_pointer{seat}", 0) in odd.said, "set_cursor", 5)
        assert there.guests[0].motion == [60, 20]
        assert there.guests[0].pressed == {BTN_LEFT}
        odd.pointer(seat, "motion", 0, -8_000_000, 8_000_000)
        odd.pointer(seat, "frame")
        await there.settled()
        assert there.guests[0].motion == [0, 99], "within the connector"

    drive(xen, tmp_path, body)


def test_keys_of_others_and_of_no_device(xen, tmp_path):
    async def body(there, odd):
        seat = await odd.seat(KEYBOARD)
        odd.keyboard(seat, "key", 1, 0, KEY_A, 1)  # before any enter
        odd.keyboard(seat, "enter", 2, there.surfaces[0], keys=(KEY_A, KEY_B))
        odd.keyboard(seat, "key", 3, 0, KEY_B, 0)  # pressed elsewhere
        for code in (0, 240, 0x2FF, 0x300, 0xFFFFFFFF, 0x14A):
            odd.keyboard(seat, "key", 3, 0, code, 1)
        odd.keyboard(seat, "key", 3, 0, KEY_LEFTSHIFT, 2)  # a repeat, which no version of ours has
        await there.settled()
        assert there.guests[0].keys == there.guests[1].keys == []
        odd.keyboard(seat, "key", 3, 0, KEY_LEFTSHIFT, 1)
        odd.keyboard(seat, "key", 3, 0, KEY_LEFTSHIFT, 1)
        odd.keyboard(seat, "enter", 4, there.surfaces[1])  # no leave came
        odd.keyboard(seat, "key", 5, 0, KEY_A, 1)
        await there.settled()
        assert there.guests[0].keys == [(KEY_LEFTSHIFT, True), (KEY_LEFTSHIFT, False)]
        assert there.guests[1].keys == [(KEY_A, True)]

    drive(xen, tmp_path, body)


def test_a_key_that_two_seats_hold_is_released_with_the_last(xen, tmp_path):
    async def body(there, odd):
        seats = [await odd.seat(KEYBOARD) for _ in range(2)]
        for seat in seats:
            odd.keyboard(seat, "enter", 1, there.surfaces[0])
            odd.keyboard(seat, "key", 2, 0, KEY_A, 1)
        odd.keyboard(seats[0], "key", 3, 0, KEY_A, 0)
        await there.settled()
        assert there.guests[0].keys == [(KEY_A, True)]
        odd.remove(seats[1])
        await there.settled()
        assert there.guests[0].keys == [(KEY_A, True), (KEY_A, False)]

    drive(xen, tmp_path, body)


def test_dead_surfaces_bring_nothing(xen, tmp_path, capfd):
    async def body(there, odd):
        seat = await odd.seat(POINTER | KEYBOARD | TOUCH)
        dead, alive = there.surfaces
        odd.keyboard(seat, "enter", 1, dead)
        odd.keyboard(seat, "key", 2, 0, KEY_A, 1)
        odd.pointer(seat, "enter", 1, dead, 1, 1)
        odd.pointer(seat, "button", 2, 0, BTN_LEFT, 1)
        odd.touch(seat, "down", 1, 0, dead, 1, 1, 1)
        odd.touch(seat, "frame")
        await there.settled()
        assert there.guests[0].pressed == {KEY_A, BTN_LEFT}
        there.compositor.seats.remove(there.windows[0])
        there.windows[0].destroy()
        # what was on its way when the window went: libwayland makes NULL of the dead surface
        odd.keyboard(seat, "key", 3, 0, KEY_B, 1)
        odd.keyboard(seat, "leave", 4, dead)
        odd.pointer(seat, "leave", 4, dead)
        odd.keyboard(seat, "enter", 5, dead)
        odd.keyboard(seat, "key", 6, 0, KEY_B, 1)
        odd.pointer(seat, "enter", 5, dead, 1, 1)
        odd.pointer(seat, "motion", 0, 3, 3)
        odd.pointer(seat, "frame")
        odd.touch(seat, "down", 5, 0, dead, 2, 1, 1)
        odd.touch(seat, "motion", 0, 1, 2, 2)
        odd.touch(seat, "frame")
        await there.settled()
        assert there.guests[0].pressed == set() and (KEY_B, True) not in there.guests[0].keys
        assert there.guests[1].keys == []
        odd.keyboard(seat, "enter", 7, alive)
        odd.keyboard(seat, "key", 8, 0, KEY_B, 1)
        await there.settled()
        assert there.guests[1].pressed == {KEY_B}

    drive(xen, tmp_path, body)
    assert "Traceback" not in capfd.readouterr().err


def test_seats_and_their_parts_come_and_go(xen, tmp_path):
    async def body(there, odd):
        seats = [await odd.seat(KEYBOARD) for _ in range(16)]
        odd._names[999] = ("wl_seat", 8)
        odd._announce(999)
        await there.settled()
        assert "wl_seat999" not in odd.objects.values(), "there is a limit"
        seat = seats[0]
        for _ in range(50):
            await odd.capable(seat, KEYBOARD | POINTER | TOUCH)
            odd.keyboard(seat, "enter", 1, there.surfaces[0])
            odd.keyboard(seat, "key", 2, 0, KEY_A, 1)
            odd.send(odd.find(f"wl_seat{seat}"), 0, 0)
            await there.settled()
            assert there.guests[0].pressed == set()
        odd.remove(12345)
        for seat in seats:
            odd.remove(seat)
        await there.settled()
        assert not there.compositor.seats._seats

    drive(xen, tmp_path, body)


def test_keymaps_of_any_size_are_closed_and_never_mapped(xen, tmp_path):
    async def body(there, odd):
        seat = await odd.seat(KEYBOARD)
        pipes = [odd.keymap(seat, size) for size in (0, 1, 65536, 0xFFFFFFFF)]
        await there.settled()
        for pipe in pipes:
            ready, _, _ = select.select([pipe], [], [], 5)
            assert ready and os.read(pipe, 1) == b"", "the client still has it"
            os.close(pipe)

    drive(xen, tmp_path, body)


def test_a_connection_that_ends_releases_all(xen, tmp_path):
    async def body(there, odd):
        seat = await odd.seat(KEYBOARD | TOUCH)
        odd.keyboard(seat, "enter", 1, there.surfaces[0])
        odd.keyboard(seat, "key", 2, 0, KEY_A, 1)
        odd.touch(seat, "down", 1, 0, there.surfaces[1], 1, 1, 1)
        odd.touch(seat, "frame")
        await there.settled()
        assert there.guests[0].pressed == {KEY_A}
        odd.end()
        await until(lambda: not there.compositor.alive, "the loss is noticed", 5)
        for guest in there.guests:
            guest.read()
        assert not there.guests[0].pressed
        assert [touch[0] for touch in there.guests[1].touches[-2:]] == [packets.MT_EV_UP, packets.MT_EV_SYN]

    drive(xen, tmp_path, body)


def test_a_page_or_port_that_is_none_is_refused(xen, weston):
    async def run():
        async with serving(xen, weston.socket) as (worker, _frontend):
            guest = Guest(xen, "id0")
            bad = dataclasses.replace(guest.spec, ref=99_999)
            await worker.connect_input(0, bad)
            assert isinstance(worker.messages[-1], InputRefused) and "gntdev" in worker.messages[-1].reason
            taken = dataclasses.replace(guest.spec, port=_frontend.specs[0].req_port)
            await worker.connect_input(0, taken)
            assert isinstance(worker.messages[-1], InputRefused) and "evtchn" in worker.messages[-1].reason
            assert worker.hello().inputs == () and xen.mapped == 2
            await worker.connect_input(0, guest.spec)
            await worker.connect_input(0, guest.spec)
            assert worker.messages[-1] == InputConnected(0)
            await worker.disconnect_input(0)
            await worker.disconnect_input(0)
            guest.close()

    asyncio.run(run())
