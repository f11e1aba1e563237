# SPDX-License-Identifier: MIT
"""The backend dies, is stopped, restarted, updated: the DomU draws on, and its picture is back."""

import re
import shlex

from oeqa.runtime.xen_dmabuf.case import IN_TIME, XenDmabufUnnoticedCase
from oeqa.runtime.xen_dmabuf.crash import hold_create, hold_destroy
from oeqa.runtime.xen_dmabuf.dom0 import SERVICE, WORKERS, poll
from oeqa.runtime.xen_dmabuf.domu import PROGRAM, send_signal

# Long enough to look at what is left of a dead worker before its successor comes.
_GAP = "RestartSec=20"
SILENT_SECONDS = 150
CHURN, KILLS = "/run/churn", 5
# of a worker that goes on, the last of these is said when it can answer every request
WHOLE = ("goes on from", "compositor connected", "GPU chosen")
# Every file of the package becomes another one under its name, one after the other, as any package manager does it.
_UNPACK = f"""
modules=$(cd / && python3 -Ic 'import os, xen_dmabuf; print(os.path.dirname(xen_dmabuf.__file__))') || exit 1
for file in $(find $modules /usr/bin/{SERVICE} $(systemctl show -P FragmentPath {SERVICE} {{unit}}) -type f); do
    cp -p $file $file.new && mv $file.new $file || exit 1
done
"""
# Each process once, also one that is not up yet.
_KILL_SIX_TIMES = """
last=
for time in 1 2 3 4 5 6; do
    until pid=$(systemctl show -P MainPID weston) && [ $pid != 0 ] && [ "$pid" != "$last" ]; do :; done
    kill -9 $pid
    last=$pid
done
"""


