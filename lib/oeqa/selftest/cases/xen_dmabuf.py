# SPDX-License-Identifier: MIT
"""meta-xen-dmabuf from the outside: oe-selftest -r xen_dmabuf

Needs a build folder with the layer and its dependencies in bblayers.conf (kas
shell kas/qemuarm64.yml makes one). XenDmabufConfiguration only parses;
XenDmabufKernel fetches and configures the kernel; XenDmabufImages builds.
"""

import os
import re

from oeqa.selftest.case import OESelftestTestCase
from oeqa.utils.commands import bitbake, get_bb_var, get_bb_vars, runCmd

FEATURE_ON = """
INIT_MANAGER = "systemd"
DISTRO_FEATURES:append = " xen-dmabuf xen virtualization wayland opengl pam"
DISTRO_FEATURES:remove = "x11"
"""
# The build folder's own configuration may have it on: kas/qemuarm64.yml has.
FEATURE_OFF = FEATURE_ON + 'DISTRO_FEATURES:remove = "xen-dmabuf"\n'
# What is refused is so before any recipe is parsed, or by the kernel's: a fraction of the time.
KERNELS_ONLY = 'BBMASK += "/recipes-(?!kernel/)[^/]*/"\n'
TOUCHED = "virtual/kernel weston weston-init xen xen-tools"


class XenDmabufConfiguration(OESelftestTestCase):
    """What the feature does to a configuration, seen by parsing only."""

    def refused(self, config):
        """Return what bitbake says when it refuses to parse with a configuration."""
        self.write_config(config + KERNELS_ONLY)
        result = bitbake("-p", ignore_status=True)
        self.assertNotEqual(result.status, 0, msg=f"bitbake accepted:\n{config}\n{result.output}")
        return result.output

    def test_parses_with_the_feature(self):
        self.write_config(FEATURE_ON)
        self.assertIn(" 0 errors", bitbake("-p").output)

    def test_parses_without_the_feature(self):
        self.feature_off()
        self.assertIn(" 0 errors", bitbake("-p").output)

    def test_missing_wayland_is_named(self):
        output = self.refused(FEATURE_ON + 'DISTRO_FEATURES:remove = "wayland"\n')
        self.assertIn('DISTRO_FEATURES:append = " wayland"', output)

    def test_missing_xen_is_named(self):
        output = self.refused(FEATURE_ON + 'DISTRO_FEATURES:remove = "xen"\n')
        self.assertIn('DISTRO_FEATURES:append = " xen"', output)

    def test_uncovered_kernel_is_told_the_covered_series(self):
        output = self.refused(FEATURE_ON + 'XEN_DMABUF_KERNEL_SERIES = "4.4"\n')
        self.assertRegex(output, r"kernel-patches/ covers \d+\.\d+")

    def test_kernel_that_nothing_patches_is_told_the_append(self):
        other = 'PREFERRED_PROVIDER_virtual/kernel = "linux-yocto-rt"\n'
        self.assertIn('"linux-yocto-rt_%.bbappend"', self.refused(FEATURE_ON + other))

    def test_without_the_feature_no_signature_changes(self):
        self.feature_off()
        with_layer = self.locked_signatures()
        self.write_bblayers_config(f'BBLAYERS:remove = "{self.layer_folder()}"\n')
        changed = sorted(set(with_layer) ^ set(self.locked_signatures()))
        self.assertEqual(changed, [], msg="\n".join(changed))

    def feature_off(self):
        self.write_config(FEATURE_OFF)
        self.assertNotIn("xen-dmabuf", get_bb_var("DISTRO_FEATURES").split())

    def layer_folder(self):
        root = get_bb_var("XEN_DMABUF_ROOT")
        folders = get_bb_var("BBLAYERS").split()
        return next(f for f in folders if os.path.dirname(os.path.normpath(f)) == root)

    def locked_signatures(self):
        runCmd(f"bitbake -S lockedsigs {TOUCHED}", cwd=self.builddir)
        with open(os.path.join(self.builddir, "locked-sigs.inc")) as signatures:
            return signatures.read().splitlines()


class XenDmabufKernel(OESelftestTestCase):
    """The kernel takes the patches and the options. Fetches the kernel."""

    def setUpLocal(self):
        self.write_config(FEATURE_ON)

    def test_patches_apply(self):
        bitbake("virtual/kernel -c patch -f")
        kernel = get_bb_vars(["S", "SRC_URI"], "virtual/kernel")
        self.assertIn(".patch", kernel["SRC_URI"])
        header = os.path.join(kernel["S"], "include/uapi/xen/gntdev.h")
        with open(header) as text:
            self.assertIn("IOCTL_GNTDEV_DMABUF_MAP_REFS_TO_BUF", text.read())

    def test_fragments_land_in_the_configuration(self):
        bitbake("virtual/kernel -c xen_dmabuf_configcheck")

    def test_a_fragment_that_does_not_land_is_an_error(self):
        """A symbol that no kernel has stands for one that a dependency keeps out."""
        # A folder of its own: everything in it enters the kernel's signature.
        folder = os.path.join(self.builddir, "xen-dmabuf-selftest")
        os.makedirs(folder, exist_ok=True)
        self.track_for_cleanup(folder)
        with open(os.path.join(folder, "selftest.cfg"), "w") as file:
            file.write("CONFIG_XEN_DMABUF_SELFTEST=y\n")
        self.write_config(
            FEATURE_ON
            + 'XEN_DMABUF_FRAGMENTS:append = " selftest.cfg"\n'
            + f'FILESEXTRAPATHS:prepend:pn-linux-yocto = "{folder}:"\n'
        )
        result = bitbake("virtual/kernel -c xen_dmabuf_configcheck", ignore_status=True)
        self.assertNotEqual(result.status, 0, msg=result.output)
        self.assertIn("CONFIG_XEN_DMABUF_SELFTEST is n, wanted y", result.output)


class XenDmabufImages(OESelftestTestCase):
    """The images hold what they must. Builds both of them."""

    def manifest(self, image):
        """Return the package names in an image's manifest."""
        names = get_bb_vars(["DEPLOY_DIR_IMAGE", "IMAGE_LINK_NAME"], image)
        path = os.path.join(names["DEPLOY_DIR_IMAGE"], names["IMAGE_LINK_NAME"] + ".manifest")
        with open(path) as lines:
            return {line.split()[0] for line in lines}

    def test_manifests(self):
        self.write_config(FEATURE_ON)
        bitbake("xen-dmabuf-image-dom0")
        self.assertLessEqual(
            {"xen-dmabuf-backend", "xen-dmabuf-weston-dom0", "xen-dmabuf-guest", "xen-tools-xl"},
            self.manifest("xen-dmabuf-image-dom0"),
        )
        guest = self.manifest("xen-dmabuf-image-domu")
        self.assertLessEqual({"xen-dmabuf-weston-domu", "weston-examples"}, guest)
        self.assertNotIn("xen-dmabuf-backend", guest)

    def test_dom0_holds_its_guest(self):
        self.write_config(FEATURE_ON)
        bitbake("xen-dmabuf-image-dom0")
        root = get_bb_var("IMAGE_ROOTFS", "xen-dmabuf-image-dom0")
        with open(os.path.join(root, "etc/xen/domu.cfg")) as cfg:
            for path in re.findall(r"/var/lib/xen/images/[\w.-]+", cfg.read()):
                self.assertExists(root + path)
