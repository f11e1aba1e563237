# SPDX-License-Identifier: MIT
"""What is typed and pointed at in Dom0 is heard by the DomU whose window it is done in, and by no other."""

import os
import re
import struct
import time
import unittest

from oeqa.runtime.xen_dmabuf import picture
from oeqa.runtime.xen_dmabuf.case import XenDmabufCase
from oeqa.runtime.xen_dmabuf.dom0 import SERVICE, TOOLS, poll

FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "files")
HANDS = "xen_dmabuf_hands.py"
FIFO = f"{TOOLS}/hands"
MOVING = f"{TOOLS}/moving"
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
REL_X, REL_Y, REL_WHEEL = 0, 1, 8
SLOT, MT_X, MT_Y, TRACKING = 0x2F, 0x35, 0x36, 0x39
BTN_LEFT = 0x110
KEY_A, KEY_B, KEY_C = 30, 48, 46
RANGE = 32768
SECONDS = 60
HOSTILE = "on_xen_input.py"
HOSTILE_SECONDS = 300
# two windows of the limit that docs/security.md names for a device's handshake
LOG_LINES, LOG_SECONDS = 2 * 40, 10


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
        return self.moved(domu, REL_WHEEL)[0]

    def moved(self, domu, *axes):
        """The sum of all differences so far that a DomU's pointer has had on these axes."""
        events = self.events(domu, "Pointer")
        return tuple(sum(value for kind, code, value in events if (kind, code) == (EV_REL, axis)) for axis in axes)

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

    def _type(self, domu, key=KEY_A):
        """What is typed arrives at a DomU, and nothing else does."""
        before = len(self.keys(domu))
        self.hands(f"key {key}")
        poll(lambda: self.keys(domu)[before:] == [(key, 1), (key, 0)], SECONDS, f"{domu.name} hears the key")

    @staticmethod
    def _beside(window, size, other, other_size):
        """A pixel of a window's picture that another window doesn't cover, whose picture is less wide or less high."""
        left, top = (theirs - mine for mine, theirs in zip(window[2:], other[2:]))
        for x in (8, size[0] - 8):
            for y in (8, size[1] - 8):
                if not (left <= x < left + other_size[0] and top <= y < top + other_size[1]):
                    return x, y
        raise AssertionError(f"{window} of {size} is covered by {other} of {other_size}")

    def test_a_relative_pointer(self):
        """A vkb without feature-abs-pointer: the frontend doesn't ask for places, and its pointer has differences."""
        domu = self.domu("xen-dmabuf-mouse", 9)
        domu.start(size="320x240", vkb='["backend=Domain-0,backend-type=linux,unique-id=id0"]')
        self._listen(domu)
        window = self.window(domu)
        self.point(window, 100, 100)
        # where it comes is no movement
        for at in ((150, 130), (149, 130), (0, 0), (319, 239), (100, 100)):
            self.point(window, *at)
            self._wait_until_moved(domu, (at[0] - 100, at[1] - 100))
        self.hands(AWAY)
        self.click(domu, window, 300, 200)
        self._type(domu)
        self.hands("wheel -2", "wheel 1")
        poll(lambda: self.wheel(domu) == -1, SECONDS, "the wheel's clicks")
        self.assertTrue(near(self.moved(domu, REL_X, REL_Y), (0, 0)), "the pointer went and came: no movement")
        self.assertNotIn(EV_ABS, [kind for kind, _code, _value in self.events(domu, "Pointer")])

    def _wait_until_moved(self, domu, expected):
        what = f"{domu.name}: moved by {expected} from its pointer's first place on"
        poll(lambda: near(self.moved(domu, REL_X, REL_Y), expected), SECONDS, what)

    def test_a_window_that_goes_and_comes(self):
        """A guest that was clicked once opens its window anew to get the keyboard from another: it hears nothing."""
        mine = self.window(self.one)
        domu = self.domu("xen-dmabuf-comes", 10)
        domu.start(size="320x240", vkb=self._vkb(320, 240))
        self._listen(domu)
        theirs = self.window(domu)
        self.click(domu, theirs)
        self._type(domu)
        self.click(self.one, mine, *self._beside(mine, (640, 480), theirs, (320, 240)))
        held, silent = len(self.keys(self.one)), len(self.keys(domu))
        self.hands(AWAY, f"press {KEY_C}")
        poll(lambda: self.keys(self.one)[held:] == [(KEY_C, 1)], SECONDS, "the key that is held")
        self._open_anew(domu)
        poll(lambda: self.keys(self.one)[held:] == [(KEY_C, 1), (KEY_C, 0)], SECONDS, "the keyboard has gone")
        self.hands(f"release {KEY_C}", f"key {KEY_A}")
        self.click(domu, self.window(domu))
        self._type(domu, KEY_B)
        self.assertEqual(self.keys(domu)[silent:], [(KEY_B, 1), (KEY_B, 0)], "no key before the click")

    @staticmethod
    def _open_anew(domu):
        """Its window goes, and comes above all others."""
        domu.end_pattern()
        domu.unbind()
        domu.bind()
        domu.resume_pattern()
        domu.wait_for_pattern()
        domu.screens("hold")

    def test_a_hostile_frontend(self):
        """A DomU lies in all ways about its input while the pointer moves over its window; what is typed arrives in
        another DomU, its own display flips, no worker is replaced, and nothing is left."""
        memory, services = self.dom0.memory(), self.dom0.main_pids()
        domu = self.domu("xen-dmabuf-liar", 11)
        plain = '"backend=Domain-0,backend-type=linux,unique-id=id0"'
        devices = [self._vkb(400, 300)[1:-1]] * 4 + [plain]
        # wider than the other, and less high: neither window can hide the other one
        domu.start(size="700x400", vkb=f"[{', '.join(devices)}]")
        domu.run("dmesg -n 1")
        poll(lambda: self._served(domu) == len(devices), SECONDS, "all of its own frontends served")
        pids = (domu.worker(), self.one.worker(), *services)
        held = self._held(domu)
        theirs = self.window(domu)
        self._open_anew(self.one)
        mine = self.window(self.one)
        self.click(self.one, mine)
        seen = self._beside(theirs, (700, 400), mine, (640, 480))
        self._move_over(theirs, seen)

        start = time.monotonic()
        self.start_hostile(domu, HOSTILE)
        while not self.hostile_ended(domu, 2):
            self.assertLess(time.monotonic() - start, HOSTILE_SECONDS, f"{HOSTILE} did not end")
            self._type(self.one)
            (screen,) = domu.screens("flip 1", SECONDS)
            self.assertEqual(screen["error"], 0, "its own flip")
        self.assert_hostile_held(domu)
        self.assertEqual((domu.worker(), self.one.worker(), *self.dom0.main_pids()), pids, "processes")
        self._assert_log_bounded(domu)
        # its kernel's frontends have the devices again, and nothing else is held for it
        poll(lambda: self._served(domu) == len(devices), SECONDS, "all of its own frontends served again")
        poll(lambda: self._held(domu) == held, SECONDS, f"grants and event channels as before: {held}")
        self._move_no_more()
        self.point(theirs, *seen)
        self.hands(f"key {BTN_LEFT}", AWAY)  # its window comes above the other one
        self.assert_flips(domu)
        domu.destroy()
        self.assert_nothing_left(memory, domu)
        self.assertEqual(self.dom0.event_channels(domu.domid), 0, "event channels to a dead domain")

    def _served(self, domu):
        """How many of its input devices are connected."""
        devices = domu.state()["inputs"]
        return sum((device["backend_state"], device["frontend_state"]) == (4, 4) for device in devices)

    def _held(self, domu):
        """(grants, event channels) that Dom0 has of a DomU."""
        return self.dom0.grants(domu.domid), self.dom0.event_channels(domu.domid)

    def _move_over(self, window, at):
        """The pointer moves to and fro at a pixel of a window until _move_no_more()."""
        self.addCleanup(self._move_no_more)
        lines = "\\n".join(f"point {self._units(window, at[0] + step, at[1])}" for step in (0, 2))
        moves = f"while [ -e {MOVING} ]; do printf '{lines}\\n' > {FIFO}; sleep 0.1; done; rm {MOVING}.on"
        self.dom0.run(f"touch {MOVING} {MOVING}.on; ({moves}) < /dev/null > /dev/null 2>&1 &")

    def _move_no_more(self):
        self.dom0.run(f"rm -f {MOVING}")
        poll(lambda: self.dom0.try_run(f"test -e {MOVING}.on")[0], SECONDS, "the pointer stands still")

    def _assert_log_bounded(self, domu):
        """Of each of its devices the log has no more lines in a time than is documented."""
        log = self.dom0.journal(f"-u {SERVICE} -u {domu.unit}", "short-unix")
        lines = re.findall(rf"(?m)^(\d+\.\d+) .* domid={domu.domid} device=(\d+)\b", log)
        for device in {number for _at, number in lines}:
            times = [float(at) for at, number in lines if number == device]
            most = max(sum(at <= other < at + LOG_SECONDS for other in times) for at in times)
            self.assertLessEqual(most, LOG_LINES, f"lines in {LOG_SECONDS} s of device {device}")
