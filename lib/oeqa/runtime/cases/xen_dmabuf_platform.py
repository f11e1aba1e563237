# SPDX-License-Identifier: MIT
"""The platform: Xen, the kernel's ioctls, the device nodes, the service and the compositor."""

import json
import re

from oeqa.runtime.xen_dmabuf.case import XenDmabufCase
from oeqa.runtime.xen_dmabuf.dom0 import found

KERNEL_SYMBOLS = ("XEN_GNTDEV", "XEN_GNTDEV_DMABUF", "XEN_GRANT_DMA_ALLOC", "DMA_SHARED_BUFFER")
HARDENED = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateNetwork": "yes"}


# of systemd's DynamicUser=, see its UIDS-GIDS.md
DYNAMIC_USERS = range(61184, 65520)


class XenDmabufPlatformTest(XenDmabufCase):
    def test_runs_as_dom0_on_xen(self):
        self.assertEqual(self.dom0.run("cat /sys/hypervisor/type").strip(), "xen")
        self.assertIn("control_d", self.dom0.run("cat /proc/xen/capabilities"))

    def test_guest_that_was_started_at_boot_gives_way(self):
        """It has the disk that the cases' DomUs read, and half of their memory."""
        guest = self.domu(self.dom0.guest_name)
        guest.start()
        # none could tell a disk's grants from a picture's in Xen's table
        disk = self.dom0.backend_node("vbd", guest.domid, 51712)
        self.assertEqual(self.dom0.run(f"xenstore-read {disk}/feature-persistent").strip(), "0")
        # the kernel asks an init that is no init: it has to be told what powers off
        guest.run("echo '/sbin/poweroff -f -f' > /proc/sys/kernel/poweroff_cmd")
        self.dom0.prepare()
        self.assertNotEqual(self.dom0.try_run(f"xl domid {self.dom0.guest_name}")[0], 0, "it runs")

    def test_kernel_has_the_fragments(self):
        config = self.dom0.run("zcat /proc/config.gz || cat /boot/config-$(uname -r)")
        missing = [name for name in KERNEL_SYMBOLS if not re.search(rf"^CONFIG_{name}=y$", config, re.M)]
        self.assertFalse(missing, f"not built in, see xen-dmabuf-dom0.cfg: {missing}")

    def test_backend_finds_all_that_it_needs(self):
        """Device nodes, the three ioctls, libraries, linux-dmabuf with the formats that we use."""
        status, output = self.dom0.try_run("xen-dmabuf-backend check")
        self.assertEqual(status, 0, output)
        self.assertNotIn("MISSING", output)
        self.assertRegex(output, r"(?m)^ok +GPU's buffers: \w+: RAM", "a carve-out: MAP_REFS_TO_BUF can't work")

    def test_device_nodes_belong_to_the_workers_group(self):
        output = self.dom0.run("stat -c '%n %G %a' /dev/xen/gntdev /dev/xen/evtchn")
        self.assertEqual(
            output.split("\n")[:2], ["/dev/xen/gntdev xen-dmabuf 660", "/dev/xen/evtchn xen-dmabuf 660"], output
        )

    def test_service_is_active_and_hardened(self):
        output = self.dom0.run("systemctl show xen-dmabuf-backend -p ActiveState," + ",".join(HARDENED))
        values = dict(line.split("=", 1) for line in output.split("\n") if "=" in line)
        self.assertEqual(values.pop("ActiveState"), "active", output)
        self.assertEqual(values, HARDENED, output)

    def test_units_are_confined(self):
        """The exposure that systemd itself computes."""
        if self.dom0.try_run("command -v systemd-analyze")[0]:
            self.skipTest("systemd-analyze is not installed")
        domu = self.domu()
        domu.start()
        for unit in ("xen-dmabuf-backend.service", domu.unit):
            text = self.dom0.run(f"systemd-analyze security --no-pager {unit}")
            self.assertLessEqual(float(found(r"exposure level for \S+: ([\d.]+)", text)[1]), 1.5, text)

    def test_worker_has_no_privilege(self):
        """The status command names it; its account is its own."""
        domu = self.domu()
        domu.start()
        domains = json.loads(self.dom0.run("xen-dmabuf-backend status --json"))["domains"]
        (pid,) = [entry["pid"] for entry in domains if entry["domid"] == domu.domid]
        status = self.dom0.run(f"cat /proc/{pid}/status")
        uids = set(map(int, found(r"^Uid:\s+(.*)$", status)[1].split()))
        self.assertNotIn(0, uids, status)
        self.assertRegex(status, r"(?m)^CapEff:\s+0+$")
        self.assertTrue(len(uids) == 1 and min(uids) in DYNAMIC_USERS, status)
        self.assertEqual(self.dom0.run(f"systemctl show -P User {domu.unit}"), f"xen-dmabuf-{domu.domid}")
        group = self.dom0.run(f"cat /proc/{pid}/cgroup")
        self.assertIn(domu.unit, group, "its control group")
        self.assertRegex(status, r"(?m)^NoNewPrivs:\s+1$")
        threads = self.dom0.run(f"cat /proc/{pid}/task/*/status")
        count = len(re.findall(r"(?m)^Pid:", threads))
        filters = re.findall(r"(?m)^Seccomp_filters:\s+(\d+)$", threads)
        self.assertEqual(re.findall(r"(?m)^Seccomp:\s+(\d)$", threads), ["2"] * count, "each thread has a filter")
        self.assertTrue(len(filters) == count and len(set(filters)) == 1 and int(filters[0]) >= 1, filters)
        # the worker's own is among them, or it says why not
        said = self.dom0.journal(f"XEN_DMABUF_DOMAIN={domu.name} _PID={pid}")
        self.assertTrue(said, "the journal has its lines with their fields")
        self.assertNotIn("lets a worker start processes", said)
