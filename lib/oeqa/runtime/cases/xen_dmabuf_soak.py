# SPDX-License-Identifier: MIT
"""The crash cases in random order, while the backend dies, too.

XEN_DMABUF_SOAK_CYCLES and XEN_DMABUF_SOAK_SEED come from the environment or the test data.
"""

import os
import random

from oeqa.runtime.xen_dmabuf.case import XenDmabufCase
from oeqa.runtime.xen_dmabuf.crash import PHASES, STUCK, begin_end, reach, wait_for_release
from oeqa.runtime.xen_dmabuf.dom0 import SERVICE, poll

CYCLES = 8
GROUP = 4
# Each DomU's two buffers need three, and Xen keeps a list of free entries for each of Dom0's CPUs.
MAPTRACK_SLACK = 5 * GROUP
RUNNING_WAYS = ("destroy", "panic", "shutdown")
# A domain that is not started, or that waits for a stopped worker, does nothing that ends it sooner or later.
OTHER_WAYS = {
    "before connect": ("destroy",),
    "during DBUF_CREATE": ("destroy", STUCK),
    "during DBUF_DESTROY": ("destroy", STUCK),
}

# What happens to the backend while DomUs end; {unit} is the worker of one that lives through all of it.
ACCIDENTS = {
    "worker killed": "kill -9 {worker}",
    "unit killed": "systemctl kill -s KILL {unit}",
    "worker restarted": "systemctl restart {unit}",
    "supervisor killed": f"kill -9 $(systemctl show -P MainPID {SERVICE})",
    "supervisor restarted": f"systemctl restart {SERVICE}",
    "both killed": f"kill -9 {{worker}} $(systemctl show -P MainPID {SERVICE})",
    "both restarted": f"systemctl restart {SERVICE} {{unit}}",
    "none": "true",
}


class XenDmabufSoakTest(XenDmabufCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.witness = cls.class_domu("xen-dmabuf-witness", 9)
        cls.witness.start(size="320x240")
        cls.witness.run("dmesg -n 1")  # the kernel's words would come among a program's on the console
        cls.witness.screens("run")

    def hurt(self, accident):
        """Let something happen to the backend; the witness flips."""
        words = {"worker": self.witness.worker(), "unit": self.witness.unit}
        self.dom0.run(ACCIDENTS[accident].format(**words), 60)

    def has_noticed(self, program, flips):
        """Whether the witness's program is another one; AssertionError if it doesn't flip."""
        self.dom0.wait_for_services()
        poll(
            lambda: self.witness.backend() and self.witness.buffers() and self.witness.flips() > flips,
            60,
            "the witness's frames shown",
        )
        return self.witness.program() != program

    def was_unplugged(self):
        """Whether the witness's kernel took its screen for unplugged, which the pattern program doesn't ask; it is
        plugged in again. An emulated processor that eight domains share may need more than the frontend's 3 s."""
        if self.witness.plugged() == ["connected"]:
            return False
        self.witness.end_pattern()
        self.witness.resume_pattern()
        self.witness.wait_for_pattern()
        self.witness.screens("run")
        self.assertEqual(self.witness.plugged(), ["connected"], "the witness's screen, for its next program")
        return True

    def setting(self, name, default):
        """A number from the environment or the test data."""
        return int(os.environ.get(name) or (self.td or {}).get(name) or default)

    def first_group(self):
        """Some that are not counted: for the first ones after a boot Weston and Dom0's balloon grow once, by 30 MiB."""
        self.end(
            [(self.domu(f"xen-dmabuf-{number}", 16 + number), "while flipping", "destroy") for number in range(GROUP)]
        )

    def choose(self, cycles, chance):
        """(DomU, phase, way to end) for each of these cycles."""
        chosen = []
        for cycle in cycles:
            phase = chance.choice(PHASES)
            way = chance.choice(OTHER_WAYS.get(phase, RUNNING_WAYS))
            chosen.append((self.domu(f"xen-dmabuf-{cycle % GROUP}", cycle % 200 + 20), phase, way))
        return chosen

    def end(self, chosen, accident="none"):
        """Bring DomUs into their phases and end them; returns the seconds from an end to its release, the longest."""
        # the toolstack waits 10 s for a stuck worker: the others come into their phases meanwhile
        stuck = [choice for choice in chosen if choice[2] == STUCK]
        others = [choice for choice in chosen if choice[2] != STUCK]
        for choices in (stuck, others):
            reach(*[(domu, phase) for domu, phase, _ in choices])
            for domu, _, way in choices:
                begin_end(domu, way)
        self.hurt(accident)
        return wait_for_release(*[domu for domu, _, _ in chosen])

    def test_crashes_in_random_order(self):
        """Several at a time, so that one ends beside others that are in any phase, even with a stuck worker,
        while workers and supervisors die; one DomU flips through all of it.

        Memory is compared with what was there after first_group().
        """
        cycles = self.setting("XEN_DMABUF_SOAK_CYCLES", CYCLES)
        seed = self.setting("XEN_DMABUF_SOAK_SEED", random.randrange(1 << 32))
        chance = random.Random(seed)
        self.first_group()
        noticed = unplugged = 0
        memory, frames = self.dom0.memory(), self.dom0.maptrack_frames()
        worst = 0.0
        for cycle in range(1, cycles + 1, GROUP):
            group = range(cycle, min(cycle + GROUP, cycles + 1))
            chosen = self.choose(group, chance)
            accident = chance.choice(list(ACCIDENTS))
            program, flips = self.witness.program(), self.witness.flips()
            words = ", ".join([accident, *(f"{way} {phase}" for _, phase, way in chosen)])
            where = f"soak: cycles {group[0]} to {group[-1]} of {cycles}, seed {seed}: {words}"
            try:
                worst = max(worst, self.end(chosen, accident))
                noticed += self.has_noticed(program, flips)
                unplugged += self.was_unplugged()
                self.assert_nothing_left(memory, *[domu for domu, _, _ in chosen])
            except AssertionError as error:
                raise AssertionError(f"{where}: {error}\n{self.dom0.backend_log()}") from error
            seen = f"programs that noticed {noticed}, screens unplugged {unplugged}"
            print(f"{where}: released, worst {worst:.1f} s, {seen}", flush=True)
        xen, dom0 = self.dom0.memory()
        frames = self.dom0.maptrack_frames() - frames
        print(
            f"soak: {cycles} cycles, seed {seed}: Xen {xen - memory[0]:+} MiB, Dom0 {dom0 - memory[1]:+} MiB, "
            f"{frames:+} maptrack frames, grants left 0, zombies 0, programs that noticed {noticed}, "
            f"screens unplugged {unplugged}, worst release {worst:.1f} s",
            flush=True,
        )
        self.assertEqual(noticed, 0, f"soak: {cycles} cycles, seed {seed}: programs that noticed")
        self.assertLess(frames, MAPTRACK_SLACK, f"soak: {cycles} cycles, seed {seed}: more maptrack frames")
