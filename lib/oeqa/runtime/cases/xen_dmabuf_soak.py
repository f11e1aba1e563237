# SPDX-License-Identifier: MIT
"""The crash cases in random order. XEN_DMABUF_SOAK_CYCLES and XEN_DMABUF_SOAK_SEED in the test data or the environment."""

import os
import random
import time

from oeqa.runtime.xen_dmabuf.case import XenDmabufCase
from oeqa.runtime.xen_dmabuf.crash import PHASES, STUCK, begin_end, wait_for_end

CYCLES = 20
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


class XenDmabufSoakTest(XenDmabufCase):
    def setting(self, name, default):
        """A number from the environment or the test data."""
        return int(os.environ.get(name) or (self.td or {}).get(name) or default)

    def first_group(self):
        """Some that are not counted: for the first ones after a boot Weston and Dom0's balloon grow once, by 30 MiB."""
        domus = [self.domu(f"xen-dmabuf-{number}", 16 + number) for number in range(GROUP)]
        for domu in domus:
            PHASES["while flipping"](domu)
        self.end([(domu, "destroy") for domu in domus])

    def begin(self, cycles, chance):
        """A DomU for each of these cycles in a random phase: pairs of it and its random way to end, and all in words."""
        chosen = []
        for cycle in cycles:
            phase = chance.choice(list(PHASES))
            chosen.append((cycle, phase, chance.choice(OTHER_WAYS.get(phase, RUNNING_WAYS))))
        # one that flips takes the processors from those that have to start
        chosen.sort(key=lambda choice: choice[1] == "while flipping")
        ends = []
        for cycle, phase, way in chosen:
            ends.append((self.domu(f"xen-dmabuf-{cycle % GROUP}", cycle % 200 + 20), way))
            PHASES[phase](ends[-1][0])
        return ends, ", ".join(f"{way} {phase}" for _, phase, way in chosen)

    def end(self, ends):
        """End them at the same time; returns the seconds of the slowest release after its domain's end."""
        # the toolstack waits 10 s for a stuck worker: for all in this time
        stuck = [domu for domu, way in ends if way == STUCK]
        others = [domu for domu, way in ends if way != STUCK]
        for domu, way in sorted(ends, key=lambda pair: pair[1] != STUCK):
            begin_end(domu, way)
        return max(self.released(domus) for domus in (others, stuck) if domus)

    def released(self, domus):
        """The seconds from the end of these to their release."""
        for domu in domus:
            wait_for_end(domu)
        ended = time.monotonic()
        self.wait_until_gone(*domus)
        return time.monotonic() - ended

    def test_crashes_in_random_order(self):
        """Several at a time, so that one ends beside others that are in any phase, even with a stuck worker.

        Memory is compared with what was there after first_group().
        """
        cycles = self.setting("XEN_DMABUF_SOAK_CYCLES", CYCLES)
        seed = self.setting("XEN_DMABUF_SOAK_SEED", random.randrange(1 << 32))
        chance = random.Random(seed)
        self.first_group()
        memory, frames = self.dom0.memory(), self.dom0.maptrack_frames()
        worst = 0.0
        for cycle in range(1, cycles + 1, GROUP):
            group = range(cycle, min(cycle + GROUP, cycles + 1))
            where = f"soak: cycles {group[0]} to {group[-1]} of {cycles}, seed {seed}"
            try:
                ends, words = self.begin(group, chance)
                where += f": {words}"
                worst = max(worst, self.end(ends))
                self.assert_nothing_left(memory, *[domu for domu, _ in ends])
            except AssertionError as error:
                raise AssertionError(f"{where}: {error}") from error
            print(f"{where}: released, worst {worst:.1f} s", flush=True)
        xen, dom0 = self.dom0.memory()
        frames = self.dom0.maptrack_frames() - frames
        print(f"soak: {cycles} cycles, seed {seed}: Xen {xen - memory[0]:+} MiB, Dom0 {dom0 - memory[1]:+} MiB, "
              f"{frames:+} maptrack frames, grants left 0, zombies 0, worst release {worst:.1f} s", flush=True)
        self.assertLess(frames, MAPTRACK_SLACK, f"soak: {cycles} cycles, seed {seed}: more maptrack frames")
