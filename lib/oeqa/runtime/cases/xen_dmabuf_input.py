# SPDX-License-Identifier: MIT
"""What is typed and pointed at in Dom0 is heard by the DomU whose window it is done in, and by no other."""

import os
import struct
import unittest

from oeqa.runtime.xen_dmabuf import picture
from oeqa.runtime.xen_dmabuf.case import XenDmabufCase
from oeqa.runtime.xen_dmabuf.dom0 import TOOLS, poll

FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "files")
HANDS = "xen_dmabuf_hands.py"
FIFO = f"{TOOLS}/hands"
LIVES = f"kill -0 $(cat {TOOLS}/hands.pid)"
OPENED = (
    "for name in $(grep -l 'xen-dmabuf test' /sys/class/input/event*/device/name); do "
    'ls -l /proc/$(systemctl show -P MainPID weston)/fd | grep -q "$(echo $name | cut -d / -f 5)\\$" || exit 1; done'
)
AWAY = "point 32767 32767"
DEVICES = ("Keyboard", "Pointer")
TOUCH = "Multi-touch"
EVENT = struct.Struct("<qqHHi")
EV_KEY, EV_REL, EV_ABS = 1, 2, 3
REL_WHEEL = 8
SLOT, MT_X, MT_Y, TRACKING = 0x2F, 0x35, 0x36, 0x39
BTN_LEFT = 0x110
KEY_A, KEY_B, KEY_C = 30, 48, 46
RANGE = 32768
SECONDS = 60


def near(seen, expected):
    """Whether two places are the same, within a pixel."""
    return all(abs(one - other) <= 1 for one, other in zip(seen, expected))


