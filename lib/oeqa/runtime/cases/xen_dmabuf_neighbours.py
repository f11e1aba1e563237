# SPDX-License-Identifier: MIT
"""Two DomUs: what one worker does is not the other one's trouble, nor is what happens to Dom0's journal and clock."""

import shlex

from oeqa.runtime.xen_dmabuf.case import XenDmabufUnnoticedCase, XenDmabufWitnessedCase
from oeqa.runtime.xen_dmabuf.dom0 import SERVICE, poll

DAY = 24 * 60 * 60
LIMIT, MORE = "160M", "200M"
KILLED = 128 + 9
# systemd hears of each worker's loop three times in WatchdogSec=60
WATCHDOG_SECONDS = 30
JOURNALD = "systemd-journald"
# until it takes nothing of anybody: what one socket may have on its way is less than what the queue holds
FILL = """
import socket
full = False
kept = []
while not full:
    journald = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    journald.connect('/run/systemd/journal/socket')
    kept.append(journald)
    full = True
    try:
        while True:
            journald.send(b'MESSAGE=xen-dmabuf-test fills the queue\\n')
            full = False
    except BlockingIOError:
        pass
"""


class XenDmabufNeighboursTest(XenDmabufUnnoticedCase, XenDmabufWitnessedCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.witness.run("dmesg -n 1")

    def both_flip(self):
        """From now on."""
        for domu in (self.one, self.witness):
            domu.screens("run")

    def answered(self):
        """How many flips of each; one that the backend doesn't know just now has none."""
        return [
            domu.flips("flips_shown", "flips_not_shown") if domu.backend() else 0 for domu in (self.one, self.witness)
        ]

    def both_go_on(self):
        before = self.answered()
        poll(lambda: all(now > then + 3 for now, then in zip(self.answered(), before)), 60, f"more flips than {before}")

    def uids(self):
        """Of the worker of each."""
        return {self.dom0.run(f"stat -c %u /proc/{domu.worker()}") for domu in (self.one, self.witness)}

    def test_a_worker_beyond_its_memory_is_ended(self):
        """By the kernel, with all that is in its control group; the neighbour is in another one, and another user.

        The unit's limit is lowered, as Dom0 may not have so much memory."""
        self.assertEqual(len(self.uids()), 2, "users")
        group = self.dom0.run(f"systemctl show -P ControlGroup {self.one.unit}")
        names = ("memory.max", "memory.swap.max", "cgroup.procs")
        limit, swap, processes = (shlex.quote(f"/sys/fs/cgroup{group}/{name}") for name in names)
        given = self.dom0.run(f"cat {limit}")
        self.assertEqual(given, self.dom0.run(f"systemctl show -P MemoryMax {self.one.unit}"), "the unit's limit")
        self.addCleanup(self.dom0.try_run, f"echo {given} > {limit}")
        self.both_flip()
        program, flips = self.witness.program(), self.witness.flips()
        eats = f"echo $$ > {processes} && exec dd if=/dev/zero of=/dev/null bs={MORE} count=1"
        self.goes_on(
            f"[ ! -e {swap} ] || echo 0 > {swap}; echo {LIMIT} > {limit} && "
            f"sh -c {shlex.quote(eats)}; [ $? = {KILLED} ] || exit 1"
        )
        self.assertIn("oom-kill", self.dom0.journal(f"-u {self.one.unit}"))
        self.witness.screens("hold")
        self.assert_witness_flips(flips)
        self.assertEqual(self.witness.program(), program, "the neighbour's program")
        self.assert_unnoticed()

    def test_the_clock_jumps(self):
        """A day forward, and back; Dom0's wall clock is nobody's deadline."""
        self.both_flip()
        worker = self.one.worker()
        before = self.noticed(), self.witness.program()
        self.jumped = 0
        self.addCleanup(lambda: self.jump(-self.jumped))
        self.jump(DAY)
        self.both_go_on()
        self.jump(-DAY)
        heard = self.watchdogs()
        self.both_go_on()
        poll(
            lambda: all(now > then for now, then in zip(self.watchdogs(), heard)),
            WATCHDOG_SECONDS,
            "both workers' word to systemd's watchdog",
        )
        self.assert_flips(self.one)
        self.assertEqual((self.noticed(), self.witness.program()), before, "programs, what was said in XenStore")
        self.assertEqual(self.one.worker(), worker, "the worker")
        self.assert_unnoticed()

    def jump(self, seconds):
        """Set Dom0's clock so far from what it says."""
        self.dom0.run(f"date -s @$(($(date +%s) + {seconds}))")
        self.jumped += seconds

    def watchdogs(self):
        """When systemd heard of each last, in microseconds of a clock that doesn't jump."""
        units = f"{self.one.unit} {self.witness.unit}"
        return list(map(int, self.dom0.run(f"systemctl show -P WatchdogTimestampMonotonic {units}").split()))

    def test_journald_stands_still_and_is_stopped(self):
        """Who has a line for it doesn't wait: worker, supervisor. Afterwards lines come again."""
        program = self.witness.program()
        sockets = self.dom0.run(f"systemctl show -P TriggeredBy {JOURNALD}")
        pid = self.dom0.main_pid(JOURNALD)
        self.addCleanup(self.dom0.run, f"kill -CONT {pid} || true; systemctl start {sockets} {JOURNALD}")
        self.both_flip()
        self.dom0.run(f"kill -STOP {pid}; python3 -Ic {shlex.quote(FILL)}")
        self.goes_on("kill -9 $worker")  # successor and supervisor say it
        self.both_flip()
        self.both_go_on()

        self.dom0.run(f"kill -CONT {pid}; systemctl stop {sockets} {JOURNALD}")
        self.spared(f"systemctl reload {SERVICE}")  # the supervisor says it

        self.dom0.run(f"systemctl start {sockets} {JOURNALD}")
        before = self.lines()
        self.spared(f"systemctl reload {SERVICE}")
        poll(lambda: self.lines() > before, 30, "the supervisor's lines in the journal")
        self.assertEqual(self.witness.program(), program, "the neighbour's program")
        self.assert_unnoticed()

    def lines(self):
        """How often the supervisor has said that it was told to read its configuration."""
        return self.dom0.journal(f"-u {SERVICE}").count("configuration read again")
