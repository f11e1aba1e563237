# SPDX-License-Identifier: MIT
"""The backend dies: systemd or the supervisor starts it again, the picture is back, the DomU was not restarted."""

from oeqa.runtime.xen_dmabuf.case import XenDmabufCase
from oeqa.runtime.xen_dmabuf.crash import hold_create, hold_destroy
from oeqa.runtime.xen_dmabuf.dom0 import poll

SERVICE = "xen-dmabuf-backend"
CONFIGURATION = "/etc/xen-dmabuf/backend.toml"


class XenDmabufBackendTest(XenDmabufCase):
    """One DomU for all cases; it is never restarted.

    In the order of their names a supervisor dies before each worker: with it ends the longer and longer delay after
    which a worker that keeps dying is started again.
    """

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.one = cls.class_domu("xen-dmabuf-shared", 5)
        cls.one.start()

    def kill(self, pid):
        """kill -9; then: another worker, the picture, and not one grant more than it needs."""
        old = self.one.worker()
        self.dom0.run(f"kill -9 {pid}")
        self.new_worker(self.one, old)

    def new_worker(self, domu, old):
        """Wait for another worker and its picture; nothing of the old one may be left."""
        domu.wait_for_worker(old)
        self.assert_back(domu)
        poll(lambda: self.dom0.grants(domu.domid) - domu.pages() < 16, 60,
             "grants of the dead worker given back (what is left: rings and the disk)")

    def test_while_shown_and_idle_worker_killed(self):
        self.one.screens("hold")
        self.kill(self.one.worker())

    def test_while_flipping_worker_killed(self):
        self.one.screens("run")
        self.kill(self.one.worker())

    def test_while_the_compositor_holds_its_buffer_worker_killed(self):
        """Weston is stopped, so it keeps the buffer beyond the worker's life."""
        weston = self.dom0.main_pid("weston")
        self.one.screens("run")
        old = self.one.worker()
        self.dom0.run(f"kill -STOP {weston}")
        self.addCleanup(self.dom0.try_run, f"kill -CONT {weston}")
        self.dom0.run(f"kill -9 {old}; kill -CONT {weston}")
        self.new_worker(self.one, old)

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

    def killed_in_request(self, victim=None):
        """The worker has a request that it has not answered: it is killed, or ``victim``, a unit's main
        process, is. The picture comes nevertheless."""
        worker = self.one.stopped
        self.addCleanup(self.dom0.try_run, f"kill -CONT {worker}")
        self.dom0.run(f"kill -9 {self.dom0.main_pid(victim) if victim else worker}")
        self.one.resume_pattern()
        self.new_worker(self.one, worker)

    def killed_at_create(self, victim=None):
        self.one.end_pattern()
        hold_create(self.one)
        self.killed_in_request(victim)

    def killed_at_destroy(self, victim=None):
        self.one.screens("hold")
        hold_destroy(self.one)
        self.killed_in_request(victim)

    def test_during_dbuf_create_worker_killed(self):
        self.killed_at_create()

    def test_during_dbuf_destroy_worker_killed(self):
        self.killed_at_destroy()

    def test_during_dbuf_create_supervisor_killed(self):
        self.killed_at_create(SERVICE)

    def test_during_dbuf_destroy_supervisor_killed(self):
        self.killed_at_destroy(SERVICE)

    def releasing(self):
        """Pages that the backend has released and the compositor still holds."""
        return sum(device["releasing_pages"] for device in self.one.backend()["devices"])

    def test_while_shown_and_idle_supervisor_killed(self):
        self.one.screens("hold")
        self.kill(self.dom0.main_pid(SERVICE))

    def test_while_flipping_supervisor_killed(self):
        self.one.screens("run")
        self.kill(self.dom0.main_pid(SERVICE))

    def test_service_restarted(self):
        self.one.screens("run")
        old = self.one.worker()
        self.dom0.run(f"systemctl restart {SERVICE}", 60)
        self.new_worker(self.one, old)

    def test_service_reloaded(self):
        """The configuration is read again, and no picture notices."""
        self.one.screens("run")
        worker, before = self.one.worker(), self.one.flips()
        self.dom0.run(f"systemctl reload {SERVICE}", 60)
        poll(lambda: self.one.flips() > before, 60, "flips after the reload")
        self.assertEqual(self.one.worker(), worker, "the worker was replaced")

    def configured(self, change):
        """A worker with the configuration that a sed expression makes; the DomU stays."""
        worker = self.one.worker()
        self.dom0.run(f"sed -i '{change}' {CONFIGURATION} && systemctl reload {SERVICE} && kill -9 {worker}", 60)
        self.new_worker(self.one, worker)

    def test_caches_are_written_back_before_each_flip(self):
        """Asked for by the configuration, as an emulated GPU doesn't need it; the picture is exact all the same."""
        self.one.screens("hold")
        self.addCleanup(self.configured, 's/^caches = .*/#caches = "auto"/')
        self.configured('s/^#caches = .*/caches = "always"/')
        before = self.one.backend()
        self.assertIn("written back before each frame", before["caches"])
        flips = self.one.flips()
        self.assert_flips(self.one)
        flips = self.one.flips() - flips
        self.assertGreaterEqual(self.one.backend()["frames_written_back"] - before["frames_written_back"], flips)
        self.assertGreater(flips, 0)

    def test_weston_killed(self):
        """The compositor dies: the worker waits for the next one and shows the same buffers there."""
        self.one.screens("hold")
        (screen,) = self.one.screens("flip 2", 60)
        worker = self.one.worker()
        self.addCleanup(self.dom0.start_weston_as_before)
        self.dom0.start_weston_with_debug()
        self.dom0.run(f"kill -9 {self.dom0.main_pid('weston')}")
        self.dom0.wait_for_services()
        self.assert_shown(self.one, screen)
        self.assert_flips(self.one)
        self.assertEqual(self.one.worker(), worker, "the worker was restarted, too")
