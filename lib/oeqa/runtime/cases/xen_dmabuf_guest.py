# SPDX-License-Identifier: MIT
"""What the guest's kernel series makes better; each case fails with the frontends of the plain kernel.

Except the console's: it is skipped there, as that kernel has no fbdev emulation. And what must hold with any
frontend, zero-copy and release, once more with these.
"""

import re

from oeqa.runtime.xen_dmabuf.case import SHOWN_SECONDS, XenDmabufCase
from oeqa.runtime.xen_dmabuf.dom0 import poll
from oeqa.runtime.xen_dmabuf.domu import CONSOLE

CONNECTOR = "/sys/class/drm/card*-Virtual-1"
PROBE = f"for connector in {CONNECTOR}; do echo detect > $connector/status; done"
# the frontend waits for three seconds for an answer
SILENCE_SECONDS = 30
GREY = 0x40
LIE_SECONDS = 120
REPORTS = re.compile(r"\bBUG\b|WARNING:|Oops|unable to handle|Internal error|UBSAN:|refcount_t:|hung task")


class XenDmabufGuestCase(XenDmabufCase):
    """``series`` are creation()'s arguments for a DomU with the patched frontends."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.series = cls.guest_series()


class XenDmabufGuestCoreTest(XenDmabufGuestCase):
    """What xen_dmabuf_zerocopy and xen_dmabuf_release ask of mainline's frontends, in short."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_domu("xen-dmabuf-shared", 7)
        cls.one.start(**cls.series)

    def test_frames_are_exact_and_in_order(self):
        self.assert_exact_and_in_order(self.one)

    def test_grants_equal_pages(self):
        self.assert_grants_equal_pages(self.one)

    def test_destroyed_while_flipping(self):
        memory = self.dom0.memory()
        domu = self.domu()
        domu.start(**self.series)
        (screen,) = domu.screens("run")
        poll(lambda: domu.screens()[0]["flips"] > screen["flips"] + 2, 60, f"{domu.name} flipping")
        domu.destroy()
        self.assert_nothing_left(memory, domu)


class XenDmabufGuestPatternCase(XenDmabufGuestCase):
    def guest(self, **arguments):
        """A DomU with the patched frontends, started with creation()'s arguments; its shell answers."""
        domu = self.domu("xen-dmabuf-guest", stream=6)
        # the kernel's words would come among the shell's on the console
        domu.create(line=f"{CONSOLE} loglevel=1", **{**arguments, **self.series})
        domu.wait_for_shell()
        return domu

    def assert_connected(self, domu):
        """The connector is there when it is asked again, with its mode."""
        domu.run(PROBE, SILENCE_SECONDS)
        self.assertEqual(domu.run(f"cat {CONNECTOR}/status").strip(), "connected")
        self.assertIn("640x480", domu.run(f"cat {CONNECTOR}/modes"))

    def edid(self, domu):
        """The connector's EDID, by a probe: perhaps nothing else has asked for its modes yet."""
        domu.run(PROBE)
        return bytes.fromhex(domu.run(f"od -An -v -tx1 {CONNECTOR}/edid").replace("\n", " "))

    def offered_to_write_back(self, always="", **arguments):
        """guest(), by a backend that leaves the caches to it; ``always``: a driver whose GPU is said to need that."""
        self.addCleanup(self.dom0.restore_backend)
        needed = f'[gpu.{always}]\ncaches = "always"\n' if always else ""
        self.dom0.configure_backend(f'[gpu.default]\ncaches = "guest"\n{needed}')
        return self.guest(**arguments)

    def version(self, domu):
        """The version of the protocol that the frontend has chosen; "" for none."""
        return self.published(domu, "version")

    def published(self, domu, name):
        """A node of the frontend's; "" for none."""
        node = f"/local/domain/{domu.domid}/device/vdispl/0/{name}"
        return self.dom0.run(f"xenstore-read {node} 2> /dev/null || true").strip()

    def assert_no_report(self, domu):
        """The guest's kernel has met nothing that it complains about."""
        log = domu.run("dmesg", 60)
        report = REPORTS.search(log)
        self.assertFalse(report, f"{domu.name}: its kernel's log has\n{log[report.start() :][:4000] if report else ''}")


