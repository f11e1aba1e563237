# SPDX-License-Identifier: MIT
"""What bitbake packaged is what runs on Xen: two cases beside the image's own, with the same DomU."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping

from oeqa.runtime.cases.xen_dmabuf_zerocopy import XenDmabufZeroCopyTest
from oeqa.runtime.xen_dmabuf.dom0 import TOOLS

from ..debianroot import DIST_PACKAGES
from ..product import DOM0, DOMU

PUMP = f"/{DIST_PACKAGES}/xen_dmabuf/pump/_pump.abi3.so"
_SUMS = f"{TOOLS}/packages.sha256"
_DISK = f"{TOOLS}/disk"


class PackagesTest(XenDmabufZeroCopyTest):
    """``tc.product`` is the Packages."""

    def test_files_are_the_packages(self) -> None:
        """Each of their files is in the running Dom0 and on the disk of the running DomU, with the same content."""
        self.dom0.run(f"mkdir -p {_DISK} && mount -o ro {self.dom0.disk_file} {_DISK}")
        self.addCleanup(self.dom0.run, f"umount {_DISK}")
        mine = self._same("/", self.tc.product.files(DOM0))
        others = self._same(_DISK, self.tc.product.files(DOMU))
        self.saw(f"{mine} files in Dom0 and {others} in the DomU have the SHA-256 that they have in their packages")

    def _same(self, root: str, sums: Mapping[str, str]) -> int:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            file.writelines(f"{digest}  {path}\n" for path, digest in sums.items())
            file.flush()
            self.dom0.target.copyTo(file.name, _SUMS)
        self.dom0.run(f"cd {root} && sha256sum --quiet --strict -c {_SUMS}", 120)
        return len(sums)

    def test_packaged_c_serves_flips(self) -> None:
        """The worker has the package's module mapped, and says that it serves flips by it."""
        worker, flips = self.one.worker(), self.one.state()["flips"]
        self.assertEqual(flips, "compiled")
        self.assertIn(PUMP, self.dom0.run(f"cat /proc/{worker}/maps"))
        self.saw(f'worker {worker}: flips "{flips}", {PUMP} mapped')
