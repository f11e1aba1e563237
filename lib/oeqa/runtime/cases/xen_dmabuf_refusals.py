# SPDX-License-Identifier: MIT
"""Hostile frontends: each lie gets its error, only its own connection may end, nothing leaks."""

import re
import time

from oeqa.runtime.xen_dmabuf.case import HOSTILE, XenDmabufWitnessedCase
from oeqa.runtime.xen_dmabuf.dom0 import poll

PROGRAM = "on_xen.py"
HOSTILE_SECONDS = 600
FLIP_SECONDS = 60


class XenDmabufRefusalsTest(XenDmabufWitnessedCase):
    def test_hostile_frontends(self):
        """Lying rings, looping directories, overflowing sizes, event storms, by Dom0 as its own frontend."""
        if self.dom0.try_run(f"test -e {HOSTILE}/{PROGRAM}")[0]:
            self.skipTest(f"no {HOSTILE}/{PROGRAM}: install xen-dmabuf-backend-ptest (IMAGE_FEATURES ptest-pkgs)")
        before = self.witness.flips()
        status, output = self.dom0.try_run(f"python3 {HOSTILE}/{PROGRAM}", 600)
        self.assert_tap(status, output)
        self.assert_witness_flips(before)
        self.assert_unnoticed()

    def test_hostile_frontends_in_a_domu(self):
        """The same lies and more, by a DomU with its own display, while another DomU flips."""
        memory = self.dom0.memory()
        domu = self.domu("xen-dmabuf-hostile", stream=5)
        # four: the backend lets each connect five times in ten seconds only
        device = '"backend=Domain-0,be-alloc=0,connectors=id0:320x240"'
        domu.create(options=None, vdispl=f"[{', '.join([device] * 4)}]")
        domu.wait_for_shell()
        poll(lambda: domu.try_run("ls /dev/dri/card3")[0] == 0, 60, "the frontends' cards")

        self.start_hostile(domu, PROGRAM)
        self._flips_until(lambda: self.hostile_ended(domu, 5))
        self.assert_hostile_held(domu)
        self.assert_unnoticed()
        self._assert_reasons(domu, "req_prod=1000", "99999x99999", "the quota is 4")

        # nothing of it is held while the DomU lives, and its own driver has its display again
        poll(
            lambda: not domu.buffers() and self.dom0.grants(domu.domid) < 16,
            60,
            "no display buffer of the hostile frontend, no grants but its disk's and its rings'",
        )
        domu.unbind_others()  # their black windows would cover what is looked for
        domu.resume_pattern()
        domu.wait_for_pattern()
        self.assert_flips(domu)
        domu.destroy()
        self.assert_nothing_left(memory, domu)

    def _flips_until(self, ended):
        """The witness's frames keep coming until ``ended()``, also while the hostile window covers its own.

        It pauses between them: flipping without end it takes Dom0's processors from everybody else.
        """

        def answered():
            return self.witness.flips("flips_shown", "flips_not_shown")

        going_on = "/run/flipping"
        self.addCleanup(self.witness.try_run, f"rm -f {going_on}")
        self.witness.run(
            f"touch {going_on}; (while sleep 0.5 && [ -e {going_on} ]; "
            "do xen-dmabuf-pattern send 'flip 1'; done > /dev/null 2>&1) & true"
        )
        last, end = answered(), time.monotonic() + HOSTILE_SECONDS

        def more():
            now = answered()
            return now if now > last else 0

        while not ended():
            self.assertLess(time.monotonic(), end, f"on_xen.py did not end within {HOSTILE_SECONDS} s")
            last = poll(more, FLIP_SECONDS, f"more than {last} flips of {self.witness.name} answered")

    def _assert_reasons(self, domu, *texts):
        """The log names the domain and why it was refused."""
        log = self.dom0.journal("-u xen-dmabuf-backend")
        lines = [line for line in log.splitlines() if f"domain={domu.name} " in line]
        for text in texts:
            self.assertTrue([line for line in lines if text in line], f"no {text!r} in\n" + "\n".join(lines[-60:]))

    def test_backend_allocation_is_refused(self):
        """be-alloc=1 would export Dom0's memory to a DomU (XSA-363)."""
        domu = self.domu("xen-dmabuf-be-alloc")
        creation = domu.creation(vdispl='["backend=Domain-0,be-alloc=1,connectors=id0:640x480"]')
        # in the background: the toolstack waits 10 s for a backend that has said Closed
        self.dom0.run(f"{creation} < /dev/null > /dev/null 2>&1 &")
        line = r"device refused domain=xen-dmabuf-be-alloc .*be-alloc=1"
        poll(
            lambda: re.search(line, self.dom0.journal("-u xen-dmabuf-backend -n 100")),
            60,
            "a line of the log that names the domain and be-alloc=1",
        )
        self.assert_unnoticed()
