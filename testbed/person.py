# SPDX-License-Identifier: MIT
"""A person at Dom0's screen: what is typed, pointed at, clicked and touched there is there in the DomU.

Cases as the image's, but with QEMU's keyboard and tablet in the hands, so they need its machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from oeqa.runtime.cases.xen_dmabuf_zerocopy import XenDmabufDesktopTest
from oeqa.runtime.xen_dmabuf import picture
from oeqa.runtime.xen_dmabuf.dom0 import TOOLS, poll

from . import layout
from .display import TERMINAL, TERMINAL_RUNS
from .inputbench.figures import BUTTON, EV_ABS, Heard
from .pattern import Pixels, array
from .qemu import Qemu

RANGE = 32768  # of the hands' touch screen
AXES = {"Pointer": (0, 1), "Multi-touch": (0x35, 0x36)}
FIFO = f"{TOOLS}/hands"
SECONDS = 60
KEYS_AT_ONCE = 8
LOOKS = 4
MOSTLY_TERMINAL = 0.2  # of the screen is black where a terminal fills the DomU's window
SCALED = '[connector."{name}.*"]\nscale = "fit"\n'
FULLSCREEN = ("meta_l", "shift", "f")
TYPED = "touch /tmp/typed-by-hand"
# evdev is open when this returns; the last line is the screen's size
_LISTEN = """
for name in Pointer Multi-touch; do
  node=$(grep -l "Virtual $name" /sys/class/input/event*/device/name | cut -d / -f 5)
  udevadm info -q property /dev/input/$node | grep -qx WL_OUTPUT=Virtual-1 || {
    echo "udev maps the DomU's $name to no screen"; exit 1; }
  ( exec 3< /dev/input/$node; cat <&3 > /run/$name 2> /dev/null & )