class XenDmabufInputTest(XenDmabufCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if cls.dom0.try_run("test -c /dev/uinput || modprobe uinput")[0]:
            raise unittest.SkipTest("no /dev/uinput in Dom0: its kernel lacks CONFIG_INPUT_UINPUT")
        cls.dom0.target.copyTo(os.path.join(FILES, HANDS), f"{TOOLS}/{HANDS}")
        cls.dom0.run(
            f"cd {TOOLS}; rm -f hands; setsid python3 {HANDS} {FIFO} < /dev/null > hands.log 2>&1 & echo $! > hands.pid"
        )
        cls.addClassCleanup(cls.dom0.try_run, f"kill $(cat {TOOLS}/hands.pid)")
        poll(lambda: cls.dom0.try_run(f"test -p {FIFO} && {OPENED}")[0] == 0, SECONDS, "Weston's use of the hands")
        cls.one = cls.class_domu("xen-dmabuf-typed", 6)
        cls.one.start(vkb=cls._vkb(640, 480))
        cls._listen(cls.one, (*DEVICES, TOUCH))
        cls.addClassCleanup(cls.hands, AWAY)  # no other case wants a pointer on its picture

    @staticmethod
    def _vkb(width, height):
        """xl's line of a device for the connector id0."""
        size = f"width={width},height={height}"
        touch = (
            f"feature-multi-touch=1,multi-touch-width={width},multi-touch-height={height},multi-touch-num-contacts=5"
        )
        return f'["backend=Domain-0,backend-type=linux,unique-id=id0,feature-abs-pointer=1,{size},{touch}"]'

    @classmethod
    def _listen(cls, domu, devices=DEVICES):
        """Keep what its devices say in files, from when this returns."""
        for name in devices:
            named = f"grep -l 'Virtual {name}' /sys/class/input/event*/device/name"
            cls._wait_for_device(domu, name, named)
            node = f"/dev/input/$(basename $(dirname $(dirname $({named}))))"
            # both are open before cat runs in the background
            domu.run(f"(exec 3< {node}; : > /tmp/{name}; cat <&3 >> /tmp/{name} &)")

    @staticmethod
    def _wait_for_device(domu, name, named):
        poll(lambda: domu.try_run(named)[0] == 0, SECONDS, f"{domu.name}: the frontend's {name}")

    def events(self, domu, name):
        """(type, code, value) of all that a device of a DomU has said so far."""
        text = domu.run(f"od -An -v -tx1 /tmp/{name} | tr -d ' \\n'")
        data = bytes.fromhex(text.strip())
        return [found[2:] for found in EVENT.iter_unpack(data[: len(data) // EVENT.size * EVENT.size])]

    def keys(self, domu, name="Keyboard"):
        return [(code, value) for kind, code, value in self.events(domu, name) if kind == EV_KEY]

    def place(self, domu):
        """Where the pointer of a DomU is: the last of each axis."""
        axes = {code: value for kind, code, value in self.events(domu, "Pointer") if kind == EV_ABS}
        return axes.get(0, 0), axes.get(1, 0)

    @classmethod
    def hands(cls, *lines):
        cls.dom0.run(
            f"if {LIVES}; then printf '%s\\n' {' '.join(repr(line) for line in lines)} > {FIFO}; "
            f"else cat {TOOLS}/hands.log; false; fi"
        )

    def window(self, domu):
        """Screen's size, and where a DomU's picture is on it, with the pointer out of the way."""
        self.hands(AWAY)
        (state,) = domu.screens("flip 1", SECONDS)
        expected = picture.frame(state["width"], state["height"], state["stream"], state["frame"])
        found = []

        def there():
            screen = self.dom0.screenshot()
            at = picture.find(screen, expected)
            if at:
                found.append((len(screen[0]) // 3, len(screen), *at))
            return at

        poll(there, SECONDS, f"{domu.name}'s picture on the screen")
        return found[0]

    @staticmethod
    def _units(window, x, y):
        """A pixel of a window's picture in what the hands take."""
        width, height, left, top = window
        return f"{(2 * (left + x) + 1) * RANGE // (2 * width)} {(2 * (top + y) + 1) * RANGE // (2 * height)}"

    def point(self, window, x, y):
        """At a pixel of a window's picture."""
        self.hands(f"point {self._units(window, x, y)}")

    def contacts(self, domu):
        """Where fingers are on a DomU's touch screen, by contact."""
        found: dict[int, dict[int, int]] = {}
        slot = 0
        for kind, code, value in self.events(domu, TOUCH):
            if (kind, code) == (EV_ABS, SLOT):
                slot = value
            elif (kind, code) == (EV_ABS, TRACKING) and value < 0:
                found.pop(slot, None)
            elif kind == EV_ABS and code in (MT_X, MT_Y, TRACKING):
                found.setdefault(slot, {})[code] = value
        return {slot: (at.get(MT_X, 0), at.get(MT_Y, 0)) for slot, at in found.items()}

    def assert_pointed(self, domu, window, at, expected):
        """The pointer at a pixel of a window is there in the DomU, within a pixel of its."""
        self.point(window, *at)
        poll(
            lambda: near(self.place(domu), expected),
            SECONDS,
            f"{domu.name}: the pointer at {at} within a pixel of {expected}",
        )

    def assert_touched(self, domu, window, fingers):
        """Fingers at pixels of a window, which are ``fingers``' keys, are there in the DomU; and they go again."""
        places = " ".join(f"{number} {self._units(window, *at)}" for number, at in enumerate(fingers))

        def there():
            seen = self.contacts(domu)
            return len(seen) == len(fingers) and all(map(near, (seen[n] for n in sorted(seen)), fingers.values()))

        self.hands(f"touch {places}")
        poll(there, SECONDS, f"{domu.name}: fingers at {fingers}")
        self.hands("lift " + " ".join(str(number) for number in range(len(fingers))))
        poll(lambda: not self.contacts(domu), SECONDS, f"{domu.name}: no finger")

    def click(self, domu, window, x=100, y=100):
        before = len(self.keys(domu, "Pointer"))
        self.point(window, x, y)
        self.hands(f"key {BTN_LEFT}")
        expected = [(BTN_LEFT, 1), (BTN_LEFT, 0)]
        poll(lambda: self.keys(domu, "Pointer")[before:] == expected, SECONDS, f"{domu.name} hears the click")

    def test_keys_and_corners(self):
        window = self.window(self.one)
        self.click(self.one, window)
        before = len(self.keys(self.one))
        self.hands(f"key {KEY_A} {KEY_B}")
        expected = [(code, value) for code in (KEY_A, KEY_B) for value in (1, 0)]
        poll(lambda: self.keys(self.one)[before:] == expected, SECONDS, "the keys, in their order")
        for at in ((0, 0), (639, 0), (0, 479), (639, 479), (320, 240)):
            self.assert_pointed(self.one, window, at, at)
        self.assert_touched(self.one, window, {at: at for at in ((0, 0), (639, 479))})
        before = self.wheel(self.one)
        self.hands("wheel -2", "wheel 1")
        poll(lambda: self.wheel(self.one) == before - 1, SECONDS, f"the wheel's clicks after {before}")

    def wheel(self, domu):
        """Clicks of a DomU's wheel so far, away from the user."""
        return sum(value for kind, code, value in self.events(domu, "Pointer") if (kind, code) == (EV_REL, REL_WHEEL))

    def test_only_the_focused_domu_hears(self):
        """The other one fills the screen, so its picture is scaled."""
        self.click(self.one, self.window(self.one))
        held = len(self.keys(self.one))
        self.hands(f"press {KEY_C}")
        poll(lambda: self.keys(self.one)[held:] == [(KEY_C, 1)], SECONDS, "the key that is held")
        other = self.domu("xen-dmabuf-other", 7)
        self.addCleanup(self.dom0.restore_backend)
        self.dom0.configure_backend(f'[connector."{other.name}.id0"]\nplacement = "fullscreen"\nscale = "fit"\n')
        other.start(size="320x240", vkb=self._vkb(320, 240))
        self._listen(other, (*DEVICES, TOUCH))
        # the window that has come has the keyboard now, and hears nothing before a click
        poll(lambda: self.keys(self.one)[held:] == [(KEY_C, 1), (KEY_C, 0)], SECONDS, "released with the focus")
        silent = len(self.keys(other))
        self.hands(f"release {KEY_C}", f"key {KEY_A}")
        self.hands(AWAY)
        (state,) = other.screens("flip 1", SECONDS)
        screen = self.dom0.screenshot()
        width, height = len(screen[0]) // 3, len(screen)
        factor = min(width / 320, height / 240)
        shown = (round(320 * factor), round(240 * factor))
        window = (width, height, (width - shown[0]) // 2, (height - shown[1]) // 2)
        self.assertGreater(factor, 1.5, f"scaled on a screen of {width}x{height}: {state}")
        self.click(other, window)
        self.assertEqual(len(self.keys(other)), silent, "a key before the click")
        for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
            corner = (x * (shown[0] - 1), y * (shown[1] - 1))
            self.assert_pointed(other, window, corner, (319 * x, 239 * y))
        middle = (shown[0] // 2, shown[1] // 2)
        self.assert_touched(other, window, {(0, 0): (0, 0), middle: (160, 120)})
        mine, theirs = len(self.keys(self.one)), len(self.keys(other))
        self.hands(f"key {KEY_B}")
        poll(lambda: self.keys(other)[theirs:] == [(KEY_B, 1), (KEY_B, 0)], SECONDS, "the other hears the key")
        self.assertEqual(len(self.keys(self.one)), mine, "the first hears nothing")
        self.assertEqual(self.contacts(self.one), {}, "nor feels a finger")

    def test_a_worker_that_is_killed_with_a_key_held(self):
        window = self.window(self.one)
        self.click(self.one, window)
        before = len(self.keys(self.one))
        self.hands(f"press {KEY_C}")
        poll(lambda: self.keys(self.one)[before:] == [(KEY_C, 1)], SECONDS, "the key that is held")
        old = self.one.worker()
        self.dom0.run(f"kill -9 {old}")
        self.one.wait_for_worker(old)
        poll(lambda: self.keys(self.one)[before:] == [(KEY_C, 1), (KEY_C, 0)], SECONDS, "released by its successor")
        self.hands(f"release {KEY_C}")
        # without the worker's part as long as that doesn't answer
        poll(lambda: "pressed" in self.one.backend()["inputs"][0], SECONDS, "the worker's part of the state")
        status = self.one.backend()["inputs"][0]
        self.assertEqual((status["backend_state"], status["frontend_state"], status["pressed"]), (4, 4, 0))
        self.click(self.one, self.window(self.one))
        self.hands(f"key {KEY_A}")
        poll(lambda: self.keys(self.one)[-2:] == [(KEY_A, 1), (KEY_A, 0)], SECONDS, "it goes on")

    def test_a_keyboard_without_a_pointer(self):
        """Mainline's frontend takes the pointer's address, which is NULL, with every key."""
        series = self.guest_series()
        domu = self.domu("xen-dmabuf-keys", 8)
        domu.create(size="320x240", vkb=self._vkb(320, 240), paused=True, **series)
        # the backend refuses such a device, so it is told when the backend has looked and the frontend hasn't
        backend = self.dom0.backend_node("vinput", domu.domid)
        poll(lambda: self.dom0.run(f"xenstore-read {backend}/state").strip() == "2", SECONDS, "the backend's waiting")
        self.dom0.run(f"xenstore-write {backend}/feature-disable-pointer 1; xl unpause {domu.name}")
        domu.wait_for_start()
        self._listen(domu, DEVICES[:1])
        self.assertNotIn("Virtual Pointer", domu.run("cat /sys/class/input/input*/name"))
        self.point(self.window(domu), 100, 100)
        self.hands(f"key {BTN_LEFT}", f"key {KEY_A}")
        poll(lambda: self.keys(domu)[-2:] == [(KEY_A, 1), (KEY_A, 0)], SECONDS, "the key in a guest without a pointer")
