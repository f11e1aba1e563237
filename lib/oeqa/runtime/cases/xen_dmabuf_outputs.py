# SPDX-License-Identifier: MIT
"""A kiosk with two outputs: each of a guest's screens fills the one that Weston's configuration names for it."""

import functools
import unittest

from oeqa.runtime.xen_dmabuf import picture
from oeqa.runtime.xen_dmabuf.case import SHOWN_SECONDS, XenDmabufCase
from oeqa.runtime.xen_dmabuf.dom0 import poll

GUEST = "xen-dmabuf-kiosk"
# almost any screen has it, and it costs an emulated Dom0 least
MODE = "640x480"
# Weston's kiosk shell uses what it has freed when a program with windows on two outputs ends: 14's puts a window
# behind its ground then, with 16's Weston ended now and then, and systemd starts it again.
ENDS_ITSELF = 16


class XenDmabufOutputsTest(XenDmabufCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if len(cls.dom0.outputs()) < 2 and cls.dom0.switch_on_screens():
            cls.addClassCleanup(cls.dom0.switch_off_screens)
        first, second = cls._two_outputs()
        cls.addClassCleanup(cls.dom0.unmake_kiosk)
        # the other way round than a compositor would place them
        cls.named = {first: "id1", second: "id0"}
        cls.dom0.make_kiosk({output: f"xen-dmabuf.{GUEST}.{name}" for output, name in cls.named.items()}, MODE)
        cls.places = cls.dom0.outputs()

    @classmethod
    def _two_outputs(cls):
        """Names of the first two from the left."""
        seen = cls.dom0.outputs()
        if len(seen) < 2:
            raise unittest.SkipTest(
                f"Dom0's Weston has one output only, {', '.join(seen)}: this takes a second screen, in QEMU "
                "max_outputs=2 of its virtio-gpu"
            )
        return sorted(seen, key=lambda name: seen[name][:2])[:2]

    def parts(self):
        """What is on each output."""
        screen = self.dom0.screenshot()
        return {output: picture.part(screen, *self.places[output]) for output in self.named}

    def assert_fills(self, screens, seconds=SHOWN_SECONDS):
        """Each output shows the frame of its screen, in every pixel."""
        expected = {
            output: picture.frame(state["width"], state["height"], state["stream"], state["frame"])
            for output, state in ((output, screens[name]) for output, name in self.named.items())
        }

        def filled():
            seen = self.parts()
            return {output for output in expected if seen[output] == expected[output]} == expected.keys()

        poll(filled, seconds, f"frames that fill {self.named}, each output with its screen's")

    @staticmethod
    def is_another(domu, killed):
        """Whether the DomU has a worker that isn't process ``killed``, and that is connected to the compositor."""
        known = domu.known()
        if known is None or known["pid"] in (0, killed):
            return False
        return (domu.backend() or {}).get("compositor")

    def test_each_screen_fills_the_output_that_is_named_for_it(self):
        domu = self.domu(GUEST, 10)
        sizes = {name: "{2}x{3}".format(*self.places[output]) for output, name in self.named.items()}
        domu.start(size=";".join(f"{name}:{sizes[name]}" for name in sorted(sizes)))
        domu.screens("hold")
        for _ in range(2):
            states = domu.screens("flip 3", 120)
            self.assertEqual([state["error"] for state in states], [0, 0])
            self.assert_fills(dict(zip(sorted(sizes), states)))
        seen = {c["output"]: c["name"] for device in domu.state()["devices"] for c in device["connectors"]}
        self.assertEqual(seen, self.named, "outputs that the backend knows its windows on")
        weston, version = self.dom0.main_pid("weston"), self.dom0.weston_version()
        back = SHOWN_SECONDS if version < ENDS_ITSELF else 3 * SHOWN_SECONDS
        for _ in range(2):
            killed = domu.worker()
            self.dom0.run(f"kill -9 {killed}")
            poll(functools.partial(self.is_another, domu, killed), 60, "another worker with a compositor")
            self.assert_fills(dict(zip(sorted(sizes), states)), back)
        # a window stays as long as its screen is connected: black, not what is behind
        domu.stop_pattern()
        poll(lambda: not any(any(row) for part in self.parts().values() for row in part), back, "black outputs")
        domu.destroy()
        poll(lambda: all(any(map(any, part)) for part in self.parts().values()), back, "the kiosk's ground")
        if self.dom0.main_pid("weston") != weston:
            self.assertGreaterEqual(version, ENDS_ITSELF, "Weston has ended itself")
            self.saw(f"Weston {version} has ended itself with a worker's windows, and showed all again")
