# SPDX-License-Identifier: MIT
"""A person at Dom0's screen: what is pointed at, clicked and touched there is there in the DomU, within a pixel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from oeqa.runtime.xen_dmabuf import dom0 as image_test

from . import layout
from .deadline import wait_until
from .errors import ProofError
from .guest import Target
from .inputbench.figures import BUTTON, EV_ABS, Heard
from .pattern import Pixels
from .proofs import Scene

RANGE = 32768  # of the hands' touch screen
AXES = {"Pointer": (0, 1), "Multi-touch": (0x35, 0x36)}
FIFO = "/run/xen-dmabuf-hands"
HANDS_SECONDS = 60
EVENT_SECONDS = 60
SCALED = '[connector."{name}.*"]\nscale = "fit"\n'
FULLSCREEN = ("meta_l", "shift", "f")
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


def clicks_and_touches_land(scene: Scene) -> str:
    """In a window of the size of the DomU's screen, and in one that fills Dom0's.

    The DomU was started within enlarged_if_there_is_room().
    """
    with _touch_screen(scene):
        own = _listen(scene)
        window = _window(scene.shot("pointing"), own)
        _points(scene, window, clicks=1)
        wait_until(lambda: scene.dom0.try_run(_TOUCH_SCREEN).status == 0, HANDS_SECONDS, "Weston's touch screen")
        _touches(scene, window)
        filling = _fill(scene, own)
        _points(scene, filling, clicks=2)
        _touches(scene, filling)
    scene.show(
        (f"Pointed at and touched: {window}", "pointing.png"),
        (f"The same DomU a moment later: {filling}", "pointing-scaled.png"),
    )
    width, height = scene.machine.screen
    scene.machine.point(width - 1, height - 1)  # out of the way of the pictures that follow
    return f"corners of {window}, and of {filling}: pointed at and touched, and clicks, all within a pixel"


@contextlib.contextmanager
def enlarged_if_there_is_room(scene: Scene) -> Iterator[None]:
    """What a DomU that is started meanwhile shows will fill its window, also a larger one."""
    dom0 = image_test.Dom0(Target(scene.dom0))
    dom0.configure_backend(SCALED.format(name=scene.domu.name))
    try:
        yield
    finally:
        dom0.restore_backend()


@contextlib.contextmanager
def _touch_screen(scene: Scene) -> Iterator[None]:
    """A touch screen of user space in Dom0: QEMU's can't be used from outside."""
    scene.dom0.copy_to(layout.HANDS, "/run/xen_dmabuf_hands.py")
    scene.dom0.run(f"systemd-run --quiet --collect --unit=hands python3 /run/xen_dmabuf_hands.py {FIFO}")
    try:
        yield
    finally:
        scene.dom0.run(f"systemctl stop hands; rm -f {FIFO}")


def _listen(scene: Scene) -> tuple[int, int]:
    """Keep what the DomU's devices say, beside its Weston. Its screen's size."""
    width, height = map(int, scene.domu.run(_LISTEN).split()[-1].split("x"))
    return width, height


def _window(screen: Pixels, own: tuple[int, int]) -> Shown:
    """Of the DomU's size, on a screen that is otherwise one colour but for a pointer in its last corner."""
    top, left = map(int, np.argwhere((screen != screen[0, 0]).any(axis=2)).min(axis=0))
    return Shown(left, top, *own, own)


def _fill(scene: Scene, own: tuple[int, int]) -> Shown:
    """Make the window, which was clicked, fill Dom0's screen by the key of Weston's desktop shell."""
    factor = min(have / want for have, want in zip(scene.machine.screen, own, strict=True))
    expected = int(own[0] * factor), int(own[1] * factor)
    if expected == own:
        raise ProofError(f"Dom0's screen has the DomU's size, {own}: nothing is scaled")
    scene.machine.press(*FULLSCREEN)

    def filled() -> Shown | None:
        found = _picture(scene.shot("pointing-scaled"), own)
        return found if (found.width, found.height) == expected else None

    return wait_until(filled, 60, f"the DomU's screen as {expected[0]}x{expected[1]} on Dom0's")


def _picture(screen: Pixels, own: tuple[int, int]) -> Shown:
    """All that isn't black."""
    bright = (screen != 0).any(axis=2)
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return Shown(left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1, own)


def _points(scene: Scene, shown: Shown, clicks: int) -> None:
    """``clicks``: how many the DomU has heard afterwards."""
    for x, y in shown.places():
        scene.machine.point(shown.left + x, shown.top + y)
        _lands(scene, "Pointer", shown.in_domu(x, y))
    scene.machine.click()
    wait_until(
        lambda: _heard(scene, "Pointer").presses(BUTTON) == (clicks, clicks), EVENT_SECONDS, "the click in the DomU"
    )


def _touches(scene: Scene, shown: Shown) -> None:
    width, height = scene.machine.screen
    for x, y in shown.places():
        across, down = shown.left + x, shown.top + y
        units = (2 * across + 1) * RANGE // (2 * width), (2 * down + 1) * RANGE // (2 * height)
        # lifted first, if there was a touch before
        scene.dom0.run(f"printf '%s\\n' 'lift 0' 'touch 0 {units[0]} {units[1]}' > {FIFO}")
        _lands(scene, "Multi-touch", shown.in_domu(x, y))
    scene.dom0.run(f"echo lift 0 > {FIFO}")


def _heard(scene: Scene, name: str) -> Heard:
    return Heard.of(scene.domu.read_file(f"/run/{name}"))


def _lands(scene: Scene, name: str, place: tuple[int, int]) -> None:
    last: list[tuple[int, ...]] = []

    def there() -> bool:
        said = {code: value for _time, kind, code, value in _heard(scene, name).events if kind == EV_ABS}
        last[:] = [tuple(said.get(axis, -RANGE) for axis in AXES[name])]
        return all(abs(one - other) <= 1 for one, other in zip(last[0], place, strict=True))

    try:
        wait_until(there, EVENT_SECONDS, f"{name} at {place}")
    except TimeoutError as error:
        raise ProofError(f"{name} at {place} of the DomU's screen: its evdev says {last}") from error