class XenDmabufGuestTest(XenDmabufGuestPatternCase):
    def test_what_is_drawn_without_a_flip_is_shown_by_one(self):
        domu = self.guest()
        domu.wait_for_pattern()
        (screen,) = domu.screens()
        self.assert_shown(domu, screen)
        before = domu.flips("flips_requested")
        domu.send("poke 0 100 100 ff8040")
        (screen,) = domu.screens("dirty")
        self.assertEqual(screen["error"], 0, "DIRTYFB")

        def poked(expected):
            row = bytearray(expected[100])
            row[300:303] = bytes((0xFF, 0x80, 0x40))
            return [*expected[:100], bytes(row), *expected[101:]]

        self.assert_shown(domu, screen, poked)
        self.assertEqual(domu.flips("flips_requested") - before, 1, "flips for one report of damage")

    def test_a_screen_that_was_off_comes_back(self):
        """Planes are committed before the display is enabled: that is no flip."""
        domu = self.guest()
        domu.wait_for_pattern()
        before = domu.flips("flips_requested")
        for level, name in ((3, "off"), (0, "on")):
            (screen,) = domu.screens(f"dpms {level}")
            self.assertEqual(screen["error"], 0, f"DPMS {name}")
            self.assert_connected(domu)
        self.assertEqual(domu.flips("flips_requested"), before, "flips of a display that is off")
        self.assert_flips(domu)
        self.assertEqual(domu.flips("requests_refused"), 0)

    def test_a_connector_outlives_a_backend_that_does_not_answer(self):
        domu = self.guest()
        domu.wait_for_pattern()
        worker = domu.worker()
        self.dom0.run(f"kill -STOP {worker}")
        try:
            domu.screens("flip 1", SILENCE_SECONDS)
        finally:
            self.dom0.run(f"kill -CONT {worker}")
        self.assertIn("Failed to send page flip request", domu.run("dmesg"))
        self.assert_connected(domu)
        self.assert_flips(domu, 3)

    def test_a_mode_is_set_when_its_frame_was_shown(self):
        """And not when the backend has taken the request: the flip after it would be EBUSY until then."""
        domu = self.guest()
        domu.wait_for_pattern()
        weston = self.dom0.main_pid("weston")
        self.dom0.run(f"kill -STOP {weston}")  # the backend waits for it for two seconds
        try:
            for command in ("set", "flip 1"):
                (screen,) = domu.screens(command)
                self.assertEqual(screen["error"], 0, command)
        finally:
            self.dom0.run(f"kill -CONT {weston}")
        self.assert_flips(domu)

    def test_a_connector_of_3840x2160_has_its_mode(self):
        domu = self.guest(size="3840x2160", memory="320")
        self.assertIn("3840x2160", domu.run(f"cat {CONNECTOR}/modes"))
        domu.wait_for_pattern()
        screen = self.dom0.screenshot()
        if len(screen) >= 2160 and len(screen[0]) >= 3 * 3840:
            self.assert_flips(domu)
        (shown,) = domu.screens("flip 2", 120)
        self.assertEqual((shown["width"], shown["height"], shown["error"]), (3840, 2160, 0))
        poll(lambda: domu.flips("flips_shown", "flips_not_shown") >= 2, SHOWN_SECONDS, "flips answered")

    def test_an_absurd_size_is_told(self):
        """By the frontend, before the backend refuses it."""
        domu = self.guest(size="id0:9000x640", options=None)
        poll(lambda: "can't show 9000x640" in domu.run("dmesg"), SHOWN_SECONDS, "the frontend's warning")

    def test_the_edid_is_the_backend_s(self):
        domu = self.guest()
        edid = self.edid(domu)
        self.assertEqual((len(edid), sum(edid) % 256), (128, 0), "the EDID's size and sum")
        self.assertEqual(edid[8:10], bytes((0x60, 0xAE)), "the vendor XEN")
        self.assertIn(b"id0", edid)
        self.assertEqual(self.version(domu), "2")
        self.assert_connected(domu)

    def test_a_version_that_another_backend_had_is_not_kept(self):
        """Bound to a backend that doesn't offer version 2 the driver takes its choice back, and asks for no EDID."""
        domu = self.guest(options=None)
        self.assertEqual(self.version(domu), "2")
        offer = f"{self.dom0.backend_node('vdispl', domu.domid)}/versions"
        usual = self.dom0.run(f"xenstore-read {offer}").strip()
        for versions, version, size in (("1", "", 0), (usual, "2", 128)):
            domu.unbind()
            self.dom0.run(f"xenstore-write {offer} {versions}")
            domu.bind()
            poll(lambda: domu.try_run(f"test -e {CONNECTOR}/edid")[0] == 0, SHOWN_SECONDS, "the connector")
            self.assertEqual((self.version(domu), len(self.edid(domu))), (version, size), f"versions={versions}")
            self.assert_connected(domu)
        domu.resume_pattern()
        domu.wait_for_pattern()
        self.assert_flips(domu)

    def test_the_driver_is_unbound_under_a_program(self):
        """Which closes the device, and gives its buffers back, when that isn't there any more."""
        domu = self.guest()
        domu.wait_for_pattern()
        domu.screens("hold")  # it notices only when it flips
        domu.unbind()
        domu.bind()
        domu.end_pattern()
        domu.resume_pattern()
        domu.wait_for_pattern()
        self.assert_flips(domu)
        self.assert_no_report(domu)

    def test_caches_are_the_guest_s_if_it_is_offered_them(self):
        """Then nothing is written back in Dom0 before a flip, although the configuration says that somebody has to."""
        domu = self.guest()
        domu.wait_for_pattern()
        self.assertEqual(self.published(domu, "request-write-back"), "")
        before = domu.backend()
        domu.destroy()
        self.wait_until_gone(domu)

        domu = self.offered_to_write_back(always=before["driver"])
        domu.wait_for_pattern()
        self.assertEqual(self.published(domu, "request-write-back"), "1")
        self.assert_flips(domu)
        after = domu.backend()
        self.assertIn("written back by the guest", after["caches"])
        self.assertEqual(after["flips"], before["flips"], "who serves flips")
        self.assert_flips(domu)
        self.assertEqual(domu.backend()["frames_written_back"], after["frames_written_back"])

    def test_the_console_is_shown(self):
        domu = self.guest(options=None)
        if domu.try_run("zcat /proc/config.gz | grep -q ^CONFIG_DRM_FBDEV_EMULATION=y")[0]:
            self.skipTest("the DomU's kernel has no fbdev emulation: CONFIG_DRM_FBDEV_EMULATION")
        poll(lambda: "xendrm" in domu.run("cat /proc/fb"), SHOWN_SECONDS, "the frontend in /proc/fb")
        domu.run(f"tr '\\0' '\\{GREY:03o}' < /dev/zero | head -c {640 * 480 * 4} > /dev/fb0")
        grey = bytes((GREY,)) * 3 * 640

        def shown():
            return sum(grey in row for row in self.dom0.screenshot()) > 400

        poll(shown, SHOWN_SECONDS, "what was written to /dev/fb0 on Dom0's screen")
        domu.resume_pattern()
        domu.wait_for_pattern()
        self.assert_flips(domu)