done
head -n 1 /sys/class/drm/card*-Virtual-1/modes
"""
_TOUCH_SCREEN = (
    "node=$(basename $(dirname $(dirname $(grep -l 'test touch screen' /sys/class/input/event*/device/name)))); "
    f'test -p {FIFO} && ls -l /proc/$(systemctl show -P MainPID weston)/fd | grep -q "/$node\\$"'
)


@dataclass(frozen=True)
class Shown:
    """A rectangle of Dom0's screen that shows all of a DomU's screen, which has the size ``own``."""

    left: int
    top: int
    width: int
    height: int
    own: tuple[int, int]

    def __str__(self) -> str:
        scaled = "" if (self.width, self.height) == self.own else f", shown as {self.width}x{self.height}"
        return f"{self.own[0]}x{self.own[1]}{scaled} at {self.left},{self.top}"

    def places(self) -> list[tuple[int, int]]:
        """Corners and others, in pixels of the rectangle; not a corner first: evdev doesn't report what was 0
        already."""
        corners = [(x, y) for x in (0, self.width - 1) for y in (0, self.height - 1)]
        return [(self.width // 3, self.height // 2), *corners, (self.width // 2, self.height // 2)]

    def in_domu(self, x: int, y: int) -> tuple[int, int]:
        """The DomU's pixel that the middle of one of the rectangle's shows."""
        return (2 * x + 1) * self.own[0] // (2 * self.width), (2 * y + 1) * self.own[1] // (2 * self.height)


class PersonTest(XenDmabufDesktopTest):
    """``tc.machine`` is the Qemu, ``tc.film`` takes a caption and pictures that follow each other."""

    @property
    def machine(self) -> Qemu:
        """Whose keyboard and tablet they are."""
        machine: Qemu = self.tc.machine
        return machine

    @classmethod
    def prepare_desktop(cls) -> None:
        """What it shows will fill its window, also a larger one."""
        cls.addClassCleanup(cls.dom0.restore_backend)
        cls.dom0.configure_backend(SCALED.format(name=cls.one.name))

    def leave_the_pictures(self) -> None:
        """The pointer out of the way of those that follow."""
        width, height = self.machine.screen
        self.machine.point(width - 1, height - 1)

    # -- typing

    def test_typed_text_arrives(self) -> None:
        """A person clicks into the DomU's window and types: its terminal shows it, and its shell does it."""
        self.addCleanup(self.leave_the_pictures)
        self.addCleanup(self.one.try_run, "systemctl stop terminal")
        before = self._terminal()
        sent = self._click_into_it()
        film = self._type_slowly(TYPED + "\n", sent)
        poll(lambda: self.one.try_run("test -e /tmp/typed-by-hand")[0] == 0, SECONDS, "what the typed line does")
        film.append(self._still())
        self.pictures["typing"] = [
            ("The DomU's terminal before anybody types", before),
            (f"After a click into the window and typing: {TYPED}", film[-1]),
        ]
        self.tc.film("The DomU's terminal while somebody types", film)
        owner = self.one.run("stat -c %U /tmp/typed-by-hand").strip()
        self.saw(f"{TYPED!r}, typed on Dom0's keyboard, was run in the DomU by {owner}")

    def _terminal(self) -> picture.Picture:
        """The screen with a terminal whose shell runs."""
        self.one.run(TERMINAL)
        poll(lambda: self.one.try_run(TERMINAL_RUNS)[0] == 0, SECONDS, "the shell")
        seen: list[picture.Picture] = []

        def there() -> bool:
            seen[:] = [self.dom0.screenshot()]
            return bool((array(seen[0])[::8, ::8] == 0).all(axis=2).mean() > MOSTLY_TERMINAL)

        poll(there, SECONDS, "the terminal in the DomU's window")
        return seen[0]

    def _still(self) -> picture.Picture:
        """The screen when all is drawn: several looks show the same."""
        seen: list[picture.Picture] = []

        def same() -> bool:
            seen.append(self.dom0.screenshot())
            return len(seen) >= LOOKS and all(screen == seen[-1] for screen in seen[-LOOKS:])

        poll(same, SECONDS, "a screen that stands still")
        return seen[-1]

    def _click_into_it(self) -> int:
        """One after the other: Weston reads keyboard and tablet as it likes. How many events the DomU has got then."""
        width, height = self.machine.screen
        sent = self._events_sent()
        self.machine.point(width // 2, height // 3)
        sent = self._wait_for_events(sent + 1, "the pointer")
        self.machine.click()
        return self._wait_for_events(sent + 2, "the button")

    def _type_slowly(self, text: str, sent: int) -> list[picture.Picture]:
        """Type as fast as an emulated Dom0 can read it: its kernel keeps some 60 events for Weston. What the screen
        showed meanwhile. ``sent``: events that the DomU has got before."""
        film = []
        for start in range(0, len(text), KEYS_AT_ONCE):
            keys = text[start : start + KEYS_AT_ONCE]
            self.machine.type(keys)
            sent = self._wait_for_events(sent + 2 * len(keys), f"the keys of {keys!r}")
            film.append(self.dom0.screenshot())
        return film

    def _wait_for_events(self, least: int, what: str) -> int:
        """How many it has got then."""

        def sent() -> int:
            now = self._events_sent()
            return now if now >= least else 0

        return poll(sent, SECONDS, f"{what} in the DomU")

    def _events_sent(self) -> int:
        return sum(int(device["events_sent"]) for device in self.one.state()["inputs"])

    # -- pointing

    def test_clicks_and_touches_land(self) -> None:
        """In a window of the size of the DomU's screen, and in one that fills Dom0's; within a pixel."""
        self.addCleanup(self.leave_the_pictures)
        self._touch_screen()
        width, height = map(int, self.one.run(_LISTEN).split()[-1].split("x"))
        window, first = self._window((width, height))
        self._points(window, clicks=1)
        poll(lambda: self.dom0.try_run(_TOUCH_SCREEN)[0] == 0, SECONDS, "Weston's touch screen")
        self._touches(window)
        filling, second = self._fill((width, height))
        self._points(filling, clicks=2)
        self._touches(filling)
        self.pictures["pointing"] = [
            (f"Pointed at and touched: {window}", first),
            (f"The same DomU a moment later: {filling}", second),
        ]
        self.saw(f"corners of {window}, and of {filling}: pointed at and touched, and clicks, all within a pixel")

    def _touch_screen(self) -> None:
        """A touch screen of user space in Dom0: QEMU's can't be used from outside."""
        self.dom0.target.copyTo(str(layout.HANDS), f"{TOOLS}/hands.py")
        self.dom0.run(f"systemd-run --quiet --collect --unit=hands python3 {TOOLS}/hands.py {FIFO}")
        self.addCleanup(self.dom0.run, "systemctl stop hands")

    def _window(self, own: tuple[int, int]) -> tuple[Shown, picture.Picture]:
        """Of the DomU's size, on a screen that is otherwise one colour but for a pointer in its last corner."""

        def there() -> tuple[Shown, picture.Picture] | None:
            screen = self.dom0.screenshot()
            pixels = array(screen)
            others = np.argwhere((pixels != pixels[0, 0]).any(axis=2))
            if not len(others):
                return None
            top, left = map(int, others.min(axis=0))
            return Shown(left, top, *own, own), screen

        return poll(there, SECONDS, "the DomU's window on Dom0's screen")

    def _fill(self, own: tuple[int, int]) -> tuple[Shown, picture.Picture]:
        """Make the window, which was clicked, fill Dom0's screen by the key of Weston's desktop shell."""
        factor = min(have / want for have, want in zip(self.machine.screen, own, strict=True))
        expected = int(own[0] * factor), int(own[1] * factor)
        self.assertNotEqual(expected, own, "Dom0's screen has the DomU's size: nothing is scaled")
        self.machine.press(*FULLSCREEN)
        self.addCleanup(self.machine.press, *FULLSCREEN)

        def filled() -> tuple[Shown, picture.Picture] | None:
            screen = self.dom0.screenshot()
            found = _bright(array(screen), own)
            return (found, screen) if (found.width, found.height) == expected else None

        return poll(filled, SECONDS, f"the DomU's screen as {expected[0]}x{expected[1]} on Dom0's")

    def _points(self, shown: Shown, clicks: int) -> None:
        """``clicks``: how many the DomU has heard afterwards."""
        for x, y in shown.places():
            self.machine.point(shown.left + x, shown.top + y)
            self._lands("Pointer", shown.in_domu(x, y))
        self.machine.click()
        heard = (clicks, clicks)
        poll(lambda: self._heard("Pointer").presses(BUTTON) == heard, SECONDS, "the click in the DomU")

    def _touches(self, shown: Shown) -> None:
        width, height = self.machine.screen
        for x, y in shown.places():
            across, down = shown.left + x, shown.top + y
            units = (2 * across + 1) * RANGE // (2 * width), (2 * down + 1) * RANGE // (2 * height)
            # lifted first, if there was a touch before
            self.dom0.run(f"printf '%s\\n' 'lift 0' 'touch 0 {units[0]} {units[1]}' > {FIFO}")
            self._lands("Multi-touch", shown.in_domu(x, y))
        self.dom0.run(f"echo lift 0 > {FIFO}")

    def _heard(self, name: str) -> Heard:
        text = self.one.run(f"od -An -v -tx1 /run/{name}")
        return Heard.of(bytes.fromhex(re.sub(r"\s", "", text)))

    def _lands(self, name: str, place: tuple[int, int]) -> None:
        last: list[tuple[int, ...]] = []

        def there() -> bool:
            said = {code: value for _time, kind, code, value in self._heard(name).events if kind == EV_ABS}
            last[:] = [tuple(said.get(axis, -RANGE) for axis in AXES[name])]
            return all(abs(one - other) <= 1 for one, other in zip(last[0], place, strict=True))

        try:
            poll(there, SECONDS, f"{name} at {place}")
        except AssertionError as error:
            self.fail(f"{error}: the DomU's evdev says {last}")


def _bright(screen: Pixels, own: tuple[int, int]) -> Shown:
    """All that isn't black."""
    bright = (screen != 0).any(axis=2)
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return Shown(left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1, own)
