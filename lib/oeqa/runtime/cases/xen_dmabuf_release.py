# SPDX-License-Identifier: MIT
"""Crash-release: a DomU ends in every phase and in every way; nothing stays, nobody else notices."""

from oeqa.runtime.xen_dmabuf import picture
from oeqa.runtime.xen_dmabuf.case import SHOWN_SECONDS, XenDmabufWitnessedCase
from oeqa.runtime.xen_dmabuf.crash import SILENT, STUCK, begin_end, reach, wait_for_release
from oeqa.runtime.xen_dmabuf.dom0 import SERVICE, poll

IDLE_STREAM = 200
IDLE_SIZE = (640, 480)  # of the DomU's screen, and of the window of a screen that was never seen


class XenDmabufReleaseTest(XenDmabufWitnessedCase):
    def crash(self, *phases, way="destroy"):
        """End a DomU in each of these phases; nothing of them is left, the witness and the services did not notice."""
        domus, worst = self.end(*[(phase, way) for phase in phases])
        self.saw(
            f"domain {', '.join(str(domu.domid) for domu in domus)} ended {', '.join(phases)}, by {way}: released in "
            f"{worst:.1f} s, no zombie, 0 grants and no window left; another DomU flips, its worker, the backend and "
            "Weston live"
        )

    def end(self, *choices):
        """The same with a way for each phase; the DomUs, which are gone."""
        memory = self.dom0.memory()
        before = self.witness.flips()
        domus = [self.domu(f"xen-dmabuf-{number}", number) for number in range(1, len(choices) + 1)]
        reach(*[(domu, phase) for domu, (phase, _) in zip(domus, choices)])
        for domu, (_, way) in zip(domus, choices):
            begin_end(domu, way)
        worst = wait_for_release(*domus)
        self.assert_nothing_left(memory, *domus)
        self.assert_witness_flips(before)
        self.assert_unnoticed()
        return domus, worst

    def test_destroyed_before_connect(self):
        self.crash("before connect")

    def test_destroyed_while_their_workers_are_stuck(self):
        """All stay zombies for as long as their workers are stuck: two go on when the toolstack has waited its 10 s,
        the third one never does, and is ended."""
        domus, worst = self.end(
            ("during DBUF_CREATE", STUCK), ("during DBUF_DESTROY", STUCK), ("shown and idle", SILENT)
        )
        log = self.dom0.journal(f"-u {SERVICE}")
        self.assertRegex(log, rf"worker ended: it does not answer .*domid={domus[2].domid} .*releasing for")
        self.saw(f"released {worst:.1f} s after xl's end, a worker that never answered among them")

    def test_destroyed_while_flipping(self):
        self.crash("while flipping")

    def test_destroyed_while_shown_and_idle(self):
        self.crash("shown and idle")

    def test_panic_while_flipping(self):
        self.crash("while flipping", way="panic")

    def test_shutdown_while_shown(self):
        self.crash("shown and idle", way="shutdown")

    def test_unbound_frontend_gives_back_and_comes_back(self):
        """The DomU lives on: its driver is unbound, bound again, and unbound while it flips.

        The last time for good: the driver of Linux 6.12 is freed under a program that has its device
        open, whose end is an oops of the DomU then (dbuf_free() in drm_gem_release()), or not.
        """
        memory = self.dom0.memory()
        domu = self.domu()
        domu.start()
        domu.end_pattern()
        domu.unbind()
        domu.bind()
        domu.resume_pattern()
        self.assert_back(domu)
        domu.screens("run")
        domu.unbind()
        poll(lambda: not domu.buffers(), 60, "the release of all display buffers")
        rest = self.dom0.grants(domu.domid)
        self.assertLess(rest, 16, "grants of a DomU without display buffers: its disk's and its rings'")
        domu.destroy()
        self.assert_nothing_left(memory, domu)

    def idle_screen(self):
        """What the backend says of the one screen that is to be shown without its guest."""
        (screen,) = self.dom0.status()["idle"]
        return screen["state"]

    def assert_idle_picture(self, idle):
        """The idle picture is on Dom0's screen, equal in every pixel."""
        poll(lambda: picture.find(self.dom0.screenshot(), idle), SHOWN_SECONDS, "the idle picture on Dom0's screen")
        poll(lambda: self.idle_screen() == "shown", SHOWN_SECONDS, "status says so")

    def assert_no_idle_picture(self):
        """Nor any part of it that has a label."""
        poll(lambda: self.idle_screen() == "guest", SHOWN_SECONDS, "the end of the idle picture")
        poll(
            lambda: not picture.has_stream(self.dom0.screenshot(), IDLE_STREAM, IDLE_SIZE[0]),
            SHOWN_SECONDS,
            "no second window on Dom0's screen",
        )

    def test_next_domu_shows_its_picture(self):
        """Before, between and after them the idle picture is there, and never beside them."""
        idle = picture.frame(*IDLE_SIZE, IDLE_STREAM, 1)
        self.addCleanup(self.dom0.hide_idle)
        self.dom0.show_idle("xen-dmabuf-1.id0", idle)
        self.assert_idle_picture(idle)
        memory = self.dom0.memory()
        for number in (1, 2):
            domu = self.domu(stream=number)
            domu.start()
            self.assert_flips(domu)
            self.assert_no_idle_picture()
            domu.destroy()
            self.assert_nothing_left(memory, domu)
            self.assert_idle_picture(idle)
        self.saw("a DomU and the next one each had their picture; before, between and after them the idle picture")