class XenDmabufBackendTest(XenDmabufUnnoticedCase):
    def test_while_shown_and_idle_worker_killed(self):
        self.goes_on("kill -9 $worker", "hold")

    def test_while_flipping_worker_killed(self):
        self.goes_on("kill -9 $worker")
        self.quick_again(self.one.unit)

    def test_whole_unit_killed_while_flipping(self):
        self.goes_on(f"systemctl kill -s KILL {self.one.unit}")

    def test_worker_restarted_while_flipping(self):
        self.goes_on(f"systemctl restart {self.one.unit}")

    def test_both_restarted_while_flipping(self):
        """As an upgrade of the package does."""
        self.goes_on(f"systemctl daemon-reload; systemctl restart {SERVICE} {self.one.unit}")

    def test_package_unpacked_while_flipping(self):
        """An upgrade that takes its time: the service is stopped, the files are exchanged, all is started again."""
        self.goes_on(
            f"systemctl stop {SERVICE}; {_UNPACK.format(unit=self.one.unit)}systemctl daemon-reload; "
            f"systemctl start {SERVICE}; systemctl restart {self.one.unit}",
            timeout=120,
        )

    def test_grants_stay_mapped_without_a_worker(self):
        """Between two workers Xen sees no unmap: systemd holds the files."""
        self.one.screens("hold")
        grants, unit = self.dom0.grants(self.one.domid), self.one.unit
        self.addCleanup(self.dom0.restore_unit, WORKERS)
        self.dom0.change_unit(WORKERS, _GAP)
        self.dom0.run(f"systemctl kill -s KILL {unit}")
        poll(lambda: self.dom0.run(f"systemctl show -P SubState {unit}") == "auto-restart", 20, "no worker")
        self.assertEqual(self.dom0.grants(self.one.domid), grants)
        self.dom0.restore_unit(WORKERS)
        self.dom0.run(f"systemctl start {unit}")
        self.unnoticed("true")

    def test_worker_that_keeps_silent_is_replaced(self):
        """systemd's watchdog ends it; a screen that was silent for so long was unplugged meanwhile."""
        self.one.screens("hold")
        old = self.one.worker()
        self.dom0.run(f"kill -STOP {old}")
        self.one.wait_for_worker(old, SILENT_SECONDS)
        self.assert_back(self.one)

    def test_everything_in_the_unit_ends_with_it(self):
        """Also a process that a worker that was taken over has left, which doesn't end when it is asked to."""
        group = self.dom0.run(f"systemctl show -P ControlGroup {self.one.unit}")
        stray = self.dom0.run("(trap '' TERM; exec sleep 600) < /dev/null > /dev/null 2>&1 & echo $!")
        self.addCleanup(self.dom0.try_run, f"kill -9 {stray}")
        self.dom0.run(f"echo {stray} > {shlex.quote(f'/sys/fs/cgroup{group}/cgroup.procs')}")
        self.goes_on("kill -9 $worker", "hold")
        self.assertNotEqual(self.dom0.try_run(f"test -e /proc/{stray}")[0], 0, "what the worker left lives on")

    def test_a_state_that_is_none_leads_to_a_new_beginning(self):
        """The frontend connects anew, as to a backend that was not there before."""
        self.one.screens("hold")
        old = self.one.worker()
        self.dom0.run(
            f"for f in /proc/{old}/fd/*; do case $(readlink $f) in *xen-dmabuf-state*) "
            "printf spoiled! | dd of=$f conv=notrunc status=none; esac; done; "
            f"kill -9 {old}"
        )
        self.one.wait_for_worker(old)
        self.assert_back(self.one)
        self.assertIn("begins anew", self.dom0.journal(f"-u {self.one.unit}"))

    def test_a_state_that_ends_every_worker_is_given_up(self):
        """After three that died of it the next one begins with nothing."""
        self.one.screens("hold")
        old = self.one.worker()
        self.addCleanup(self.dom0.lie_no_more)
        self.dom0.lie("dies")
        self.dom0.run(f"kill -9 {old}")
        self.assert_back(self.one)
        log = self.dom0.journal(f"-u {self.one.unit}")
        self.assertEqual(log.count("liar: dies"), 3, log)
        self.assertIn("was begun with 3 times without success", log)

    def test_worker_stopped_by_hand_begins_anew(self):
        """`systemctl stop` drops what is kept; the supervisor starts another one."""
        self.one.screens("hold")
        self.renew(self.one)

    def test_a_unit_for_a_domain_that_is_none(self):
        """Started by hand: it has nothing, says so, and the next supervisor ends it."""
        self.dom0.run("systemctl start xen-dmabuf-worker@32000.socket xen-dmabuf-worker@32000.service", 90)
        self.unnoticed(f"systemctl restart {SERVICE}")
        poll(
            lambda: "inactive" in self.dom0.try_run("systemctl is-active xen-dmabuf-worker@32000.service")[1],
            60,
            "the end of a unit without a domain",
        )

    def test_another_supervisor_is_refused_with_a_reason(self):
        status, output = self.dom0.try_run("xen-dmabuf-backend run")
        self.assertEqual(status, 2, output)
        self.assertIn(str(self.dom0.main_pid(SERVICE)), output)
        self.unnoticed("true")

    def test_while_the_compositor_holds_its_buffer_worker_killed(self):
        """Weston is stopped, so it keeps the buffer beyond the worker's life."""
        weston = self.dom0.main_pid("weston")
        self.addCleanup(self.dom0.try_run, f"kill -CONT {weston}")
        self.goes_on(f"kill -STOP {weston}; kill -9 $worker; kill -CONT {weston}")

    def test_pages_that_the_compositor_still_holds_stay_accounted(self):
        """A stopped Weston keeps the buffers: their pages stay granted and counted until it lets go."""
        self.one.screens("hold")
        pages = self.one.pages()
        weston = self.dom0.main_pid("weston")
        self.dom0.run(f"kill -STOP {weston}")
        self.addCleanup(self.dom0.try_run, f"kill -CONT {weston}")
        self.one.stop_pattern()
        poll(lambda: self.releasing() == pages, 60, f"{pages} pages in release")
        self.assertGreaterEqual(self.dom0.grants(self.one.domid), pages)
        self.dom0.run(f"kill -CONT {weston}")
        poll(lambda: self.releasing() == 0, 60, "the release of all pages")
        self.assertLess(self.dom0.grants(self.one.domid), 16, "what is left: rings and the disk")
        self.one.resume_pattern()
        self.one.wait_for_pattern()
        self.assert_flips(self.one)

    def releasing(self):
        """Pages that the backend has released and the compositor still holds."""
        return self.one.state()["releasing_pages"]

    def killed_in_request(self, victim=None):
        """The worker has a request that it has not answered: it is killed, or ``victim``, a unit's main
        process, is. The picture comes nevertheless. The frontend has waited too long for it meanwhile."""
        worker = self.one.stopped
        self.addCleanup(self.dom0.try_run, f"kill -CONT {worker}")
        self.dom0.run(f"kill -9 {self.dom0.main_pid(victim) if victim else worker}; kill -CONT {worker} || true")
        self.dom0.wait_for_services()
        self.one.resume_pattern()
        self.assert_back(self.one)

    def killed_at_create(self, victim=None):
        self.one.end_pattern()
        hold_create(self.one)
        self.killed_in_request(victim)

    def killed_at_destroy(self, victim=None):
        self.one.screens("hold")
        hold_destroy(self.one)
        self.killed_in_request(victim)

    def churn(self):
        """In place of the pattern program one that creates, shows and destroys buffers all the time."""
        self.one.end_pattern()
        program = "xen-dmabuf-pattern habit --device $(ls /dev/dri/card*) churns"
        self.one.run(f"{{ {program} 2>&1; echo ended $?; }} < /dev/null > {CHURN} &")

    def churned(self):
        """What that program said when it ended; nothing while it runs."""
        return self.one.run(f"cat {CHURN}").strip()

    def frames_come(self):
        """Wait for some of that program; False if it has ended instead."""

        def requested():
            return self.one.flips("flips_requested") if self.one.buffers() else 0

        first = poll(lambda: requested() or self.churned(), 60, "the program in the backend")
        return poll(lambda: self.churned() or requested() >= first + 3, 60, "more frames of it") is True

    def killed_amid_requests(self):
        """Kill the worker, whatever it does; after how many seconds another one has all that requests need."""
        killed = float(self.dom0.run(f"read -r now _ < /proc/uptime; kill -9 {self.one.worker()}; echo $now"))

        def there():
            log = self.dom0.journal(f"-u {self.one.unit} -n 40", "short-monotonic")
            found = [re.findall(rf"(?m)^\[ *([\d.]+)\].*{line}", log) for line in WHOLE]
            last = [max(map(float, times), default=0.0) for times in found]
            return max(last) - killed if min(last) > killed else 0

        return poll(there, 90, f"{WHOLE} in the log of another worker")

    def test_amid_requests_worker_killed(self):
        """It isn't stopped before, so what is under way has all of the frontend's 3 s: where another worker is there
        in time, a program that asks for something all the time is told of nothing. Elsewhere the next program goes
        on. Pages of no request stay mapped."""
        self.addCleanup(self.one.try_run, send_signal(PROGRAM))
        self.churn()
        took, told = [], 0
        for _ in range(KILLS):
            self.assertTrue(self.frames_come(), self.churned())
            took.append(self.killed_amid_requests())
            if not self.frames_come():
                told += 1
                self.assertGreater(took[-1], IN_TIME, f"the program was told: {self.churned()}")
                self.churn()
        self.one.run(f"{send_signal(PROGRAM)}; until grep -q ended {CHURN}; do :; done")
        self.assertIn("ended 0", self.churned())
        poll(lambda: not self.one.buffers(), 60, "the release of all display buffers")
        self.assertLess(self.dom0.grants(self.one.domid), 16, "what is left: rings and the disk")
        print(
            f"worker killed amid requests {KILLS} times: another one was there after {min(took):.1f} to "
            f"{max(took):.1f} s, programs that were told {told}",
            flush=True,
        )

    def test_during_dbuf_create_worker_killed(self):
        self.killed_at_create()

    def test_during_dbuf_destroy_worker_killed(self):
        self.killed_at_destroy()

    def test_during_dbuf_create_supervisor_killed(self):
        self.killed_at_create(SERVICE)

    def test_during_dbuf_destroy_supervisor_killed(self):
        self.killed_at_destroy(SERVICE)

    def test_while_shown_and_idle_supervisor_killed(self):
        self.one.screens("hold")
        self.spared(f"kill -9 {self.dom0.main_pid(SERVICE)}")

    def test_while_flipping_supervisor_killed(self):
        self.one.screens("run")
        self.spared(f"kill -9 {self.dom0.main_pid(SERVICE)}")
        self.quick_again(SERVICE)

    def test_service_restarted(self):
        self.one.screens("run")
        self.spared(f"systemctl restart {SERVICE}")

    def test_service_without_xenstore_says_so_and_comes_up_with_it(self):
        """xenstored is stopped while the service starts: each start ends with a sentence, the next one finds it."""
        self.one.screens("run")
        daemon = self.dom0.run("pgrep -x 'o?xenstored'")
        self.addCleanup(self.dom0.try_run, f"kill -CONT {daemon}")
        self.spared(
            f"since=$(date +%s); kill -STOP {daemon}; systemctl kill -s KILL {SERVICE}; "
            f"until journalctl -q -o cat -u {SERVICE} --since @$since | grep 'XenStore does not answer'; do :; done; "
            f"kill -CONT {daemon}"
        )

    def quick_again(self, unit):
        """The pauses before restarts grow (RestartSteps=) until the counter is reset: that was done."""
        poll(lambda: self.dom0.run(f"systemctl show -P NRestarts {unit}") == "0", 30, f"{unit}: no restart counted")

    def test_service_reloaded(self):
        """The configuration is read again, and no picture notices."""
        self.one.screens("run")
        self.spared(f"systemctl reload {SERVICE}")

    def test_caches_are_written_back_before_each_flip(self):
        """Asked for by the configuration, as an emulated GPU doesn't need it; the picture is exact all the same."""
        self.one.screens("hold")
        self.addCleanup(self.renew, self.one)
        self.addCleanup(self.dom0.restore_backend)
        self.dom0.configure_backend('[gpu.default]\ncaches = "always"\n')
        self.renew(self.one)
        before = self.one.state()
        self.assertIn("written back before each frame", before["caches"])
        flips = self.one.flips()
        self.assert_flips(self.one)
        flips = self.one.flips() - flips
        self.assertGreaterEqual(self.one.state()["frames_written_back"] - before["frames_written_back"], flips)
        self.assertGreater(flips, 0)

    def test_weston_killed(self):
        """The compositor dies: the worker waits for the next one and shows the same buffers there."""
        self.weston_comes_back("kill -9 $(systemctl show -P MainPID weston)")

    def test_weston_killed_six_times_in_a_row(self):
        """Each time as soon as it is started; systemd allows five starts in ten seconds unless it is told otherwise."""
        limits = self.dom0.run("systemctl show -P StartLimitIntervalUSec weston.service weston.socket")
        self.assertEqual(limits.split(), ["0", "0"], "a slow machine may not come to six starts in ten seconds")
        self.weston_comes_back(_KILL_SIX_TIMES)

    def weston_comes_back(self, command):
        """Run a command that ends Weston: the same worker shows the same picture in the next one."""
        self.one.screens("hold")
        (screen,) = self.one.screens("flip 2", 60)
        worker = self.one.worker()
        self.addCleanup(self.dom0.start_weston_as_before)
        self.dom0.start_weston_with_debug()
        self.dom0.run(command)
        self.dom0.wait_for_services()
        self.assert_shown(self.one, screen)
        self.assert_flips(self.one)
        self.assertEqual(self.one.worker(), worker, "the worker was restarted, too")
