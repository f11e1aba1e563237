# SPDX-License-Identifier: MIT
"""The crash cases in random order. XEN_DMABUF_SOAK_CYCLES and XEN_DMABUF_SOAK_SEED in the test data or the environment."""

import os
import random
import time

from oeqa.runtime.xen_dmabuf.case import XenDmabufCase
from oeqa.runtime.xen_dmabuf.crash import PHASES, WAYS

CYCLES = 20
# Each DomU's two buffers need three; each of Dom0's CPUs may find its own list of free entries empty once.
MAPTRACK_SLACK = 10
RUNNING_WAYS = ("destroy", "panic", "shutdown")
# A domain that is not started, or that waits for a stopped worker, does nothing that ends it sooner or later.
OTHER_WAYS = {
    "before connect": ("destroy",),
    "during DBUF_CREATE": ("destroy", "destroy, its worker stuck"),
    "during DBUF_DESTROY": ("destroy", "destroy, its worker stuck"),
}


class XenDmabufSoakTest(XenDmabufCase):
    def setting(self, name, default):
        """A number from the environment or the test data."""
        return int(os.environ.get(name) or (self.td or {}).get(name) or default)

    def first_pair(self):
        """Two that are not counted: for the first ones after a boot Weston and Dom0's balloon grow once, by 30 MiB."""
        domus = [self.domu(f"xen-dmabuf-{number}", 18 + number) for number in (0, 1)]
        for domu in domus:
            PHASES["while flipping"](domu)
        for domu in domus:
            WAYS["destroy"](domu)
        self.wait_until_gone(*domus)

    def begin(self, cycle, chance):
        """One DomU, into a random phase; returns it, its random way to end, and both in words."""
        phase = chance.choice(list(PHASES))
        way = chance.choice(OTHER_WAYS.get(phase, RUNNING_WAYS))
        domu = self.domu(f"xen-dmabuf-{cycle % 2}", cycle % 200 + 20)
        PHASES[phase](domu)
        return domu, WAYS[way], f"{way} {phase}"

    def test_crashes_in_random_order(self):
        """Two at a time, so that one ends beside another that is in any phase, even with a stuck worker."""
        cycles = self.setting("XEN_DMABUF_SOAK_CYCLES", CYCLES)
        seed = self.setting("XEN_DMABUF_SOAK_SEED", random.randrange(1 << 32))
        chance = random.Random(seed)
        self.first_pair()
        memory, frames = self.dom0.memory(), self.dom0.maptrack_frames()
        worst = 0.0
        for cycle in range(1, cycles + 1, 2):
            pair = range(cycle, min(cycle + 2, cycles + 1))
            where = f"soak: cycles {pair[0]} to {pair[-1]} of {cycles}, seed {seed}"
            try:
                ends = [self.begin(number, chance) for number in pair]
                where += ": " + ", ".join(words for _, _, words in ends)
                for domu, way, _ in ends:
                    way(domu)
                ended = time.monotonic()
                domus = [domu for domu, _, _ in ends]
                self.wait_until_gone(*domus)
                worst = max(worst, time.monotonic() - ended)
                self.assert_nothing_left(memory, *domus)
            except AssertionError as error:
                raise AssertionError(f"{where}: {error}") from error
            print(f"{where}: released, worst {worst:.1f} s", flush=True)
        xen, dom0 = self.dom0.memory()
        frames = self.dom0.maptrack_frames() - frames
        self.assertLess(frames, MAPTRACK_SLACK, f"soak: {cycles} cycles, seed {seed}: pages more that Xen notes maps in")
        print(f"soak: {cycles} cycles, seed {seed}: Xen {xen - memory[0]:+} MiB, Dom0 {dom0 - memory[1]:+} MiB, "
              f"{frames:+} maptrack frames, grants left 0, zombies 0, worst release {worst:.1f} s", flush=True)