class XenDmabufBadBackendTest(XenDmabufGuestPatternCase):
    """What a backend may get wrong: the guest's kernel stays up, and works with the next worker that doesn't."""

    def lie(self, how):
        """Workers lie from their next start."""
        self.addCleanup(self.dom0.lie_no_more)
        self.dom0.lie(how)

    def lies(self, domu):
        """How many lies its worker has told."""
        return len(re.findall(r"(?m)^liar: ", self.dom0.journal(f"-u {domu.unit}")))

    def assert_lied_to(self, domu, count):
        poll(lambda: self.lies(domu) >= count, LIE_SECONDS, f"{count} lies of {domu.name}'s worker")

    def assert_good_again(self, domu):
        """With a worker that doesn't lie, on the same connection; nothing is left in the guest's log."""
        old = domu.worker()
        self.dom0.lie_no_more()
        self.dom0.run(f"systemctl kill -s KILL {domu.unit}")
        domu.wait_for_worker(old)
        domu.resume_pattern()
        domu.wait_for_pattern()
        self.assert_flips(domu)
        self.assert_connected(domu)
        self.assert_no_report(domu)

    def test_every_request_is_refused(self):
        self.lie("refuses")
        domu = self.guest()
        self.assert_lied_to(domu, 20)
        self.assert_good_again(domu)

    def test_every_flip_is_refused(self):
        """The connector stays, and the program that flips isn't told of any error: it draws on."""
        self.lie("flips")
        domu = self.guest()
        domu.wait_for_pattern()
        program = domu.program()
        domu.screens("run")
        self.assert_lied_to(domu, 20)
        self.assert_connected(domu)
        self.assertEqual(domu.program(), program, "the pattern program")
        self.assert_good_again(domu)

    def test_every_answer_is_late(self):
        self.lie("sleeps")
        domu = self.guest()
        self.assert_lied_to(domu, 5)
        self.assert_good_again(domu)

    def test_no_edid_is_one(self):
        self.lie("garbles")
        domu = self.guest(options=None)
        for _ in range(7):
            poll(lambda: domu.try_run(f"test -e {CONNECTOR}/edid")[0] == 0, SHOWN_SECONDS, "the connector")
            domu.run(f"for i in 1 2 3 4 5 6 7 8; do {PROBE}; done", LIE_SECONDS)
            self.assert_connected(domu)
            domu.unbind()
            domu.bind()
        self.assert_lied_to(domu, 40)
        self.assert_good_again(domu)
