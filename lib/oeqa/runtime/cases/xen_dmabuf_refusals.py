# SPDX-License-Identifier: MIT
"""Hostile frontends: each lie gets its error, only its own connection may end, nothing leaks."""

import re

from oeqa.runtime.xen_dmabuf.case import XenDmabufCase
from oeqa.runtime.xen_dmabuf.dom0 import poll

HOSTILE = "/usr/lib/xen-dmabuf-backend/ptest/tests/on_xen.py"


class XenDmabufRefusalsTest(XenDmabufCase):
    def assert_tap(self, status, output):
        """Each case of on_xen.py held."""
        self.assertEqual(status, 0, output)
        plan = re.search(r"(?m)^1\.\.(\d+)$", output)
        self.assertTrue(plan, output)
        self.assertEqual(len(re.findall(r"(?m)^ok \d+ ", output)), int(plan[1]), output)

    def test_hostile_frontends(self):
        """Lying rings, looping directories, overflowing sizes, event storms, by Dom0 as its own frontend."""
        if self.dom0.try_run(f"test -e {HOSTILE}")[0]:
            self.skipTest(f"no {HOSTILE}: install xen-dmabuf-backend-ptest (IMAGE_FEATURES ptest-pkgs)")
        other = self.domu(stream=4)
        other.start(size="320x240")
        worker, before = other.backend()["pid"], other.flips()
        status, output = self.dom0.try_run(f"python3 {HOSTILE}", 600)
        self.assert_tap(status, output)
        other.screens("flip 3", 60)
        self.assertGreaterEqual(other.flips(), before + 3, "the other DomU's flips")
        self.assertEqual(other.backend()["pid"], worker, "the other DomU's worker")

    def test_backend_allocation_is_refused(self):
        """be-alloc=1 would export Dom0's memory to a DomU (XSA-363)."""
        domu = self.domu("xen-dmabuf-be-alloc")
        try:
            domu.create(vdispl='["backend=Domain-0,be-alloc=1,connectors=id0:640x480"]')
        except AssertionError:
            pass  # the toolstack itself gives up once the backend says Closed
        line = r"device refused domain=xen-dmabuf-be-alloc .*be-alloc=1"
        poll(lambda: re.search(line, self.dom0.run("journalctl -b --no-pager -u xen-dmabuf-backend -n 100")), 60,
             "a line of the log that names the domain and be-alloc=1")
        self.assertEqual(self.dom0.run("systemctl is-active xen-dmabuf-backend").strip(), "active")
